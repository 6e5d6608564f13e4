//! What `init` can be told in code.

use std::fmt;
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::KeyValue;
use opentelemetry_sdk::trace::ShouldSample;

use super::env;
use super::error::ConfigWarning;

/// How telemetry is set up: read from the environment, changed in code.
///
/// A call in code beats a variable, a variable beats a default. The README lists the variables.
/// What cannot be used of them is in [`warnings`](Self::warnings), and is logged by
/// [`init`](Self::init).
///
/// ```
/// use tower_telemetry::{Config, Environment, Sampler};
///
/// let config = Config::from_env()
///     .with_service_name("checkout")
///     .with_environment(Environment::Production)
///     .with_sampler(Sampler::ParentBasedTraceIdRatio(0.25));
/// ```
#[derive(Debug)]
#[must_use = "a configuration does nothing until `init` is called on it"]
pub struct Config {
    pub(super) enabled: bool,
    pub(super) service_name: Option<String>,
    /// `None` where nothing was said.
    pub(super) environment: Option<Environment>,
    /// From `OTEL_RESOURCE_ATTRIBUTES`.
    pub(super) env_attributes: Vec<(String, String)>,
    /// From code.
    pub(super) attributes: Vec<KeyValue>,
    pub(super) sampler: Option<Sampler>,
    /// `OTEL_TRACES_SAMPLER_ARG`, for a default sampler that takes it.
    pub(super) sampler_arg: Option<f64>,
    pub(super) propagators: Vec<Propagator>,
    pub(super) exporters: PerSignal<Option<Vec<Exporter>>>,
    /// For all signals, and where it is set, for one.
    pub(super) otlp: OtlpSettings,
    pub(super) otlp_by_signal: PerSignal<OtlpSettings>,
    pub(super) spans: Batch,
    pub(super) logs: Batch,
    pub(super) metric_interval: Duration,
    pub(super) shutdown_timeout: Duration,
    pub(super) warnings: Vec<ConfigWarning>,
}

/// One of the three kinds of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    pub(super) const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// Something for each [`Signal`].
#[derive(Clone, Debug, Default)]
pub(super) struct PerSignal<T>([T; 3]);

impl<T> std::ops::Index<Signal> for PerSignal<T> {
    type Output = T;

    fn index(&self, signal: Signal) -> &T {
        &self.0[signal as usize]
    }
}

impl<T> std::ops::IndexMut<Signal> for PerSignal<T> {
    fn index_mut(&mut self, signal: Signal) -> &mut T {
        &mut self.0[signal as usize]
    }
}

/// How to reach an OTLP receiver.
#[derive(Clone, Default)]
pub(super) struct OtlpSettings {
    pub(super) endpoint: Option<Endpoint>,
    pub(super) protocol: Option<Protocol>,
    pub(super) headers: Option<HeaderMap>,
    pub(super) timeout: Option<Duration>,
}

impl fmt::Debug for OtlpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers carry credentials: their names are shown, their values never.
        let headers = self.headers.as_ref();
        f.debug_struct("OtlpSettings")
            .field("endpoint", &self.endpoint)
            .field("protocol", &self.protocol)
            .field(
                "headers",
                &headers.map(|map| map.keys().collect::<Vec<_>>()),
            )
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// An endpoint as it was given, and where.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) origin: String,
    pub(super) text: String,
}

impl Endpoint {
    /// The text without credentials.
    pub(super) fn shown(&self) -> String {
        let (scheme, rest) = match self.text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, self.text.as_str()),
        };
        let rest = rest.split(['?', '#']).next().unwrap_or(rest);
        let rest = match rest.rsplit_once('@') {
            Some((_, host)) => format!("REDACTED@{host}"),
            None => rest.to_owned(),
        };
        match scheme {
            Some(scheme) => format!("{scheme}://{rest}"),
            None => rest,
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

/// Where the service runs, which chooses defaults.
///
/// | | development | staging | production |
/// |---|---|---|---|
/// | traces sampled | all | all | 10 % of new ones, an inbound decision is followed |
/// | exported to | the console, and OTLP where an endpoint is set | OTLP | OTLP |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Environment {
    /// On a developer's machine.
    #[default]
    Development,
    /// Like production, for tests.
    Staging,
    /// For real.
    Production,
}

