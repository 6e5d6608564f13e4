//! The application's parts, such as exporters and processors: their threads, shutdown and counts.

pub(crate) mod exporters;
#[cfg(feature = "logs")]
pub(crate) mod log_processors;
pub(crate) mod metrics;
pub(crate) mod readers;
pub(crate) mod record;
pub(crate) mod running_part;
pub(crate) mod sampling;
pub(crate) mod span_processors;
pub(crate) mod thread;
