//! The service that the W3C test suite for Trace Context calls, to check the headers it sends.
//!
//! ```sh
//! cargo run --example w3c
//! # in a checkout of w3c/trace-context:
//! STRICT_LEVEL=2 SPEC_LEVEL=2 python test/test.py http://127.0.0.1:5000/test
//! ```
//!
//! For `POST /test` with a list of `{"url": .., "arguments": ..}`, it posts each `arguments` to its
//! `url`. It listens on `LISTEN_ADDR` (default: `127.0.0.1:5000`).

use std::error::Error;

use axum::body::Body;
use axum::extract::{Json, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};
use tower_telemetry::{ClientTelemetryLayer, TelemetryLayer, layers::ClientTelemetry};

type HttpClient = ClientTelemetry<Client<HttpConnector, Body>>;

#[derive(Deserialize)]
struct Order {
    url: String,
    arguments: serde_json::Value,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let telemetry = tower_telemetry::init()?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let client = ClientTelemetryLayer::new().layer(client);
    let app = axum::Router::new()
        .route("/test", post(test))
        .with_state(client)
        .layer(TelemetryLayer::new());
    let address = std::env::var("LISTEN_ADDR").unwrap_or("127.0.0.1:5000".to_owned());
    let listener = TcpListener::bind(address).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or(()) })
        .await?;
    telemetry.shutdown().await;
    Ok(())
}

async fn test(
    State(client): State<HttpClient>,
    Json(orders): Json<Vec<Order>>,
) -> Result<(), (StatusCode, String)> {
    for Order { url, arguments } in orders {
        let request = Request::post(url)
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(arguments.to_string()))
            .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        let sent = client.clone().oneshot(request).await;
        sent.map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))?;
    }
    Ok(())
}
