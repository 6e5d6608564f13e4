//! A server that keeps its existing pipeline: OpenTelemetry's providers with `opentelemetry-otlp`, and
//! its own subscriber. The layer and the functions of `tower-telemetry` record with these providers.
//!
//! ```toml
//! tower-telemetry = { path = "../tower-telemetry", default-features = false, features = ["axum"] }
//! ```
//!
//! ```sh
//! OTEL_SERVICE_NAME=users cargo run --example own_pipeline --no-default-features --features axum
//! curl -i localhost:3000/users/42
//! ```
//!
//! It exports to the receiver at `OTEL_EXPORTER_OTLP_ENDPOINT` (default: `http://localhost:4317`).

use std::error::Error;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{LogExporter, MetricExporter, SpanExporter};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::net::TcpListener;
use tower_telemetry::{TelemetryLayer, attributes, increment_counter, opentelemetry, with_tracer};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pipeline = Pipeline::start()?;

    let app = Router::new()
        .route("/users/{id}", get(user))
        .layer(TelemetryLayer::new());
    let address = std::env::var("LISTEN_ADDR").unwrap_or("127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    let stop = shutdown_signal()?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop)
        .await?;

    // The shutdown of the SDK blocks, and the exporter needs this runtime meanwhile.
    tokio::task::spawn_blocking(move || pipeline.shut_down()).await??;
    Ok(())
}

async fn user(Path(id): Path<u32>) -> String {
    let name = with_tracer("users", "load-user", || {
        increment_counter("users.loaded", "Users loaded.", attributes! { "id" => id });
        if id == 42 { "Arthur" } else { "stranger" }
    });
    tracing::info!(user = id, "greeted");
    format!("Hello, {name}!\n")
}

/// The providers that the service already has.
struct Pipeline {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
    logs: SdkLoggerProvider,
}

impl Pipeline {
    fn start() -> Result<Self, Box<dyn Error>> {
        let traces = SdkTracerProvider::builder()
            .with_batch_exporter(SpanExporter::builder().with_tonic().build()?)
            .build();
        let metrics = SdkMeterProvider::builder()
            .with_periodic_exporter(MetricExporter::builder().with_tonic().build()?)
            .build();
        let logs = SdkLoggerProvider::builder()
            .with_batch_exporter(LogExporter::builder().with_tonic().build()?)
            .build();
        // The layer and the functions use the global providers.
        opentelemetry::global::set_tracer_provider(traces.clone());
        opentelemetry::global::set_meter_provider(metrics.clone());
        tracing_subscriber::registry()
            .with(tracing_subscriber::fmt::layer())
            .with(OpenTelemetryTracingBridge::new(&logs))
            .with(LevelFilter::INFO)
            .init();
        Ok(Self {
            traces,
            metrics,
            logs,
        })
    }

    fn shut_down(&self) -> OTelSdkResult {
        self.traces.shutdown()?;
        self.metrics.shutdown()?;
        self.logs.shutdown()
    }
}

/// Starts to listen for Ctrl-C and SIGTERM. The future completes when the process is asked to end.
fn shutdown_signal() -> std::io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate())?
    };
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    })
}
