//! The startup log line, which summarises the configuration.

use std::fmt;

use opentelemetry::Key;

use crate::config::builder::Config;
use crate::config::env::ENVIRONMENT;
use crate::config::resource::resource;
use crate::config::settings::exporter::Exporter;
#[cfg(feature = "tracing")]
use crate::config::settings::shown::shown_filter;
use crate::config::settings::signal::Signal;
use crate::semconv::resource as names;

/// Resource attributes in the startup line.
const SHOWN: [(&str, &str); 3] = [
    ("service", names::SERVICE_NAME),
    ("version", names::SERVICE_VERSION),
    ("environment", names::DEPLOYMENT_ENVIRONMENT_NAME),
];

/// Writes a summary of the configuration in one line without secrets. [`Config::init`] logs it.
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
            return f.write_str("telemetry is disabled");
        }
        // The exported resource, whichever setting each attribute comes from.
        let resource = resource(self);
        let mut separator = "";
        for (word, key) in SHOWN {
            if let Some(value) = resource.get(&Key::from_static_str(key)) {
                write!(f, "{separator}{word}={value}")?;
                separator = " ";
            }
        }
        for signal in Signal::ALL {
            let exporters = self.exporters(signal).into_iter();
            let exporters = exporters.map(|exporter| match (exporter, self.target(signal)) {
                (Exporter::Console, _) => "console".to_owned(),
                #[cfg(feature = "prometheus")]
                (Exporter::Prometheus, _) => match &self.prometheus_server {
                    Some(server) => format!("prometheus({server})"),
                    None => "prometheus".to_owned(),
                },
                (Exporter::Otlp, Ok(target)) => {
                    let mut text = format!("otlp({target}");
                    if let Ok(Some(proxy)) = self.proxy(&target) {
                        text.push_str(&format!(",proxy={proxy}"));
                    }
                    if self.is_by_reference(signal) {
                        text.push_str(",by opentelemetry-otlp");
                    }
                    text + ")"
                }
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
                (self.default_sampler().to_string(), because)
            }
        };
        match (because, sampler.strip_suffix(')')) {
            (Some(because), Some(sampler)) => write!(f, " sampler={sampler}, because {because})")?,
            (Some(because), None) => write!(f, " sampler={sampler}(because {because})")?,
            (None, _) => write!(f, " sampler={sampler}")?,
        }
        let propagators = self.propagators.iter().map(|one| one.name().to_owned());
        write!(f, " propagators={}", list(propagators))?;
        let parts = self.parts.names();
        if !parts.is_empty() {
            write!(f, " parts={}", parts.join(","))?;
        }
        Ok(())
    }
}

fn list(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    match words.is_empty() {
        true => "none".to_owned(),
        false => words.join(","),
    }
}

/// Shows the effective settings without secrets. Their origins are omitted.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No `..`, so that the compiler rejects a missing field.
        let Self {
            enabled,
            service_name,
            service_version,
            environment: _,
            env_attributes,
            attributes,
            sampler,
            sampler_arg: _,
            propagators,
            exporters,
            exporters_from_variable: _,
            sampler_origin: _,
            environment_origin: _,
            otlp,
            otlp_by_signal,
            spans,
            logs,
            metric_interval,
            metric_timeout,
            temporality,
            histograms,
            exemplars,
            exceptions,
            limits,
            layers,
            parts,
            #[cfg(feature = "logs")]
            log_lines,
            #[cfg(feature = "tracing")]
            tracing_spans,
            proxies,
            #[cfg(feature = "prometheus")]
            prometheus_server,
            max_retry_age,
            self_metrics,
            #[cfg(feature = "runtime-metrics")]
            runtimes,
            shutdown_timeout,
            export_thread,
            warnings,
        } = self;
        let sampler = match sampler {
            Some(sampler) => sampler.to_string(),
            None => self.default_sampler().to_string(),
        };
        let keys = env_attributes.iter().map(|(key, _)| key.as_str());
        let keys = keys.chain(attributes.iter().map(|one| one.key.as_str()));
        let mut shown = f.debug_struct("Config");
        shown
            .field("enabled", enabled)
            .field("service_name", service_name)
            .field("service_version", service_version)
            .field("environment", &self.environment())
            .field("resource_attributes", &keys.collect::<Vec<_>>())
            .field("sampler", &sampler)
            .field("propagators", propagators)
            .field("exporters", exporters)
            .field("otlp", otlp)
            .field("otlp_by_signal", otlp_by_signal)
            .field("spans", spans)
            .field("logs", logs)
            .field("metric_interval", metric_interval)
            .field("metric_timeout", metric_timeout)
            .field("temporality", temporality)
            .field("histograms", histograms)
            .field("exemplars", exemplars)
            .field("exceptions", exceptions)
            .field("limits", limits)
            .field("layers", layers)
            .field("parts", parts);
        #[cfg(feature = "logs")]
        shown.field("log_lines", log_lines);
        #[cfg(feature = "tracing")]
        shown.field(
            "tracing_spans",
            &format_args!("{}", shown_filter(tracing_spans)),
        );
        #[cfg(feature = "prometheus")]
        shown.field("prometheus_server", prometheus_server);
        #[cfg(feature = "runtime-metrics")]
        shown.field("runtimes", runtimes);
        shown
            .field("proxies", proxies)
            .field("max_retry_age", max_retry_age)
            .field("self_metrics", self_metrics)
            .field("shutdown_timeout", shutdown_timeout)
            .field("export_thread", export_thread)
            .field("warnings", warnings)
            .finish()
    }
}
