//! Metrics about tokio's runtimes, with the names used by `opentelemetry-instrumentation-tokio`.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use tokio::runtime::RuntimeMetrics;

use crate::config::settings::runtimes::Runtimes;
use crate::logs::emit_later;
#[cfg(target_os = "linux")]
use crate::pipeline::process_metrics;
use crate::providers::instrumentation_scope;

/// Registers observable instruments for the process and its runtimes.
pub(crate) fn register(provider: &SdkMeterProvider, runtimes: &Runtimes) {
    let meter = provider.meter_with_scope(instrumentation_scope());
    #[cfg(target_os = "linux")]
    if let Err(error) = process_metrics::register(&meter) {
        emit_later(move || {
            tracing::warn!(
                target: "tower_telemetry",
                "metrics about the process are not available: {error}"
            );
        });
    }
    let observed: Vec<_> = runtimes.observed().iter().map(Observed::new).collect();
    if observed.is_empty() {
        emit_later(|| {
            tracing::warn!(
                target: "tower_telemetry",
                "metrics about tokio are not available: telemetry was set up outside a runtime; pass \
                 a runtime to `Config::with_runtime`"
            );
        });
        return;
    }
    register_runtimes(&meter, &observed.into());
}

/// A runtime and the attributes of its points.
struct Observed {
    metrics: RuntimeMetrics,
    attributes: Vec<KeyValue>,
    /// The attributes of each worker's points.
    workers: Vec<Vec<KeyValue>>,
}

impl Observed {
    fn new((name, metrics): &(Option<String>, RuntimeMetrics)) -> Self {
        let name = name
            .clone()
            .map(|name| KeyValue::new("tokio.runtime.name", name));
        let attributes: Vec<_> = name.into_iter().collect();
        let workers = (0..metrics.num_workers()).map(|worker| {
            let index = i64::try_from(worker).unwrap_or(i64::MAX);
            let index = KeyValue::new("tokio.worker.index", index);
            attributes.iter().cloned().chain([index]).collect()
        });
        Self {
            workers: workers.collect(),
            metrics: metrics.clone(),
            attributes,
        }
    }
}

type ReadRuntime = fn(&RuntimeMetrics) -> usize;

fn register_runtimes(meter: &Meter, runtimes: &Arc<[Observed]>) {
    let of_runtimes: [(_, _, _, ReadRuntime); 3] = [
        (
            "tokio.workers",
            "{worker}",
            "The number of worker threads used by the runtime",
            RuntimeMetrics::num_workers,
        ),
        (
            "tokio.global_queue_depth",
            "{task}",
            "The number of tasks currently scheduled in the runtime's global queue",
            RuntimeMetrics::global_queue_depth,
        ),
        (
            "tokio.alive_tasks",
            "{task}",
            "The number of active tasks in the runtime",
            RuntimeMetrics::num_alive_tasks,
        ),
    ];
    for (name, unit, description, read) in of_runtimes {
        let runtimes = runtimes.clone();
        meter
            .u64_observable_gauge(name)
            .with_unit(unit)
            .with_description(description)
            .with_callback(move |observer| {
                for runtime in &*runtimes {
                    observer.observe(read(&runtime.metrics) as u64, &runtime.attributes);
                }
            })
            .build();
    }
    #[cfg(target_has_atomic = "64")]
    register_workers(meter, runtimes);
}

#[cfg(target_has_atomic = "64")]
fn register_workers(meter: &Meter, runtimes: &Arc<[Observed]>) {
    type ReadWorker = fn(&RuntimeMetrics, usize) -> u64;

    let of_workers: [(_, _, _, ReadWorker); 2] = [
        (
            "tokio.worker.park_count",
            "",
            "The total number of times the given worker thread has parked",
            RuntimeMetrics::worker_park_count,
        ),
        (
            "tokio.worker.busy_duration",
            "ms",
            "The amount of time the given worker thread has been busy",
            |metrics, worker| {
                let busy = metrics.worker_total_busy_duration(worker).as_millis();
                u64::try_from(busy).unwrap_or(u64::MAX)
            },
        ),
    ];
    for (name, unit, description, read) in of_workers {
        let runtimes = runtimes.clone();
        meter
            .u64_observable_counter(name)
            .with_unit(unit)
            .with_description(description)
            .with_callback(move |observer| {
                for runtime in &*runtimes {
                    for (worker, attributes) in runtime.workers.iter().enumerate() {
                        observer.observe(read(&runtime.metrics, worker), attributes);
                    }
                }
            })
            .build();
    }
}
