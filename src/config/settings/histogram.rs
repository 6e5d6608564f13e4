//! The aggregation of histograms.

/// The aggregation of histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HistogramAggregation {
    /// Buckets with fixed boundaries, which are the conventions' for request metrics.
    #[default]
    ExplicitBuckets,
    /// Buckets with exponential boundaries of base 2.
    ExponentialBuckets,
}
