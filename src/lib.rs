//! Traces, metrics and correlated logs for Tower, axum and tonic services.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use tower_telemetry::TelemetryLayer;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let telemetry = tower_telemetry::init()?; // from the environment
//!     let app = Router::new()
//!         .route("/users/{id}", get(async || "Ada"))
//!         .layer(TelemetryLayer::new()); // a span and metrics for each request
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     axum::serve(listener, app)
//!         .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or(()) })
//!         .await?;
//!     telemetry.shutdown().await; // sends what still waits
//!     Ok(())
//! }
//! ```
//!
//! # The journey of a request
//!
//! 1. [`TelemetryLayer`] takes the parent span from the request's `traceparent` header, starts a
//!    server span and counts one active request.
//! 2. The span is current in the context of the handler, so that spans, events and log lines of
//!    your own code belong to it: the attribute and the function
//!    [`with_tracer`](fn@with_tracer), [`async_with_tracer`], [`add_span_attributes`],
//!    [`add_span_event`], [`set_span_error`], and what uses OpenTelemetry's API or its bridges.
//! 3. The head of the response gets the header `x-trace-id`.
//! 4. With the last frame of the response's body, or when the client goes away before, or with a
//!    panic or an error, the request ends, once: its span, its count and its duration.
//! 5. A thread of this crate's own sends batches of spans, metrics and log records to the OTLP
//!    receiver that [`init`] was told of. It never holds up a request. What is lost is counted in
//!    [`Stats`](stats::Stats).
//!
//! # Spans of your own
//!
//! A function, a future, a closure, and a part of a function, each in a span below that of the request:
//!
//! ```
//! use tower_telemetry::{async_with_tracer, get_tracer, start_as_current_span, with_tracer};
//!
//! # async fn query(id: &str) -> Result<String, std::io::Error> { Ok(format!(" {id} ")) }
//! #[with_tracer("users", record(user.id = id))]
//! async fn greet(id: &str) -> Result<String, std::io::Error> {
//!     let row = async_with_tracer("users", "query", query(id)).await?;
//!     let name = with_tracer("users", "parse-row", || row.trim().to_owned());
//!
//!     let span = start_as_current_span(&get_tracer("users"), "render-greeting");
//!     span.set_attribute("greeting.language", "en");
//!     Ok(format!("Hello, {name}!"))
//! }
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! # assert_eq!(greet("Ada").await.unwrap(), "Hello, Ada!");
//! # });
//! ```
//!
//! [`Tracer::span`](handler::Tracer::span) describes a span with a kind, attributes, links or a parent of its own.
//!
//! On the span that is current, attributes, events and errors:
//!
//! ```
//! use tower_telemetry::{add_span_attributes, add_span_event, attributes, set_span_error};
//!
//! fn count(id: &str, rows: &str, limit: Option<u64>) -> Result<u64, std::num::ParseIntError> {
//!     // A value that is `None` is left out.
//!     add_span_attributes(attributes! { "user.id" => id, "rows.limit" => limit });
//!     add_span_event("cache-miss", attributes! { "cache.name" => "rows" });
//!     let count = rows.parse().inspect_err(|error| set_span_error(error))?;
//!     Ok(limit.map_or(count, |limit| limit.min(count)))
//! }
//! # assert_eq!(count("42", "7", Some(3)), Ok(3));
//! # assert!(count("42", "many", None).is_err());
//! ```
//!
//! # Metrics of your own
//!
//! [`increment_counter`], [`add_to_counter`], [`add_to_up_down_counter`], [`record_histogram_value`]
//! and [`set_gauge`] create their instrument when its name is first used. [`add_request_attributes`] tells the requests of
//! the layer's own metrics apart, by what has few values.
//!
//! ```
//! use tower_telemetry::{
//!     add_to_up_down_counter, attributes, increment_counter, record_histogram_value, set_gauge,
//! };
//!
//! # let (size, cached) = (3, 7);
//! increment_counter("http.requests", "Requests.", attributes! { "endpoint" => "/users" });
//! record_histogram_value("users.size", "Size of a user, in KiB.", f64::from(size), []);
//! set_gauge("users.cached", "Users in the cache.", f64::from(cached), []);
//! add_to_up_down_counter("jobs.waiting", "Jobs that wait.", -1, []);
//! ```
//!
//! All of them are in the instrumentation scope `tower-telemetry.handlers`, those of the layers in
//! `tower-telemetry`: the `http.requests` above and that of the layer are two metrics.
//!
//! # Requests that go out
//!
//! [`ClientTelemetryLayer`] does for clients what [`TelemetryLayer`] does for servers, and writes
//! the context into the headers of each request, so that the trace goes on where it is received.
//!
//! The module [`carriers`] does it for all else: messages, metadata of gRPC, child processes.
//!
#![doc = include_str!("../docs/context.md")]
//!
//! # Together with `tracing`
//!
//! Spans of this crate are OpenTelemetry's own, and do not depend on a log level. With the feature
//! `tracing`, [`init`] exports spans of `#[tracing::instrument]` and of libraries, too. They are below the
//! span of the request, and spans of this crate below them, all in one trace. `TRACING_SPANS` chooses
//! them, `info` by default.
//!
//! Each request has a span of `tracing` that stands for the span of its layer. It has the fields `method`,
//! `route` and `status` for log lines, and takes `error`, `request_id`, `tenant`, `user` and the fields
//! `otel.*`. A task that carries it with `in_current_span` is in the request, and what is recorded on
//! it is on the span of the request. Functions of this crate, such as [`async_with_tracer`], have no
//! span of `tracing`: tasks that they start carry their context with `spawn_traced`.
//!
//! The span that `tower-http`'s `TraceLayer` makes by itself is not exported, because the request has one.
//! A subscriber of your own takes the layer from the guard, `TelemetryGuard::span_layer`. With another
//! layer of `tracing-opentelemetry` in the subscriber, leave that layer out: a `TraceLayer` inside of
//! [`TelemetryLayer`] is then a child, and outside, the root of requests that bring no trace with
//! them. `examples/tracing.rs` is a server with spans of all kinds.
//!
//! # Untrusted requests
//!
//! The sender of a request chooses its headers. Trace headers that are not exactly valid are left
//! alone, `Forwarded` and its like are believed of no proxy that was not named, and what is taken
//! from a request is bounded, on spans in size and on metrics in number. An inbound trace is
//! continued by default; a service that the public can reach should use [`Trust::Link`](layers::Trust::Link).
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `axum` | yes | the route and the peer's address, from what axum puts into a request |
//! | `init` | yes | [`init`] and [`Config`]: providers and export |
//! | `logs` | yes | log lines with `trace_id` and `span_id`; with `init`, log records over OTLP |
//! | `macros` | yes | the attribute [`#[with_tracer]`](macro@with_tracer) |
//! | `tls` | yes | export to `https` endpoints |
//! | `tracing` | yes | spans of `tracing` in the traces of requests, and one for each request |
//! | `tokio` | with `init` | [`spawn_traced`], [`spawn_linked`], [`spawn_blocking_traced`] |
//! | `tonic` | | methods of tonic's generated clients have their names from the first call on, and calls that fail the code that tonic gives them |
//! | `reqwest` | | [`ClientTelemetryLayer`] as a middleware of `reqwest` |
//! | `http-json` | | the protocol `http/json` for export |
//! | `opentelemetry-otlp` | | the exporter of that crate, if you choose it in place of this crate's own |
//!
//! Features only add. A library needs none of them: without, there are the layer and the
//! functions, which record with the providers that the application has set up.
//!
//! # Versions
//!
//! The types of [`opentelemetry`] 0.33 are part of this crate's interface, and re-exported. An
//! application that uses another version of it has two sets of global providers, of which this
//! crate sees one: what is recorded with the other goes nowhere, in silence. `cargo tree --invert
//! opentelemetry` shows who uses it, and is an error that names the versions where there are several.
//!
//! # Stability
//!
//! Emitted telemetry follows the OpenTelemetry semantic conventions 1.45. A release that changes a
//! name or a value of it says so in the changelog and counts as breaking. The lines on the console
//! are for people and may change in any release.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod attribute_set;
mod bridge;
pub mod carriers;
mod concurrent;
#[cfg(feature = "init")]
pub mod config;
mod current_context;
pub mod handler;
#[cfg(feature = "init")]
mod init;
mod instruments;
mod layer_state;
pub mod layers;
#[cfg(any(feature = "init", feature = "logs"))]
pub mod logs;
pub mod messaging;
#[cfg(feature = "init")]
mod otlp;
#[cfg(feature = "init")]
mod pipeline;
mod propagation;
mod providers;
mod request;
mod request_headers;
mod semconv;
#[cfg(feature = "init")]
pub mod stats;

