//! The queues in which ended spans wait for export, one for each exporter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry_sdk::trace::SpanLimits;

use crate::logs::EndNotice;
use crate::pipeline::queue::Queue;
use crate::pipeline::spans::ended::EndedSpan;

/// Where spans that have ended wait for export.
pub(crate) struct SpanQueues {
    pub(crate) limits: SpanLimits,
    pub(crate) console: Option<Arc<Queue<EndedSpan>>>,
    pub(crate) otlp: Option<Arc<Queue<EndedSpan>>>,
    stopped: AtomicBool,
    end: EndNotice,
}

impl SpanQueues {
    pub(crate) fn new(limits: SpanLimits, end: EndNotice) -> Self {
        Self {
            limits,
            console: None,
            otlp: None,
            stopped: AtomicBool::new(false),
            end,
        }
    }

    #[cfg(test)]
    pub(crate) fn to(queue: Arc<Queue<EndedSpan>>, limits: SpanLimits) -> Self {
        Self {
            otlp: Some(queue),
            ..Self::new(limits, EndNotice::default())
        }
    }

    #[inline]
    pub(crate) fn push(&self, span: EndedSpan) {
        if let Some(console) = &self.console {
            console.push(span.clone());
            console.wake();
        }
        if let Some(otlp) = &self.otlp {
            otlp.push(span);
        }
    }

    /// Ends recording: nothing new is queued from here on.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Returns whether a span that ends now is lost.
    #[inline]
    pub(crate) fn has_stopped(&self) -> bool {
        let stopped = self.stopped.load(Ordering::Relaxed);
        if stopped {
            self.end.give();
        }
        stopped
    }
}

impl std::fmt::Debug for SpanQueues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpanQueues").finish_non_exhaustive()
    }
}
