//! The sets of metrics that a layer can record.

/// A set of metrics that a layer records, for
/// [`TelemetryLayer::with_metrics`](crate::TelemetryLayer::with_metrics).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricSet {
    /// `http.requests` and `http.duration`. Only servers record them.
    Basic,
    /// `http.server.request.duration`, `http.server.active_requests` and
    /// `rpc.server.call.duration`, as defined by the OpenTelemetry conventions. The names of a
    /// client's metrics contain `client` instead of `server`.
    Conventions,
    /// `http.server.response.body.size` and, with a
    /// [`RequestBodySizeLayer`](crate::RequestBodySizeLayer), `http.server.request.body.size`: the
    /// numbers of bytes that were actually transferred. The names of a client's metrics contain
    /// `client` instead of `server`.
    BodySizes,
}
