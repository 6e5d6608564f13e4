//! The `tracing` layer that exports spans.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use opentelemetry::Context as OtelContext;
use tracing::dispatcher::WeakDispatch;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, get_otel_context};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, SpanRef};

use crate::attribute_set;
use crate::bridge::filter::{self, SpanFilter, is_of_request};
use crate::bridge::represented::{self, RepresentedSpan};
use crate::bridge::request_span::{Counted, is_entered_by_layer};
pub(crate) use crate::bridge::tracer::Source;
use crate::bridge::tracer::{self, BridgeTracer};
use crate::concurrent::caught::warn_once;
use crate::current_context;

/// Returns a `tracing` layer that adds `tracing` spans to the traces of requests, for your own
/// subscriber.
///
/// Spans are recorded with the providers of `init`, or else with OpenTelemetry's global providers.
/// Spans at level `INFO` and above are exported. With `init`, use
/// `TelemetryGuard::span_layer` instead, which uses the configured filter.
///
/// The layer behaves like `tracing-opentelemetry`'s, with these differences:
///
/// | | `tracing-opentelemetry` | this layer |
/// |---|---|---|
/// | span of a request | | each request of a telemetry layer has a `tracing` span, which represents the span of the layer |
/// | events | added to the span; an `error!` sets the span's status to error | not added, because they are exported as log records |
/// | children of an unsampled span | attributes are built and discarded | fields are not read |
/// | `thread.id`, `thread.name`, `busy_ns`, `idle_ns` | recorded | not recorded |
///
/// Add only one such layer to a subscriber, and no other layer of `tracing-opentelemetry`. If there
/// is another one, this layer does nothing and logs one warning. If this layer is inside
/// `tracing_subscriber::reload::Layer`, requests have no `tracing` span, and one warning is logged.
/// Use `reload` only around the filter of the log lines.
///
/// ```
/// use tracing_subscriber::prelude::*;
///
/// let subscriber = tracing_subscriber::registry()
///     .with(tracing_subscriber::fmt::layer())
///     .with(tower_telemetry::span_layer());
/// ```
pub fn span_layer<S>() -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    span_layer_of(Source::Process, &SpanFilter::default())
}

/// Like [`span_layer`], with the given source of providers and filter.
pub(crate) fn span_layer_of<S>(
    source: Source,
    filter: &SpanFilter,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let tracer = BridgeTracer(source);
    // `OpenTelemetrySpanExt` looks for this layer in the subscriber. The layer sees no spans,
    // because the bridge creates all the data that the extension reads.
    let known = opentelemetry_layer(tracer.clone()).with_filter(LevelFilter::OFF);
    // The bridge is outermost, because the outer of two layers on a registry determines the maximum
    // level.
    known.and_then(bridge(tracer, filter)).boxed()
}

/// Returns a layer of `tracing-opentelemetry` that records what spans of OpenTelemetry have.
pub(super) fn opentelemetry_layer<S>(tracer: BridgeTracer) -> OpenTelemetryLayer<S, BridgeTracer>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    OpenTelemetryLayer::new(tracer)
        .with_threads(false)
        .with_tracked_inactivity(false)
}

/// Returns the layer that sees the spans.
pub(super) fn bridge<S>(tracer: BridgeTracer, filter: &SpanFilter) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let off = Arc::new(AtomicBool::new(false));
    let filter = filter.filter(off.clone());
    let bridge = Bridge {
        bare: opentelemetry_layer(tracer.clone())
            .with_location(false)
            .with_target(false),
        full: opentelemetry_layer(tracer.clone()),
        tracer,
        off,
        is_known: AtomicBool::new(false),
        dispatch: OnceLock::new(),
        _counted: Counted::new(),
    };
    bridge.with_filter(filter)
}

struct Bridge<S> {
    /// Used for spans whose attributes are exported.
    full: OpenTelemetryLayer<S, BridgeTracer>,
    /// Used for spans without attributes.
    bare: OpenTelemetryLayer<S, BridgeTracer>,
    tracer: BridgeTracer,
    /// Set if the subscriber has another layer of `tracing-opentelemetry`. Both layers would store
    /// their data under the same type in a span's extensions.
    off: Arc<AtomicBool>,
    /// Whether the check for another layer has been done.
    is_known: AtomicBool,
    dispatch: OnceLock<WeakDispatch>,
    _counted: Counted,
}

fn warn_of_another() {
    let warn = || {
        warn_once!(
            "the `tracing` subscriber has another layer of tracing-opentelemetry, so the span layer \
             of tower-telemetry does nothing; remove one of them"
        );
    };
    // Logged from another thread, because this thread is inside a call to the subscriber.
    #[cfg(feature = "init")]
    crate::logs::emit_later(warn);
    #[cfg(not(feature = "init"))]
    warn();
}

/// Marks a span whose fields are not read, because it is not exported.
struct NotRead;

