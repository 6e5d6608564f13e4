//! Warnings about a configuration as a whole, once no setter can change it any more.

use opentelemetry::Key;

use crate::config::builder::Config;
use crate::config::resource::resource;
use crate::config::settings::environment::Environment;
use crate::config::settings::exporter::Exporter;
use crate::config::settings::otlp::OtlpSettings;
use crate::config::settings::signal::Signal;
use crate::providers::variables::ConfigWarning;
use crate::semconv::resource::SERVICE_NAME;

impl Config {
    /// Returns all warnings: about values, and about the configuration as a whole.
    pub(crate) fn all_warnings(&self) -> Vec<ConfigWarning> {
        let mut warnings = self.warnings.clone();
        if self.enabled {
            warnings.extend(self.exposed_credentials());
            warnings.extend(self.exceptions_without_logs());
            warnings.extend(self.unnamed_service());
        }
        warnings
    }

    /// Warns where exceptions are to be log records, and log records go nowhere.
    fn exceptions_without_logs(&self) -> Option<ConfigWarning> {
        let are_sent = cfg!(feature = "logs")
            && (self.exporters(Signal::Logs).contains(&Exporter::Otlp) || self.parts.take_logs());
        let variable = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN";
        let consequence = "needs the feature `logs` and an exporter of logs; using events on spans";
        let is_void = self.exceptions.is_logged() && !are_sent;
        is_void.then(|| ConfigWarning::new(variable, None, consequence))
    }

    /// Warns where headers, which are for authentication, go over the network in the clear.
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
        let consequence = format!("can be read by all on the way to {target}; use https there");
        Some(ConfigWarning::new("the headers of OTLP", None, consequence))
    }

    /// Warns where a service in production has no name.
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
