//! Metrics for Prometheus, which come and ask for them ("Prometheus and OpenMetrics Compatibility").

pub(crate) mod exposition;
mod server;
pub(crate) mod service;
pub(crate) mod thread;
