//! A command-line program. It runs for 50 ms, and its telemetry is exported before it ends.
//!
//! ```sh
//! OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 cargo run --example cli -- 42
//! ```
//!
//! `TELEMETRY_EXPORT_THREAD=false` has it sent by the shutdown alone, without a thread before.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use tower_telemetry::{async_try_with_tracer, increment_counter};

#[tokio::main]
async fn main() -> ExitCode {
    let start = Instant::now();
    let telemetry = match tower_telemetry::init() {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    // Neither `?` nor `exit` may leave `main` before telemetry is shut down.
    let result = async_try_with_tracer("cli", "import", import()).await;
    let report = telemetry.shutdown().await;
    if report.lost() > 0 {
        eprintln!("telemetry was lost: {report}");
    }
    println!("all of it took {} ms", start.elapsed().as_millis());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn import() -> Result<(), std::num::ParseIntError> {
    tokio::time::sleep(Duration::from_millis(50)).await;
    increment_counter("cli.imports", "Imports.", []);
    tracing::info!("imported");
    std::env::args()
        .nth(1)
        .map_or(Ok(0), |number| number.parse::<u32>())?;
    Ok(())
}
