//! The application's span processors, in front of the span queues.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};

use crate::concurrent::caught::catch_panic;
use crate::config::parts::SpanExport;
use crate::pipeline::parts::record::PartRecord;
use crate::pipeline::spans::span_data::make_keys_unique;

/// A span processor whose calls are counted and whose panics are caught.
///
/// It is flushed and shut down on its own thread.
pub(crate) struct SpanProcessorPart {
    pub(crate) processor: Arc<dyn SpanProcessor>,
    pub(crate) record: Arc<PartRecord>,
}

impl fmt::Debug for SpanProcessorPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.record.name)
    }
}

impl SpanProcessor for SpanProcessorPart {
    fn on_start(&self, span: &mut Span, cx: &Context) {
        if catch_panic(|| self.processor.on_start(span, cx)).is_none() {
            self.record.log_panic();
        }
    }

    fn on_end(&self, span: SpanData) {
        self.record.counters.accept(1);
        if catch_panic(|| self.processor.on_end(span)).is_none() {
            self.record.count_lost();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// All span processors. The SDK knows only one processor, which calls these: with several, the SDK
/// would copy each span once more.
#[derive(Debug)]
pub(crate) struct SpanProcessors {
    before_export: Vec<SpanProcessorPart>,
    export: Box<dyn SpanProcessor>,
    is_empty: bool,
}

impl SpanProcessors {
    /// Puts `before_export` before the `export`, and `around` around it.
    pub(crate) fn new(
        before_export: Vec<SpanProcessorPart>,
        around: Vec<(SpanProcessorPart, SpanExport)>,
        mut export: Box<dyn SpanProcessor>,
    ) -> Self {
        let is_empty = before_export.is_empty() && around.is_empty();
        // The first processor is the outermost.
        for (part, inner) in around.into_iter().rev() {
            inner.connect(export);
            export = Box::new(part);
        }
        Self {
            before_export,
            export,
            is_empty,
        }
    }

    pub(crate) fn on_start(&self, span: &mut Span, cx: &Context) {
        for processor in &self.before_export {
            processor.on_start(span, cx);
        }
        self.export.on_start(span, cx);
    }

    pub(crate) fn on_end(&self, mut span: SpanData) {
        if !self.is_empty {
            // A processor may have set a key that the span already has, or received later.
            make_keys_unique(&mut span);
        }
        for processor in &self.before_export {
            processor.on_end(span.clone());
        }
        self.export.on_end(span);
    }
}
