//! Layers for servers and clients, their services and their settings.

mod attempts;
mod body;
mod client;
mod future;
mod request_body_size;
#[cfg(feature = "reqwest")]
mod reqwest;
mod server;
mod setters;

pub use attempts::{AttemptsLayer, CountAttempts};
pub use body::ResponseBody;
pub use client::{ClientTelemetry, ClientTelemetryLayer};
pub use future::ResponseFuture;
pub use request_body_size::{RequestBody, RequestBodySize, RequestBodySizeLayer};
pub use server::{Telemetry, TelemetryLayer};

pub use crate::instruments::metric_set::MetricSet;
pub use crate::layer_state::access_log::AccessLog;
pub use crate::layer_state::metric_attributes::RequestAttributes;
pub use crate::layer_state::options::Trust;
pub use crate::semconv::ForwardedHeader;
