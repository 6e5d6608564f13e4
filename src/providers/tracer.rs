//! Tracers of OpenTelemetry's providers: of a provider passed to a layer, and of the global one.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

#[cfg(feature = "init")]
use opentelemetry::Context;
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceState, Tracer,
    TracerProvider,
};
use opentelemetry::{InstrumentationScope, global};

use crate::concurrent::caught::warn_once;
#[cfg(feature = "init")]
use crate::propagation::Decision;
use crate::propagation::{self, RANDOM_FLAG};
use crate::providers::in_context;
use crate::providers::start_span::{
    DescribeSpan, FirstAttributes, MakeTracer, NewSpan, Parent, StartSpan, Started,
};
use crate::providers::unique_span::UniqueSpan;

/// Returns the tracers of OpenTelemetry's global provider.
pub(crate) fn global_tracers() -> Arc<dyn MakeTracer> {
    Arc::new(GlobalTracers)
}

/// Whether a layer has its own tracer provider.
static LAYER_HAS_TRACERS: AtomicBool = AtomicBool::new(false);

/// Records that a layer has its own tracer provider.
pub(crate) fn record_layer_tracers() {
    LAYER_HAS_TRACERS.store(true, Ordering::Relaxed);
}

/// OpenTelemetry's global provider at the time when a span starts.
struct GlobalTracers;

impl MakeTracer for GlobalTracers {
    fn make(&self, scope: InstrumentationScope) -> Arc<dyn StartSpan> {
        Arc::new(GlobalTracer {
            scope,
            found: OnceLock::new(),
        })
    }
}

/// A tracer of the global provider. It is looked up for each span until a provider is installed,
/// and cached after that.
struct GlobalTracer {
    scope: InstrumentationScope,
    found: OnceLock<AnyTracer<global::BoxedTracer>>,
}

impl StartSpan for GlobalTracer {
    fn start(&self, parent: Parent<'_>, description: &mut dyn DescribeSpan) -> Started {
        if let Some(tracer) = self.found.get() {
            return tracer.start(parent, description);
        }
        let above = match parent.span_context {
            Some(span_context) => span_context.span_id(),
            None => parent.cx.span().span_context().span_id(),
        };
        let tracer = AnyTracer {
            tracer: global::tracer_provider().tracer_with_scope(self.scope.clone()),
            has_random_ids: false,
        };
        let started = tracer.start(parent, description);
        // Without a provider, the result has the parent's span or none.
        let id = started.cx.span().span_context().span_id();
        if started.is_recording || (id != SpanId::INVALID && id != above) {
            let _ = self.found.set(tracer);
        } else if LAYER_HAS_TRACERS.load(Ordering::Relaxed) {
            warn_of_lost_spans();
        }
        started
    }
}

#[cold]
fn warn_of_lost_spans() {
    warn_once!(
        "a span is not exported: it was started outside the requests of the layer that has the only \
         tracer provider; also pass that provider to `opentelemetry::global::set_tracer_provider`"
    );
}

/// A [`TracerProvider`] of any type.
pub(crate) struct AnyTracerProvider<P> {
    provider: P,
    /// Whether the ids of new traces are random.
    has_random_ids: bool,
}

impl<P> AnyTracerProvider<P> {
    pub(crate) fn new(provider: P, has_random_ids: bool) -> Self {
        Self {
            provider,
            has_random_ids,
        }
    }
}

impl<P> MakeTracer for AnyTracerProvider<P>
where
    P: TracerProvider + Send + Sync,
    P::Tracer: Send + Sync + 'static,
    <P::Tracer as Tracer>::Span: Send + Sync + 'static,
{
    fn make(&self, scope: InstrumentationScope) -> Arc<dyn StartSpan> {
        Arc::new(AnyTracer {
            tracer: self.provider.tracer_with_scope(scope),
            has_random_ids: self.has_random_ids,
        })
    }
}

struct AnyTracer<T> {
    tracer: T,
    /// Whether the ids of new traces are random.
    has_random_ids: bool,
}

