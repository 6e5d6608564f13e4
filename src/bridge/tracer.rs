//! The tracer that creates spans for `tracing`, with the same providers as spans of handler code.

use std::borrow::Cow;
use std::cell::Cell;
#[cfg(feature = "init")]
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer,
};
use opentelemetry::{Context, KeyValue};

use crate::attribute_set;
use crate::bridge::represented;
use crate::providers::Providers;
use crate::providers::generations;
use crate::providers::in_context;
use crate::providers::start_span::{DescribeSpan, NewSpan, Parent, Started};

/// The scope of `tracing` spans. The attribute `target` contains the module.
const COMPONENT: &str = "tracing";

thread_local! {
    /// Whether an event is being added to its span.
    static IN_EVENT: Cell<bool> = const { Cell::new(false) };
    /// The number of spans started on this thread.
    static STARTS: Cell<usize> = const { Cell::new(0) };
}

/// Calls `f` without letting it change the status of a span, because a log line does not mean that
/// a request failed.
pub(super) fn in_event(f: impl FnOnce()) {
    let outer = IN_EVENT.replace(true);
    f();
    IN_EVENT.set(outer);
}

/// Returns the number of spans started on this thread.
pub(super) fn starts() -> usize {
    STARTS.get()
}

/// The providers to which spans are sent.
#[derive(Clone, Default)]
pub(crate) enum Source {
    /// The providers of the process.
    #[default]
    Process,
    /// The given providers, except in a request whose layer has its own.
    #[cfg(feature = "init")]
    Own(Arc<Providers>),
}

impl Source {
    /// Calls `f` with the providers for a child of the span in `cx`, or `None` if telemetry is
    /// switched off.
    pub(super) fn with<T>(&self, cx: &Context, f: impl FnOnce(Option<&Providers>) -> T) -> T {
        let scoped = in_context::scoped_in(cx);
        match self {
            _ if scoped.is_some() => f(scoped.as_deref()),
            Self::Process => f(generations::process()),
            #[cfg(feature = "init")]
            Self::Own(own) => f(Some(own)),
        }
    }
}

#[derive(Clone)]
pub(crate) struct BridgeTracer(pub(super) Source);

impl Tracer for BridgeTracer {
    type Span = BridgeSpan;

    fn build_with_context(&self, mut builder: SpanBuilder, parent: &Context) -> BridgeSpan {
        STARTS.set(STARTS.get().wrapping_add(1));
        if represented::is_name(&builder.name) {
            return BridgeSpan::new(parent.clone(), false);
        }
        let events = builder.events.take().unwrap_or_default();
        let started = self.0.with(parent, |providers| {
            let tracer = providers?.component(COMPONENT);
            let parent = Parent {
                cx: parent,
                span_context: None,
            };
            Some(tracer.start(parent, &mut BuiltSpan(builder)))
        });
        let Some(Started { cx, is_recording }) = started else {
            return BridgeSpan::new(parent.clone(), false);
        };
        if is_recording {
            let span = cx.span();
            for event in events {
                span.add_event_with_timestamp(event.name, event.timestamp, event.attributes);
            }
        }
        BridgeSpan::new(cx, true)
    }
}

/// Describes a span from its builder.
struct BuiltSpan(SpanBuilder);

impl DescribeSpan for BuiltSpan {
    fn describe(&mut self, span: &mut NewSpan) {
        let built = &mut self.0;
        span.name = std::mem::take(&mut built.name);
        span.kind = built.span_kind.take().unwrap_or(SpanKind::Internal);
        span.start_time = built.start_time.unwrap_or_else(SystemTime::now);
        span.links = built.links.take().unwrap_or_default();
        span.attributes = built.attributes.take().unwrap_or_default();
        attribute_set::make_unique(&mut span.attributes);
    }
}

/// A `tracing` span: a separate span, or one that represents another.
#[derive(Debug)]
pub(crate) struct BridgeSpan {
    /// The context that contains the span.
    cx: Context,
    span_context: SpanContext,
    is_own: bool,
}

impl BridgeSpan {
    fn new(cx: Context, is_own: bool) -> Self {
        Self {
            span_context: cx.span().span_context().clone(),
            cx,
            is_own,
        }
    }
}

impl Span for BridgeSpan {
    fn add_event_with_timestamp<T>(
        &mut self,
        name: T,
        timestamp: SystemTime,
        attributes: Vec<KeyValue>,
    ) where
        T: Into<Cow<'static, str>>,
    {
        let span = self.cx.span();
        span.add_event_with_timestamp(name, timestamp, attributes);
    }

    fn span_context(&self) -> &SpanContext {
        &self.span_context
    }

    fn is_recording(&self) -> bool {
        self.cx.span().is_recording()
    }

    fn set_attribute(&mut self, attribute: KeyValue) {
        self.cx.span().set_attribute(attribute);
    }

    fn set_status(&mut self, status: Status) {
        // The error of `#[instrument(err)]` arrives as an event. It applies only to the function's
        // own span.
        let is_of_function =
            matches!(&status, Status::Error { description } if !description.is_empty());
        if !IN_EVENT.get() || self.is_own && is_of_function {
            self.cx.span().set_status(status);
        }
    }

    fn update_name<T>(&mut self, name: T)
    where
        T: Into<Cow<'static, str>>,
    {
        self.cx.span().update_name(name);
    }

    fn add_link(&mut self, span_context: SpanContext, attributes: Vec<KeyValue>) {
        self.cx.span().add_link(span_context, attributes);
    }

    fn end_with_timestamp(&mut self, timestamp: SystemTime) {
        if self.is_own {
            self.cx.span().end_with_timestamp(timestamp);
        }
    }
}
