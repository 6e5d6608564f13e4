//! What the settings of a [`Config`](crate::init::Config) are.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderMap;
use opentelemetry_sdk::trace::ShouldSample;

/// One of the three kinds of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    pub(crate) const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    /// The variable that names its exporters.
    pub(crate) fn exporter_variable(self) -> String {
        format!("OTEL_{}_EXPORTER", self.name().to_ascii_uppercase())
    }
}

/// Something for each [`Signal`].
#[derive(Clone, Debug, Default)]
pub(crate) struct PerSignal<T>([T; 3]);

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
pub(crate) struct OtlpSettings {
    pub(crate) endpoint: Option<Endpoint>,
    /// Whether an endpoint without a scheme means `http`, or `https`.
    pub(crate) insecure: Option<bool>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) compression: Option<Compression>,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) certificate: Option<PemFile>,
    pub(crate) client_certificate: Option<PemFile>,
    pub(crate) client_key: Option<PemFile>,
}

impl fmt::Debug for OtlpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers carry credentials: their names are shown, their values never.
        let headers = self.headers.as_ref();
        f.debug_struct("OtlpSettings")
            .field("endpoint", &self.endpoint)
            .field("insecure", &self.insecure)
            .field("protocol", &self.protocol)
            .field("compression", &self.compression)
            .field(
                "headers",
                &headers.map(|map| map.keys().collect::<Vec<_>>()),
            )
            .field("timeout", &self.timeout)
            .field("certificate", &self.certificate)
            .field("client_certificate", &self.client_certificate)
            .field("client_key", &self.client_key)
            .finish()
    }
}

/// A file with certificates or a key, and where it was named.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PemFile {
    pub(crate) origin: String,
    pub(crate) path: PathBuf,
}

impl PemFile {
    /// The path, unless it is what should have been in the file.
    pub(crate) fn shown(&self) -> &Path {
        let text = self.path.to_string_lossy();
        if text.contains("-----BEGIN") || text.contains('\n') {
            return Path::new("(not a path)");
        }
        &self.path
    }
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

/// An endpoint as it was given, and where.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) origin: String,
    pub(crate) text: String,
}

impl Endpoint {
    /// The text without credentials.
    pub(crate) fn shown(&self) -> String {
        let (scheme, rest) = match self.text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, self.text.as_str()),
        };
        // A password may hold anything, also what begins a query.
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((_, rest)) => ("REDACTED@", rest),
            None => ("", rest),
        };
        let rest = rest.split(['?', '#']).next().unwrap_or(rest);
        let rest = format!("{credentials}{rest}");
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

/// As in `OTEL_TRACES_SAMPLER`, with the argument.
impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlwaysOn => f.write_str("always_on"),
            Self::AlwaysOff => f.write_str("always_off"),
            Self::TraceIdRatio(ratio) => write!(f, "traceidratio({ratio})"),
            Self::ParentBasedAlwaysOn => f.write_str("parentbased_always_on"),
            Self::ParentBasedAlwaysOff => f.write_str("parentbased_always_off"),
            Self::ParentBasedTraceIdRatio(ratio) => {
                write!(f, "parentbased_traceidratio({ratio})")
            }
            Self::Custom(_) => f.write_str("custom"),
        }
    }
}

/// A form in which requests carry context.
///
/// Several are read in the order in which they are configured. Where two name a span, the later one
/// holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Propagator {
    /// W3C Trace Context: `traceparent` and `tracestate`.
    TraceContext,
    /// W3C Baggage: `baggage`.
    Baggage,
    /// [B3] of Zipkin, written as the single header `b3`.
    ///
    /// Both forms of B3 are read, the single header first. Ids without a state leave the decision to
    /// the sampler, which decides as for a new trace. `0` and `1` without ids decide on the trace
    /// that begins here, or on the span that an earlier propagator has read. Debug is sampled, and
    /// passed on as debug.
    ///
    /// Such a decision holds as far as the sampled flag of a `traceparent` does, except that `0`
    /// without ids drops the trace with every sampler. A tracer provider of an application's own
    /// gets ids without a state as a parent that is not sampled.
    ///
    /// [B3]: https://github.com/openzipkin/b3-propagation
    B3,
    /// B3 as [`B3`](Self::B3), written as the headers `X-B3-TraceId`, `X-B3-SpanId` and
    /// `X-B3-Sampled`, or `X-B3-Flags` for debug.
    B3Multi,
}

impl Propagator {
    pub(crate) const ALL: [Self; 4] = [Self::TraceContext, Self::Baggage, Self::B3, Self::B3Multi];

    /// As in `OTEL_PROPAGATORS`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TraceContext => "tracecontext",
            Self::Baggage => "baggage",
            Self::B3 => "b3",
            Self::B3Multi => "b3multi",
        }
    }
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

