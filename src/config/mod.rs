//! Settings of [`init`](crate::init), from variables and from code.

pub(crate) mod endpoint;
pub(crate) mod env;
pub(crate) mod error;
mod proxied;
pub(crate) mod proxy;
pub(crate) mod resource;
pub(crate) mod settings;
mod vars;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::proxy::ProxySettings;
#[cfg(feature = "logs")]
use crate::config::settings::LogLineSettings;
use crate::config::settings::{
    Endpoint, HistogramAggregation, Limits, OtlpSettings, PemFile, PerSignal, Signal, within_a_day,
};
#[cfg(feature = "logs")]
use crate::logs::LogLines;
use http::HeaderMap;
use opentelemetry::{Key, KeyValue};

pub use crate::config::error::{ConfigWarning, InitError};
pub use crate::config::settings::{
    Batch, Compression, Environment, ExceptionSignal, Exporter, Propagator, Protocol, Sampler,
};
pub use opentelemetry_sdk::metrics::Temporality;

/// The variable that names the environment.
pub(crate) const ENVIRONMENT: &str = "ENVIRONMENT";

/// How telemetry is set up: read from the environment, changed in code.
///
/// A call in code beats a variable, a variable beats a default. The README lists the variables.
/// What cannot be used of them is in [`warnings`](Self::warnings), and is logged by
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
#[derive(Debug)]
#[must_use = "a configuration does nothing until `init` is called on it"]
pub struct Config {
    pub(crate) enabled: bool,
    pub(crate) service_name: Option<String>,
    pub(crate) service_version: Option<String>,
    /// `None` where nothing was said.
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
    /// Who has chosen the sampler, and the environment: a variable or a setter.
    pub(crate) sampler_origin: Option<&'static str>,
    pub(crate) environment_origin: Option<&'static str>,
    /// For all signals, and where it is set, for one.
    pub(crate) otlp: OtlpSettings,
    pub(crate) otlp_by_signal: PerSignal<OtlpSettings>,
    pub(crate) proxies: ProxySettings,
    pub(crate) spans: Batch,
    pub(crate) logs: Batch,
    pub(crate) metric_interval: Duration,
    pub(crate) metric_timeout: Duration,
    pub(crate) temporality: Temporality,
    pub(crate) histograms: HistogramAggregation,
    pub(crate) exceptions: ExceptionSignal,
    pub(crate) limits: Limits,
    #[cfg(feature = "logs")]
    pub(crate) log_lines: LogLineSettings,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) warnings: Vec<ConfigWarning>,
}

impl Config {
    /// Reads the environment variables of the process.
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// Reads variables from elsewhere: `lookup` gives the value of a variable, if it is set.
    ///
    /// ```
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_vars(|name| match name {
    ///     "OTEL_TRACES_SAMPLER" => Some("sometimes".to_owned()),
    ///     _ => None,
    /// });
    /// assert_eq!(config.warnings().len(), 1);
    /// ```
    pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Self {
        env::read(&lookup)
    }

    /// What could not be used of the variables, and what is used in its place.
    pub fn warnings(&self) -> &[ConfigWarning] {
        &self.warnings
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

    /// Sets which traces are recorded, in place of `OTEL_TRACES_SAMPLER`.
    pub fn with_sampler(mut self, sampler: Sampler) -> Self {
        self.sampler = Some(sampler);
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
                let consequence = "has no effect: Config::with_exporters is for all signals";
                self.warnings.push(ConfigWarning {
                    value: before.map(|told| list(told.iter().map(|one| one.name().to_owned()))),
                    variable,
                    consequence: consequence.to_owned(),
                });
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

    /// Sets the OTLP endpoint for all signals, in place of `OTEL_EXPORTER_OTLP_ENDPOINT` and its
    /// like. It is a base: over HTTP, `/v1/traces` and so on is added to it.
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.otlp.endpoint = Some(Endpoint {
            origin: "Config::with_endpoint".to_owned(),
            text: endpoint.into(),
        });
        for signal in Signal::ALL {
            self.otlp_by_signal[signal].endpoint = None;
        }
        self
    }

    /// Sets how OTLP is spoken, in place of `OTEL_EXPORTER_OTLP_PROTOCOL` and its like.
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.otlp.protocol = Some(protocol);
        for signal in Signal::ALL {
            self.otlp_by_signal[signal].protocol = None;
        }
        self
    }

    /// Sets how OTLP messages are compressed, in place of `OTEL_EXPORTER_OTLP_COMPRESSION` and its
    /// like. Not at all by default.
    pub fn with_compression(mut self, compression: Compression) -> Self {
        self.otlp.compression = Some(compression);
        for signal in Signal::ALL {
            self.otlp_by_signal[signal].compression = None;
        }
        self
    }

    /// Names a PEM file with the certificates that `https` receivers are to be trusted by, in
    /// place of `OTEL_EXPORTER_OTLP_CERTIFICATE` and its like, and of the platform's roots.
    pub fn with_ca_certificate(mut self, path: impl Into<PathBuf>) -> Self {
        self.otlp.certificate = Some(PemFile {
            origin: "Config::with_ca_certificate".to_owned(),
            path: path.into(),
        });
        for signal in Signal::ALL {
            self.otlp_by_signal[signal].certificate = None;
        }
        self
    }

    /// Names the PEM files with the certificate and the private key that this service shows to
    /// `https` receivers, in place of `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`,
    /// `OTEL_EXPORTER_OTLP_CLIENT_KEY` and their like.
    pub fn with_client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        let file = |path| {
            let origin = "Config::with_client_certificate".to_owned();
            Some(PemFile { origin, path })
        };
        self.otlp.client_certificate = file(certificate.into());
        self.otlp.client_key = file(key.into());
        for signal in Signal::ALL {
            self.otlp_by_signal[signal].client_certificate = None;
            self.otlp_by_signal[signal].client_key = None;
        }
        self
    }

    /// Sets the headers of OTLP requests, in place of `OTEL_EXPORTER_OTLP_HEADERS` and its like.
    /// They are for authentication, and never shown.
    pub fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.otlp.headers = Some(headers);
        for signal in Signal::ALL {
            self.otlp_by_signal[signal].headers = None;
        }
        self
    }

