//! The telemetry of services under the layer, as their users would see it.

#[cfg_attr(
    not(all(feature = "axum", feature = "init", feature = "logs")),
    allow(dead_code, reason = "some of its users are switched off")
)]
mod support;

#[cfg(feature = "logs")]
mod access_log;
#[cfg(feature = "axum")]
mod client;
#[cfg(feature = "init")]
mod config;
#[cfg(feature = "axum")]
mod connection;
mod context;
mod endings;
#[cfg(all(feature = "axum", feature = "init", feature = "logs"))]
mod example;
#[cfg(feature = "init")]
mod export;
#[cfg(feature = "init")]
mod faults;
#[cfg(all(feature = "axum", feature = "init", feature = "logs"))]
mod foreign;
mod frames;
mod functions;
#[cfg(feature = "axum")]
mod grpc;
#[cfg(feature = "axum")]
mod http;
mod interop;
#[cfg(all(feature = "http-json", feature = "logs"))]
mod json;
#[cfg(feature = "init")]
mod lifecycle;
#[cfg(all(feature = "init", feature = "logs"))]
mod logs;
mod meters;
mod options;
mod propagation;
#[cfg(feature = "tokio")]
mod tasks;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "init")]
mod variables;
#[cfg(all(feature = "axum", feature = "init", feature = "logs"))]
mod w3c;
#[cfg(feature = "macros")]
mod with_tracer;
