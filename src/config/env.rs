//! Reads a `Config` from variables, without side effects.

use std::ffi::OsString;
use std::time::Duration;

use opentelemetry_sdk::metrics::Temporality;
use percent_encoding::percent_decode_str;

#[cfg(feature = "tracing")]
use crate::bridge::SpanFilter;
use crate::config::builder::Config;
use crate::config::parts::Parts;
use crate::config::settings::batch::Batch;
use crate::config::settings::environment::Environment;
use crate::config::settings::exception_signal::ExceptionSignal;
use crate::config::settings::exemplar_filter::ExemplarFilter;
use crate::config::settings::exporter::Exporter;
use crate::config::settings::histogram::HistogramAggregation;
use crate::config::settings::limits::Limits;
#[cfg(feature = "logs")]
use crate::config::settings::log_lines::LogLineSettings;
use crate::config::settings::propagator::Propagator;
#[cfg(feature = "runtime-metrics")]
use crate::config::settings::runtimes::Runtimes;
use crate::config::settings::sampler::Sampler;
use crate::config::settings::signal::{PerSignal, Signal};
#[cfg(feature = "logs")]
use crate::logs::{LogFilter, LogLines};
use crate::providers::variables::Variables;

/// The variable for the environment of the service.
pub(crate) const ENVIRONMENT: &str = "ENVIRONMENT";

/// The variable that switches the export thread off.
pub(crate) const EXPORT_THREAD: &str = "TELEMETRY_EXPORT_THREAD";

/// Variables without effect: configuration files are not supported, and some variables require a
/// feature that is disabled.
const UNSUPPORTED: &[&str] = &[
    "OTEL_BSP_MAX_CONCURRENT_EXPORTS",
    "OTEL_CONFIG_FILE",
    "OTEL_ENTITIES",
    #[cfg(not(feature = "prometheus"))]
    "OTEL_EXPORTER_PROMETHEUS_HOST",
    #[cfg(not(feature = "prometheus"))]
    "OTEL_EXPORTER_PROMETHEUS_PORT",
    #[cfg(not(feature = "runtime-metrics"))]
    "TELEMETRY_RUNTIME_METRICS",
];

impl Config {
    /// Reads the environment variables of the process.
    pub fn from_env() -> Self {
        Self::from_vars_os(|name| std::env::var_os(name))
    }

    /// Reads variables from `lookup`, which returns the value of a variable if it is set.
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
        read(&|name| lookup(name).map(OsString::from))
    }

    /// Reads variables as [`from_vars`](Self::from_vars) does, but accepts values that are not
    /// UTF-8. Such a value is ignored, and is one of the [`warnings`](Self::warnings).
    ///
    /// ```
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_vars_os(|name| match name {
    ///     "SERVICE_NAME" => Some("shop".into()),
    ///     name => std::env::var_os(name),
    /// });
    /// ```
    pub fn from_vars_os(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        read(&lookup)
    }
}

/// Setters may change the environment later, so the default is not known when the variables are read.
const OF_ENVIRONMENT: &str = "using the default of ENVIRONMENT";

fn read(lookup: &dyn Fn(&str) -> Option<OsString>) -> Config {
    let mut vars = Variables::new(lookup);
    let environment = vars.environment();
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
        environment_origin: environment.map(|_| ENVIRONMENT),
        otlp: vars.otlp(None),
        otlp_by_signal,
        proxies: vars.proxies(),
        #[cfg(feature = "prometheus")]
        prometheus_server: Some(vars.prometheus_server()),
        spans: vars.batch("OTEL_BSP", Batch::default()),
        logs: vars.batch("OTEL_BLRP", Batch::for_logs()),
        metric_interval: interval,
        metric_timeout,
        max_retry_age: Duration::from_secs(5 * 60),
        self_metrics: vars.flag("TELEMETRY_SELF_METRICS", false),
        #[cfg(feature = "runtime-metrics")]
        runtimes: Runtimes::new(vars.flag("TELEMETRY_RUNTIME_METRICS", false)),
        temporality: vars.temporality(),
        histograms: vars.histograms(),
        exemplars: vars.exemplars(),
        exceptions: vars.exceptions(),
        limits: vars.limits(),
        layers: vars.layers(),
        parts: Parts::default(),
        #[cfg(feature = "logs")]
        log_lines: vars.log_lines(),
        #[cfg(feature = "tracing")]
        tracing_spans: vars.tracing_spans(),
        shutdown_timeout: Duration::from_secs(5),
        export_thread: vars.flag(EXPORT_THREAD, true),
        warnings: Vec::new(),
    };
    for &variable in UNSUPPORTED {
        vars.warn_of_unsupported(variable);
    }
    Config {
        warnings: vars.warnings,
        ..config
    }
}

