//! The span of `tracing` that stands for the span of a request.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use tracing::field::Empty;
use tracing::{Level, Span};

use crate::attribute_set;
#[cfg(feature = "tracing")]
use crate::bridge::filter::is_bridged;
use crate::concurrent::caught::warn_once;
use crate::semconv::{REQUEST_TARGET, Side};

/// The number of bridges.
static BRIDGES: AtomicUsize = AtomicUsize::new(0);

/// Counts a bridge, until it is dropped.
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

/// The span of `tracing` of a request. It is opened when the request first runs.
pub(crate) enum RequestSpan {
    /// It is not opened yet.
    New,
    /// It is not wanted.
    Off,
    /// Boxed, because most requests have none, and it is large.
    Open(Box<Span>),
}

impl RequestSpan {
    /// Describes a span that is opened where the subscriber has a bridge.
    #[inline]
    pub(crate) fn new(is_wanted: bool) -> Self {
        if is_wanted && BRIDGES.load(Ordering::Relaxed) != 0 {
            Self::New
        } else {
            Self::Off
        }
    }

    /// Whether it is still to be opened.
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        matches!(self, Self::New)
    }

    /// Opens it for the span that is current in OpenTelemetry's context.
    #[cold]
    pub(crate) fn open(side: Side, method: &'static str, route: Option<&str>) -> Self {
        #[cfg(feature = "tracing")]
        if !is_bridged() {
            return Self::Off;
        }
        // The fields that users record on their own are declared here: others cannot be recorded.
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
                "the filter of the `tracing` subscriber leaves out the spans of requests, so that tasks \
                 lose their trace; give it to the layer of the log lines alone, with `with_filter`"
            );
            return Self::Off;
        }
        Self::Open(Box::new(span))
    }

    /// Records the status of the response, for log lines. The span of OpenTelemetry has it already.
    #[inline]
    pub(crate) fn record_status(&self, status: StatusCode) {
        if let Self::Open(span) = self {
            attribute_set::write_as_crate(|| {
                span.record("status", status.as_u16());
            });
        }
    }

    #[inline]
    pub(crate) fn enter(&self) {
        if let Self::Open(span) = self {
            span.with_subscriber(|(id, dispatch)| dispatch.enter(id));
        }
    }

    #[inline]
    pub(crate) fn exit(&self) {
        if let Self::Open(span) = self {
            span.with_subscriber(|(id, dispatch)| dispatch.exit(id));
        }
    }
}
