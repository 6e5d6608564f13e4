//! A worker without HTTP. It handles the messages that the example server puts into a queue, in the
//! traces of their requests. A child process does a part of the work.
//!
//! ```sh
//! cargo run --example worker
//! cargo run --example server
//! curl -X POST localhost:3000/orders/42
//! ```
//!
//! The queue is a folder of files, `QUEUE_DIR`, so no broker is needed. The code for Kafka and
//! other brokers is the same, see `docs/recipes.md`.

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tower_telemetry::messaging::Destination;
use tower_telemetry::{async_with_tracer, attributes, carriers, get_tracer};

/// A message as the server writes it.
#[derive(Deserialize)]
struct Message {
    headers: HashMap<String, String>,
    order: u32,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let telemetry = tower_telemetry::init()?;
    let result = match std::env::args().nth(1).as_deref() {
        Some("receipt") => {
            print_receipt();
            Ok(())
        }
        _ => work().await,
    };
    telemetry.shutdown().await;
    result
}

async fn work() -> Result<(), Box<dyn Error>> {
    let queue = match std::env::var_os("QUEUE_DIR") {
        Some(queue) => PathBuf::from(queue),
        None => std::env::temp_dir().join("tower-telemetry-queue"),
    };
    tokio::fs::create_dir_all(&queue).await?;
    let orders = Destination::new("files", "orders").with_consumer_group("worker");
    let mut shutdown = std::pin::pin!(shutdown_signal()?);
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    tracing::info!("waiting for orders");
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            _ = looks.tick() => {}
        }
        let mut files = tokio::fs::read_dir(&queue).await?;
        while let Some(file) = files.next_entry().await? {
            let path = file.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let message: Message = serde_json::from_slice(&tokio::fs::read(&path).await?)?;
            let span = orders
                .process(carriers::extract(&message.headers))
                .with_attributes(
                    attributes! { "messaging.message.id" => message.order.to_string() },
                );
            let outcome = span.try_run_future(handle(&message)).await;
            let settled = path.with_extension(if outcome.is_ok() { "done" } else { "failed" });
            tokio::fs::rename(&path, settled).await?;
        }
    }
}

async fn handle(message: &Message) -> Result<(), std::io::Error> {
    async_with_tracer(
        "orders",
        "pack",
        tokio::time::sleep(Duration::from_millis(5)),
    )
    .await;
    let mut receipt = tokio::process::Command::new(std::env::current_exe()?);
    receipt.arg("receipt").env("SERVICE_NAME", "receipt");
    carriers::inject_into_command(receipt.as_std_mut());
    let status = receipt.status().await?;
    tracing::info!(order = message.order, "handled");
    if status.success() {
        Ok(())
    } else {
        Err(std::io::Error::other("no receipt was printed"))
    }
}

/// Runs in the child process.
fn print_receipt() {
    let span = get_tracer("receipt").span("print-receipt");
    span.with_parent(carriers::extract_from_env())
        .run(|| println!("A receipt."));
}

/// Starts to listen for Ctrl-C and SIGTERM.
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
