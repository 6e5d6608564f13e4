//! Forms in which requests carry context.

/// A form in which requests carry context.
///
/// Several are read in the order in which they are configured. Where two name a span, the later one
/// holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Propagator {
    /// W3C Trace Context: `traceparent` and `tracestate`.
    TraceContext,
    /// W3C Baggage: `baggage`.
    Baggage,
    /// [B3] of Zipkin, written as the single header `b3`.
    ///
    /// Both forms of B3 are read, the single header first. Ids without a state leave the decision to
    /// the sampler, which decides as for a new trace. `0` and `1` without ids decide on the trace
    /// that begins here, or on the span that an earlier propagator has read. Debug is sampled, and
    /// passed on as debug.
    ///
    /// Such a decision holds as far as the sampled flag of a `traceparent` does, except that `0`
    /// without ids drops the trace with every sampler. A tracer provider of an application's own
    /// gets ids without a state as a parent that is not sampled.
    ///
    /// [B3]: https://github.com/openzipkin/b3-propagation
    B3,
    /// B3 as [`B3`](Self::B3), written as the headers `X-B3-TraceId`, `X-B3-SpanId` and
    /// `X-B3-Sampled`, or `X-B3-Flags` for debug.
    B3Multi,
}

impl Propagator {
    pub(crate) const ALL: [Self; 4] = [Self::TraceContext, Self::Baggage, Self::B3, Self::B3Multi];

    /// As in `OTEL_PROPAGATORS`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TraceContext => "tracecontext",
            Self::Baggage => "baggage",
            Self::B3 => "b3",
            Self::B3Multi => "b3multi",
        }
    }
}
