//! `Config` and its setters.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::metrics::Temporality;

#[cfg(feature = "tracing")]
use crate::bridge::SpanFilter;
use crate::config::parts::Parts;
use crate::config::proxy::ProxySettings;
use crate::config::settings::batch::{Batch, within_a_day};
use crate::config::settings::environment::Environment;
use crate::config::settings::exception_signal::ExceptionSignal;
use crate::config::settings::exemplar_filter::ExemplarFilter;
use crate::config::settings::exporter::Exporter;
use crate::config::settings::histogram::HistogramAggregation;
use crate::config::settings::limits::Limits;
#[cfg(feature = "logs")]
use crate::config::settings::log_lines::LogLineSettings;
use crate::config::settings::otlp::OtlpSettings;
#[cfg(feature = "prometheus")]
use crate::config::settings::prometheus_server::PrometheusServer;
use crate::config::settings::propagator::Propagator;
#[cfg(feature = "runtime-metrics")]
use crate::config::settings::runtimes::Runtimes;
use crate::config::settings::sampler::Sampler;
use crate::config::settings::signal::{PerSignal, Signal};
#[cfg(feature = "logs")]
use crate::logs::LogLines;
use crate::providers::layer_variables::LayerSettings;
use crate::providers::variables::ConfigWarning;

/// The configuration of telemetry, read from environment variables and changed in code.
///
/// A setter overrides a variable, and a variable overrides a default. `docs/configuration.md` lists the
/// variables. Invalid values are reported by [`warnings`](Self::warnings) and logged by
/// [`init`](Self::init).
///
/// ```
/// use tower_telemetry::{Config, config::{Environment, Sampler}};
///
/// let config = Config::from_env()
///     .with_service_name("checkout")
///     .with_environment(Environment::Production)
///     .with_sampler(Sampler::ParentBasedTraceIdRatio(0.25));
/// ```
#[must_use = "a configuration does nothing until `init` is called on it"]
pub struct Config {
    pub(crate) enabled: bool,
    pub(crate) service_name: Option<String>,
    pub(crate) service_version: Option<String>,
    /// `None` means the default.
    pub(crate) environment: Option<Environment>,
    /// The attributes in `OTEL_RESOURCE_ATTRIBUTES`.
    pub(crate) env_attributes: Vec<(String, String)>,
    /// The attributes that were set in code.
    pub(crate) attributes: Vec<KeyValue>,
    pub(crate) sampler: Option<Sampler>,
    /// `OTEL_TRACES_SAMPLER_ARG`, for a default sampler with an argument.
    pub(crate) sampler_arg: Option<f64>,
    pub(crate) propagators: Vec<Propagator>,
    pub(crate) exporters: PerSignal<Option<Vec<Exporter>>>,
    pub(crate) exporters_from_variable: PerSignal<bool>,
    /// The variable or setter that chose the sampler. The next field is the same for the
    /// environment.
    pub(crate) sampler_origin: Option<&'static str>,
    pub(crate) environment_origin: Option<&'static str>,
    /// The settings of all signals. The next field overrides them per signal.
    pub(crate) otlp: OtlpSettings,
    pub(crate) otlp_by_signal: PerSignal<OtlpSettings>,
    pub(crate) spans: Batch,
    pub(crate) logs: Batch,
    pub(crate) metric_interval: Duration,
    pub(crate) metric_timeout: Duration,
    pub(crate) proxies: ProxySettings,
    /// `None` means no server.
    #[cfg(feature = "prometheus")]
    pub(crate) prometheus_server: Option<PrometheusServer>,
    pub(crate) max_retry_age: Duration,
    pub(crate) self_metrics: bool,
    #[cfg(feature = "runtime-metrics")]
    pub(crate) runtimes: Runtimes,
    pub(crate) temporality: Temporality,
    pub(crate) histograms: HistogramAggregation,
    pub(crate) exemplars: ExemplarFilter,
    pub(crate) exceptions: ExceptionSignal,
    pub(crate) limits: Limits,
    pub(crate) layers: LayerSettings,
    pub(crate) parts: Parts,
    #[cfg(feature = "logs")]
    pub(crate) log_lines: LogLineSettings,
    #[cfg(feature = "tracing")]
    pub(crate) tracing_spans: SpanFilter,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) export_thread: bool,
    pub(crate) warnings: Vec<ConfigWarning>,
}

