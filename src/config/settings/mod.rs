//! The types of settings. Each subject has its own file.

pub(crate) mod batch;
pub(crate) mod environment;
pub(crate) mod exception_signal;
pub(crate) mod exemplar_filter;
pub(crate) mod exporter;
pub(crate) mod headers;
pub(crate) mod histogram;
pub(crate) mod limits;
#[cfg(feature = "logs")]
pub(crate) mod log_lines;
pub(crate) mod otlp;
#[cfg(feature = "prometheus")]
pub(crate) mod prometheus_server;
pub(crate) mod propagator;
#[cfg(feature = "runtime-metrics")]
pub(crate) mod runtimes;
pub(crate) mod sampler;
pub(crate) mod shown;
pub(crate) mod signal;

pub(crate) use crate::config::settings::batch::Batch;
pub(crate) use crate::config::settings::exception_signal::ExceptionSignal;
pub(crate) use crate::config::settings::exemplar_filter::ExemplarFilter;
pub(crate) use crate::config::settings::exporter::Exporter;
pub(crate) use crate::config::settings::histogram::HistogramAggregation;
pub(crate) use crate::config::settings::limits::Limits;
pub(crate) use crate::config::settings::otlp::{Compression, PemFile, Protocol};
pub(crate) use crate::config::settings::propagator::Propagator;
pub(crate) use crate::config::settings::sampler::Sampler;
pub(crate) use crate::config::settings::signal::{PerSignal, Signal};
