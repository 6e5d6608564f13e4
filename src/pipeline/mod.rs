//! The export pipeline: spans without the SDK, queues, the export thread and its counts.

mod building;
mod console;
pub(crate) mod counts;
pub(crate) mod deadlines;
#[cfg(feature = "logs")]
mod exceptions;
mod exemplars;
pub(crate) mod export;
pub(crate) mod export_thread;
mod flush;
pub(crate) mod hints;
mod limits;
#[cfg(feature = "logs")]
mod log_record;
#[cfg(feature = "logs")]
mod logs;
pub(crate) mod metrics;
mod on_demand;
mod part_setup;
pub(crate) mod parts;
#[cfg(all(feature = "runtime-metrics", target_os = "linux"))]
mod process_metrics;
#[cfg(feature = "prometheus")]
pub(crate) mod prometheus;
mod queue;
mod readers;
#[cfg(feature = "opentelemetry-otlp")]
mod reference;
#[cfg(feature = "runtime-metrics")]
mod runtime_metrics;
mod self_metrics;
pub(crate) mod spans;
mod traces;
mod unique_keys;
mod worker;
