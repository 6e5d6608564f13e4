//! Tests the telemetry of services under the layer, from the outside.

#[cfg_attr(
    not(all(feature = "axum", feature = "init", feature = "logs", unix)),
    allow(dead_code, reason = "some tests that use it are disabled")
)]
mod support;

#[cfg(feature = "logs")]
mod access_log;
#[cfg(feature = "init")]
mod all_variables;
#[cfg(all(feature = "axum", feature = "init", feature = "logs"))]
mod b3;
#[cfg(feature = "tracing")]
mod bridge;
mod carriers;
#[cfg(feature = "axum")]
mod client;
#[cfg(feature = "init")]
mod config;
#[cfg(feature = "axum")]
mod connection;
mod context;
#[cfg(all(
    feature = "axum",
    feature = "init",
    feature = "logs",
    feature = "macros"
))]
mod conventions;
// The example server needs these features, and process metrics need Linux.
#[cfg(all(
    feature = "axum",
    feature = "logs",
    feature = "macros",
    feature = "prometheus",
    feature = "runtime-metrics",
    target_os = "linux"
))]
mod dashboards;
mod endings;
mod errors;
// These tests send signals to processes.
#[cfg(all(feature = "axum", feature = "init", feature = "logs", unix))]
mod example;
mod excluded;
#[cfg(feature = "init")]
mod exemplars;
#[cfg(feature = "init")]
mod export;
#[cfg(feature = "opentelemetry-otlp")]
mod exporters;
#[cfg(feature = "init")]
mod faults;
#[cfg(all(feature = "axum", feature = "init", feature = "logs", unix))]
mod foreign;
mod frames;
mod functions;
#[cfg(feature = "axum")]
mod grpc;
#[cfg(feature = "macros")]
mod handler_code;
#[cfg(feature = "axum")]
mod http;
mod interop;
#[cfg(all(feature = "http-json", feature = "logs"))]
mod json;
#[cfg(feature = "init")]
mod lifecycle;
#[cfg(feature = "macros")]
#[rustfmt::skip]
mod one_line;
#[cfg(all(feature = "init", feature = "logs"))]
mod logs;
mod messaging;
mod meters;
#[cfg(all(feature = "axum", feature = "init", feature = "logs"))]
mod on_demand;
mod options;
#[cfg(feature = "init")]
mod outage;
#[cfg(all(feature = "axum", feature = "init", feature = "logs", unix))]
mod own_pipeline;
#[cfg(all(feature = "init", feature = "logs"))]
mod part_faults;
#[cfg(all(feature = "init", feature = "logs"))]
mod parts;
#[cfg(all(feature = "init", feature = "logs"))]
mod parts_metrics;
#[cfg(feature = "prometheus")]
mod prometheus;
mod propagation;
#[cfg(feature = "axum")]
mod requests;
#[cfg(feature = "macros")]
mod returned_errors;
mod routes;
#[cfg(feature = "runtime-metrics")]
mod runtime_metrics;
#[cfg(feature = "init")]
mod secrets;
#[cfg(all(feature = "axum", feature = "init", feature = "logs"))]
mod short_lives;
mod span_builder;
mod span_start;
#[cfg(feature = "tokio")]
mod tasks;
mod tenants;
mod thread_end;
#[cfg(feature = "tls")]
mod tls;
#[cfg(all(feature = "init", feature = "logs"))]
mod unique;
#[cfg(feature = "init")]
mod variables;
#[cfg(all(feature = "axum", feature = "init", feature = "logs"))]
mod w3c;
#[cfg(feature = "init")]
mod ways;
#[cfg(feature = "macros")]
mod with_tracer;
