//! A client of the example servers. Its calls over HTTP and gRPC are in one trace with the servers.
//!
//! ```sh
//! LISTEN_ADDR=127.0.0.1:3001 cargo run --example server
//! PROXY_TO=http://127.0.0.1:3001 cargo run --example server
//! cargo run --example tonic
//! GRPC_URL=http://127.0.0.1:50051 cargo run --example client
//! ```
//!
//! It calls the server at `SERVER_URL` (default: `http://127.0.0.1:3000`), which calls another
//! server if `PROXY_TO` is set. It also calls the gRPC server at `GRPC_URL`, if that is set.

use std::error::Error;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::{Layer, ServiceExt};
use tower_telemetry::{ClientTelemetryLayer, get_trace_id, with_tracer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let telemetry = tower_telemetry::init()?;
    let result = calls().await;
    telemetry.shutdown().await;
    result
}

#[with_tracer("client", err = false)]
async fn calls() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("SERVER_URL").unwrap_or("http://127.0.0.1:3000".to_owned());
    println!("{}", get(&format!("{url}/users/42")).await?);
    println!("{}", get(&format!("{url}/proxy/users/7")).await?);
    if let Ok(url) = std::env::var("GRPC_URL") {
        println!("serving: {}", is_serving(url.parse()?).await?);
    }
    if let Some(trace_id) = get_trace_id() {
        println!("all of it is in trace {trace_id}");
    }
    Ok(())
}

async fn get(url: &str) -> Result<String, Box<dyn Error>> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let client = ClientTelemetryLayer::new().layer(client);
    let request = Request::get(url).body(Empty::<Bytes>::new())?;
    let response = client.oneshot(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&body).trim_end().to_owned())
}

async fn is_serving(uri: Uri) -> Result<bool, Box<dyn Error>> {
    let channel = Channel::builder(uri.clone()).connect_lazy();
    // The server is configured on the layer, because the calls of a channel do not name it.
    let channel = ClientTelemetryLayer::new().with_server(uri).layer(channel);
    let mut client = HealthClient::new(channel);
    let response = client.check(HealthCheckRequest::default()).await?;
    Ok(response.into_inner().status()
        == tonic_health::pb::health_check_response::ServingStatus::Serving)
}
