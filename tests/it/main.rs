//! The telemetry of services under the layer, as their users would see it.

mod support;

mod context;
mod endings;
mod functions;
#[cfg(feature = "axum")]
mod grpc;
#[cfg(feature = "axum")]
mod http;
#[cfg(feature = "init")]
mod config;
#[cfg(all(feature = "axum", feature = "init", feature = "logs"))]
mod example;
#[cfg(feature = "init")]
mod export;