impl Variables<'_> {
    fn environment(&mut self) -> Option<Environment> {
        let value = self.text(ENVIRONMENT)?;
        let environment = Environment::named(&value);
        if environment.is_none() {
            let consequence =
                "is not one of development, test, staging and production; using development";
            self.warn(ENVIRONMENT, Some(&value), consequence);
        }
        environment
    }

    /// Returns the sampler, and the argument for the default sampler if no sampler is set.
    fn sampler(&mut self, environment: Environment) -> (Option<Sampler>, Option<f64>) {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        const ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(name) = self.text(NAME) else {
            let ratio = self.ratio(ARG, "it is ignored");
            let default = environment.sampler(ratio);
            if let Some(ratio) = ratio
                && default.ratio().is_none()
            {
                let consequence = format!("has no effect on the sampler {default}");
                self.warn(ARG, Some(&ratio.to_string()), consequence);
            }
            return (None, ratio);
        };
        let Some(sampler) = Sampler::named(&name, 1.0) else {
            let default = environment.sampler(None);
            let consequence = format!("is not a known sampler; using {default}");
            self.warn(NAME, Some(&name), consequence);
            return (None, None);
        };
        if sampler.ratio().is_some() {
            let ratio = self.ratio(ARG, "using 1").unwrap_or(1.0);
            return (Sampler::named(&name, ratio), None);
        }
        if let Some(value) = self.text(ARG) {
            let consequence = format!("has no effect on the sampler {name}");
            self.warn(ARG, Some(&value), consequence);
        }
        (Some(sampler), None)
    }

    fn propagators(&mut self) -> Vec<Propagator> {
        let known = "tracecontext, baggage, b3, b3multi and none";
        let default = "using tracecontext and baggage";
        let propagators = self.list_of("OTEL_PROPAGATORS", known, default, |word| {
            Propagator::ALL.into_iter().find(|one| one.name() == word)
        });
        let mut propagators =
            propagators.unwrap_or_else(|| vec![Propagator::TraceContext, Propagator::Baggage]);
        let mut seen = Vec::new();
        propagators.retain(|one| {
            !seen.contains(one) && {
                seen.push(*one);
                true
            }
        });
        propagators
    }

    fn exporters(&mut self, signal: Signal) -> Option<Vec<Exporter>> {
        let name = signal.exporter_variable();
        let known = match signal {
            Signal::Metrics if cfg!(feature = "prometheus") => "otlp, console, prometheus and none",
            Signal::Metrics => "otlp, console, none and, with the feature `prometheus`, prometheus",
            _ => "otlp, console and none",
        };
        self.list_of(&name, known, OF_ENVIRONMENT, |word| {
            let mut all = Exporter::ALL.into_iter();
            all.find(|one| one.name() == word && one.supports(signal))
        })
    }

    /// Reads `OTEL_RESOURCE_ATTRIBUTES`. One invalid pair discards the whole list, as the
    /// specification requires.
    fn resource_attributes(&mut self) -> Vec<(String, String)> {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let Some(text) = self.text(NAME) else {
            return Vec::new();
        };
        let mut attributes = Vec::new();
        let entries = text.split(',').enumerate();
        for (n, pair) in entries.filter(|(_, pair)| !pair.trim().is_empty()) {
            let Some(attribute) = attribute(pair) else {
                let consequence = format!(
                    "is not a list of key=value: entry {} is invalid; the whole list is ignored",
                    n + 1
                );
                self.warn(NAME, None, consequence);
                return Vec::new();
            };
            attributes.push(attribute);
        }
        attributes
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
        self.one_of(name, &known, "using cumulative")
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
        self.one_of(name, &known, "using explicit_bucket_histogram")
            .unwrap_or_default()
    }

    fn exemplars(&mut self) -> ExemplarFilter {
        let known = [
            ("trace_based", ExemplarFilter::TraceBased),
            ("always_on", ExemplarFilter::AlwaysOn),
            ("always_off", ExemplarFilter::AlwaysOff),
        ];
        let name = "OTEL_METRICS_EXEMPLAR_FILTER";
        self.one_of(name, &known, "using trace_based")
            .unwrap_or_default()
    }

    fn exceptions(&mut self) -> ExceptionSignal {
        let known = [
            ("logs", ExceptionSignal::Logs),
            ("logs/dup", ExceptionSignal::LogsAndSpanEvents),
        ];
        let name = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN";
        self.one_of(name, &known, "using events on spans")
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
        self.number_or(name, 0..=Limits::MAX_LENGTH, "values are not truncated")
    }

    #[cfg(feature = "logs")]
    fn log_lines(&mut self) -> LogLineSettings {
        let styles = [("text", LogLines::Text), ("json", LogLines::Json)];
        let level = self.one_of("OTEL_LOG_LEVEL", &LogFilter::LEVELS, "using warn");
        let mut filter = LogFilter::default();
        if let Some(level) = level {
            filter = filter.with_sdk_level(level);
        }
        LogLineSettings {
            installs_subscriber: true,
            style: self.one_of("LOG_FORMAT", &styles, OF_ENVIRONMENT),
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

#[cfg(feature = "tracing")]
impl Variables<'_> {
    fn tracing_spans(&mut self) -> SpanFilter {
        const NAME: &str = "TRACING_SPANS";
        let default = SpanFilter::default();
        let Some(directives) = self.text(NAME) else {
            return default;
        };
        match default.clone().with_directives(&directives) {
            Ok(spans) => spans,
            Err(reason) => {
                let consequence = format!("is not a filter ({reason}); using info");
                self.warn(NAME, Some(&directives), consequence);
                default
            }
        }
    }
}

fn attribute(pair: &str) -> Option<(String, String)> {
    let (key, value) = pair.split_once('=')?;
    let key = percent_decode_str(key.trim()).decode_utf8().ok()?;
    let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
    (!key.is_empty()).then(|| (key.into_owned(), value.into_owned()))
}
