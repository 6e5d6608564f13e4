//! Text of environment variables to typed settings. Nothing here has an effect.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry_sdk::metrics::Temporality;
use percent_encoding::percent_decode_str;

#[cfg(feature = "logs")]
use crate::config::settings::LogLineSettings;
use crate::config::settings::{
    Batch, Compression, Endpoint, Environment, ExceptionSignal, Exporter, HistogramAggregation,
    Limits, OtlpSettings, PerSignal, Propagator, Protocol, Sampler, Signal,
};
use crate::config::vars::Vars;
use crate::config::{Config, ENVIRONMENT};
#[cfg(feature = "logs")]
use crate::logs::{LogFilter, LogLines};

/// Variables of the specification and of the SDK that have no effect here: the SDK has no exemplars
/// and reads no files, and there is no Prometheus endpoint.
const UNSUPPORTED: [&str; 6] = [
    "OTEL_BSP_MAX_CONCURRENT_EXPORTS",
    "OTEL_CONFIG_FILE",
    "OTEL_ENTITIES",
    "OTEL_EXPORTER_PROMETHEUS_HOST",
    "OTEL_EXPORTER_PROMETHEUS_PORT",
    "OTEL_METRICS_EXEMPLAR_FILTER",
];

pub(crate) fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Config {
    let mut vars = Vars {
        lookup,
        warnings: Vec::new(),
    };
    let environment = vars.environment();
    // A value that cannot be used has chosen nothing.
    let environment_origin = environment
        .filter(|one| {
            let text = vars.text(ENVIRONMENT);
            text.is_some_and(|text| text.eq_ignore_ascii_case(one.as_str()))
        })
        .map(|_| ENVIRONMENT);
    let (sampler, sampler_arg) = vars.sampler(environment.unwrap_or_default());
    let sampler_origin = sampler.is_some().then_some("OTEL_TRACES_SAMPLER");
    let mut exporters = PerSignal::default();
    let mut exporters_from_variable = PerSignal::default();
    let mut otlp_by_signal = PerSignal::default();
    for signal in Signal::ALL {
        exporters[signal] = vars.exporters(signal);
        exporters_from_variable[signal] = exporters[signal].is_some();
        otlp_by_signal[signal] = vars.otlp(Some(signal));
    }
    let log_delay = Batch::default().with_schedule_delay(Duration::from_secs(1));
    let enabled = vars.flag("ENABLE_TELEMETRY", true) & !vars.flag("OTEL_SDK_DISABLED", false);
    let service_name = vars
        .text("OTEL_SERVICE_NAME")
        .or_else(|| vars.text("SERVICE_NAME"));
    let interval = vars.milliseconds("OTEL_METRIC_EXPORT_INTERVAL", Duration::from_secs(60));
    let metric_timeout = vars.milliseconds("OTEL_METRIC_EXPORT_TIMEOUT", Duration::from_secs(30));
    let config = Config {
        enabled,
        service_name,
        service_version: None,
        environment,
        env_attributes: vars.resource_attributes(),
        attributes: Vec::new(),
        sampler,
        sampler_arg,
        propagators: vars.propagators(),
        exporters,
        exporters_from_variable,
        sampler_origin,
        environment_origin,
        otlp: vars.otlp(None),
        otlp_by_signal,
        proxies: vars.proxies(),
        spans: vars.batch("OTEL_BSP", Batch::default()),
        logs: vars.batch("OTEL_BLRP", log_delay),
        metric_interval: interval,
        metric_timeout,
        temporality: vars.temporality(),
        histograms: vars.histograms(),
        exceptions: vars.exceptions(),
        limits: vars.limits(),
        #[cfg(feature = "logs")]
        log_lines: vars.log_lines(),
        shutdown_timeout: Duration::from_secs(5),
        warnings: Vec::new(),
    };
    for variable in UNSUPPORTED {
        // That there are no exemplars is what it has got.
        if vars.text(variable).as_deref() != Some("always_off") {
            vars.warn_of_unsupported(variable);
        }
    }
    Config {
        warnings: vars.warnings,
        ..config
    }
}