/// Metrics for Prometheus to scrape.
#[cfg(feature = "prometheus")]
pub mod prometheus {
    pub use crate::pipeline::prometheus::service::PrometheusService;
}

#[cfg(feature = "tracing")]
pub use bridge::span_layer;
#[cfg(feature = "init")]
pub use config::Config;
pub use handler::{
    add_span_attributes, add_span_event, add_to_counter, add_to_up_down_counter,
    async_try_with_tracer, async_with_tracer, bind_counter, bind_gauge, bind_histogram,
    bind_up_down_counter, get_span_id, get_trace_id, get_tracer, increment_counter,
    record_histogram_value, set_gauge, set_span_error, set_span_error_with_sources,
    start_as_current_span, start_timer, try_with_tracer, with_tracer,
};
#[cfg(feature = "tokio")]
pub use handler::{spawn_blocking_traced, spawn_linked, spawn_traced};
#[cfg(feature = "init")]
pub use init::{TelemetryGuard, init};
pub use layers::{AttemptsLayer, ClientTelemetryLayer, RequestBodySizeLayer, TelemetryLayer};
#[cfg(all(feature = "init", feature = "logs"))]
pub use logs::log_lines;
pub use opentelemetry;
#[cfg(feature = "init")]
pub use opentelemetry_sdk;
pub use request::handler_attributes::add_request_attributes;
#[cfg(feature = "macros")]
#[doc = include_str!("handler/with_tracer.md")]
pub use tower_telemetry_macros::with_tracer;
#[cfg(feature = "tracing")]
pub use tracing_opentelemetry;

