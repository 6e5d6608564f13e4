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

/// How telemetry is set up: read from the environment, changed in code.
///
/// A call in code beats a variable, a variable beats a default. The README lists the variables.
/// Values that cannot be used are in [`warnings`](Self::warnings), and are logged by
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
    /// `None` for the default.
    pub(crate) environment: Option<Environment>,
    /// From `OTEL_RESOURCE_ATTRIBUTES`.
    pub(crate) env_attributes: Vec<(String, String)>,
    /// From code.
    pub(crate) attributes: Vec<KeyValue>,
    pub(crate) sampler: Option<Sampler>,
    /// `OTEL_TRACES_SAMPLER_ARG`, for a default sampler that takes it.
    pub(crate) sampler_arg: Option<f64>,
    pub(crate) propagators: Vec<Propagator>,
    pub(crate) exporters: PerSignal<Option<Vec<Exporter>>>,
    pub(crate) exporters_from_variable: PerSignal<bool>,
    /// The variable or the setter that has chosen the sampler, and the environment.
    pub(crate) sampler_origin: Option<&'static str>,
    pub(crate) environment_origin: Option<&'static str>,
    /// For all signals, and where it is set, for one.
    pub(crate) otlp: OtlpSettings,
    pub(crate) otlp_by_signal: PerSignal<OtlpSettings>,
    pub(crate) spans: Batch,
    pub(crate) logs: Batch,
    pub(crate) metric_interval: Duration,
    pub(crate) metric_timeout: Duration,
    pub(crate) proxies: ProxySettings,
    /// `None` for no server.
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
    pub(crate) warnings: Vec<ConfigWarning>,
}

impl Config {
    /// Returns the values that cannot be used, and what is used in their place.
    pub fn warnings(&self) -> &[ConfigWarning] {
        &self.warnings
    }

    /// Switches all telemetry on or off, in place of `ENABLE_TELEMETRY` and `OTEL_SDK_DISABLED`. It is
    /// on by default. Off, context still passes and log lines are still written.
    pub fn with_enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Sets the name of the service, in place of `OTEL_SERVICE_NAME` and `SERVICE_NAME`.
    pub fn with_service_name(mut self, name: impl Into<String>) -> Self {
        self.service_name = Some(name.into());
        self
    }

    /// Sets the version of the service, the resource's `service.version`: usually
    /// `env!("CARGO_PKG_VERSION")`.
    pub fn with_service_version(mut self, version: impl Into<String>) -> Self {
        self.service_version = Some(version.into());
        self
    }

    /// Sets where the service runs, in place of `ENVIRONMENT`.
    pub fn with_environment(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
        self.environment_origin = Some("Config::with_environment");
        self
    }

    /// Adds an attribute to the resource, which describes the service on all its telemetry.
    pub fn with_resource_attribute(mut self, attribute: KeyValue) -> Self {
        self.attributes.push(attribute);
        self
    }

    /// Sets which traces are recorded, in place of `OTEL_TRACES_SAMPLER`: a [`Sampler`], or any
    /// [`ShouldSample`](opentelemetry_sdk::trace::ShouldSample) (trace SDK, "Sampling").
    ///
    /// With one of your own, spans are those of the SDK, which costs more; `docs/parts.md` has the
    /// figures. It is asked on the thread of the request, with the attributes that the conventions have
    /// for samplers. Where it panics, one warning says so, and the trace is recorded as its parent is,
    /// or, without a parent, is recorded.
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

    /// Sets how requests carry context, in place of `OTEL_PROPAGATORS`. Of two forms that name a
    /// parent, the later holds. [`Propagator::TraceContext`] and [`Propagator::Baggage`] by default.
    pub fn with_propagators(mut self, propagators: impl IntoIterator<Item = Propagator>) -> Self {
        self.propagators = propagators.into_iter().collect();
        self
    }

    /// Sets where exceptions are recorded, in place of `OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN`: events on
    /// spans by default (OpenTelemetry conventions, "Exceptions").
    ///
    /// Log records need the feature `logs` and the exporter of logs; without them exceptions are recorded
    /// on spans, and a warning says so. It holds for [`init`](Self::init) alone.
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

