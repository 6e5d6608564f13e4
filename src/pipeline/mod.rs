//! Export: spans without the SDK, queues, the export thread and its counts.

mod building;
mod console;
pub(crate) mod counts;
pub(crate) mod deadlines;
#[cfg(feature = "logs")]
mod exceptions;
pub(crate) mod export;
pub(crate) mod export_thread;
mod flush;
mod hints;
mod limits;
#[cfg(feature = "logs")]
mod log_record;
#[cfg(feature = "logs")]
mod logs;
pub(crate) mod metrics;
mod part_setup;
pub(crate) mod parts;
mod queue;
mod readers;
mod self_metrics;
pub(crate) mod spans;
mod traces;
mod unique_keys;
mod worker;
