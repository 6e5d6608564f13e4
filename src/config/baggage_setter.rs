//! Baggage members that become attributes, from a variable and from code.

use crate::config::builder::Config;
use crate::propagation::{BaggageAttributes, is_baggage_key};
use crate::providers::layer_variables::LayerSettings;
use crate::providers::variables::{ConfigWarning, Variables};

const VARIABLE: &str = "TELEMETRY_BAGGAGE_ATTRIBUTES";

impl Config {
    /// Sets the keys of baggage members that are recorded as attributes of spans and log records.
    /// Overrides `TELEMETRY_BAGGAGE_ATTRIBUTES`. Defaults to none. Invalid keys are ignored and
    /// reported by [`warnings`](Self::warnings).
    ///
    /// Baggage comes with requests and messages ([baggage]), so their senders choose its values.
    /// Values are truncated to 256 bytes and never replace an attribute that a span already has. A
    /// span records the baggage that is present when it starts, and a log record the baggage that
    /// is present when it is written.
    ///
    /// The setting applies with [`init`](Self::init), to the spans of layers, of handler code and
    /// of `tracing`, and to the log records of
    /// [`TelemetryGuard::log_layer`](crate::TelemetryGuard::log_layer) and of the subscriber that
    /// `init` installs. Metrics never have these attributes. With
    /// [`Trust::Link`](crate::layers::Trust::Link) and
    /// [`Trust::Ignore`](crate::layers::Trust::Ignore), the baggage of requests is ignored.
    ///
    /// ```
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_env().with_baggage_attributes(["tenant", "plan"]);
    /// ```
    ///
    /// [baggage]: https://opentelemetry.io/docs/specs/otel/baggage/api/
    pub fn with_baggage_attributes<K: Into<String>>(
        mut self,
        keys: impl IntoIterator<Item = K>,
    ) -> Self {
        let keys: Vec<String> = keys.into_iter().map(Into::into).collect();
        let keys = keys.iter().map(String::as_str);
        let (origin, warnings) = ("Config::with_baggage_attributes", &mut self.warnings);
        self.layers.baggage = baggage_attributes(origin, keys, warnings);
        self
    }
}

impl Variables<'_> {
    /// Returns the settings of the layers.
    pub(crate) fn layers(&mut self) -> LayerSettings {
        let mut layers = LayerSettings::read(self);
        let text = self.text(VARIABLE).unwrap_or_default();
        let keys = text.split(',').map(str::trim);
        let keys = keys.filter(|key| !key.is_empty());
        layers.baggage = baggage_attributes(VARIABLE, keys, &mut self.warnings);
        layers
    }
}

/// Returns the valid keys. `origin` is the variable or setter that warnings name.
fn baggage_attributes<'a>(
    origin: &str,
    keys: impl IntoIterator<Item = &'a str>,
    warnings: &mut Vec<ConfigWarning>,
) -> BaggageAttributes {
    let is_usable = |key: &&str| {
        let is_usable = is_baggage_key(key);
        if !is_usable {
            // The text may contain a value by mistake.
            let shown = key.split(['=', ':']).next();
            let consequence = "is not a valid key of a baggage member; it is ignored";
            warnings.push(ConfigWarning::new(origin, shown, consequence));
        }
        is_usable
    };
    let keys = keys.into_iter().filter(is_usable);
    BaggageAttributes::new(keys.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_key_is_ignored_and_the_warning_hides_its_value() {
        let keys = ["tenant", "two words", "tenant=canary", "é", "", "plan"];
        let read = Config::from_vars(|name| (name == VARIABLE).then(|| keys.join(" , ")));
        let written = Config::from_vars(|_| None).with_baggage_attributes(keys);
        assert_eq!(read.layers.baggage, written.layers.baggage);
        let usable = Config::from_vars(|_| None).with_baggage_attributes(["tenant", "plan"]);
        assert_eq!(read.layers.baggage, usable.layers.baggage);
        let warnings = |config: &Config, origin: &str| {
            let warnings = config.warnings().iter().map(ToString::to_string);
            let warnings = warnings.map(|one| one.replacen(origin, "IT", 1));
            warnings.collect::<Vec<_>>()
        };
        let warning =
            |key: &str| format!("IT={key:?} is not a valid key of a baggage member; it is ignored");
        let read = warnings(&read, VARIABLE);
        assert_eq!(read, ["two words", "tenant", "é"].map(warning));
        let written = warnings(&written, "Config::with_baggage_attributes");
        // Empty elements of a variable are skipped. An empty key in code is a mistake.
        assert_eq!(written, ["two words", "tenant", "é", ""].map(warning));
    }
}
