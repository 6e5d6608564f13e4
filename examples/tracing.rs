//! A server whose code uses `tracing` spans. The spans of `#[tracing::instrument]`, of spawned
//! tasks and of `tower-telemetry` are in one trace, and log lines have its id.
//!
//! ```sh
//! cargo run --example tracing
//! curl -i localhost:3000/users/42
//! ```

use std::error::Error;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use tower_http::trace::TraceLayer;
use tower_telemetry::{TelemetryLayer, with_tracer};
use tracing::{Instrument, Span};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let telemetry = tower_telemetry::init()?;
    let app = Router::new()
        .route("/users/{id}", get(user))
        // The log lines of this layer stay. Its span is not exported, because the request already has one.
        .layer(TraceLayer::new_for_http())
        // This layer is the outermost, so that all other spans are below its span.
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
    // The spawned task is in the trace of the request.
    tokio::spawn(count(id).in_current_span());
    greeting(id)
}

#[tracing::instrument(fields(visits = tracing::field::Empty))]
async fn count(id: u32) {
    Span::current().record("visits", id + 1);
}

#[with_tracer("users", record(user.id = %id))]
fn greeting(id: u32) -> String {
    format!("Hello, {id}!\n")
}
