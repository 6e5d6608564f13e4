//! Serves metrics for Prometheus to scrape (specification, "Prometheus and OpenMetrics
//! Compatibility").

pub(crate) mod exposition;
mod server;
pub(crate) mod service;
pub(crate) mod thread;
