//! Members of baggage that become attributes, from variables and from code.

use crate::config::builder::Config;
use crate::propagation::{BaggageAttributes, is_baggage_key};
use crate::providers::layer_variables::LayerSettings;
use crate::providers::variables::{ConfigWarning, Variables};

const VARIABLE: &str = "TELEMETRY_BAGGAGE_ATTRIBUTES";

impl Config {
    /// Makes members of baggage attributes of spans and log records, by their keys, in place of
    /// `TELEMETRY_BAGGAGE_ATTRIBUTES`. None by default. A key that no member can have is left out, and is one of
    /// the [`warnings`](Self::warnings).
    ///
    /// Baggage comes with requests and messages ([baggage]), and whoever sends them chooses its values: they
    /// are cut to 256 bytes, and no attribute that a span has from elsewhere is replaced. A span has what is
    /// in the baggage when it starts, and a log record what is in it when it is written.
    ///
    /// It holds for [`init`](Self::init): for spans of layers, of handler code and of `tracing`, and for log
    /// records of [`TelemetryGuard::log_layer`](crate::TelemetryGuard::log_layer) and of the subscriber of
    /// `init`. Metrics have none of it. With [`Trust::Link`](crate::layers::Trust::Link) and
    /// [`Trust::Ignore`](crate::layers::Trust::Ignore), a request brings no baggage.
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
    /// Reads the settings of layers.
    pub(crate) fn layers(&mut self) -> LayerSettings {
        let mut layers = LayerSettings::read(self);
        let text = self.text(VARIABLE).unwrap_or_default();
        let keys = text.split(',').map(str::trim);
        let keys = keys.filter(|key| !key.is_empty());
        layers.baggage = baggage_attributes(VARIABLE, keys, &mut self.warnings);
        layers
    }
}

/// Returns the keys that can be used of those that `origin` names.
fn baggage_attributes<'a>(
    origin: &str,
    keys: impl IntoIterator<Item = &'a str>,
    warnings: &mut Vec<ConfigWarning>,
) -> BaggageAttributes {
    let is_usable = |key: &&str| {
        let is_usable = is_baggage_key(key);
        if !is_usable {
            // By mistake a value may stand behind the key.
            let shown = key.split(['=', ':']).next();
            let consequence = "is not the key of a member of baggage; it is left out";
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
    fn a_key_that_no_member_can_have_is_left_out_and_warned_of_without_its_value() {
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
            |key: &str| format!("IT={key:?} is not the key of a member of baggage; it is left out");
        let read = warnings(&read, VARIABLE);
        assert_eq!(read, ["two words", "tenant", "é"].map(warning));
        let written = warnings(&written, "Config::with_baggage_attributes");
        // An empty element of a list is none, and an empty key in code is a mistake.
        assert_eq!(written, ["two words", "tenant", "é", ""].map(warning));
    }
}
