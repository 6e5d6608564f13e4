//! Metrics on their way out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{
    InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Stream, Temporality,
};
use tokio::sync::{Notify, mpsc};

use super::batch::{self, Counters, Losses, Worker};
use super::config::{Exporter, Signal};
use super::console;
use super::error::InitError;
use super::export::{Building, use_the_guard};
use super::otlp::OtlpClient;

pub(super) fn provider(building: &mut Building) -> Result<SdkMeterProvider, InitError> {
    let mut provider = SdkMeterProvider::builder()
        .with_resource(building.resource.clone())
        .with_view(|instrument| {
            let stream = crate::semconv::is_request_metric(instrument.name()).then(Stream::builder);
            stream?.with_cardinality_limit(MAX_SERIES).build().ok()
        });
    for exporter in building.config.exporters(Signal::Metrics) {
        // One for each, because what one has collected another would miss.
        let reader = Arc::new(ManualReader::builder().build());
        provider = provider.with_reader(SharedReader(reader.clone()));
        let worker = match exporter {
            Exporter::Otlp => otlp_worker(
                building.config.metric_interval,
                building.counters[Signal::Metrics].clone(),
                reader,
                building.client(Signal::Metrics)?,
            ),
            Exporter::Console => console_worker(reader),
        };
        building.workers.push(worker);
    }
    Ok(provider.build())
}

/// Series of one request metric. Requests can choose among methods, versions and schemes, 66 sets
/// for each route; past the limit, what is new would go unseen for good.
const MAX_SERIES: usize = 10_000;

/// Collects what was recorded. An observable callback of the application may panic in this.
fn collect(reader: &ManualReader) -> Option<ResourceMetrics> {
    let mut metrics = ResourceMetrics::default();
    let collected = catch_unwind(AssertUnwindSafe(|| reader.collect(&mut metrics)));
    match collected {
        Ok(Ok(())) => Some(metrics),
        _ => {
            static TOLD: AtomicBool = AtomicBool::new(false);
            if !TOLD.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "metrics can no longer be collected: an observable callback panicked"
                );
            }
            None
        }
    }
}

/// Sends all metrics at intervals, and when a flush is asked for.
fn otlp_worker(
    interval: Duration,
    counters: Arc<Counters>,
    reader: Arc<ManualReader>,
    client: OtlpClient,
) -> Worker {
    let (flush, mut flushes) = mpsc::unbounded_channel();
    let client = Arc::new(client);
    let mut losses = Losses::new(Signal::Metrics, counters);
    let task = async move {
        let never = Notify::new();
        while let Some(waiters) = batch::next(&mut flushes, &never, interval).await {
            // Who waits then learns that it was not done.
            let Some(metrics) = collect(&reader) else {
                continue;
            };
            let points = count_points(&metrics);
            if points > 0 {
                losses.record(points);
                let request = ExportMetricsServiceRequest::from(&metrics);
                let client = client.clone();
                let export = async move {
                    let answer: ExportMetricsServiceResponse = client.export(&request).await?;
                    let partial = answer.partial_success;
                    let rejected = partial.map_or(0, |partial| partial.rejected_data_points);
                    Ok(u64::try_from(rejected).unwrap_or(0))
                };
                losses.settle(points, batch::guarded(export).await);
            }
            batch::answer(waiters);
        }
    };
    let task = Box::pin(task);
    Worker { flush, task }
}

/// Prints all metrics when a flush is asked for, as it is at shutdown. At intervals they would
/// bury the spans.
fn console_worker(reader: Arc<ManualReader>) -> Worker {
    let (flush, mut flushes) = mpsc::unbounded_channel::<tokio::sync::oneshot::Sender<()>>();
    let task = async move {
        while let Some(flushed) = flushes.recv().await {
            if let Some(metrics) = collect(&reader) {
                console::print_metrics(&metrics).await;
            }
            let _ = flushed.send(());
        }
    };
    let task = Box::pin(task);
    Worker { flush, task }
}

fn count_points(metrics: &ResourceMetrics) -> u64 {
    fn points<T>(data: &MetricData<T>) -> usize {
        match data {
            MetricData::Gauge(data) => data.data_points().count(),
            MetricData::Sum(data) => data.data_points().count(),
            MetricData::Histogram(data) => data.data_points().count(),
            MetricData::ExponentialHistogram(data) => data.data_points().count(),
        }
    }
    let scopes = metrics.scope_metrics();
    let points = scopes
        .flat_map(|scope| scope.metrics())
        .map(|metric| match metric.data() {
            AggregatedMetrics::F64(data) => points(data),
            AggregatedMetrics::U64(data) => points(data),
            AggregatedMetrics::I64(data) => points(data),
        });
    points.sum::<usize>() as u64
}

/// A reader for a worker and for the provider.
#[derive(Debug)]
struct SharedReader(Arc<ManualReader>);

impl MetricReader for SharedReader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        use_the_guard()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}
