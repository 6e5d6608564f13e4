//! Text of environment variables to typed settings. Nothing here has an effect.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::config::{
    Batch, Config, Endpoint, Environment, Exporter, MAX_TIME, OtlpSettings, PerSignal, Propagator,
    Protocol, Sampler, Signal,
};
use super::error::ConfigWarning;

/// Longest time that a variable can ask for, in milliseconds.
const MAX_MILLISECONDS: u64 = MAX_TIME.as_secs() * 1000;

/// Variables of the specification that have no effect here.
const UNSUPPORTED: [&str; 17] = [
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_BLRP_EXPORT_TIMEOUT",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_CONFIG_FILE",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_LOG_LEVEL",
    "OTEL_METRICS_EXEMPLAR_FILTER",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
];

/// The same, of those that exist for all signals and for each.
const UNSUPPORTED_OTLP: [&str; 5] = [
    "CERTIFICATE",
    "CLIENT_CERTIFICATE",
    "CLIENT_KEY",
    "COMPRESSION",
    "INSECURE",
];

pub(super) fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Config {
    let mut vars = Vars {
        lookup,
        warnings: Vec::new(),
    };
    let environment = vars.environment();
    let (sampler, sampler_arg) = vars.sampler(environment.unwrap_or_default());
    let mut exporters = PerSignal::default();
    let mut otlp_by_signal = PerSignal::default();
    for signal in Signal::ALL {
        exporters[signal] = vars.exporters(signal);
        otlp_by_signal[signal] = vars.otlp(Some(signal));
    }
    let log_delay = Batch::default().with_schedule_delay(Duration::from_secs(1));
    let enabled = vars.flag("ENABLE_TELEMETRY", true) & !vars.flag("OTEL_SDK_DISABLED", false);
    let service_name = vars
        .text("OTEL_SERVICE_NAME")
        .or_else(|| vars.text("SERVICE_NAME"));
    let interval = vars.milliseconds("OTEL_METRIC_EXPORT_INTERVAL", Duration::from_secs(60));
    let config = Config {
        enabled,
        service_name,
        environment,
        env_attributes: vars.resource_attributes(),
        attributes: Vec::new(),
        sampler,
        sampler_arg,
        propagators: vars.propagators(),
        exporters,
        otlp: vars.otlp(None),
        otlp_by_signal,
        spans: vars.batch("OTEL_BSP", Batch::default()),
        logs: vars.batch("OTEL_BLRP", log_delay),
        metric_interval: interval,
        shutdown_timeout: Duration::from_secs(5),
        warnings: Vec::new(),
    };
    for variable in UNSUPPORTED {
        vars.warn_of_unsupported(variable);
    }
    Config {
        warnings: vars.warnings,
        ..config
    }
}

struct Vars<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<ConfigWarning>,
}

