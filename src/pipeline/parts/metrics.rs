//! The application's metric exporters, and collection for them.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::ManualReader;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::parts::AnyMetricExporter;
use crate::otlp::retention::Retention;
use crate::pipeline::counts::Losses;
use crate::pipeline::parts::exporters::{Exported, outcome, run};
use crate::pipeline::parts::running_part::{Flushable, PartHandle, RunningPart};
use crate::pipeline::readers::{collect_from, count_points};
use crate::pipeline::worker::{self, Flushes, Worker};

/// A metric exporter and the reader that collects for it.
pub(crate) struct MetricPart {
    pub(crate) exporter: Box<dyn AnyMetricExporter>,
    pub(crate) reader: Arc<ManualReader>,
}

impl Flushable for MetricPart {
    fn flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shut_down(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shut_down(timeout)
    }
}

impl MetricPart {
    /// Collects all points, passes their number to `collected` and exports them; `None` if they
    /// cannot be collected.
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

/// Creates a worker that exports all metrics at an interval and at each flush.
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
                losses.record_outcome(exported);
                if !waiters.is_empty() {
                    part.flush().await;
                }
                worker::notify_waiters(waiters);
            }
            // Otherwise the waiters are dropped, so that the flush reports a failure.
        }
    };
    Worker {
        flush,
        task: Box::pin(task),
        is_queue: false,
        part: Some(part),
    }
}
