//! Settings for [`init`](crate::init), from variables and from code.

mod baggage_setter;
mod builder;
mod checks;
pub(crate) mod endpoint;
mod env;
mod env_otlp;
pub(crate) mod error;
mod exemplar_setter;
mod layer_setters;
#[cfg(feature = "logs")]
mod log_setters;
mod otlp_setters;
mod part_setters;
pub(crate) mod parts;
#[cfg(feature = "prometheus")]
mod prometheus_setters;
mod proxied;
pub(crate) mod proxy;
pub(crate) mod resource;
#[cfg(feature = "runtime-metrics")]
mod runtime_setters;
pub(crate) mod settings;
mod summary;
mod thread_setter;
#[cfg(feature = "tracing")]
mod tracing_setters;
mod vars;

pub use crate::config::builder::Config;
pub use crate::config::error::InitError;
pub use crate::config::parts::SpanExport;
pub use crate::config::settings::batch::Batch;
pub use crate::config::settings::environment::Environment;
pub use crate::config::settings::exception_signal::ExceptionSignal;
pub use crate::config::settings::exemplar_filter::ExemplarFilter;
pub use crate::config::settings::exporter::Exporter;
pub use crate::config::settings::histogram::HistogramAggregation;
pub use crate::config::settings::limits::Limits;
pub use crate::config::settings::otlp::{Compression, OtlpSettings, Protocol};
pub use crate::config::settings::propagator::Propagator;
pub use crate::config::settings::sampler::Sampler;
pub use crate::providers::variables::ConfigWarning;
pub use opentelemetry_sdk::metrics::Temporality;
