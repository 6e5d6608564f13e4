//! The thread that collects metrics for Prometheus.

use std::io;
use std::net;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_prometheus::PrometheusExporter;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::config::settings::prometheus_server::PrometheusServer;
use crate::pipeline::prometheus::exposition::Exposition;
use crate::pipeline::prometheus::server::{listen, serve};
use crate::pipeline::prometheus::service::{MAX_WAITING, PrometheusService, Scrape};
use crate::providers::variables::ConfigWarning;

/// The time between attempts to listen on a port that is in use.
const PAUSE: Duration = Duration::from_secs(1);

/// A handle to the thread. The thread ends when the handle is dropped.
pub(crate) struct Prometheus {
    pub(crate) service: PrometheusService,
    /// A warning that the port cannot be used yet.
    pub(crate) warning: Option<ConfigWarning>,
    _end: oneshot::Sender<()>,
}

impl Prometheus {
    /// Starts the thread. Also returns the reader to be added to the meter provider.
    pub(crate) fn start(
        server: Option<PrometheusServer>,
    ) -> io::Result<(Self, PrometheusExporter)> {
        let (exposition, reader) =
            Exposition::new().ok_or_else(|| io::Error::other("no registry can be created"))?;
        let (scrapes, waiting) = mpsc::channel(MAX_WAITING);
        let address = Arc::new(OnceLock::new());
        let service = PrometheusService { scrapes, address };
        let mut warning = None;
        let first = server
            .as_ref()
            .map(|server| listen(&server.host, server.port));
        let listener = match first {
            Some(Ok(listener)) => {
                note_address(&service, &listener);
                Some(listener)
            }
            Some(Err(error)) => {
                let consequence = format!("is not available ({error}); trying again every second");
                let variable = "OTEL_EXPORTER_PROMETHEUS_PORT";
                let value = server.as_ref().map(ToString::to_string);
                warning = Some(ConfigWarning::new(variable, value.as_deref(), consequence));
                None
            }
            None => None,
        };
        let (_end, end) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let for_server = service.clone();
        thread::Builder::new()
            .name("telemetry-prometheus".to_owned())
            .spawn(move || {
                let _suppressed = Context::enter_telemetry_suppressed_scope();
                runtime.block_on(async {
                    if let Some(server) = server {
                        tokio::spawn(serve_on(server, listener, for_server));
                    }
                    tokio::select! {
                        () = collect(exposition, waiting) => {}
                        _ = end => {}
                    }
                });
                runtime.shutdown_background();
            })?;
        Ok((
            Self {
                service,
                warning,
                _end,
            },
            reader,
        ))
    }
}

fn note_address(service: &PrometheusService, listener: &net::TcpListener) {
    if let Ok(address) = listener.local_addr() {
        let _ = service.address.set(address);
    }
}

/// Serves metrics on a port as soon as it is available.
async fn serve_on(
    server: PrometheusServer,
    mut listener: Option<net::TcpListener>,
    service: PrometheusService,
) {
    loop {
        if let Some(listener) = listener.and_then(|one| TcpListener::from_std(one).ok()) {
            return serve(listener, service).await;
        }
        sleep(PAUSE).await;
        listener = listen(&server.host, server.port).ok();
        if let Some(listener) = &listener {
            note_address(&service, listener);
        }
    }
}

async fn collect(exposition: Exposition, mut waiting: mpsc::Receiver<Scrape>) {
    while let Some(Scrape { form, sender }) = waiting.recv().await {
        // A closed channel means that the connection is gone.
        if !sender.is_closed() {
            let _ = sender.send(exposition.collect(form));
        }
        // Lets the server's tasks run between scrapes.
        tokio::task::yield_now().await;
    }
}
