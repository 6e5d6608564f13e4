//! The filter of exemplars.

/// Chooses the requests that are exemplars of the metrics of the layers (metrics SDK, "ExemplarFilter").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExemplarFilter {
    /// Requests in sampled traces.
    #[default]
    TraceBased,
    /// All requests, each with the ids of its span, whether sampled or not.
    AlwaysOn,
    /// None.
    AlwaysOff,
}