/// Items for the expansion of `#[with_tracer]`. Not part of the public API.
#[cfg(feature = "macros")]
#[doc(hidden)]
pub mod __private {
    pub use opentelemetry::trace::SpanKind;

    pub use crate::handler::expanded::{
        in_span, never, observed, record, record_debug, record_display, start,
    };
    pub use crate::handler::failed::{
        DynError, FailAsDyn, FailAsKnown, FailWithMessage, FailWithSources, FailWithType, Failed,
        IsNoResult, IsResult, KnownError, NoError, Returned,
    };
    pub use crate::handler::run::{Run, RunGuard};
}

/// Compiles the examples of the page about migration.
#[cfg(all(
    doctest,
    feature = "axum",
    feature = "init",
    feature = "logs",
    feature = "tracing"
))]
#[doc = include_str!("../docs/migrating.md")]
struct Migrating;

/// Compiles the examples of the page about exporters.
#[cfg(all(doctest, feature = "opentelemetry-otlp"))]
#[doc = include_str!("../docs/exporters.md")]
struct Exporters;

/// Compiles the examples of the recipes.
#[cfg(all(doctest, feature = "axum", feature = "init"))]
#[doc = include_str!("../docs/recipes.md")]
struct Recipes;

/// Compiles the examples of the page about custom parts.
#[cfg(all(doctest, feature = "init"))]
#[doc = include_str!("../docs/parts.md")]
struct Parts;

/// Compiles the examples of the README.
#[cfg(all(
    doctest,
    feature = "axum",
    feature = "init",
    feature = "logs",
    feature = "macros"
))]
#[doc = include_str!("../README.md")]
struct Readme;

/// Compiles the examples of the page about metrics.
#[cfg(all(
    doctest,
    feature = "axum",
    feature = "prometheus",
    feature = "runtime-metrics"
))]
#[doc = include_str!("../docs/metrics.md")]
struct Metrics;
