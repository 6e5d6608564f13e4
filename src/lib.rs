#![doc = include_str!("docs_links.md")]
#![cfg_attr(
    any(not(doctest), all(feature = "axum", feature = "init")),
    doc = include_str!("../README.md")
)]
//!
//! # The journey of a request
//!
//! 1. [`TelemetryLayer`] reads the parent span from the `traceparent` header, starts a server span and
//!    counts one active request.
//! 2. The span is current in the handler, so spans, events and log lines of your own code belong to it.
//!    [Handler code][handlers] lists the functions for it.
//! 3. The head of the response gets the header `x-trace-id`.
//! 4. The request ends once: with the last frame of the response body, or earlier if the client
//!    disconnects, or with a panic or an error. Then its span, its count and its duration are recorded.
//! 5. A thread of this crate sends batches of spans, metrics and log records. It never blocks a
//!    request. Losses are counted in [`Stats`](stats::Stats).
//!
//! [`ClientTelemetryLayer`] does the same for outgoing requests, and writes the context into their
//! headers, so that the trace continues at the receiver. The module [`carriers`] does this for everything
//! else: messages, metadata of gRPC, child processes.
//!
//! # Requests from strangers
//!
//! The sender of a request chooses its headers. Trace headers that are not exactly valid are ignored.
//! `Forwarded` and similar headers are believed only from proxies that you name. Text from a request is
//! bounded, on spans in size and on metrics in number. A trace of the caller is continued by default; a
//! public service should use [`Trust::Link`](layers::Trust::Link).
//!
//! # Versions and stability
//!
//! The types of [`opentelemetry`] 0.33 are part of the interface of this crate, and re-exported. An
//! application with another version of it has two sets of global providers, and this crate sees one:
//! see [troubleshooting].
//!
//! Emitted telemetry is part of the interface, too: see [telemetry].

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

/// The pages of documentation, as they are in the folder `docs` of the repository.
///
/// They exist in the documentation only.
#[cfg(any(doc, doctest))]
pub mod docs {
    /// Includes a page. Its examples are compiled where the features that they need are on.
    macro_rules! page {
        ($name:ident, $file:literal $(, $feature:literal)*) => {
            #[cfg(any(not(doctest), all($(feature = $feature),*)))]
            #[doc = include_str!("docs_links.md")]
            #[doc = include_str!($file)]
            pub mod $name {}
        };
    }

    page!(benchmarks, "../docs/benchmarks.md");
    page!(compliance, "../docs/compliance.md");
    page!(configuration, "../docs/configuration.md");
    page!(context, "../docs/context.md");
    page!(exporters, "../docs/exporters.md", "opentelemetry-otlp");
    page!(handlers, "../docs/handlers.md", "macros");
    page!(layers, "../docs/layers.md", "init");
    page!(logs, "../docs/logs.md", "init", "logs", "tracing");
    page!(
        metrics,
        "../docs/metrics.md",
        "axum",
        "prometheus",
        "runtime-metrics"
    );
    page!(
        migrating,
        "../docs/migrating.md",
        "axum",
        "init",
        "logs",
        "tracing"
    );
    page!(operations, "../docs/operations.md");
    page!(parts, "../docs/parts.md", "init");
    page!(recipes, "../docs/recipes.md", "axum", "init", "reqwest");
    page!(telemetry, "../docs/telemetry.md");
    page!(
        troubleshooting,
        "../docs/troubleshooting.md",
        "axum",
        "init"
    );
}