impl Config {
    /// Returns the invalid values, and what is used instead.
    pub fn warnings(&self) -> &[ConfigWarning] {
        &self.warnings
    }

    /// Enables or disables all telemetry. Overrides `ENABLE_TELEMETRY` and `OTEL_SDK_DISABLED`.
    /// Enabled by default. While telemetry is disabled, trace context is still propagated and log
    /// lines are still written.
    pub fn with_enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Sets the name of the service. Overrides `OTEL_SERVICE_NAME` and `SERVICE_NAME`.
    pub fn with_service_name(mut self, name: impl Into<String>) -> Self {
        self.service_name = Some(name.into());
        self
    }

    /// Sets the version of the service, `service.version` in the resource. It is usually
    /// `env!("CARGO_PKG_VERSION")`.
    pub fn with_service_version(mut self, version: impl Into<String>) -> Self {
        self.service_version = Some(version.into());
        self
    }

    /// Sets the environment of the service. Overrides `ENVIRONMENT`.
    pub fn with_environment(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
        self.environment_origin = Some("Config::with_environment");
        self
    }

    /// Adds an attribute to the resource, which describes the service in all telemetry.
    pub fn with_resource_attribute(mut self, attribute: KeyValue) -> Self {
        self.attributes.push(attribute);
        self
    }

    /// Sets the sampler, which chooses the recorded traces: a [`Sampler`], or any
    /// [`ShouldSample`](opentelemetry_sdk::trace::ShouldSample) (trace SDK, "Sampling"). Overrides
    /// `OTEL_TRACES_SAMPLER`.
    ///
    /// A custom sampler requires the SDK's spans, which cost more; `docs/parts.md` has the figures.
    /// It runs on the thread of the request, with the attributes that the conventions define for
    /// samplers. If it panics, a warning is logged once. The trace is then sampled like its parent;
    /// a trace without a parent is sampled.
    ///
    /// ```
    /// use opentelemetry_sdk::trace::Sampler as SdkSampler;
    /// use tower_telemetry::{Config, config::Sampler};
    ///
    /// let config = Config::from_env().with_sampler(Sampler::ParentBasedTraceIdRatio(0.25));
    /// let config = config.with_sampler(SdkSampler::parent_based(SdkSampler::AlwaysOn));
    /// ```
    pub fn with_sampler(mut self, sampler: impl Into<Sampler>) -> Self {
        self.sampler = Some(sampler.into());
        self.sampler_origin = Some("Config::with_sampler");
        self
    }

    /// Sets the formats in which requests carry context. Overrides `OTEL_PROPAGATORS`. If two
    /// formats contain a parent, the later one is used. Defaults to [`Propagator::TraceContext`]
    /// and [`Propagator::Baggage`].
    pub fn with_propagators(mut self, propagators: impl IntoIterator<Item = Propagator>) -> Self {
        self.propagators = propagators.into_iter().collect();
        self
    }

    /// Sets the signal on which exceptions are recorded. Overrides
    /// `OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN`. Defaults to events on spans (OpenTelemetry
    /// conventions, "Exceptions").
    ///
    /// Log records require the feature `logs` and a logs exporter. Without them, exceptions are
    /// recorded on spans and there is a warning. The setting applies only with
    /// [`init`](Self::init).
    ///
    /// ```
    /// use tower_telemetry::{Config, config::ExceptionSignal};
    ///
    /// let config = Config::from_env().with_exception_signal(ExceptionSignal::Logs);
    /// ```
    pub fn with_exception_signal(mut self, signal: ExceptionSignal) -> Self {
        self.exceptions = signal;
        self
    }

