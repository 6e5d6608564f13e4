//! The state shared by the signals while their providers are built.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

use crate::config::Config;
use crate::config::error::InitError;
use crate::config::parts::Parts;
use crate::config::settings::{PerSignal, Signal};
use crate::logs::EndWarning;
use crate::otlp::client::OtlpClient;
use crate::otlp::connection::{Connection, Origin, Tls};
#[cfg(feature = "opentelemetry-otlp")]
use crate::otlp::reference::client::ReferenceClient;
#[cfg(feature = "opentelemetry-otlp")]
use crate::otlp::reference::exporters::Reference;
use crate::otlp::retries::Retries;
use crate::otlp::window::Window;
use crate::pipeline::counts::{Counters, Losses, ObservedQueue};
use crate::pipeline::export_thread::FlushHandle;
use crate::pipeline::on_demand::BetweenFlushes;
use crate::pipeline::parts::record::PartRecord;
use crate::pipeline::parts::running_part::UnqueuedParts;
#[cfg(feature = "prometheus")]
use crate::pipeline::prometheus::thread::Prometheus;
use crate::pipeline::self_metrics::Observed;
use crate::pipeline::worker::Worker;
use crate::stats::PartKind;

/// The state of a pipeline that is being built.
pub(crate) struct Building<'a> {
    pub(crate) config: &'a Config,
    pub(crate) resource: Resource,
    pub(crate) counters: PerSignal<Arc<Counters>>,
    pub(crate) workers: Vec<Worker>,
    /// The application's parts that are not set up yet.
    pub(crate) parts: Parts,
    pub(crate) unqueued: UnqueuedParts,
    pub(crate) records: Vec<Arc<PartRecord>>,
    connections: Vec<Arc<Connection>>,
    pub(crate) between_flushes: BetweenFlushes,
    #[cfg(feature = "prometheus")]
    pub(crate) prometheus: Option<Prometheus>,
    /// The signals that are exported over OTLP.
    pub(crate) observed: Vec<Observed>,
    pub(crate) flush: FlushHandle,
    /// The flush handle for the first metric reader only. A provider flushes all of its readers,
    /// and one flush is enough.
    pub(crate) reader_flush: Option<FlushHandle>,
    pub(crate) end: EndWarning,
}

impl<'a> Building<'a> {
    pub(crate) fn new(config: &'a Config, parts: Parts, resource: Resource) -> Self {
        let flush = FlushHandle::default();
        let window = match config.export_thread {
            true => Window::default(),
            false => Window::closed(),
        };
        Self {
            config,
            resource,
            counters: PerSignal::default(),
            workers: Vec::new(),
            parts,
            unqueued: UnqueuedParts::default(),
            records: Vec::new(),
            connections: Vec::new(),
            between_flushes: BetweenFlushes::new(window),
            #[cfg(feature = "prometheus")]
            prometheus: None,
            observed: Vec::new(),
            reader_flush: Some(flush.clone()),
            flush,
            end: EndWarning::default(),
        }
    }

    /// Creates and stores the record of a part.
    pub(crate) fn record(&mut self, kind: PartKind, name: String) -> Arc<PartRecord> {
        let record = PartRecord::new(kind, name);
        self.records.push(record.clone());
        record
    }

    /// Creates a client for the OTLP receiver of a signal. One attempt takes at most `timeout`.
    pub(crate) fn client(
        &mut self,
        signal: Signal,
        timeout: Duration,
    ) -> Result<OtlpClient, InitError> {
        let config = self.config;
        let target = config.target(signal)?;
        let tls = Tls {
            certificate: config.otlp(signal, |settings| settings.certificate.clone()),
            client_certificate: config.otlp(signal, |settings| settings.client_certificate.clone()),
            client_key: config.otlp(signal, |settings| settings.client_key.clone()),
        };
        let proxy = config.proxy(&target)?;
        let origin = Origin::new(&target.uri, target.protocol, tls).via(target.socket, proxy);
        let shared = self.connections.iter().find(|one| one.origin == origin);
        let connection = match shared {
            Some(connection) => connection.clone(),
            None => {
                let connection = Arc::new(Connection::new(origin)?);
                self.connections.push(connection.clone());
                let closed = connection.clone();
                self.between_flushes
                    .close
                    .push(Box::new(move || closed.close()));
                connection
            }
        };
        let otlp_timeout = config.otlp(signal, |settings| settings.timeout);
        let compression = config.otlp(signal, |settings| settings.compression);
        let headers = config.otlp(signal, |settings| settings.headers.clone());
        Ok(OtlpClient {
            connection,
            uri: target.uri,
            protocol: target.protocol,
            compression: compression.unwrap_or_default(),
            headers: headers.unwrap_or_default(),
            headers_from: config.otlp(signal, |settings| settings.headers_from.clone()),
            timeout: otlp_timeout.unwrap_or(Duration::from_secs(10)).min(timeout),
            retries: Retries::new(config.max_retry_age).within(self.between_flushes.window.clone()),
        })
    }

    /// Creates an exporter of the `opentelemetry-otlp` crate with the settings of a client.
    #[cfg(feature = "opentelemetry-otlp")]
    pub(crate) fn reference<E: Reference>(
        &mut self,
        signal: Signal,
        client: OtlpClient,
    ) -> ReferenceClient<E> {
        let client = ReferenceClient::new(client, self.resource.clone());
        self.between_flushes.close.push(Box::new(client.close()));
        if client.hides_rejected() {
            self.counters[signal].hide_rejected();
        }
        client
    }

    /// Registers the export of a signal for the metrics about the export.
    pub(crate) fn register_self_metrics(
        &mut self,
        signal: Signal,
        exporter: Vec<KeyValue>,
        queue: Option<Arc<dyn ObservedQueue>>,
    ) {
        let counters = self.counters[signal].clone();
        self.observed
            .push(Observed::new(signal, counters, queue, exporter));
    }

    /// Creates the loss counter of a signal. Log lines name the receiver as `receiver`.
    pub(crate) fn losses(&self, signal: Signal, receiver: String) -> Losses {
        Losses::new(signal, receiver, self.counters[signal].clone())
    }
}
