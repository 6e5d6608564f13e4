//! The aggregation of histograms.

/// How histograms are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum HistogramAggregation {
    #[default]
    ExplicitBuckets,
    ExponentialBuckets,
}
