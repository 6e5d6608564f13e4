//! Export with the crate `opentelemetry-otlp`.
//!
//! The crate encodes the messages and interprets the responses. Connections, headers, timeouts and
//! retries are this crate's, so that all settings apply.

pub(crate) mod client;
pub(crate) mod exporters;
mod grpc;
mod http;