    /// Sets where all telemetry is sent, in place of `OTEL_TRACES_EXPORTER`,
    /// `OTEL_METRICS_EXPORTER` and `OTEL_LOGS_EXPORTER`. An empty list sends it nowhere.
    ///
    /// Of several setters the last one holds for a signal. A variable that says otherwise for one
    /// signal has no effect then, which is one of the [`warnings`](Self::warnings). Where operators
    /// are to choose for a signal, set the others alone, with
    /// [`with_traces_exporters`](Self::with_traces_exporters) and its like.
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
            let has_no_effect = |told: &Vec<Exporter>| {
                told.iter().any(|one| !exporters.contains(one))
                    || exporters.iter().any(|one| !told.contains(one))
            };
            if self.exporters_from_variable[signal] && before.as_ref().is_some_and(has_no_effect) {
                let variable = signal.exporter_variable();
                let value = before.map(|told| Exporter::list(&told));
                let consequence = "has no effect: Config::with_exporters is for all signals";
                let warning = ConfigWarning::new(&variable, value.as_deref(), consequence);
                self.warnings.push(warning);
            }
            self.exporters_from_variable[signal] = false;
        }
        self
    }

    /// Sets where traces are sent, in place of `OTEL_TRACES_EXPORTER`. An empty list sends them
    /// nowhere.
    pub fn with_traces_exporters(self, exporters: impl IntoIterator<Item = Exporter>) -> Self {
        self.with_exporters_of(Signal::Traces, exporters)
    }

    /// Sets where metrics are sent, in place of `OTEL_METRICS_EXPORTER`. An empty list sends them
    /// nowhere.
    pub fn with_metrics_exporters(self, exporters: impl IntoIterator<Item = Exporter>) -> Self {
        self.with_exporters_of(Signal::Metrics, exporters)
    }

    /// Sets where log records are sent, in place of `OTEL_LOGS_EXPORTER`. An empty list sends them
    /// nowhere. Log lines are written in any case.
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

    /// Sets whether there are metrics about the export itself, in place of `TELEMETRY_SELF_METRICS`. Off
    /// by default. Alert on them (semantic conventions, "OpenTelemetry SDK metrics", in development):
    ///
    /// | metric | of [`SignalStats`](crate::stats::SignalStats) |
    /// |---|---|
    /// | `otel.sdk.exporter.{span,log,metric_data_point}.exported` | without `error.type` `exported`; with it `failed`, and `dropped` after attempts |
    /// | `otel.sdk.exporter.{span,log,metric_data_point}.inflight` | the part of `waiting` that is on its way, or kept for another attempt |
    /// | `otel.sdk.processor.{span,log}.queue.size`, `.capacity` | the rest of `waiting`, and its bound |
    /// | `otel.sdk.processor.{span,log}.processed` | the items that left the queue; with `error.type=queue_full` the rest of `dropped` |
    /// | `otel.sdk.span.live` | recorded spans that have not ended |
    pub fn with_self_metrics(mut self, wanted: bool) -> Self {
        self.self_metrics = wanted;
        self
    }

    /// Sets how spans wait for export, in place of `OTEL_BSP_MAX_QUEUE_SIZE` and its like.
    pub fn with_span_batch(mut self, batch: Batch) -> Self {
        self.spans = batch;
        self
    }

    /// Sets how log records wait for export, in place of `OTEL_BLRP_MAX_QUEUE_SIZE` and its like.
    pub fn with_log_batch(mut self, batch: Batch) -> Self {
        self.logs = batch;
        self
    }

    /// Sets how often metrics are exported, in place of `OTEL_METRIC_EXPORT_INTERVAL`.
    /// Default 60 seconds, from 1 ms to a day.
    pub fn with_metric_interval(mut self, interval: Duration) -> Self {
        self.metric_interval = within_a_day(interval);
        self
    }

    /// Sets how long one export of metrics may take, in place of `OTEL_METRIC_EXPORT_TIMEOUT`; the
    /// export timeout holds where it is shorter. Default 30 seconds, from 1 ms to a day.
    pub fn with_metric_export_timeout(mut self, timeout: Duration) -> Self {
        self.metric_timeout = within_a_day(timeout);
        self
    }

    /// Sets how histograms are kept, in place of
    /// `OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION`.
    pub fn with_histogram_aggregation(mut self, aggregation: HistogramAggregation) -> Self {
        self.histograms = aggregation;
        self
    }

    /// Sets the bounds of spans and log records, in place of `OTEL_ATTRIBUTE_COUNT_LIMIT` and its like.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets whether metrics are sent as totals or as what was added since the last export, in place
    /// of `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`. [`Temporality::Cumulative`] by
    /// default: totals, so that an export that fails leaves a gap and loses nothing.
    pub fn with_temporality(mut self, temporality: Temporality) -> Self {
        self.temporality = temporality;
        self
    }

    /// Sets how log lines look, in place of `LOG_FORMAT`. Text in development, else JSON.
    #[cfg(feature = "logs")]
    pub fn with_log_lines(mut self, style: LogLines) -> Self {
        self.log_lines.style = Some(style);
        self
    }

    /// Sets which events become log lines and log records, in place of `RUST_LOG`, in the form of that
    /// variable. Text that is not a filter has no effect, and is one of the
    /// [`warnings`](Self::warnings).
    #[cfg(feature = "logs")]
    pub fn with_log_filter(mut self, directives: &str) -> Self {
        match self.log_lines.filter.clone().with_directives(directives) {
            Ok(filter) => self.log_lines.filter = filter,
            Err(reason) => {
                let consequence = format!("is not a filter ({reason}); it has no effect");
                let origin = "Config::with_log_filter";
                let warning = ConfigWarning::new(origin, Some(directives), consequence);
                self.warnings.push(warning);
            }
        }
        self
    }

    /// Sets which of the SDK's own messages are written where no log filter is set, in place of
    /// `OTEL_LOG_LEVEL`: from `level` on, or none. [`Level::WARN`](tracing::Level::WARN) by default.
    #[cfg(feature = "logs")]
    pub fn with_sdk_log_level(mut self, level: Option<tracing::Level>) -> Self {
        self.log_lines.filter = self.log_lines.filter.with_sdk_level(level.into());
        self
    }

    /// Has [`init`](Self::init) leave `tracing` alone: log lines and log records are then those of
    /// a subscriber of your own, which has [`log_lines`](crate::log_lines) and
    /// [`TelemetryGuard::log_layer`](crate::TelemetryGuard::log_layer) to take from.
    #[cfg(feature = "logs")]
    pub fn without_subscriber(mut self) -> Self {
        self.log_lines.wanted = false;
        self
    }

    /// Sets how long shutdown and flush may take, all signals together. Default 5 seconds, from
    /// 1 ms to a day.
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

    /// Takes the sampler: as configured, else the default of the environment.
    pub(crate) fn take_sampler(&mut self) -> Sampler {
        let sampler = self.sampler.take();
        sampler.unwrap_or_else(|| self.default_sampler())
    }

    pub(crate) fn default_sampler(&self) -> Sampler {
        self.environment().sampler(self.sampler_arg)
    }

    /// Returns a setting of a signal, which holds over that of all signals.
    pub(crate) fn otlp<T>(
        &self,
        signal: Signal,
        setting: impl Fn(&OtlpSettings) -> Option<T>,
    ) -> Option<T> {
        setting(&self.otlp_by_signal[signal]).or_else(|| setting(&self.otlp))
    }

    /// Returns whether the crate `opentelemetry-otlp` sends a signal.
    pub(crate) fn is_by_reference(&self, signal: Signal) -> bool {
        self.otlp(signal, |settings| settings.reference) == Some(true)
    }

    /// Returns the exporters of a signal, each once: as configured, else as the environment has them.
    pub(crate) fn exporters(&self, signal: Signal) -> Vec<Exporter> {
        if let Some(told) = &self.exporters[signal] {
            let is_told = |one: &Exporter| told.contains(one) && one.takes(signal);
            return Exporter::ALL.into_iter().filter(is_told).collect();
        }
        let has_endpoint =
            self.otlp.endpoint.is_some() || self.otlp_by_signal[signal].endpoint.is_some();
        self.environment().exporters(has_endpoint)
    }
}
