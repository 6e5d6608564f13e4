//! Bounds of the buckets of histograms (HTTP and RPC metrics conventions).

/// Bounds for durations in seconds.
pub(crate) const BUCKETS_IN_SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Bounds for durations in milliseconds.
pub(crate) const BUCKETS_IN_MILLISECONDS: [f64; 14] = [
    5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0,
    10000.0,
];

/// Bounds of a histogram that names none (metrics SDK, "Explicit Bucket Histogram Aggregation").
pub(crate) const DEFAULT_BUCKETS: [f64; 15] = [
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0,
    10000.0,
];
