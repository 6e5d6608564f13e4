//! The exemplar filter.

/// The requests that become exemplars of the layers' metrics (metrics SDK, "ExemplarFilter").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExemplarFilter {
    /// Requests in sampled traces.
    #[default]
    TraceBased,
    /// All requests. An exemplar has the ids of the request's span, even if the span is not
    /// sampled.
    AlwaysOn,
    /// No requests.
    AlwaysOff,
}
