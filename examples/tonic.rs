//! A gRPC server under the same layer, with the health service of `tonic-health`.
//!
//! ```sh
//! cargo run --example tonic
//! grpcurl -plaintext localhost:50051 grpc.health.v1.Health/Check
//! ```
//!
//! It listens on `LISTEN_ADDR` (default: `127.0.0.1:50051`).

use std::error::Error;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tower_telemetry::TelemetryLayer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let telemetry = tower_telemetry::init()?;

    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;

    let address = std::env::var("LISTEN_ADDR");
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:50051")).await?;
    tracing::info!("listening on {}", listener.local_addr()?);
    // Calls are named after their methods, even if the first calls fail.
    let layer = TelemetryLayer::new().with_grpc_descriptors(tonic_health::pb::FILE_DESCRIPTOR_SET);
    Server::builder()
        .layer(layer)
        .add_service(health)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
            tokio::signal::ctrl_c().await.unwrap_or(());
        })
        .await?;

    telemetry.shutdown().await;
    Ok(())
}
