//! The signals in which exceptions are recorded: spans, log records, or both.

use std::fmt;
use std::sync::Arc;

use opentelemetry::trace::SpanContext;

/// An error that was recorded by handler code or that ended a request.
#[cfg_attr(
    not(all(feature = "init", feature = "logs")),
    allow(dead_code, reason = "it is used only for log records")
)]
pub(crate) struct Exception<'a> {
    /// The event name of the log record.
    pub(crate) event: &'static str,
    /// Whether the severity is error; otherwise it is warning.
    pub(crate) is_error: bool,
    pub(crate) error_type: &'a str,
    /// Empty if there is no message.
    pub(crate) message: &'a str,
    /// The span in which the exception occurred.
    pub(crate) span_context: &'a SpanContext,
}

/// Writes exceptions as log records.
pub(crate) trait LogException: Send + Sync {
    fn log(&self, exception: &Exception<'_>);
}

/// The signals in which exceptions are recorded.
#[derive(Clone)]
pub(crate) struct Exceptions {
    /// Whether exceptions are recorded as span events.
    pub(crate) on_spans: bool,
    pub(crate) log: Option<Arc<dyn LogException>>,
}

impl Default for Exceptions {
    /// Returns the default of the conventions, which `OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN`
    /// changes.
    fn default() -> Self {
        Self {
            on_spans: true,
            log: None,
        }
    }
}

impl fmt::Debug for Exceptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exceptions")
            .field("on_spans", &self.on_spans)
            .field("log", &self.log.is_some())
            .finish()
    }
}
