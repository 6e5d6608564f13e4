//! A server for those who have `tracing-opentelemetry` already: the spans of `#[tracing::instrument]`,
//! of `tower-http` and of `tower-telemetry` are one trace, and log lines carry its id.
//!
//! ```sh
//! cargo run --example tracing
//! curl -i localhost:3000/users/42
//! ```

use std::error::Error;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use opentelemetry::trace::TracerProvider;
use tower_http::trace::TraceLayer;
use tower_telemetry::{
    Config, TelemetryLayer, log_lines, logs::LogLines, opentelemetry, with_tracer,
};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The subscriber is this program's own, and takes what it needs from the guard.
    let telemetry = Config::from_env().without_subscriber().init()?;
    let spans = telemetry.tracer_provider().map(|provider| {
        let tracer = provider.tracer("tracing");
        tracing_opentelemetry::layer().with_tracer(tracer)
    });
    tracing_subscriber::registry()
        .with(LevelFilter::INFO)
        .with(spans)
        .with(log_lines(LogLines::Text))
        .with(telemetry.log_layer())
        .init();

    let app =
        Router::new()
            .route("/users/{id}", get(user))
            .layer(TraceLayer::new_for_http().make_span_with(
                tower_http::trace::DefaultMakeSpan::new().level(tracing::Level::INFO),
            ))
            // Outermost, so that all is below its span.
            .layer(TelemetryLayer::new());
    let address = std::env::var("LISTEN_ADDR").unwrap_or("127.0.0.1:3000".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or(()) })
        .await?;
    telemetry.shutdown().await;
    Ok(())
}

#[tracing::instrument]
async fn user(Path(id): Path<u32>) -> String {
    tracing::info!("greeted");
    greeting(id)
}

#[with_tracer("users", record(user.id = %id))]
fn greeting(id: u32) -> String {
    format!("Hello, {id}!\n")
}
