//! The layer that sends events as OpenTelemetry log records.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use opentelemetry::Key;
use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider, Severity};
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use smallvec::SmallVec;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::current_context;
use crate::logs::filter::LogFilter;
use crate::logs::sdk_events::is_of_sdk;
use crate::propagation::BaggageAttributes;
use crate::semconv::EXCEPTION_MESSAGE;

/// The logger of a layer.
pub(crate) enum Source {
    /// A fixed logger.
    Own(Target),
    /// The logger of the last `init`.
    Process,
}

/// A logger, and the baggage members that become attributes.
#[derive(Clone)]
pub(crate) struct Target {
    logger: Arc<SdkLogger>,
    baggage: BaggageAttributes,
}

static PROCESS: RwLock<Option<Target>> = RwLock::new(None);

/// Sets the provider of all layers with [`Source::Process`].
pub(crate) fn set_process_logger(
    provider: Option<&SdkLoggerProvider>,
    baggage: &BaggageAttributes,
) {
    let target = provider.map(|provider| Target::new(provider, baggage));
    *PROCESS.write().unwrap_or_else(PoisonError::into_inner) = target;
}

impl Target {
    fn new(provider: &SdkLoggerProvider, baggage: &BaggageAttributes) -> Self {
        Self {
            // Each record has its target as the name of the scope.
            logger: Arc::new(provider.logger("")),
            baggage: baggage.clone(),
        }
    }
}

impl Source {
    pub(crate) fn of(provider: &SdkLoggerProvider, baggage: &BaggageAttributes) -> Self {
        Self::Own(Target::new(provider, baggage))
    }

    fn target(&self) -> Option<Target> {
        match self {
            Self::Own(target) => Some(target.clone()),
            Self::Process => PROCESS
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}

/// Returns a layer that sends log records, except the events of the SDK about its own work. It has
/// the filter of `init`.
pub(crate) fn filtered_log_records<S>(
    source: Source,
    filter: &LogFilter,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_wanted = |metadata: &Metadata| !is_of_sdk(metadata);
    LogRecords(source)
        .with_filter(filter.env_filter().and(filter_fn(is_wanted)))
        .boxed()
}

/// Sends each event as a log record.
pub(super) struct LogRecords(pub(super) Source);

impl<S: Subscriber> Layer<S> for LogRecords {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(Target { logger, baggage }) = self.0.target() else {
            return;
        };
        let metadata = event.metadata();
        // An event of the crate `log` carries its target in its fields.
        let of_log = event.normalized_metadata();
        let target = match &of_log {
            Some(of_log) => Cow::Owned(of_log.target().to_owned()),
            None => Cow::Borrowed(metadata.target()),
        };
        let severity = severity(metadata.level());
        let name = explicit_name(metadata).filter(|_| of_log.is_none());
        if !logger.event_enabled(severity, &target, name) {
            return;
        }
        let mut fields = Fields {
            of_log: of_log.is_some(),
            ..Fields::default()
        };
        event.record(&mut fields);
        if !baggage.is_empty() {
            current_context::map(|cx| fields.add_baggage(&baggage, cx));
        }
        let now = SystemTime::now();
        let mut record = logger.create_log_record();
        record.set_timestamp(now);
        record.set_observed_timestamp(now);
        record.set_target(target);
        record.set_severity_number(severity);
        record.set_severity_text(metadata.level().as_str());
        if let Some(name) = name {
            record.set_event_name(name);
        }
        if let Some(body) = fields.body {
            record.set_body(body);
        }
        record.add_attributes(fields.attributes);
        logger.emit(record);
    }
}

fn severity(level: &Level) -> Severity {
    match *level {
        Level::TRACE => Severity::Trace,
        Level::DEBUG => Severity::Debug,
        Level::INFO => Severity::Info,
        Level::WARN => Severity::Warn,
        Level::ERROR => Severity::Error,
    }
}

/// Returns the name of an event, unless it is the default name, which is a position in the source.
fn explicit_name(metadata: &Metadata<'static>) -> Option<&'static str> {
    let name = metadata.name();
    let is_default = || {
        let (file, line) = name.strip_prefix("event ")?.rsplit_once(':')?;
        let is_place = metadata.file() == Some(file) && line.parse().ok() == metadata.line();
        is_place.then_some(())
    };
    is_default().is_none().then_some(name)
}

/// The fields of an event, as parts of a log record.
#[derive(Default)]
struct Fields {
    of_log: bool,
    body: Option<AnyValue>,
    /// The keys are unique.
    attributes: SmallVec<[(Key, AnyValue); 8]>,
    /// Whether the exception attributes are set.
    has_exception: bool,
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<AnyValue>) {
        let name = field.name();
        if name == "message" {
            self.body = Some(value.into());
        } else if !(self.of_log && name.starts_with("log.")) {
            self.set(name.strip_prefix("r#").unwrap_or(name), value.into());
        }
    }

    /// Adds members of the baggage. They do not replace fields, because their values come from outside.
    fn add_baggage(&mut self, baggage: &BaggageAttributes, cx: &opentelemetry::Context) {
        for (key, value) in baggage.of(cx) {
            if !self.attributes.iter().any(|(present, _)| present == key) {
                self.attributes
                    .push((key.clone(), value.into_owned().into()));
            }
        }
    }

    /// Sets an attribute. The last value of a key wins.
    fn set(&mut self, key: &'static str, value: AnyValue) {
        let mut attributes = self.attributes.iter_mut();
        match attributes.find(|(present, _)| present.as_str() == key) {
            Some((_, present)) => *present = value,
            None => self.attributes.push((Key::from_static_str(key), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let message = value.to_string();
        // A record describes one exception. Further errors become attributes with their own names.
        if self.has_exception || field.name() == "message" {
            self.add(field, message);
        } else {
            self.has_exception = true;
            self.set(EXCEPTION_MESSAGE, message.into());
        }
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record_i128(field, value.into());
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        match i64::try_from(value) {
            Ok(value) => self.add(field, value),
            Err(_) => self.add(field, value.to_string()),
        }
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        match i64::try_from(value) {
            Ok(value) => self.add(field, value),
            Err(_) => self.add(field, value.to_string()),
        }
    }
}