    /// Sets how long the export of one message may take, all attempts together, in place of
    /// `OTEL_EXPORTER_OTLP_TIMEOUT` and its like. Default 10 seconds, from 1 ms to a day. The time
    /// for which the receiver asks for quiet does not count.
    pub fn with_export_timeout(mut self, timeout: Duration) -> Self {
        self.otlp.timeout = Some(within_a_day(timeout));
        for signal in Signal::ALL {
            self.otlp_by_signal[signal].timeout = None;
        }
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

    #[cfg(feature = "logs")]
    pub(crate) fn log_style(&self) -> LogLines {
        self.log_lines.style.unwrap_or(match self.environment() {
            Environment::Development => LogLines::Text,
            Environment::Staging | Environment::Production => LogLines::Json,
        })
    }

    pub(crate) fn environment(&self) -> Environment {
        self.environment.unwrap_or_default()
    }

    /// A setting of a signal, which holds over that of all signals.
    pub(crate) fn otlp<T>(
        &self,
        signal: Signal,
        setting: impl Fn(&OtlpSettings) -> Option<T>,
    ) -> Option<T> {
        setting(&self.otlp_by_signal[signal]).or_else(|| setting(&self.otlp))
    }

    /// The exporters of a signal, each once: as told, else as the environment has it.
    pub(crate) fn exporters(&self, signal: Signal) -> Vec<Exporter> {
        if let Some(told) = &self.exporters[signal] {
            let all = [Exporter::Console, Exporter::Otlp];
            return all.into_iter().filter(|one| told.contains(one)).collect();
        }
        let has_endpoint =
            self.otlp.endpoint.is_some() || self.otlp_by_signal[signal].endpoint.is_some();
        match self.environment() {
            Environment::Development if has_endpoint => vec![Exporter::Console, Exporter::Otlp],
            Environment::Development => vec![Exporter::Console],
            Environment::Staging | Environment::Production => vec![Exporter::Otlp],
        }
    }
}

/// What telemetry there will be, in one line without secrets. [`Config::init`] logs it.
///
/// ```
/// use tower_telemetry::Config;
///
/// let config = Config::from_vars(|name| match name {
///     "ENVIRONMENT" => Some("staging".to_owned()),
///     "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("http://collector:4317".to_owned()),
///     _ => None,
/// });
/// assert_eq!(
///     config.with_service_name("shop").to_string(),
///     "service=shop environment=staging traces=otlp(grpc,http://collector:4317) \
///      metrics=otlp(grpc,http://collector:4317) logs=otlp(grpc,http://collector:4317) \
///      sampler=parentbased_always_on(because ENVIRONMENT=staging) propagators=tracecontext,baggage",
/// );
/// ```
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.enabled {
            return f.write_str("telemetry is switched off");
        }
        // As it is sent, whichever way it was given.
        let resource = crate::config::resource::resource(self);
        let mut separator = "";
        for (word, key) in crate::config::resource::SUMMARY {
            if let Some(value) = resource.get(&Key::from_static_str(key)) {
                write!(f, "{separator}{word}={value}")?;
                separator = " ";
            }
        }
        for signal in Signal::ALL {
            let exporters = self.exporters(signal).into_iter();
            let exporters = exporters.map(|exporter| match (exporter, self.target(signal)) {
                (Exporter::Console, _) => "console".to_owned(),
                (Exporter::Otlp, Ok(target)) => match self.proxy(&target) {
                    Ok(Some(proxy)) => format!("otlp({target},proxy={proxy})"),
                    _ => format!("otlp({target})"),
                },
                (Exporter::Otlp, Err(_)) => "otlp(no endpoint)".to_owned(),
            });
            write!(f, " {}={}", signal.name(), list(exporters))?;
        }
        let (sampler, because) = match &self.sampler {
            Some(sampler) => (sampler.to_string(), self.sampler_origin.map(str::to_owned)),
            None => {
                let environment = self.environment();
                let because = self.environment_origin.map(|origin| match origin {
                    ENVIRONMENT => format!("{origin}={}", environment.as_str()),
                    setter => setter.to_owned(),
                });
                let sampler = env::default_sampler(environment, self.sampler_arg);
                (sampler.to_string(), because)
            }
        };
        match (because, sampler.strip_suffix(')')) {
            (Some(because), Some(sampler)) => write!(f, " sampler={sampler}, because {because})")?,
            (Some(because), None) => write!(f, " sampler={sampler}(because {because})")?,
            (None, _) => write!(f, " sampler={sampler}")?,
        }
        let propagators = self.propagators.iter().map(|one| one.name().to_owned());
        write!(f, " propagators={}", list(propagators))
    }
}

fn list(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    match words.is_empty() {
        true => "none".to_owned(),
        false => words.join(","),
    }
}
