//! The layer that exports spans of `tracing`.

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
use crate::bridge::request_span::Counted;
use crate::bridge::stand_in::{self, StandIn};
pub(crate) use crate::bridge::tracer::Source;
use crate::bridge::tracer::{self, BridgeTracer};
use crate::concurrent::caught::warn_once;
use crate::current_context;

/// Returns a layer that puts spans of `tracing` into the traces of requests, for a subscriber of your
/// own. Spans go to the providers in force, which are those of `init` or OpenTelemetry's
/// global ones.
///
/// Spans from `INFO` on are exported. With `init`, take the layer of the guard, which filters as
/// `init` is configured.
///
/// The layer is `tracing-opentelemetry`'s, with these differences:
///
/// | | there | here |
/// |---|---|---|
/// | the span of a request | | each request of a telemetry layer has a span of `tracing`, which stands for the span that the layer has made |
/// | events | events of the span; an `error!` makes the span an error | left to log records |
/// | below a span that is not sampled | attributes are built and thrown away | fields are not read |
/// | `thread.id`, `thread.name`, `busy_ns`, `idle_ns` | recorded | not recorded |
///
/// A subscriber has one such layer, and no other of `tracing-opentelemetry`. Where it has another, this
/// one does nothing, and one warning says so. Requests have no span of `tracing` where this layer is
/// inside `tracing_subscriber::reload::Layer`, and one warning says so, too: put `reload` around the
/// filter of the log lines.
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
    span_layer_of(Source::InForce, &SpanFilter::default())
}

/// The same, with another place for spans and another filter.
pub(crate) fn span_layer_of<S>(
    source: Source,
    filter: &SpanFilter,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let tracer = BridgeTracer(source);
    let layer = |tracer| {
        OpenTelemetryLayer::new(tracer)
            .with_threads(false)
            .with_tracked_inactivity(false)
    };
    // `OpenTelemetrySpanExt` finds this one in the subscriber. It sees no span: the bridge makes all
    // that it looks for.
    let known = layer(tracer.clone()).with_filter(LevelFilter::OFF);
    let off = Arc::new(AtomicBool::new(false));
    let filter = filter.filter(off.clone());
    let bridge = Bridge {
        bare: layer(tracer.clone())
            .with_location(false)
            .with_target(false),
        full: layer(tracer.clone()),
        tracer,
        off,
        is_known: AtomicBool::new(false),
        dispatch: OnceLock::new(),
        _counted: Counted::new(),
    };
    // The bridge is the outer one: of two layers on a registry, that one alone gives the most verbose level.
    known.and_then(bridge.with_filter(filter)).boxed()
}

struct Bridge<S> {
    /// For spans that have attributes.
    full: OpenTelemetryLayer<S, BridgeTracer>,
    /// For spans without.
    bare: OpenTelemetryLayer<S, BridgeTracer>,
    tracer: BridgeTracer,
    /// Set where the subscriber has another layer of `tracing-opentelemetry`: both would store their
    /// data in the same place of a span.
    off: Arc<AtomicBool>,
    /// Whether that is known.
    is_known: AtomicBool,
    dispatch: OnceLock<WeakDispatch>,
    _counted: Counted,
}

fn warn_of_another() {
    let warn = || {
        warn_once!(
            "the `tracing` subscriber has another layer of tracing-opentelemetry, so that the span \
             layer of tower-telemetry does nothing; remove one of them"
        );
    };
    // From another thread, because the subscriber is at work on this one.
    #[cfg(feature = "init")]
    crate::logs::tell(warn);
    #[cfg(not(feature = "init"))]
    warn();
}

/// Marks a span whose fields are not read, because nothing of it is exported.
struct NotRead;

