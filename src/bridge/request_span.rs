//! The `tracing` span that represents the span of a request.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use opentelemetry::Context;
use tracing::field::Empty;
use tracing::span::Id;
use tracing::{Dispatch, Level, Span};

use crate::attribute_set;
#[cfg(feature = "tracing")]
use crate::bridge::filter::{is_bridged, is_hidden};
#[cfg(all(feature = "init", feature = "logs", feature = "tracing"))]
use crate::bridge::on_demand::{self, OnDemandSpan};
use crate::concurrent::caught::warn_once;
use crate::current_context;
use crate::semconv::{REQUEST_TARGET, Side};

/// The number of existing bridges.
static BRIDGES: AtomicUsize = AtomicUsize::new(0);

/// Counts a bridge until it is dropped.
#[cfg(feature = "tracing")]
pub(crate) struct Counted(());

#[cfg(feature = "tracing")]
impl Counted {
    pub(crate) fn new() -> Self {
        BRIDGES.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

#[cfg(feature = "tracing")]
impl Drop for Counted {
    fn drop(&mut self) {
        BRIDGES.fetch_sub(1, Ordering::Relaxed);
    }
}

thread_local! {
    /// Whether a layer enters or exits the span of its request on this thread.
    static BY_LAYER: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether a layer enters or exits the span of its request. The context of the request is
/// then current already.
#[cfg(feature = "tracing")]
pub(super) fn is_entered_by_layer() -> bool {
    BY_LAYER.get()
}

/// Enters or exits a span with `f`.
#[cold]
fn by_layer(span: &Span, f: impl FnOnce(&Dispatch, &Id)) {
    /// Restores the flag, even if a layer of the application panics.
    struct Restore(bool);

    impl Drop for Restore {
        fn drop(&mut self) {
            BY_LAYER.set(self.0);
        }
    }

    let _restore = Restore(BY_LAYER.replace(true));
    span.with_subscriber(|(id, dispatch)| f(dispatch, id));
}

/// Returns whether some subscriber has a bridge.
#[inline]
pub(crate) fn is_wanted() -> bool {
    BRIDGES.load(Ordering::Relaxed) != 0
}

/// The `tracing` span of a request, if it has one.
#[derive(Default)]
pub(crate) enum RequestSpan {
    #[default]
    None,
    /// Boxed, because a span is large and few requests have one.
    Open(Box<Span>),
    /// A span that the subscriber of `init` opens when code asks for it.
    #[cfg(all(feature = "init", feature = "logs", feature = "tracing"))]
    OnDemand(OnDemandSpan),
}

impl RequestSpan {
    /// Opens a span that represents the span in `cx`, if the current subscriber has a bridge.
    #[cold]
    pub(crate) fn open(
        cx: &Context,
        side: Side,
        method: &'static str,
        route: Option<&str>,
    ) -> Self {
        #[cfg(all(feature = "init", feature = "logs", feature = "tracing"))]
        if on_demand::is_available() {
            return Self::OnDemand(OnDemandSpan::new(cx, side));
        }
        #[cfg(feature = "tracing")]
        if !is_bridged() {
            if is_hidden() {
                warn_once!(
                    "the span layer of tower-telemetry is inside a layer that hides it, such as \
                     `tracing_subscriber::reload::Layer`, so that requests have no `tracing` span; \
                     put that layer only around the layer of the log lines, or around its filter"
                );
            }
            return Self::default();
        }
        let _attached = current_context::attach(cx);
        // Includes fields for users to record, because only declared fields can be recorded.
        macro_rules! open {
            ($name:literal) => {
                tracing::span!(
                    target: REQUEST_TARGET,
                    Level::INFO,
                    $name,
                    method = %method,
                    route = route.map(display),
                    status = Empty,
                    error = Empty,
                    request_id = Empty,
                    tenant = Empty,
                    user = Empty,
                    otel.name = Empty,
                    otel.status_code = Empty,
                    otel.status_description = Empty,
                )
            };
        }
        let span = match side {
            Side::Server => open!("request"),
            Side::Client => open!("client_request"),
        };
        if span.is_disabled() {
            warn_once!(
                "the filter of the `tracing` subscriber disables the spans of requests, so that tasks \
                 lose their trace; apply it only to the layer of the log lines, with `with_filter`"
            );
            return Self::default();
        }
        Self::Open(Box::new(span))
    }

    /// Records the response status for log lines. The OpenTelemetry span already has it.
    #[inline]
    pub(crate) fn record_status(&self, status: StatusCode) {
        #[cold]
        fn record(span: &Span, status: StatusCode) {
            attribute_set::write_as_crate(|| {
                span.record("status", status.as_u16());
            });
        }
        if let Self::Open(span) = self {
            record(span, status);
        }
    }

    #[inline]
    pub(crate) fn enter(&mut self) {
        match self {
            Self::None => {}
            Self::Open(span) => by_layer(span, Dispatch::enter),
            #[cfg(all(feature = "init", feature = "logs", feature = "tracing"))]
            Self::OnDemand(span) => span.enter(),
        }
    }

    #[inline]
    pub(crate) fn exit(&mut self) {
        match self {
            Self::None => {}
            Self::Open(span) => by_layer(span, Dispatch::exit),
            #[cfg(all(feature = "init", feature = "logs", feature = "tracing"))]
            Self::OnDemand(span) => span.exit(),
        }
    }
}
