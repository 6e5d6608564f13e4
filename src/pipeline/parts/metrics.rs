//! Metric exporters of the application's, and the collection for them.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::ManualReader;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::parts::AnyMetricExporter;
use crate::otlp::retention::Retention;
use crate::pipeline::counts::Losses;
use crate::pipeline::parts::ending::{EndPart, Ends, RunningPart};
use crate::pipeline::parts::exporters::{Exported, outcome, run};
use crate::pipeline::readers::collect_from;
use crate::pipeline::worker::{self, Flushes, Worker};

/// A metric exporter, and the reader that collects for it.
pub(crate) struct MetricPart {
    pub(crate) exporter: Box<dyn AnyMetricExporter>,
    pub(crate) reader: Arc<ManualReader>,
}

impl Ends for MetricPart {
    fn flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shut_down(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shut_down(timeout)
    }
}

impl MetricPart {
    /// Collects all points, counts them with `collected`, and exports them; `None` where they cannot be
    /// collected.
    fn export(&self, limit: Duration, collected: impl FnOnce(u64)) -> Option<Exported> {
        let metrics = collect_from(&self.reader)?;
        let points = count_points(&metrics);
        if points == 0 {
            return Some(Ok(Ok(())));
        }
        collected(points);
        Some(run(limit, self.exporter.export(&metrics)))
    }
}

fn count_points(metrics: &ResourceMetrics) -> u64 {
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

/// Has all metrics exported at intervals, and when a flush is asked for.
pub(crate) fn worker(
    interval: Duration,
    limit: Duration,
    mut losses: Losses,
    part: Arc<RunningPart<MetricPart>>,
) -> Worker {
    let (flush, flushes) = mpsc::unbounded_channel();
    let for_worker = part.clone();
    let task = async move {
        let part = for_worker;
        let mut flushes = Flushes::new(flushes);
        let retention = Retention::default();
        while let Some(waiters) = flushes.next(pending(), interval).await {
            let counters = losses.counters().clone();
            let points = Arc::new(AtomicU64::new(0));
            let collected = points.clone();
            let call = part.thread.call(move |part: &MetricPart| {
                part.export(limit, |points| {
                    counters.accept(points);
                    collected.store(points, Ordering::Relaxed);
                })
            });
            let (done, result) = tokio::sync::oneshot::channel();
            let export = async move {
                let exported = call.await;
                let _ = done.send(!matches!(exported, Some(None)));
                outcome(points.load(Ordering::Relaxed), exported.flatten())
            };
            let start = Instant::now();
            let run = worker::run_export(&mut losses, 0, export, &mut flushes, &retention, start);
            let exported = run.await;
            if result.await.unwrap_or(true) {
                losses.settle(exported);
                if !waiters.is_empty() {
                    part.flush().await;
                }
                worker::answer(waiters);
            }
            // Else whoever waits for a flush learns of it, because nobody answers.
        }
    };
    Worker {
        flush,
        task: Box::pin(task),
        is_queue: false,
        part: Some(part),
    }
}
