//! Metric readers, and collection from them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, Temporality};

use crate::concurrent::caught::catch_panic;
use crate::logs::emit_later;
use crate::pipeline::export_thread::FlushHandle;

/// Collects all points. Returns `None` if that fails or an observable callback of the application
/// panics.
pub(crate) fn collect_from(reader: &ManualReader) -> Option<ResourceMetrics> {
    let mut metrics = ResourceMetrics::default();
    let collected = catch_panic(|| reader.collect(&mut metrics));
    match collected {
        Some(Ok(())) => Some(metrics),
        _ => {
            static LOGGED: AtomicBool = AtomicBool::new(false);
            if !LOGGED.swap(true, Ordering::Relaxed) {
                emit_later(|| {
                    tracing::warn!(
                        target: "tower_telemetry",
                        "metrics are no longer collected: an observable callback panicked, or \
                         the meter provider was shut down"
                    );
                });
            }
            None
        }
    }
}

/// Returns the number of points.
pub(crate) fn count_points(metrics: &ResourceMetrics) -> u64 {
    fn count<T: Copy>(data: &MetricData<T>) -> usize {
        match data {
            MetricData::Gauge(gauge) => gauge.data_points().count(),
            MetricData::Sum(sum) => sum.data_points().count(),
            MetricData::Histogram(histogram) => histogram.data_points().count(),
            MetricData::ExponentialHistogram(histogram) => histogram.data_points().count(),
        }
    }
    let metrics = metrics.scope_metrics().flat_map(|scope| scope.metrics());
    let points = metrics.map(|metric| match metric.data() {
        AggregatedMetrics::F64(data) => count(data),
        AggregatedMetrics::U64(data) => count(data),
        AggregatedMetrics::I64(data) => count(data),
    });
    points.sum::<usize>() as u64
}

/// A reader shared by a worker and the provider.
#[derive(Debug)]
pub(crate) struct SharedReader {
    pub(crate) reader: Arc<ManualReader>,
    pub(crate) flush: Option<FlushHandle>,
}

impl MetricReader for SharedReader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.reader.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.reader.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.flush.as_ref().map_or(Ok(()), FlushHandle::flush)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.reader.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.reader.temporality(kind)
    }
}
