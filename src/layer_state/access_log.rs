//! A log line per request.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use opentelemetry::Context;
use tracing::Level;

use crate::current_context;
use crate::semconv;

/// The maximum length of a path in a line, in bytes.
const MAX_PATH: usize = 1024;

type Filter = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

/// The log line of each request. Configured with
/// [`TelemetryLayer::with_access_log`](crate::TelemetryLayer::with_access_log).
///
/// Each line is a `tracing` event with the target `tower_telemetry::access`. It is emitted when the
/// request ends, in the request's context, so lines and log records have the ids of its span. The
/// fields are the attributes of the OpenTelemetry conventions, and the duration:
///
/// | field | value |
/// |---|---|
/// | `http.request.method` | as on the span |
/// | `http.route`, else `url.path` | the route, or the path if no route matched |
/// | `http.response.status_code` | absent without a response |
/// | `rpc.status_code` | only for gRPC calls |
/// | `duration_ms` | milliseconds until the end of the response body |
/// | `error.type` | as on the span |
///
/// ```
/// use std::time::Duration;
/// use tower_telemetry::{layers::AccessLog, TelemetryLayer};
///
/// let log = AccessLog::new()
///     .with_slow_threshold(Duration::from_secs(1))
///     .with_filter(|request| request.uri.path() != "/healthz");
/// let layer = TelemetryLayer::new().with_access_log(log);
/// ```
#[derive(Clone)]
#[must_use = "an access log does nothing until it is added to a layer"]
pub struct AccessLog {
    level: Level,
    slow: Option<Duration>,
    filter: Option<Filter>,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self::new()
    }
}

impl AccessLog {
    /// Creates an access log of all recorded requests, at the level INFO.
    pub fn new() -> Self {
        Self {
            level: Level::INFO,
            slow: None,
            filter: None,
        }
    }

    /// Sets the level of the lines. Defaults to INFO.
    pub fn with_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Sets the duration from which requests are logged at the level WARN, unless the level of all
    /// lines is more severe. No threshold by default.
    pub fn with_slow_threshold(mut self, threshold: Duration) -> Self {
        self.slow = Some(threshold);
        self
    }

    /// Logs only requests for which `filter` returns true. If the filter panics, the request is
    /// logged.
    pub fn with_filter(mut self, filter: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(filter));
        self
    }

    /// Returns the data that the line needs when the request ends; `None` if the request is not
    /// logged.
    pub(crate) fn begin(&self, request: &Parts) -> Option<Box<Entry>> {
        let is_wanted = |filter: &Filter| catch_unwind(AssertUnwindSafe(|| filter(request)));
        let is_wanted = self.filter.as_ref().is_none_or(|filter| {
            // A filter that panics does not exclude the request.
            is_wanted(filter).unwrap_or(true)
        });
        is_wanted.then(|| {
            Box::new(Entry {
                level: self.level,
                slow: self.slow,
                path: semconv::truncate(request.uri.path(), MAX_PATH).into_owned(),
            })
        })
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("level", &self.level)
            .field("slow", &self.slow)
            .finish_non_exhaustive()
    }
}

/// A line that is written when its request ends.
pub(crate) struct Entry {
    level: Level,
    slow: Option<Duration>,
    path: String,
}

/// The end of a request.
pub(crate) struct End<'a> {
    pub(crate) method: &'a str,
    pub(crate) route: Option<&'a str>,
    pub(crate) status: Option<StatusCode>,
    /// The status of a gRPC call.
    pub(crate) code: Option<&'static str>,
    pub(crate) error: Option<String>,
    pub(crate) duration: Duration,
}

impl Entry {
    /// Writes the line. A panic in a subscriber does not affect the request.
    pub(crate) fn write(&self, cx: &Context, end: &End<'_>) {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _attached = current_context::attach(cx);
            self.log(end);
        }));
    }

    fn log(&self, end: &End<'_>) {
        macro_rules! log {
            ($level:ident) => {
                tracing::event!(
                    target: "tower_telemetry::access",
                    Level::$level,
                    http.request.method = end.method,
                    http.route = end.route,
                    url.path = end.route.is_none().then_some(&*self.path),
                    http.response.status_code = end.status.map(|status| status.as_u16()),
                    rpc.status_code = end.code,
                    // A resolution of microseconds is enough.
                    duration_ms = (end.duration.as_secs_f64() * 1e6).round() / 1e3,
                    "error.type" = end.error.as_deref(),
                    "request"
                )
            };
        }

        let is_slow = self.slow.is_some_and(|slow| end.duration >= slow);
        match self.level {
            Level::ERROR => log!(ERROR),
            _ if is_slow => log!(WARN),
            Level::WARN => log!(WARN),
            Level::INFO => log!(INFO),
            Level::DEBUG => log!(DEBUG),
            Level::TRACE => log!(TRACE),
        }
    }
}
