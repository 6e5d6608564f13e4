//! The sets of metrics that a layer can record.

/// A set of metrics that a layer records; see
/// [`TelemetryLayer::with_metrics`](crate::TelemetryLayer::with_metrics).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricSet {
    /// `http.requests` and `http.duration`, of servers alone.
    Basic,
    /// `http.server.request.duration`, `http.server.active_requests` and
    /// `rpc.server.call.duration`, as the OpenTelemetry conventions have them; of a client those with
    /// `client` in place of `server`.
    Conventions,
    /// `http.server.response.body.size`, and with a
    /// [`RequestBodySizeLayer`](crate::RequestBodySizeLayer) `http.server.request.body.size`, in
    /// bytes that were really transferred; of a client likewise.
    BodySizes,
}
