//! The setter of members of baggage that become attributes.

use crate::config::builder::Config;
use crate::propagation::BaggageAttributes;

impl Config {
    /// Makes members of baggage attributes of spans and log records, by their keys. None by default.
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
        self.layers.baggage = BaggageAttributes::new(keys.into_iter().map(Into::into));
        self
    }
}