impl<S> Bridge<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    /// Returns whether this is the only layer that stores OpenTelemetry data in a new span.
    #[inline]
    fn is_alone(&self, id: &Id, cx: &Context<'_, S>) -> bool {
        if self.is_known.load(Ordering::Acquire) {
            !self.is_off()
        } else {
            self.check_for_another(id, cx)
        }
    }

    /// Checks for another layer of `tracing-opentelemetry` and returns whether there is none. The
    /// assertions of another layer would fail on this layer's data.
    #[cold]
    fn check_for_another(&self, id: &Id, cx: &Context<'_, S>) -> bool {
        let Some(dispatch) = self.dispatch.get().and_then(WeakDispatch::upgrade) else {
            return true;
        };
        // An inner layer has already stored its data. An outer layer would be found before this
        // one, and would start the span with its own tracer.
        let is_alone = get_otel_context(id, &dispatch).is_none() && {
            let starts = tracer::starts();
            represented::with_attributes(|none| self.bare.on_new_span(none, id, cx.clone()));
            let _ = get_otel_context(id, &dispatch);
            self.bare.on_close(id.clone(), cx.clone());
            // The lookup must have started the span, once, with this layer's tracer.
            tracer::starts() == starts.wrapping_add(1)
        };
        self.off.store(!is_alone, Ordering::Relaxed);
        self.is_known.store(true, Ordering::Release);
        if !is_alone {
            warn_of_another();
        }
        is_alone
    }

    /// Makes a new span represent the span in OpenTelemetry's current context.
    fn represent_current(&self, id: &Id, cx: &Context<'_, S>) {
        represented::with_attributes(|none| self.bare.on_new_span(none, id, cx.clone()));
        // Started now, because data set before the start would remain in the span's builder.
        self.bare.on_enter(id, cx.clone());
        self.bare.on_exit(id, cx.clone());
        if let Some(span) = cx.span(id) {
            let current = current_context::get();
            span.extensions_mut().replace(RepresentedSpan(current));
        }
    }

    /// Returns whether a new span is certain not to be sampled.
    fn is_dropped(&self, attributes: &Attributes<'_>, cx: &Context<'_, S>) -> bool {
        if let Some(parent) = attributes.parent() {
            let Some(parent) = cx.span(parent) else {
                return false;
            };
            return match Self::represented_span(&parent) {
                Some(RepresentedSpan(cx)) => self.drops_children(&cx),
                None => parent.extensions().get::<NotRead>().is_some(),
            };
        }
        attributes.is_contextual() && current_context::map(|cx| self.drops_children(cx))
    }

    fn drops_children(&self, cx: &OtelContext) -> bool {
        self.tracer.0.with(cx, |providers| {
            providers.is_none_or(|providers| providers.drops_children(cx))
        })
    }

    /// Returns a copy, because borrowing would lock the span's extensions, and the caller may log
    /// while it uses the context.
    fn represented_span(span: &SpanRef<'_, S>) -> Option<RepresentedSpan> {
        span.extensions().get::<RepresentedSpan>().cloned()
    }

    fn is_representing(id: &Id, cx: &Context<'_, S>) -> bool {
        let span = cx.span(id);
        span.is_some_and(|span| span.extensions().get::<RepresentedSpan>().is_some())
    }
}

impl<S> Layer<S> for Bridge<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        filter::check_for_bridge(dispatch);
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        if !current_context::exists() || !self.is_alone(id, &cx) {
            return;
        }
        if is_of_request(attributes.metadata()) {
            self.represent_current(id, &cx);
        } else if self.is_dropped(attributes, &cx) {
            if let Some(span) = cx.span(id) {
                span.extensions_mut().replace(NotRead);
            }
            represented::without_values(attributes, |bare| self.bare.on_new_span(bare, id, cx));
        } else {
            self.full.on_new_span(attributes, id, cx);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, cx: Context<'_, S>) {
        // Values that this crate records on a request's span are only for log lines.
        let is_read = |span: SpanRef<'_, S>| span.extensions().get::<NotRead>().is_none();
        if !self.is_off() && !attribute_set::is_crate_writing() && cx.span(id).is_some_and(is_read)
        {
            self.full.on_record(id, values, cx);
        }
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, cx: Context<'_, S>) {
        if !self.is_off() {
            self.full.on_follows_from(id, follows, cx);
        }
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        // The filter rejects events unless they are configured.
        if !self.is_off() {
            tracer::in_event(|| self.full.on_event(event, cx));
        }
    }

    fn on_enter(&self, id: &Id, cx: Context<'_, S>) {
        if is_entered_by_layer() {
            return;
        }
        let Some(span) = cx.span(id) else {
            return;
        };
        if let Some(represented) = Self::represented_span(&span) {
            represented.enter(id);
        } else if current_context::exists() && !self.is_off() {
            drop(span);
            self.full.on_enter(id, cx);
        }
    }

    fn on_exit(&self, id: &Id, cx: Context<'_, S>) {
        if is_entered_by_layer() {
            return;
        }
        if Self::is_representing(id, &cx) {
            RepresentedSpan::exit(id);
        } else if current_context::exists() && !self.is_off() {
            self.full.on_exit(id, cx);
        }
    }

    fn on_close(&self, id: Id, cx: Context<'_, S>) {
        if !Self::is_representing(&id, &cx) && !self.is_off() {
            self.full.on_close(id, cx);
        }
    }
}
