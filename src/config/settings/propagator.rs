//! Formats in which requests carry context.

/// A format in which requests carry context.
///
/// If several are configured, they are read in that order. If two contain a parent span, the later
/// one is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Propagator {
    /// W3C Trace Context: `traceparent` and `tracestate`.
    TraceContext,
    /// W3C Baggage: `baggage`.
    Baggage,
    /// [B3] of Zipkin, written as the single header `b3`.
    ///
    /// Both forms of B3 are read, the single header first. Ids without a sampling state leave the
    /// decision to the sampler, which decides as for a new trace. `0` or `1` without ids decides on
    /// the trace that begins here, or on the span that an earlier propagator has read. The debug
    /// state is sampled, and is propagated as debug.
    ///
    /// Such a decision has the same effect as the sampled flag of a `traceparent`, except that `0`
    /// without ids drops the trace with every sampler. A custom tracer provider gets ids without a
    /// state as a parent that is not sampled.
    ///
    /// [B3]: https://github.com/openzipkin/b3-propagation
    B3,
    /// B3 as [`B3`](Self::B3), but written as the headers `X-B3-TraceId`, `X-B3-SpanId` and
    /// `X-B3-Sampled`, or `X-B3-Flags` for debug.
    B3Multi,
}

impl Propagator {
    pub(crate) const ALL: [Self; 4] = [Self::TraceContext, Self::Baggage, Self::B3, Self::B3Multi];

    /// Returns the name in `OTEL_PROPAGATORS`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TraceContext => "tracecontext",
            Self::Baggage => "baggage",
            Self::B3 => "b3",
            Self::B3Multi => "b3multi",
        }
    }
}
