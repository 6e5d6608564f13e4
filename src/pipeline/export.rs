//! Builds providers and workers from a configuration.

use std::sync::Arc;

use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;

use crate::config::Config;
use crate::config::error::InitError;
use crate::config::resource::resource;
use crate::config::settings::{ExceptionSignal, PerSignal, Propagator, Sampler};
use crate::logs::EndWarning;
use crate::pipeline::building::Building;
use crate::pipeline::counts::Counters;
#[cfg(feature = "logs")]
use crate::pipeline::exceptions::ExceptionLogger;
use crate::pipeline::export_thread::{FlushHandle, Work};
use crate::pipeline::parts::record::PartRecord;
use crate::pipeline::parts::sampling::CaughtSampler;
#[cfg(feature = "prometheus")]
use crate::pipeline::prometheus::thread::Prometheus;
#[cfg(feature = "runtime-metrics")]
use crate::pipeline::runtime_metrics;
use crate::pipeline::spans::b3_sampler::B3Sampler;
use crate::pipeline::spans::queues::SpanQueues;
use crate::pipeline::spans::sampling::Sampling;
use crate::pipeline::{metrics, self_metrics, traces};
use crate::providers::exceptions::Exceptions;

/// The pipeline that a `Config` describes.
pub(crate) struct Export {
    pub(crate) tracer_provider: SdkTracerProvider,
    pub(crate) meter_provider: SdkMeterProvider,
    pub(crate) has_metric_readers: bool,
    #[cfg(feature = "logs")]
    pub(crate) logger_provider: Option<opentelemetry_sdk::logs::SdkLoggerProvider>,
    pub(crate) queues: Arc<SpanQueues>,
    /// `None` if the SDK creates the spans, which is the case for a custom sampler, id generator or
    /// span processor.
    pub(crate) sampling: Option<Sampling>,
    /// Whether trace ids are random. `false` if there is a custom id generator.
    pub(crate) has_random_ids: bool,
    pub(crate) counters: PerSignal<Arc<Counters>>,
    pub(crate) records: Vec<Arc<PartRecord>>,
    #[cfg(feature = "prometheus")]
    pub(crate) prometheus: Option<Prometheus>,
    exceptions: ExceptionSignal,
    /// The flush handle of the providers.
    pub(crate) flush: FlushHandle,
    pub(crate) end: EndWarning,
}

impl Export {
    /// Returns where exceptions are recorded: on spans, unless log records are configured and
    /// exported.
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

    /// Returns whether spans are exported or processed.
    #[cfg(feature = "logs")]
    pub(crate) fn has_spans(&self) -> bool {
        self.sampling.is_none() || self.queues.has_queue()
    }

    /// Builds the providers, and the workers and parts that must run for them.
    pub(crate) fn new(config: &mut Config) -> Result<(Self, Work), InitError> {
        let sampler = config.take_sampler();
        let resource = resource(config);
        let parts = std::mem::take(&mut config.parts);
        let sampling = Sampling::of(&sampler).filter(|_| !parts.need_sdk_spans());
        let has_random_ids = parts.id_generator.is_none();
        let mut building = Building::new(config, parts, resource);
        let is_custom = matches!(sampler, Sampler::Custom(_));
        let mut sampler = sampler.for_sdk();
        if is_custom {
            sampler = Box::new(CaughtSampler::new(sampler));
        }
        let is_b3 = |one: &Propagator| matches!(one, Propagator::B3 | Propagator::B3Multi);
        if building.config.propagators.iter().any(is_b3) {
            sampler = Box::new(B3Sampler(sampler));
        }
        let (tracer_provider, queues) = traces::provider(&mut building, sampler)?;
        let (meter_provider, has_metric_readers) = metrics::provider(&mut building)?;
        #[cfg(feature = "logs")]
        let logger_provider = crate::pipeline::logs::provider(&mut building)?;
        // Without a reader, the SDK logs an error for each observable instrument.
        if has_metric_readers && building.config.self_metrics {
            self_metrics::register(&meter_provider, &building.observed, &queues);
        }
        #[cfg(feature = "runtime-metrics")]
        if has_metric_readers && building.config.runtimes.wanted {
            runtime_metrics::register(&meter_provider, &building.config.runtimes);
        }
        // Sorted by kind. Within a kind, the configured order is kept.
        building.records.sort_by_key(|record| record.kind as u8);
        let export = Self {
            tracer_provider,
            meter_provider,
            has_metric_readers,
            #[cfg(feature = "logs")]
            logger_provider,
            queues,
            sampling,
            has_random_ids,
            counters: building.counters,
            records: building.records,
            #[cfg(feature = "prometheus")]
            prometheus: building.prometheus,
            exceptions: building.config.exceptions,
            flush: building.flush,
            end: building.end,
        };
        let work = Work {
            workers: building.workers,
            unqueued: building.unqueued,
            between_flushes: building.between_flushes,
        };
        Ok((export, work))
    }
}