impl Vars<'_> {
    /// A variable that is set; one that is empty counts as not set.
    fn text(&self, name: &str) -> Option<String> {
        let value = (self.lookup)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn warn(&mut self, variable: &str, value: Option<&str>, consequence: impl Into<String>) {
        self.warnings.push(ConfigWarning {
            variable: variable.to_owned(),
            value: value.map(|value| crate::semconv::truncate(value, 128).into_owned()),
            consequence: consequence.into(),
        });
    }

    fn warn_of_unsupported(&mut self, variable: &str) {
        if let Some(value) = self.text(variable) {
            self.warn(variable, Some(&value), "is not supported and has no effect");
        }
    }

    fn flag(&mut self, name: &str, default: bool) -> bool {
        let Some(value) = self.text(name) else {
            return default;
        };
        match value.to_ascii_lowercase().as_str() {
            "true" => true,
            "false" => false,
            _ => {
                let consequence = format!("is neither true nor false; using {default}");
                self.warn(name, Some(&value), consequence);
                default
            }
        }
    }

    fn number<T>(&mut self, name: &str, range: RangeInclusive<T>, default: T) -> T
    where
        T: Copy + Display + FromStr + PartialOrd,
    {
        let Some(value) = self.text(name) else {
            return default;
        };
        match value.parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let (start, end) = (range.start(), range.end());
                let consequence =
                    format!("is not a whole number from {start} to {end}; using {default}");
                self.warn(name, Some(&value), consequence);
                default
            }
        }
    }

    fn milliseconds(&mut self, name: &str, default: Duration) -> Duration {
        let default = u64::try_from(default.as_millis()).unwrap_or(MAX_MILLISECONDS);
        Duration::from_millis(self.number(name, 1..=MAX_MILLISECONDS, default))
    }

    fn environment(&mut self) -> Option<Environment> {
        let value = self.text("ENVIRONMENT")?;
        Some(match value.to_ascii_lowercase().as_str() {
            "development" => Environment::Development,
            "staging" => Environment::Staging,
            "production" => Environment::Production,
            _ => {
                let consequence =
                    "is none of development, staging and production; using development";
                self.warn("ENVIRONMENT", Some(&value), consequence);
                Environment::Development
            }
        })
    }

    /// The sampler, and the argument, which is for the default sampler where none is named.
    fn sampler(&mut self, environment: Environment) -> (Option<Sampler>, Option<f64>) {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        const ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(name) = self.text(NAME) else {
            return (None, self.ratio(ARG, "it is left out"));
        };
        let ratio = |vars: &mut Self| vars.ratio(ARG, "using 1").unwrap_or(1.0);
        let sampler = match name.to_ascii_lowercase().as_str() {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => return (Some(Sampler::TraceIdRatio(ratio(self))), None),
            "parentbased_always_on" => Sampler::ParentBasedAlwaysOn,
            "parentbased_always_off" => Sampler::ParentBasedAlwaysOff,
            "parentbased_traceidratio" => {
                return (Some(Sampler::ParentBasedTraceIdRatio(ratio(self))), None);
            }
            _ => {
                let default = default_sampler(environment, None);
                let consequence = format!("is not a known sampler; using {default:?}");
                self.warn(NAME, Some(&name), consequence);
                return (None, None);
            }
        };
        if let Some(value) = self.text(ARG) {
            let consequence = format!("has no effect on the sampler {name}");
            self.warn(ARG, Some(&value), consequence);
        }
        (Some(sampler), None)
    }

    fn ratio(&mut self, name: &str, otherwise: &str) -> Option<f64> {
        let value = self.text(name)?;
        match value.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Some(ratio),
            _ => {
                let consequence = format!("is not a number from 0 to 1; {otherwise}");
                self.warn(name, Some(&value), consequence);
                None
            }
        }
    }

    fn propagators(&mut self) -> Vec<Propagator> {
        let known = "tracecontext, baggage, b3, b3multi and none";
        let told = self.words("OTEL_PROPAGATORS", known, |word| {
            Some(match word {
                "tracecontext" => Propagator::TraceContext,
                "baggage" => Propagator::Baggage,
                "b3" => Propagator::B3,
                "b3multi" => Propagator::B3Multi,
                _ => return None,
            })
        });
        told.unwrap_or_else(|| vec![Propagator::TraceContext, Propagator::Baggage])
    }

    fn exporters(&mut self, signal: Signal) -> Option<Vec<Exporter>> {
        let name = format!("OTEL_{}_EXPORTER", signal.name().to_ascii_uppercase());
        self.words(&name, "otlp, console and none", |word| {
            Some(match word {
                "otlp" => Exporter::Otlp,
                "console" => Exporter::Console,
                _ => return None,
            })
        })
    }

    /// A list of words; `none` for an empty one. Where nothing usable was said, `None`, for the
    /// default to hold.
    fn words<T>(
        &mut self,
        name: &str,
        known: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.text(name)?;
        let mut words = Vec::new();
        let mut none = false;
        for word in value.split(',').map(str::trim) {
            let lower = word.to_ascii_lowercase();
            match parse(&lower) {
                Some(parsed) => words.push(parsed),
                None if lower == "none" => none = true,
                None if lower.is_empty() => {}
                None => {
                    let consequence = format!("is none of {known}; it is left out");
                    self.warn(name, Some(word), consequence);
                }
            }
        }
        (none || !words.is_empty()).then_some(words)
    }

    /// `OTEL_EXPORTER_OTLP_..`, for all signals or for one.
    fn otlp(&mut self, signal: Option<Signal>) -> OtlpSettings {
        let prefix = match signal {
            Some(signal) => {
                format!("OTEL_EXPORTER_OTLP_{}", signal.name().to_ascii_uppercase())
            }
            None => "OTEL_EXPORTER_OTLP".to_owned(),
        };
        for name in UNSUPPORTED_OTLP {
            self.warn_of_unsupported(&format!("{prefix}_{name}"));
        }
        let endpoint = format!("{prefix}_ENDPOINT");
        let timeout = format!("{prefix}_TIMEOUT");
        OtlpSettings {
            endpoint: self.text(&endpoint).map(|text| Endpoint {
                origin: endpoint,
                text,
            }),
            protocol: self.protocol(&format!("{prefix}_PROTOCOL")),
            headers: self.headers(&format!("{prefix}_HEADERS")),
            timeout: self
                .text(&timeout)
                .map(|_| self.milliseconds(&timeout, Duration::from_secs(10))),
        }
    }

    fn protocol(&mut self, name: &str) -> Option<Protocol> {
        let value = self.text(name)?;
        match value.to_ascii_lowercase().as_str() {
            "grpc" => Some(Protocol::Grpc),
            "http/protobuf" => Some(Protocol::HttpProtobuf),
            _ => {
                let consequence =
                    "is neither grpc nor http/protobuf; the protocol is taken from the endpoint";
                self.warn(name, Some(&value), consequence);
                None
            }
        }
    }

    /// `name=value` pairs, values percent-encoded. What is wrong with one is said without it.
    fn headers(&mut self, variable: &str) -> Option<HeaderMap> {
        let text = self.text(variable)?;
        let mut headers = HeaderMap::new();
        for (n, pair) in text.split(',').enumerate() {
            if pair.trim().is_empty() {
                continue;
            }
            match header(pair) {
                Some((name, value)) => {
                    headers.insert(name, value);
                }
                None => {
                    let consequence =
                        format!("is not a list of name=value: entry {} is left out", n + 1);
                    self.warn(variable, None, consequence);
                }
            }
        }
        Some(headers)
    }

    /// `OTEL_RESOURCE_ATTRIBUTES`. One bad pair discards them all, as the specification asks.
    fn resource_attributes(&mut self) -> Vec<(String, String)> {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let Some(text) = self.text(NAME) else {
            return Vec::new();
        };
        let pairs = text
            .split(',')
            .filter(|pair| !pair.trim().is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=')?;
                let key = percent_decode_str(key.trim()).decode_utf8().ok()?;
                let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
                (!key.is_empty()).then(|| (key.into_owned(), value.into_owned()))
            })
            .collect::<Option<Vec<_>>>();
        pairs.unwrap_or_else(|| {
            let consequence = "is not a list of key=value; all of it is left out";
            self.warn(NAME, Some(&text), consequence);
            Vec::new()
        })
    }

    fn batch(&mut self, prefix: &str, default: Batch) -> Batch {
        let sizes = 1..=Batch::MAX_SIZE;
        let (queue, batch) = (default.max_queue_size, default.max_export_batch_size);
        Batch {
            max_queue_size: self.number(&format!("{prefix}_MAX_QUEUE_SIZE"), sizes.clone(), queue),
            max_export_batch_size: self.number(
                &format!("{prefix}_MAX_EXPORT_BATCH_SIZE"),
                sizes,
                batch,
            ),
            schedule_delay: self
                .milliseconds(&format!("{prefix}_SCHEDULE_DELAY"), default.schedule_delay),
        }
    }
}

/// The sampler where none is named.
pub(super) fn default_sampler(environment: Environment, arg: Option<f64>) -> Sampler {
    match environment {
        Environment::Development | Environment::Staging => Sampler::ParentBasedAlwaysOn,
        Environment::Production => Sampler::ParentBasedTraceIdRatio(arg.unwrap_or(0.1)),
    }
}

fn header(pair: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = pair.split_once('=')?;
    let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
    let mut value = HeaderValue::from_str(&value).ok()?;
    value.set_sensitive(true);
    Some((name.trim().parse().ok()?, value))
}
