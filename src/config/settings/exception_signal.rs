//! The signal that exceptions are recorded on.

/// Where exceptions are recorded: the errors that are given to
/// [`set_span_error`](crate::set_span_error), and those that end a request.
///
/// The conventions replace events on spans by log records. An error that ends a request is recorded as a
/// log record alone, `http.server.request.exception` and its like: its span has the type and, of
/// a client, the message in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExceptionSignal {
    /// As events on spans.
    #[default]
    SpanEvents,
    /// As log records, with the ids of the span, also below a request that is not sampled.
    Logs,
    /// As both.
    LogsAndSpanEvents,
}

impl ExceptionSignal {
    #[cfg(feature = "logs")]
    pub(crate) fn is_on_spans(self) -> bool {
        self != Self::Logs
    }

    pub(crate) fn is_logged(self) -> bool {
        self != Self::SpanEvents
    }
}