impl<T> StartSpan for AnyTracer<T>
where
    T: Tracer + Send + Sync,
    T::Span: Send + Sync + 'static,
{
    fn start(&self, parent: Parent<'_>, description: &mut dyn DescribeSpan) -> Started {
        let with_parent;
        let parent = match parent.span_context {
            Some(span_context) => {
                with_parent = propagation::with_parent_of_sdk(parent.cx, span_context);
                &with_parent
            }
            None => parent.cx,
        };
        #[cfg(feature = "init")]
        if propagation::decision_in(parent) == Some(Decision::Deny)
            && !parent.is_telemetry_suppressed()
        {
            return denied(parent);
        }
        let mut new = NewSpan::default();
        // An SDK cannot replace attributes set at the start, so the span starts only with the
        // attributes that samplers need.
        let FirstAttributes { attributes, keys } = description.describe_for_samplers(&mut new);
        let name = mem::take(&mut new.name);
        let builder = SpanBuilder {
            span_kind: Some(new.kind.clone()),
            name,
            start_time: Some(new.start_time),
            attributes: Some(attributes),
            events: None,
            links: (!new.links.is_empty()).then(|| mem::take(&mut new.links)),
        };
        // An unexported `tracing` span is active but invalid, and would be treated as an unsampled
        // parent.
        let parent_span = parent.span();
        let parent_span = parent_span.span_context();
        let is_new = !parent_span.is_valid();
        let span = if is_new && parent.has_active_span() {
            let root = in_context::without_span_of(parent);
            self.tracer.build_with_context(builder, &root)
        } else {
            self.tracer.build_with_context(builder, parent)
        };
        let random = if is_new && self.has_random_ids {
            RANDOM_FLAG
        } else {
            0
        };
        let parent = &*propagation::for_started_span(parent, span.span_context());
        if span.is_recording() {
            let span_context = (random != 0).then(|| with_more_flags(span.span_context(), random));
            let later = description.other_attributes(&mut new);
            return Started {
                cx: parent.with_span(UniqueSpan::new(span, span_context, keys, later)),
                is_recording: true,
            };
        }
        let span_context = span.span_context();
        let cx = if span_context.is_valid() {
            // A bare span context behaves like the unrecorded span and avoids a box. The SDK clears
            // all flags of a dropped span, but the random flag must be propagated.
            let inherited = parent_span.trace_flags().to_u8() & RANDOM_FLAG;
            parent.with_remote_span_context(with_more_flags(span_context, inherited | random))
        } else {
            // An invalid span in a context would be treated as an unsampled parent.
            parent.clone()
        };
        Started {
            cx,
            is_recording: false,
        }
    }
}

/// Returns a dropped span without calling the sampler, because the caller decided not to sample.
#[cfg(feature = "init")]
fn denied(cx: &Context) -> Started {
    use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

    let ids = RandomIdGenerator::default();
    let parent = cx.span();
    let parent = Some(parent.span_context()).filter(|parent| parent.is_valid());
    let random = parent.map_or(RANDOM_FLAG, |parent| {
        parent.trace_flags().to_u8() & RANDOM_FLAG
    });
    let span_context = SpanContext::new(
        parent.map_or_else(|| ids.new_trace_id(), SpanContext::trace_id),
        ids.new_span_id(),
        TraceFlags::new(random),
        false,
        parent.map_or(TraceState::NONE, |parent| parent.trace_state().clone()),
    );
    let cx = propagation::for_started_span(cx, &span_context);
    Started {
        cx: cx.with_remote_span_context(span_context),
        is_recording: false,
    }
}

/// Returns the span context with `added` flags.
fn with_more_flags(span_context: &SpanContext, added: u8) -> SpanContext {
    SpanContext::new(
        span_context.trace_id(),
        span_context.span_id(),
        TraceFlags::new(span_context.trace_flags().to_u8() | added),
        false,
        TraceState::clone(span_context.trace_state()),
    )
}
