//! Typed settings to providers, and the workers behind them.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{Sampler as SdkSampler, SdkTracerProvider, ShouldSample};

use crate::config::Config;
use crate::config::env;
use crate::config::error::InitError;
use crate::config::resource::resource;
use crate::config::settings::{ExceptionSignal, PerSignal, Propagator, Sampler, Signal};
use crate::logs::EndNotice;
use crate::otlp::client::OtlpClient;
use crate::otlp::connection::{Connection, Origin, Tls};
use crate::pipeline::counts::Counters;
#[cfg(feature = "logs")]
use crate::pipeline::exceptions::ExceptionLogger;
use crate::pipeline::export_thread::FlushHandle;
use crate::pipeline::spans::decided::Decided;
use crate::pipeline::spans::tracer::Sampling;
use crate::pipeline::traces::Spans;
use crate::pipeline::worker::Worker;
use crate::pipeline::{metrics, traces};
use crate::providers::exceptions::Exceptions;

/// What `Config` describes, ready to run.
pub(crate) struct Export {
    pub(crate) tracer_provider: SdkTracerProvider,
    pub(crate) meter_provider: SdkMeterProvider,
    #[cfg(feature = "logs")]
    pub(crate) logger_provider: Option<opentelemetry_sdk::logs::SdkLoggerProvider>,
    pub(crate) spans: Arc<Spans>,
    /// `None` where only the SDK can ask the sampler.
    pub(crate) sampling: Option<Sampling>,
    pub(crate) counters: PerSignal<Arc<Counters>>,
    exceptions: ExceptionSignal,
    /// For what the providers are asked to flush.
    pub(crate) flush: FlushHandle,
    pub(crate) end: EndNotice,
}

impl Export {
    /// Where exceptions are recorded: on spans, unless log records are asked for and sent.
    pub(crate) fn exceptions(&self) -> Exceptions {
        #[cfg(feature = "logs")]
        if self.exceptions.is_logged()
            && let Some(provider) = &self.logger_provider
        {
            return Exceptions {
                on_spans: self.exceptions.is_on_spans(),
                log: Some(Arc::new(ExceptionLogger::new(provider))),
            };
        }
        let _ = self.exceptions;
        Exceptions::default()
    }

    /// The providers, and the workers that they need to have running.
    pub(crate) fn new(config: &mut Config) -> Result<(Self, Vec<Worker>), InitError> {
        let sampler = config
            .sampler
            .take()
            .unwrap_or_else(|| env::default_sampler(config.environment(), config.sampler_arg));
        let sampling = Sampling::of(&sampler);
        let mut building = Building {
            resource: resource(config),
            config,
            counters: PerSignal::default(),
            workers: Vec::new(),
            connections: Vec::new(),
            flush: FlushHandle::default(),
            end: EndNotice::default(),
        };
        let mut sampler = sdk_sampler(sampler);
        let is_b3 = |one: &Propagator| matches!(one, Propagator::B3 | Propagator::B3Multi);
        if building.config.propagators.iter().any(is_b3) {
            sampler = Box::new(Decided(sampler));
        }
        let (tracer_provider, spans) = traces::provider(&mut building, sampler)?;
        let meter_provider = metrics::provider(&mut building)?;
        #[cfg(feature = "logs")]
        let logger_provider = crate::pipeline::logs::provider(&mut building)?;
        let export = Self {
            tracer_provider,
            meter_provider,
            #[cfg(feature = "logs")]
            logger_provider,
            spans,
            sampling,
            counters: building.counters,
            exceptions: building.config.exceptions,
            flush: building.flush,
            end: building.end,
        };
        Ok((export, building.workers))
    }
}

/// What the signals share while their providers are made.
pub(crate) struct Building<'a> {
    pub(crate) config: &'a Config,
    pub(crate) resource: Resource,
    pub(crate) counters: PerSignal<Arc<Counters>>,
    pub(crate) workers: Vec<Worker>,
    connections: Vec<Arc<Connection>>,
    pub(crate) flush: FlushHandle,
    pub(crate) end: EndNotice,
}

impl Building<'_> {
    /// A client for the OTLP receiver of a signal, which gives up after `timeout` at the latest.
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
        let origin = Origin::new(&target.uri, target.protocol, tls).by(target.socket, proxy);
        let shared = self.connections.iter().find(|one| one.origin == origin);
        let connection = match shared {
            Some(connection) => connection.clone(),
            None => {
                let connection = Arc::new(Connection::new(origin)?);
                self.connections.push(connection.clone());
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
            timeout: otlp_timeout.unwrap_or(Duration::from_secs(10)).min(timeout),
        })
    }
}

fn sdk_sampler(sampler: Sampler) -> Box<dyn ShouldSample> {
    let parent_based = |root: SdkSampler| Box::new(SdkSampler::parent_based(root));
    match sampler {
        Sampler::AlwaysOn => Box::new(SdkSampler::AlwaysOn),
        Sampler::AlwaysOff => Box::new(SdkSampler::AlwaysOff),
        Sampler::TraceIdRatio(ratio) => Box::new(SdkSampler::TraceIdRatioBased(ratio)),
        Sampler::ParentBasedAlwaysOn => parent_based(SdkSampler::AlwaysOn),
        Sampler::ParentBasedAlwaysOff => parent_based(SdkSampler::AlwaysOff),
        Sampler::ParentBasedTraceIdRatio(ratio) => {
            parent_based(SdkSampler::TraceIdRatioBased(ratio))
        }
        Sampler::Custom(sampler) => sampler,
    }
}
