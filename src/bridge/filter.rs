//! The filter for `tracing` spans. Its presence also shows that a subscriber has a bridge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Dispatch, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

#[cfg(all(feature = "init", feature = "logs"))]
use crate::bridge::on_demand::is_of_init;
use crate::semconv::REQUEST_TARGET;

/// The default span of tower-http's `TraceLayer`. It is excluded, because it would duplicate the
/// span of the request.
const OF_TRACE_LAYER: &str = "tower_http::trace::make_span=off";

/// Returns whether a span belongs to a request.
pub(super) fn is_of_request(metadata: &Metadata<'_>) -> bool {
    metadata.target() == REQUEST_TARGET
}

/// Selects the `tracing` spans that are exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpanFilter {
    directives: String,
    /// Whether `tracing` events are added to their spans.
    pub(crate) events: bool,
}

impl Default for SpanFilter {
    fn default() -> Self {
        Self {
            directives: "info".to_owned(),
            events: false,
        }
    }
}

impl SpanFilter {
    /// Sets a level or directives. Returns the parse error if they are invalid.
    #[cfg(feature = "init")]
    pub(crate) fn with_directives(self, directives: &str) -> Result<Self, String> {
        match EnvFilter::builder().parse(directives) {
            Ok(_) => Ok(Self {
                directives: directives.to_owned(),
                ..self
            }),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Creates the filter of a layer. The bridge does nothing once `off` is set.
    pub(super) fn filter(&self, off: Arc<AtomicBool>) -> OfSpans {
        let directives = format!("{OF_TRACE_LAYER},{}", self.directives);
        // `Targets` is cheaper than `EnvFilter`, which takes a lock each time a span is entered.
        let wanted = match directives.parse::<Targets>() {
            Ok(targets) if !directives.contains(['[', '{']) => Wanted::Targets(targets.into()),
            _ => Wanted::Directives(EnvFilter::builder().parse_lossy(directives).into()),
        };
        OfSpans {
            wanted,
            events: self.events,
            off,
        }
    }
}

/// Returns whether the current subscriber has an active bridge.
pub(super) fn is_bridged() -> bool {
    tracing::dispatcher::get_default(|dispatch| match dispatch.downcast_ref::<OfSpans>() {
        Some(filter) => !filter.off.load(Ordering::Relaxed),
        None => is_of_init(dispatch),
    })
}

/// Returns whether this is the subscriber of `init`, which always has a bridge.
#[cfg(not(all(feature = "init", feature = "logs")))]
fn is_of_init(_: &Dispatch) -> bool {
    false
}

/// Whether some subscriber has a bridge that `is_bridged` cannot find.
static HIDDEN: AtomicBool = AtomicBool::new(false);

/// Checks whether a subscriber hides its bridge.
pub(super) fn check_for_bridge(subscriber: &Dispatch) {
    if subscriber.downcast_ref::<OfSpans>().is_none() && !is_of_init(subscriber) {
        HIDDEN.store(true, Ordering::Relaxed);
    }
}

/// Returns whether some subscriber hides its bridge.
pub(super) fn is_hidden() -> bool {
    HIDDEN.load(Ordering::Relaxed)
}

enum Wanted {
    Targets(Box<Targets>),
    /// Directives that contain spans or fields.
    Directives(Box<EnvFilter>),
}

/// A filter that accepts the selected spans, and events if they are configured.
pub(super) struct OfSpans {
    wanted: Wanted,
    events: bool,
    off: Arc<AtomicBool>,
}

impl OfSpans {
    fn is_left_out(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && !self.events
    }
}

/// Calls a method of the inner filter.
macro_rules! forward {
    ($filter:expr, $method:ident($($argument:expr),*)) => {
        match &$filter.wanted {
            Wanted::Targets(inner) => Filter::<S>::$method(&**inner, $($argument),*),
            Wanted::Directives(inner) => Filter::<S>::$method(&**inner, $($argument),*),
        }
    };
}

impl<S> Filter<S> for OfSpans
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn enabled(&self, metadata: &Metadata<'_>, cx: &Context<'_, S>) -> bool {
        is_of_request(metadata)
            || !self.is_left_out(metadata) && forward!(self, enabled(metadata, cx))
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_of_request(metadata) {
            Interest::always()
        } else if self.is_left_out(metadata) {
            Interest::never()
        } else {
            forward!(self, callsite_enabled(metadata))
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let hint = forward!(self, max_level_hint());
        hint.map(|level| level.max(LevelFilter::INFO))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        forward!(self, on_new_span(attributes, id, cx));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, cx: Context<'_, S>) {
        forward!(self, on_record(id, values, cx));
    }

    fn on_enter(&self, id: &Id, cx: Context<'_, S>) {
        forward!(self, on_enter(id, cx));
    }

    fn on_exit(&self, id: &Id, cx: Context<'_, S>) {
        forward!(self, on_exit(id, cx));
    }

    fn on_close(&self, id: Id, cx: Context<'_, S>) {
        forward!(self, on_close(id, cx));
    }
}
