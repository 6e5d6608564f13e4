//! Readers of metrics, and the collection from them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, Temporality};

use crate::concurrent::caught::caught;
use crate::logs::tell;
use crate::pipeline::export_thread::FlushHandle;

/// Collects all points. An observable callback of the application may panic in this.
pub(crate) fn collect_from(reader: &ManualReader) -> Option<ResourceMetrics> {
    let mut metrics = ResourceMetrics::default();
    let collected = caught(|| reader.collect(&mut metrics));
    match collected {
        Some(Ok(())) => Some(metrics),
        _ => {
            static TOLD: AtomicBool = AtomicBool::new(false);
            if !TOLD.swap(true, Ordering::Relaxed) {
                tell(|| {
                    tracing::warn!(
                        target: "tower_telemetry",
                        "metrics can no longer be collected: an observable callback panicked, or \
                         the meter provider was shut down"
                    );
                });
            }
            None
        }
    }
}

/// A reader for a worker and for the provider.
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
