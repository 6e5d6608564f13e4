#![doc = "stub"]
mod active_request;
mod attributes;
mod body;
mod future;
#[cfg(feature = "init")]
mod init;
mod instruments;
#[cfg(feature = "logs")]
mod logs;
mod metrics;
mod options;
mod propagation;
mod providers;
mod semconv;
mod server;
mod table;
mod trace;
#[cfg(not(feature = "init"))]
mod unbound;

pub use attributes::IntoValue;
pub use body::ResponseBody;
pub use future::ResponseFuture;
#[cfg(feature = "init")]
pub use init::{
    Batch, Config, ConfigWarning, Environment, Exporter, InitError, Protocol, Report, Sampler,
    SignalStats, Stats, TelemetryGuard, init,
};
#[cfg(feature = "logs")]
pub use logs::LogFormat;
pub use metrics::{add_to_counter, increment_counter, record_histogram_value, set_gauge};
pub use opentelemetry;
pub use server::{Telemetry, TelemetryLayer};
pub use trace::{
    SpanFuture, SpanGuard, Tracer, add_span_attributes, add_span_event, async_with_tracer,
    get_span_id, get_trace_id, get_tracer, set_span_error, start_as_current_span, with_tracer,
};
