//! The aggregation of histograms.

/// Chooses how histograms are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HistogramAggregation {
    /// Buckets with fixed boundaries, those of the conventions for the metrics of requests.
    #[default]
    ExplicitBuckets,
    /// Buckets that grow exponentially, with base 2.
    ExponentialBuckets,
}