    /// Sets the exporters of all signals. Overrides `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER`
    /// and `OTEL_LOGS_EXPORTER`. With an empty list, nothing is exported.
    ///
    /// The last setter for a signal is the one that applies. If it contradicts a variable for one
    /// signal, the variable has no effect, which is one of the [`warnings`](Self::warnings). To let
    /// operators choose the exporters of one signal, set only the others, with
    /// [`with_traces_exporters`](Self::with_traces_exporters) and the setters like it.
    ///
    /// ```
    /// use tower_telemetry::{Config, config::Exporter};
    ///
    /// let vars = |name: &str| (name == "OTEL_LOGS_EXPORTER").then(|| "none".to_owned());
    /// let config = Config::from_vars(vars)
    ///     .with_traces_exporters([Exporter::Otlp])
    ///     .with_metrics_exporters([Exporter::Otlp]);
    /// assert!(config.to_string().contains("logs=none"));
    /// ```
    pub fn with_exporters(mut self, exporters: impl IntoIterator<Item = Exporter>) -> Self {
        let exporters: Vec<_> = exporters.into_iter().collect();
        for signal in Signal::ALL {
            let before = self.exporters[signal].replace(exporters.clone());
            let has_no_effect = |configured: &Vec<Exporter>| {
                configured.iter().any(|one| !exporters.contains(one))
                    || exporters.iter().any(|one| !configured.contains(one))
            };
            if self.exporters_from_variable[signal] && before.as_ref().is_some_and(has_no_effect) {
                let variable = signal.exporter_variable();
                let value = before.map(|configured| Exporter::list(&configured));
                let consequence = "has no effect: Config::with_exporters sets all signals";
                let warning = ConfigWarning::new(&variable, value.as_deref(), consequence);
                self.warnings.push(warning);
            }
            self.exporters_from_variable[signal] = false;
        }
        self
    }

    /// Sets the exporters of traces. Overrides `OTEL_TRACES_EXPORTER`. With an empty list, traces
    /// are not exported.
    pub fn with_traces_exporters(self, exporters: impl IntoIterator<Item = Exporter>) -> Self {
        self.with_exporters_of(Signal::Traces, exporters)
    }

    /// Sets the exporters of metrics. Overrides `OTEL_METRICS_EXPORTER`. With an empty list,
    /// metrics are not exported.
    pub fn with_metrics_exporters(self, exporters: impl IntoIterator<Item = Exporter>) -> Self {
        self.with_exporters_of(Signal::Metrics, exporters)
    }

    /// Sets the exporters of log records. Overrides `OTEL_LOGS_EXPORTER`. With an empty list, log
    /// records are not exported. Log lines are written in any case.
    pub fn with_logs_exporters(self, exporters: impl IntoIterator<Item = Exporter>) -> Self {
        self.with_exporters_of(Signal::Logs, exporters)
    }

    fn with_exporters_of(
        mut self,
        signal: Signal,
        exporters: impl IntoIterator<Item = Exporter>,
    ) -> Self {
        self.exporters[signal] = Some(exporters.into_iter().collect());
        self.exporters_from_variable[signal] = false;
        self
    }

    /// Sets whether metrics about the export itself are recorded, for alerts. Overrides
    /// `TELEMETRY_SELF_METRICS`. Disabled by default (semantic conventions, "OpenTelemetry SDK
    /// metrics", in development).
    ///
    /// | metric | fields of [`SignalStats`](crate::stats::SignalStats) |
    /// |---|---|
    /// | `otel.sdk.exporter.{span,log,metric_data_point}.exported` | without `error.type`: `exported`; with it: `failed`, and the items in `dropped` that had been sent before |
    /// | `otel.sdk.exporter.{span,log,metric_data_point}.inflight` | the items in `waiting` that are being sent or kept for another attempt |
    /// | `otel.sdk.processor.{span,log}.queue.size`, `.capacity` | the other items in `waiting`, and the maximum |
    /// | `otel.sdk.processor.{span,log}.processed` | the items that left the queue; with `error.type=queue_full`: the other items in `dropped` |
    /// | `otel.sdk.span.live` | recorded spans that have not ended |
    pub fn with_self_metrics(mut self, wanted: bool) -> Self {
        self.self_metrics = wanted;
        self
    }

