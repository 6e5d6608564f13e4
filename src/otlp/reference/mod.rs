//! The crate `opentelemetry-otlp` as the exporter.
//!
//! It makes the messages, and says what becomes of them. Connections, headers, the time for an attempt and
//! further attempts are those of this crate, so that all settings hold for it.

pub(crate) mod client;
pub(crate) mod exporters;
mod grpc;
mod http;
