//! Installs a subscriber and telemetry for the whole process, so this test is a process of its own.
#![cfg(all(feature = "init", feature = "logs"))]

use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tower_telemetry::config::Exporter;
use tower_telemetry::{Config, TelemetryGuard, with_tracer};
use tracing_subscriber::prelude::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn count(&self, text: &str) -> usize {
        let lines = self.0.lock().expect("no thread panicked");
        String::from_utf8_lossy(&lines).matches(text).count()
    }

    async fn wait_for(&self, count: usize, text: &str) {
        let start = Instant::now();
        while self.count(text) < count {
            assert!(start.elapsed() < Duration::from_secs(20), "{text}");
            tokio::task::yield_now().await;
        }
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no thread panicked").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_loss_in_the_shutdown_is_logged_without_the_warning_about_what_comes_after_it() {
    const LOSS: &str = "telemetry is lost";
    const END: &str = "telemetry has ended";

    // Accepts connections, and never responds.
    let mute = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = mute.local_addr().expect("the listener has an address");
    let init = || -> TelemetryGuard {
        Config::from_vars(|_| None)
            .with_exporters([Exporter::Otlp])
            .with_endpoint(format!("http://{address}"))
            .with_shutdown_timeout(Duration::from_millis(100))
            .without_subscriber()
            .init()
            .expect("no other telemetry is initialized")
    };
    let lines = Lines::default();
    let writer = lines.clone();
    let mut telemetry = Some(init());
    tracing_subscriber::registry()
        .with(telemetry.as_ref().and_then(TelemetryGuard::log_layer))
        .with(tracing_subscriber::fmt::layer().with_writer(move || writer.clone()))
        .init();
    // The line of a loss is emitted after all lines that the loss before it caused.
    for round in 1..=3 {
        let guard = telemetry.take().unwrap_or_else(init);
        with_tracer("test", "lost", || ());
        assert!(guard.shutdown().await.lost() > 0);
        lines.wait_for(round, LOSS).await;
        assert_eq!(lines.count(END), 0, "{round}");
    }
    tracing::info!("recorded after the end");
    lines.wait_for(1, END).await;
}