    /// Sets the queue and the batches of spans. Overrides `OTEL_BSP_MAX_QUEUE_SIZE` and the
    /// variables like it.
    pub fn with_span_batch(mut self, batch: Batch) -> Self {
        self.spans = batch;
        self
    }

    /// Sets the queue and the batches of log records. Overrides `OTEL_BLRP_MAX_QUEUE_SIZE` and the
    /// variables like it.
    pub fn with_log_batch(mut self, batch: Batch) -> Self {
        self.logs = batch;
        self
    }

    /// Sets the interval between two exports of metrics. Overrides `OTEL_METRIC_EXPORT_INTERVAL`.
    /// Defaults to 60 seconds, and is limited to the range from 1 ms to one day.
    pub fn with_metric_interval(mut self, interval: Duration) -> Self {
        self.metric_interval = within_a_day(interval);
        self
    }

    /// Sets the timeout of one export of metrics. Overrides `OTEL_METRIC_EXPORT_TIMEOUT`. If the
    /// export timeout is shorter, it applies instead. Defaults to 30 seconds, and is limited to the
    /// range from 1 ms to one day.
    pub fn with_metric_export_timeout(mut self, timeout: Duration) -> Self {
        self.metric_timeout = within_a_day(timeout);
        self
    }

    /// Sets the aggregation of histograms. Overrides
    /// `OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION`.
    pub fn with_histogram_aggregation(mut self, aggregation: HistogramAggregation) -> Self {
        self.histograms = aggregation;
        self
    }

    /// Sets the limits of spans and log records. Overrides `OTEL_ATTRIBUTE_COUNT_LIMIT` and the
    /// variables like it.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets whether metrics are exported as totals or as changes since the last export. Overrides
    /// `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`. Defaults to
    /// [`Temporality::Cumulative`], totals, with which a failed export leaves a gap but loses
    /// nothing.
    pub fn with_temporality(mut self, temporality: Temporality) -> Self {
        self.temporality = temporality;
        self
    }

    /// Sets the timeout of shutdown and of flush, for all signals together. Defaults to 5 seconds,
    /// and is limited to the range from 1 ms to one day.
    pub fn with_shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = within_a_day(timeout);
        self
    }

    pub(crate) fn environment(&self) -> Environment {
        self.environment.unwrap_or_default()
    }

    #[cfg(feature = "logs")]
    pub(crate) fn log_style(&self) -> LogLines {
        let style = self.log_lines.style;
        style.unwrap_or_else(|| self.environment().log_lines())
    }

    /// Takes the configured sampler, or returns the environment's default.
    pub(crate) fn take_sampler(&mut self) -> Sampler {
        let sampler = self.sampler.take();
        sampler.unwrap_or_else(|| self.default_sampler())
    }

    pub(crate) fn default_sampler(&self) -> Sampler {
        self.environment().sampler(self.sampler_arg)
    }

    /// Returns a setting of a signal, or else the setting of all signals.
    pub(crate) fn otlp<T>(
        &self,
        signal: Signal,
        setting: impl Fn(&OtlpSettings) -> Option<T>,
    ) -> Option<T> {
        setting(&self.otlp_by_signal[signal]).or_else(|| setting(&self.otlp))
    }

    /// Returns whether a signal is sent with the crate `opentelemetry-otlp`.
    pub(crate) fn is_by_reference(&self, signal: Signal) -> bool {
        self.otlp(signal, |settings| settings.reference) == Some(true)
    }

    /// Returns the configured exporters of a signal without duplicates, or else the environment's
    /// default.
    pub(crate) fn exporters(&self, signal: Signal) -> Vec<Exporter> {
        if let Some(configured) = &self.exporters[signal] {
            let is_configured = |one: &Exporter| configured.contains(one) && one.supports(signal);
            return Exporter::ALL.into_iter().filter(is_configured).collect();
        }
        let has_endpoint =
            self.otlp.endpoint.is_some() || self.otlp_by_signal[signal].endpoint.is_some();
        self.environment().exporters(has_endpoint)
    }
}
