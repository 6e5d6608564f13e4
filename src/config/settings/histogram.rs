//! The aggregation of histograms.

/// The aggregation of histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HistogramAggregation {
    /// Buckets with fixed boundaries. Request metrics use the boundaries of the conventions.
    #[default]
    ExplicitBuckets,
    /// Buckets with exponential boundaries of base 2.
    ExponentialBuckets,
}
