//! Copies of a [`SpanContext`] with one part replaced.

use opentelemetry::trace::{SpanContext, TraceFlags, TraceState};

/// The bit of the trace flags for a random trace id (Trace Context Level 2).
pub(crate) const RANDOM_FLAG: u8 = 0x02;

/// Returns `span` with other flags.
pub(crate) fn with_flags(span: &SpanContext, flags: TraceFlags) -> SpanContext {
    SpanContext::new(
        span.trace_id(),
        span.span_id(),
        flags,
        span.is_remote(),
        span.trace_state().clone(),
    )
}

/// Returns `span` with another state.
pub(crate) fn with_state(span: &SpanContext, state: TraceState) -> SpanContext {
    SpanContext::new(
        span.trace_id(),
        span.span_id(),
        span.trace_flags(),
        span.is_remote(),
        state,
    )
}

/// Returns a span context for tests.
#[cfg(test)]
pub(crate) fn example() -> SpanContext {
    SpanContext::new(
        opentelemetry::trace::TraceId::from_bytes([0x1a; 16]),
        opentelemetry::trace::SpanId::from_bytes([0x2b; 8]),
        TraceFlags::new(0x03),
        false,
        Default::default(),
    )
}