impl Vars<'_> {
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
            let ratio = self.ratio(ARG, "it is left out");
            if let Some(ratio) = ratio
                && environment != Environment::Production
            {
                let consequence = format!(
                    "has no effect on the sampler {}",
                    default_sampler(environment, None)
                );
                self.warn(ARG, Some(&ratio.to_string()), consequence);
            }
            return (None, ratio);
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
                let consequence = format!("is not a known sampler; using {default}");
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

    fn propagators(&mut self) -> Vec<Propagator> {
        let known = "tracecontext, baggage, b3, b3multi and none";
        let told = self.words("OTEL_PROPAGATORS", known, |word| {
            Propagator::ALL.into_iter().find(|one| one.name() == word)
        });
        let mut told = told.unwrap_or_else(|| vec![Propagator::TraceContext, Propagator::Baggage]);
        let mut seen = Vec::new();
        told.retain(|one| {
            !seen.contains(one) && {
                seen.push(*one);
                true
            }
        });
        told
    }

    fn exporters(&mut self, signal: Signal) -> Option<Vec<Exporter>> {
        let name = signal.exporter_variable();
        self.words(&name, "otlp, console and none", |word| {
            Some(match word {
                "otlp" => Exporter::Otlp,
                "console" => Exporter::Console,
                _ => return None,
            })
        })
    }

    /// `OTEL_EXPORTER_OTLP_..`, for all signals or for one.
    fn otlp(&mut self, signal: Option<Signal>) -> OtlpSettings {
        let prefix = match signal {
            Some(signal) => {
                format!("OTEL_EXPORTER_OTLP_{}", signal.name().to_ascii_uppercase())
            }
            None => "OTEL_EXPORTER_OTLP".to_owned(),
        };
        let name = |setting: &str| format!("{prefix}_{setting}");
        let compressions = [("gzip", Compression::Gzip), ("none", Compression::None)];
        let endpoint = name("ENDPOINT");
        let insecure = name("INSECURE");
        let timeout = name("TIMEOUT");
        OtlpSettings {
            endpoint: self.text(&endpoint).map(|text| Endpoint {
                origin: endpoint,
                text,
            }),
            insecure: self.flag_or(&insecure, "it is left out"),
            protocol: self.protocol(&name("PROTOCOL")),
            compression: self.word(&name("COMPRESSION"), &compressions, "it is left out"),
            headers: self.headers(&name("HEADERS")),
            timeout: self.milliseconds_or(&timeout, "it is left out"),
            certificate: self.file(&name("CERTIFICATE")),
            client_certificate: self.file(&name("CLIENT_CERTIFICATE")),
            client_key: self.file(&name("CLIENT_KEY")),
        }
    }

    fn protocol(&mut self, name: &str) -> Option<Protocol> {
        let protocols = [
            ("grpc", Protocol::Grpc),
            ("http/protobuf", Protocol::HttpProtobuf),
            #[cfg(feature = "http-json")]
            ("http/json", Protocol::HttpJson),
        ];
        if cfg!(not(feature = "http-json"))
            && let Some(value) = self.text(name)
            && value.eq_ignore_ascii_case("http/json")
        {
            let consequence = "needs the feature `http-json`; using http/protobuf";
            self.warn(name, Some(&value), consequence);
            return Some(Protocol::HttpProtobuf);
        }
        self.word(name, &protocols, "it is left out")
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
        let name = |setting: &str| format!("{prefix}_{setting}");
        let sizes = 1..=Batch::MAX_SIZE;
        let (queue, batch) = (default.max_queue_size, default.max_export_batch_size);
        Batch {
            max_queue_size: self.number(&name("MAX_QUEUE_SIZE"), sizes.clone(), queue),
            max_export_batch_size: self.number(&name("MAX_EXPORT_BATCH_SIZE"), sizes, batch),
            schedule_delay: self.milliseconds(&name("SCHEDULE_DELAY"), default.schedule_delay),
            export_timeout: self.milliseconds(&name("EXPORT_TIMEOUT"), default.export_timeout),
        }
    }

    fn temporality(&mut self) -> Temporality {
        let known = [
            ("cumulative", Temporality::Cumulative),
            ("delta", Temporality::Delta),
            ("lowmemory", Temporality::LowMemory),
        ];
        let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        self.word(name, &known, "using cumulative")
            .unwrap_or_default()
    }

    fn histograms(&mut self) -> HistogramAggregation {
        let known = [
            (
                "explicit_bucket_histogram",
                HistogramAggregation::ExplicitBuckets,
            ),
            (
                "base2_exponential_bucket_histogram",
                HistogramAggregation::ExponentialBuckets,
            ),
        ];
        let name = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";
        self.word(name, &known, "using explicit_bucket_histogram")
            .unwrap_or_default()
    }

    fn exceptions(&mut self) -> ExceptionSignal {
        let known = [
            ("logs", ExceptionSignal::Logs),
            ("logs/dup", ExceptionSignal::LogsAndSpanEvents),
        ];
        let name = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN";
        self.word(name, &known, "using events on spans")
            .unwrap_or_default()
    }

    fn limits(&mut self) -> Limits {
        let attributes = self.count("OTEL_ATTRIBUTE_COUNT_LIMIT", Limits::COUNT);
        let length = self.length("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT");
        let of_span = self.length("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT");
        let of_log = self.length("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT");
        Limits {
            span_attributes: self.count("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", attributes),
            span_events: self.count("OTEL_SPAN_EVENT_COUNT_LIMIT", Limits::COUNT),
            span_links: self.count("OTEL_SPAN_LINK_COUNT_LIMIT", Limits::COUNT),
            event_attributes: self.count("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", Limits::COUNT),
            link_attributes: self.count("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", Limits::COUNT),
            log_attributes: self.count("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", attributes),
            span_value_length: of_span.or(length),
            log_value_length: of_log.or(length),
        }
    }

    fn count(&mut self, name: &str, default: u32) -> u32 {
        self.number(name, 0..=Limits::MAX_COUNT, default)
    }

    fn length(&mut self, name: &str) -> Option<usize> {
        self.number_or(name, 0..=Limits::MAX_LENGTH, "values are not cut")
    }

    #[cfg(feature = "logs")]
    fn log_lines(&mut self) -> LogLineSettings {
        let styles = [("text", LogLines::Text), ("json", LogLines::Json)];
        let level = self.word("OTEL_LOG_LEVEL", &LogFilter::LEVELS, "using warn");
        let mut filter = LogFilter::default();
        if let Some(level) = level {
            filter = filter.with_sdk_level(level);
        }
        LogLineSettings {
            wanted: true,
            style: self.word("LOG_FORMAT", &styles, "the default holds"),
            filter: self.log_filter(filter),
        }
    }

    #[cfg(feature = "logs")]
    fn log_filter(&mut self, filter: LogFilter) -> LogFilter {
        const NAME: &str = "RUST_LOG";
        let Some(directives) = self.text(NAME) else {
            return filter;
        };
        match filter.clone().with_directives(&directives) {
            Ok(filter) => filter,
            Err(reason) => {
                let consequence = format!("is not a filter ({reason}); using info");
                self.warn(NAME, Some(&directives), consequence);
                filter
            }
        }
    }
}

/// The sampler where none is named.
pub(crate) fn default_sampler(environment: Environment, arg: Option<f64>) -> Sampler {
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