impl<S> Bridge<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    /// Returns whether this is the only layer that stores OpenTelemetry's data in a new span.
    #[inline]
    fn is_alone(&self, id: &Id, cx: &Context<'_, S>) -> bool {
        if self.is_known.load(Ordering::Acquire) {
            !self.is_off()
        } else {
            self.look_for_another(id, cx)
        }
    }

    /// Looks for another layer of `tracing-opentelemetry`, which would fail an assertion of its own on
    /// the data of this one.
    #[cold]
    fn look_for_another(&self, id: &Id, cx: &Context<'_, S>) -> bool {
        let Some(dispatch) = self.dispatch.get().and_then(WeakDispatch::upgrade) else {
            return true;
        };
        // A layer further in has stored its data already. One further out is found before this one, and
        // would start this span with a tracer of its own.
        let is_alone = get_otel_context(id, &dispatch).is_none() && {
            let starts = tracer::starts();
            stand_in::with_attributes(|none| self.bare.on_new_span(none, id, cx.clone()));
            let _ = get_otel_context(id, &dispatch);
            self.bare.on_close(id.clone(), cx.clone());
            // This layer has started it to find it, and has not to close it.
            tracer::starts() == starts.wrapping_add(1)
        };
        self.off.store(!is_alone, Ordering::Relaxed);
        self.is_known.store(true, Ordering::Release);
        if !is_alone {
            warn_of_another();
        }
        is_alone
    }

    /// Has a new span stand for the span that is current in OpenTelemetry's context.
    fn stand_in(&self, id: &Id, cx: &Context<'_, S>) {
        stand_in::with_attributes(|none| self.bare.on_new_span(none, id, cx.clone()));
        // Started now: what is set on a span before its start would stay in its builder.
        self.bare.on_enter(id, cx.clone());
        self.bare.on_exit(id, cx.clone());
        if let Some(span) = cx.span(id) {
            let current = current_context::get();
            span.extensions_mut().replace(StandIn(current));
        }
    }

    /// Returns whether a new span is dropped for certain.
    fn is_dropped(&self, attributes: &Attributes<'_>, cx: &Context<'_, S>) -> bool {
        if let Some(parent) = attributes.parent() {
            let Some(parent) = cx.span(parent) else {
                return false;
            };
            return match Self::stand_in_of(&parent) {
                Some(StandIn(cx)) => self.drops_below(&cx),
                None => parent.extensions().get::<NotRead>().is_some(),
            };
        }
        attributes.is_contextual() && current_context::map(|cx| self.drops_below(cx))
    }

    fn drops_below(&self, cx: &OtelContext) -> bool {
        self.tracer.0.with(cx, |providers| {
            providers.is_none_or(|providers| providers.drops_below(cx))
        })
    }

    /// Returns a copy: the extensions of a span are locked while they are borrowed, and whoever uses the
    /// context may log.
    fn stand_in_of(span: &SpanRef<'_, S>) -> Option<StandIn> {
        span.extensions().get::<StandIn>().cloned()
    }

    fn is_stand_in(id: &Id, cx: &Context<'_, S>) -> bool {
        let span = cx.span(id);
        span.is_some_and(|span| span.extensions().get::<StandIn>().is_some())
    }
}

impl<S> Layer<S> for Bridge<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        filter::look_for_bridge(dispatch);
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        if !current_context::exists() || !self.is_alone(id, &cx) {
            return;
        }
        if is_of_request(attributes.metadata()) {
            self.stand_in(id, &cx);
        } else if self.is_dropped(attributes, &cx) {
            if let Some(span) = cx.span(id) {
                span.extensions_mut().replace(NotRead);
            }
            stand_in::without_values(attributes, |bare| self.bare.on_new_span(bare, id, cx));
        } else {
            self.full.on_new_span(attributes, id, cx);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, cx: Context<'_, S>) {
        // This crate records on the span of a request for log lines alone.
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
        // The filter lets none pass unless they are wanted.
        if !self.is_off() {
            tracer::in_event(|| self.full.on_event(event, cx));
        }
    }

    fn on_enter(&self, id: &Id, cx: Context<'_, S>) {
        let Some(span) = cx.span(id) else {
            return;
        };
        if let Some(stand_in) = Self::stand_in_of(&span) {
            stand_in.enter(id);
        } else if current_context::exists() && !self.is_off() {
            drop(span);
            self.full.on_enter(id, cx);
        }
    }

    fn on_exit(&self, id: &Id, cx: Context<'_, S>) {
        if Self::is_stand_in(id, &cx) {
            StandIn::exit(id);
        } else if current_context::exists() && !self.is_off() {
            self.full.on_exit(id, cx);
        }
    }

    fn on_close(&self, id: Id, cx: Context<'_, S>) {
        if !Self::is_stand_in(&id, &cx) && !self.is_off() {
            self.full.on_close(id, cx);
        }
    }
}
