//! Warnings about a configuration as a whole, checked once it is final.

use opentelemetry::Key;

use crate::config::builder::Config;
use crate::config::env::EXPORT_THREAD;
use crate::config::resource::resource;
use crate::config::settings::environment::Environment;
use crate::config::settings::exporter::Exporter;
#[cfg(feature = "prometheus")]
use crate::config::settings::histogram::HistogramAggregation;
#[cfg(feature = "opentelemetry-otlp")]
use crate::config::settings::otlp::Compression;
use crate::config::settings::otlp::OtlpSettings;
use crate::config::settings::signal::Signal;
use crate::providers::variables::ConfigWarning;
use crate::semconv::resource::SERVICE_NAME;

impl Config {
    /// Returns all warnings: about single values, and about the configuration as a whole.
    pub(crate) fn all_warnings(&self) -> Vec<ConfigWarning> {
        let mut warnings = self.warnings.clone();
        if self.enabled {
            warnings.extend(self.exposed_credentials());
            warnings.extend(self.exceptions_without_logs());
            warnings.extend(self.unnamed_service());
            warnings.extend(self.threads_that_stay());
            #[cfg(feature = "opentelemetry-otlp")]
            warnings.extend(self.compression_of_reference());
            #[cfg(feature = "prometheus")]
            warnings.extend(self.histograms_without_form());
        }
        warnings
    }

    /// Warns if exceptions are to be log records, but log records are not exported.
    fn exceptions_without_logs(&self) -> Option<ConfigWarning> {
        let are_sent = cfg!(feature = "logs")
            && (self.exporters(Signal::Logs).contains(&Exporter::Otlp) || self.parts.take_logs());
        let variable = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN";
        let consequence = "requires the feature `logs` and a logs exporter; using events on spans";
        let is_void = self.exceptions.is_logged() && !are_sent;
        is_void.then(|| ConfigWarning::new(variable, None, consequence))
    }

    /// Warns if headers, which usually contain credentials, are sent over the network without TLS.
    fn exposed_credentials(&self) -> Option<ConfigWarning> {
        let target = Signal::ALL.into_iter().find_map(|signal| {
            let has_headers =
                |settings: &OtlpSettings| Some(!settings.headers.as_ref()?.is_empty());
            let has_callback = |settings: &OtlpSettings| settings.headers_from.as_ref().map(|_| ());
            let sends = self.exporters(signal).contains(&Exporter::Otlp);
            let target = self.target(signal).ok()?;
            let is_exposed = sends
                && (self.otlp(signal, has_headers) == Some(true)
                    || self.otlp(signal, has_callback).is_some())
                && target.uri.scheme_str() == Some("http")
                && !target.is_local();
            is_exposed.then_some(target)
        })?;
        let consequence = format!("are sent to {target} without encryption; use https");
        Some(ConfigWarning::new("the OTLP headers", None, consequence))
    }

    /// Warns if `opentelemetry-otlp` compresses messages although code disables compression. If no
    /// compression is set, the crate reads the process's variables, and it has no value for "none".
    #[cfg(feature = "opentelemetry-otlp")]
    fn compression_of_reference(&self) -> Option<ConfigWarning> {
        Signal::ALL.into_iter().find_map(|signal| {
            let compression = self.otlp(signal, |settings| settings.compression);
            let is_affected = self.is_by_reference(signal)
                && self.exporters(signal).contains(&Exporter::Otlp)
                && compression.unwrap_or_default() == Compression::None;
            let name_of_signal = signal.name().to_ascii_uppercase();
            let names = [
                format!("OTEL_EXPORTER_OTLP_{name_of_signal}_COMPRESSION"),
                "OTEL_EXPORTER_OTLP_COMPRESSION".to_owned(),
            ];
            let set = names.into_iter().find_map(|name| {
                let value = std::env::var(&name)
                    .ok()
                    .filter(|value| !value.is_empty())?;
                Some((name, value))
            });
            let (name, value) = set.filter(|_| is_affected)?;
            let consequence = "applies to opentelemetry-otlp although code sets no compression";
            let compresses = value.eq_ignore_ascii_case("gzip");
            compresses.then(|| ConfigWarning::new(&name, Some(&value), consequence))
        })
    }

    /// Warns if histograms are exponential and Prometheus is to scrape them.
    #[cfg(feature = "prometheus")]
    fn histograms_without_form(&self) -> Option<ConfigWarning> {
        let exporters = self.exporters(Signal::Metrics);
        let is_read = exporters.contains(&Exporter::Prometheus);
        let is_exponential = self.histograms == HistogramAggregation::ExponentialBuckets;
        let variable = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";
        let consequence = "cannot be written for Prometheus; its output omits such histograms";
        (is_read && is_exponential).then(|| ConfigWarning::new(variable, None, consequence))
    }

    /// Warns if there should be no thread between flushes, but a part needs one.
    fn threads_that_stay(&self) -> Option<ConfigWarning> {
        let mut needs = Vec::new();
        #[cfg(feature = "prometheus")]
        if self
            .exporters(Signal::Metrics)
            .contains(&Exporter::Prometheus)
        {
            needs.push("the exporter for Prometheus".to_owned());
        }
        needs.extend(self.parts.names());
        if self.export_thread || needs.is_empty() {
            return None;
        }
        let consequence = format!("cannot stop the threads of {}", needs.join(", "));
        Some(ConfigWarning::new(
            EXPORT_THREAD,
            Some("false"),
            consequence,
        ))
    }

    /// Warns if a service in production has no name.
    fn unnamed_service(&self) -> Option<ConfigWarning> {
        let is_named = self.service_name.is_some()
            || self
                .env_attributes
                .iter()
                .any(|(key, _)| key == SERVICE_NAME)
            || self
                .attributes
                .iter()
                .any(|one| one.key.as_str() == SERVICE_NAME);
        if is_named || self.environment() != Environment::Production {
            return None;
        }
        let name = resource(self).get(&Key::from_static_str(SERVICE_NAME))?;
        let consequence = format!("is not set in production; using {name}");
        Some(ConfigWarning::new("SERVICE_NAME", None, consequence))
    }
}
