//! The signal on which exceptions are recorded.

/// The signal on which exceptions are recorded: errors passed to
/// [`set_span_error`](crate::set_span_error), and errors that end a request.
///
/// The conventions are replacing span events with log records. An error that ends a request is
/// never recorded as a span event. As a log record it is `http.server.request.exception` or a
/// similar event. The span has its type in any case, and the span of a client also has its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExceptionSignal {
    /// Events on spans.
    #[default]
    SpanEvents,
    /// Log records with the ids of the span, even if the request is not sampled.
    Logs,
    /// Both.
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
