//! The setter for baggage members that become attributes.

use crate::config::builder::Config;
use crate::propagation::BaggageAttributes;

impl Config {
    /// Sets the keys of baggage members that are recorded as attributes of spans and log records.
    /// None by default.
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
        self.layers.baggage = BaggageAttributes::new(keys.into_iter().map(Into::into));
        self
    }
}
