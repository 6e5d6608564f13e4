//! Typed settings to providers, and the workers behind them.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::resource::{ResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{Sampler as SdkSampler, SdkTracerProvider, ShouldSample};

use super::batch::{Counters, Worker};
use super::config::{Config, PerSignal, Sampler, Signal};
use super::env;
use super::error::InitError;
use super::otlp::OtlpClient;
use super::{metrics, traces};
use crate::semconv::DEPLOYMENT_ENVIRONMENT_NAME;

/// What `Config` describes, ready to run.
pub(super) struct Export {
    pub(super) tracer_provider: SdkTracerProvider,
    pub(super) meter_provider: SdkMeterProvider,
    #[cfg(feature = "logs")]
    pub(super) logger_provider: Option<opentelemetry_sdk::logs::SdkLoggerProvider>,
    /// Whether the sampler is one that reads no attributes.
    pub(super) built_in_sampler: bool,
    pub(super) counters: PerSignal<Arc<Counters>>,
    pub(super) workers: Vec<Worker>,
}

impl Export {
    pub(super) fn new(config: &mut Config) -> Result<Self, InitError> {
        let sampler = config
            .sampler
            .take()
            .unwrap_or_else(|| env::default_sampler(config.environment(), config.sampler_arg));
        let built_in_sampler = !matches!(sampler, Sampler::Custom(_));
        let mut building = Building {
            resource: resource(config),
            config,
            counters: PerSignal::default(),
            workers: Vec::new(),
        };
        let tracer_provider = traces::provider(&mut building, sdk_sampler(sampler))?;
        let meter_provider = metrics::provider(&mut building)?;
        #[cfg(feature = "logs")]
        let logger_provider = super::logs::provider(&mut building)?;
        Ok(Self {
            tracer_provider,
            meter_provider,
            #[cfg(feature = "logs")]
            logger_provider,
            built_in_sampler,
            counters: building.counters,
            workers: building.workers,
        })
    }
}

/// What the signals share while their providers are made.
pub(super) struct Building<'a> {
    pub(super) config: &'a Config,
    pub(super) resource: Resource,
    pub(super) counters: PerSignal<Arc<Counters>>,
    pub(super) workers: Vec<Worker>,
}

impl Building<'_> {
    /// A client for the OTLP receiver of a signal.
    pub(super) fn client(&self, signal: Signal) -> Result<OtlpClient, InitError> {
        let (own, general) = (&self.config.otlp_by_signal[signal], &self.config.otlp);
        let headers = own.headers.as_ref().or(general.headers.as_ref());
        let timeout = own.timeout.or(general.timeout);
        OtlpClient::new(
            self.config.target(signal)?,
            headers.cloned().unwrap_or_default(),
            timeout.unwrap_or(Duration::from_secs(10)),
        )
    }
}

/// The resource: code over dedicated variables over `OTEL_RESOURCE_ATTRIBUTES` over defaults.
fn resource(config: &Config) -> Resource {
    const SERVICE_NAME: &str = "service.name";
    let program = std::env::current_exe().ok();
    let program = program
        .as_deref()
        .and_then(|path| path.file_name()?.to_str())
        .unwrap_or("rust");
    let sdk = TelemetryResourceDetector.detect();
    let environment = |name: &'static str| KeyValue::new(DEPLOYMENT_ENVIRONMENT_NAME, name);
    // Of two with one key, the later holds.
    let mut attributes = vec![
        KeyValue::new(SERVICE_NAME, format!("unknown_service:{program}")),
        environment(config.environment().as_str()),
    ];
    attributes.extend(
        sdk.iter()
            .map(|(key, value)| KeyValue::new(key.clone(), value.clone())),
    );
    let listed = config.env_attributes.iter().cloned();
    attributes.extend(listed.map(|(key, value)| KeyValue::new(key, value)));
    attributes.extend(config.environment.map(|given| environment(given.as_str())));
    let service_name = config.service_name.clone();
    attributes.extend(service_name.map(|name| KeyValue::new(SERVICE_NAME, name)));
    attributes.extend(config.attributes.iter().cloned());
    Resource::builder_empty()
        .with_attributes(attributes)
        .build()
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

/// Flushing belongs to the guard, which does it for all signals within one deadline.
pub(super) fn use_the_guard() -> OTelSdkResult {
    let message = "flush with `TelemetryGuard::force_flush`".to_owned();
    Err(OTelSdkError::InternalFailure(message))
}
