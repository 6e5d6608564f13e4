//! The tracer that makes the spans of `tracing`: with the providers in force, as for spans of handler
//! code.

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
use crate::bridge::stand_in;
use crate::providers::Providers;
use crate::providers::generations;
use crate::providers::in_context;
use crate::providers::start_span::{DescribeSpan, NewSpan, Parent, Started};

/// The scope of the spans of `tracing`. Their attribute `target` names the module.
const COMPONENT: &str = "tracing";

thread_local! {
    /// Whether an event is being made into an event of its span.
    static IN_EVENT: Cell<bool> = const { Cell::new(false) };
    /// How many spans this thread has started.
    static STARTS: Cell<usize> = const { Cell::new(0) };
}

/// Runs `f`, in which the status of a span stays as it is: a log line is no verdict on a request.
pub(super) fn in_event(f: impl FnOnce()) {
    let outer = IN_EVENT.replace(true);
    f();
    IN_EVENT.set(outer);
}

/// Returns how many spans this thread has started.
pub(super) fn starts() -> usize {
    STARTS.get()
}

/// Where spans go.
#[derive(Clone, Default)]
pub(crate) enum Source {
    /// To the providers in force.
    #[default]
    InForce,
    /// To providers of its own, except in a request of a layer that has others.
    #[cfg(feature = "init")]
    Own(Arc<Providers>),
}

impl Source {
    /// Calls `f` with the providers for a span below `cx`; they are `None` where telemetry is switched off.
    pub(super) fn with<T>(&self, cx: &Context, f: impl FnOnce(Option<&Providers>) -> T) -> T {
        let scoped = in_context::scoped_in(cx);
        match self {
            _ if scoped.is_some() => f(scoped.as_deref()),
            Self::InForce => f(generations::process()),
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
        if stand_in::is_name(&builder.name) {
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

/// Describes a span as its builder does.
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

/// A span of `tracing`: one of its own, or one that stands for another.
#[derive(Debug)]
pub(crate) struct BridgeSpan {
    /// Holds the span.
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
        // The error of `#[instrument(err)]` comes as an event. It is that of its function alone.
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