/// Where exceptions are recorded: the errors that are given to
/// [`set_span_error`](crate::set_span_error), and those that end a request.
///
/// The conventions replace events on spans by log records. An error that ends a request is recorded as a
/// log record alone, `http.server.request.exception` and its like: its span has the type and, of
/// a client, the message in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExceptionSignal {
    /// As events on spans.
    #[default]
    SpanEvents,
    /// As log records, with the ids of the span, also below a request that is not sampled.
    Logs,
    /// As both.
    LogsAndSpanEvents,
}

impl ExceptionSignal {
    #[cfg(feature = "logs")]
    pub(crate) fn is_on_spans(self) -> bool {
        self != Self::Logs
    }

    pub(crate) fn is_logged(self) -> bool {
        self != Self::SpanEvents
    }
}

impl Exporter {
    /// As in `OTEL_TRACES_EXPORTER`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Otlp => "otlp",
            Self::Console => "console",
        }
    }
}

/// How OTLP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// OTLP over gRPC, usually on port 4317.
    Grpc,
    /// OTLP over HTTP with binary protobuf, usually on port 4318.
    HttpProtobuf,
    /// OTLP over HTTP with JSON, usually on port 4318.
    #[cfg(feature = "http-json")]
    HttpJson,
}

impl Protocol {
    /// As in `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
            #[cfg(feature = "http-json")]
            Self::HttpJson => "http/json",
        }
    }
}

/// How OTLP messages are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// With gzip.
    Gzip,
}

/// What is left out of spans and log records.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "logs"),
    expect(dead_code, reason = "some are for log records")
)]
pub(crate) struct Limits {
    pub(crate) span_attributes: u32,
    pub(crate) span_events: u32,
    pub(crate) span_links: u32,
    pub(crate) event_attributes: u32,
    pub(crate) link_attributes: u32,
    pub(crate) log_attributes: u32,
    /// Characters of a text; `None` for as long as it is.
    pub(crate) span_value_length: Option<usize>,
    pub(crate) log_value_length: Option<usize>,
}

impl Limits {
    /// How many attributes, events and links there are at most, unless it is said otherwise
    /// (specification, "SDK environment variables", span limits).
    pub(crate) const COUNT: u32 = 128;

    /// The most that can be asked for.
    pub(crate) const MAX_COUNT: u32 = 65_536;
    pub(crate) const MAX_LENGTH: usize = 1 << 30;
}

/// How histograms are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum HistogramAggregation {
    #[default]
    ExplicitBuckets,
    ExponentialBuckets,
}

/// How finished spans and log records wait for export.
///
/// ```
/// use std::time::Duration;
/// use tower_telemetry::{Config, config::Batch};
///
/// let batch = Batch::default()
///     .with_max_queue_size(8192)
///     .with_schedule_delay(Duration::from_secs(1));
/// let config = Config::from_env().with_span_batch(batch);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    pub(crate) max_queue_size: usize,
    pub(crate) max_export_batch_size: usize,
    pub(crate) schedule_delay: Duration,
    pub(crate) export_timeout: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            max_queue_size: 2048,
            max_export_batch_size: 512,
            schedule_delay: Duration::from_secs(5),
            export_timeout: Duration::from_secs(30),
        }
    }
}

impl Batch {
    /// Largest queue, and largest batch, that is accepted.
    pub(crate) const MAX_SIZE: usize = 1 << 20;

    /// How many wait at most, those included that are on their way or kept for another attempt. An item
    /// that finds no room takes that of the oldest message that is kept for another attempt, else it
    /// is dropped; both are counted. Default 2048, at least 1, at most 1,048,576. Their memory is bounded too, at 8 KiB for each
    /// that may wait. Threads take room beforehand, all together an eighth of a batch at most, of
    /// which some may stay unused.
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

    /// The bound of one attempt to send a message; the export timeout of the
    /// [`Config`](crate::init::Config) holds where it is shorter. Default 30 seconds, from 1 ms to a
    /// day.
    pub fn with_export_timeout(mut self, timeout: Duration) -> Self {
        self.export_timeout = within_a_day(timeout);
        self
    }
}

/// No time is zero, which would be a busy loop, nor one that arithmetic could not hold.
pub(crate) fn within_a_day(time: Duration) -> Duration {
    time.clamp(Duration::from_millis(1), MAX_TIME)
}

/// Longest time that can be asked for: a day.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// What becomes of log lines.
#[cfg(feature = "logs")]
#[derive(Clone, Debug)]
pub(crate) struct LogLineSettings {
    /// Whether `init` is to see to them.
    pub(crate) wanted: bool,
    /// `None` where the environment is to tell.
    pub(crate) style: Option<crate::logs::LogLines>,
    /// Which events become log lines and log records.
    pub(crate) filter: crate::logs::LogFilter,
}