impl Environment {
    /// The resource's `deployment.environment.name`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

/// Which traces are recorded.
#[derive(Debug)]
#[non_exhaustive]
pub enum Sampler {
    /// All of them.
    AlwaysOn,
    /// None.
    AlwaysOff,
    /// This share of them, 0 to 1, chosen by the trace id.
    TraceIdRatio(f64),
    /// As the parent was decided on; all new traces.
    ParentBasedAlwaysOn,
    /// As the parent was decided on; no new traces.
    ParentBasedAlwaysOff,
    /// As the parent was decided on; this share of new traces, 0 to 1.
    ParentBasedTraceIdRatio(f64),
    /// One of your own. The attributes of each request are built for it before it decides.
    Custom(Box<dyn ShouldSample>),
}

/// A form in which requests carry context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Propagator {
    /// W3C Trace Context: `traceparent` and `tracestate`.
    TraceContext,
    /// W3C Baggage: `baggage`.
    Baggage,
    /// Zipkin's `b3`.
    B3,
    /// Zipkin's `x-b3-traceid` and its like.
    B3Multi,
}

/// Where telemetry is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exporter {
    /// To an OTLP receiver, for instance the OpenTelemetry Collector.
    Otlp,
    /// To the standard output: a line for each span, and the metrics at shutdown.
    Console,
}

/// How OTLP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// OTLP over gRPC, usually on port 4317.
    Grpc,
    /// OTLP over HTTP with binary protobuf, usually on port 4318.
    HttpProtobuf,
}

/// How finished spans and log records wait for export.
///
/// ```
/// use std::time::Duration;
/// use tower_telemetry::{Batch, Config};
///
/// let batch = Batch::default()
///     .with_max_queue_size(8192)
///     .with_schedule_delay(Duration::from_secs(1));
/// let config = Config::from_env().with_span_batch(batch);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    pub(super) max_queue_size: usize,
    pub(super) max_export_batch_size: usize,
    pub(super) schedule_delay: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            max_queue_size: 2048,
            max_export_batch_size: 512,
            schedule_delay: Duration::from_secs(5),
        }
    }
}

impl Batch {
    /// Largest queue, and largest batch, that is accepted.
    pub(super) const MAX_SIZE: usize = 1 << 20;

    /// How many wait at most; what comes when the queue is full is dropped and counted.
    /// Default 2048, at least 1, at most 1,048,576.
    pub fn with_max_queue_size(mut self, size: usize) -> Self {
        self.max_queue_size = size.clamp(1, Self::MAX_SIZE);
        self
    }

    /// How many are sent in one message at most. Default 512, at least 1.
    pub fn with_max_export_batch_size(mut self, size: usize) -> Self {
        self.max_export_batch_size = size.clamp(1, Self::MAX_SIZE);
        self
    }

    /// How long they wait at most. Default 5 seconds for spans and 1 second for logs, from 1 ms to
    /// a day.
    pub fn with_schedule_delay(mut self, delay: Duration) -> Self {
        self.schedule_delay = within_a_day(delay);
        self
    }
}

/// No time is zero, which would be a busy loop, nor one that arithmetic could not hold.
fn within_a_day(time: Duration) -> Duration {
    time.clamp(Duration::from_millis(1), MAX_TIME)
}

/// Longest time that can be asked for: a day.
pub(super) const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

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

    /// Sets where the service runs, in place of `ENVIRONMENT`.
    pub fn with_environment(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
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
        self
    }

    /// Sets how requests carry context, in place of `OTEL_PROPAGATORS`. Of two forms that name a
    /// parent, the later holds. [`Propagator::TraceContext`] and [`Propagator::Baggage`] by default.
    pub fn with_propagators(mut self, propagators: impl IntoIterator<Item = Propagator>) -> Self {
        self.propagators = propagators.into_iter().collect();
        self
    }

    /// Sets where all telemetry is sent, in place of `OTEL_TRACES_EXPORTER` and its like.
    /// An empty list sends it nowhere.
    pub fn with_exporters(mut self, exporters: impl IntoIterator<Item = Exporter>) -> Self {
        let exporters: Vec<_> = exporters.into_iter().collect();
        for signal in Signal::ALL {
            self.exporters[signal] = Some(exporters.clone());
        }
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

    /// Sets the headers of OTLP requests, in place of `OTEL_EXPORTER_OTLP_HEADERS` and its like.
    /// They are for authentication, and never shown.
    pub fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.otlp.headers = Some(headers);
        for signal in Signal::ALL {
            self.otlp_by_signal[signal].headers = None;
        }
        self
    }

    /// Sets how long an export may take, all attempts together, in place of
    /// `OTEL_EXPORTER_OTLP_TIMEOUT` and its like. Default 10 seconds, from 1 ms to a day.
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

    /// Sets how long shutdown and flush may take, all signals together. Default 5 seconds, from
    /// 1 ms to a day.
    pub fn with_shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = within_a_day(timeout);
        self
    }

    pub(super) fn environment(&self) -> Environment {
        self.environment.unwrap_or_default()
    }

    /// The exporters of a signal, each once: as told, else as the environment has it.
    pub(super) fn exporters(&self, signal: Signal) -> Vec<Exporter> {
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
