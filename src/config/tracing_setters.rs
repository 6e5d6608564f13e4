//! Setters of spans of `tracing`.

use crate::config::builder::Config;
use crate::providers::variables::ConfigWarning;

impl Config {
    /// Sets which spans of `tracing` are exported, in place of `TRACING_SPANS`: a level, `off`, or
    /// directives in the form of `RUST_LOG`. `info` by default.
    ///
    /// It is independent of `RUST_LOG`, which is for log lines and log records. The span that
    /// tower-http's `TraceLayer` makes by itself is left out, because the request has a span already.
    /// Text that is not a filter has no effect, and is one of the [`warnings`](Self::warnings).
    ///
    /// It holds for the subscriber of [`init`](Self::init), and for
    /// [`TelemetryGuard::span_layer`](crate::TelemetryGuard::span_layer).
    ///
    /// ```
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_env().with_tracing_spans("info,sqlx=debug,h2=off");
    /// ```
    pub fn with_tracing_spans(mut self, directives: &str) -> Self {
        match self.tracing_spans.clone().with_directives(directives) {
            Ok(spans) => self.tracing_spans = spans,
            Err(reason) => {
                let consequence = format!("is not a filter ({reason}); it has no effect");
                let origin = "Config::with_tracing_spans";
                let warning = ConfigWarning::new(origin, Some(directives), consequence);
                self.warnings.push(warning);
            }
        }
        self
    }

    /// Sets whether events of `tracing` become events of the spans that they happen in, too. They are
    /// log records alone by default.
    ///
    /// The error of a function with `#[instrument(err)]` then is the status of its span. No other
    /// event changes the status of a span, and none that of a request.
    ///
    /// ```
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_env().with_tracing_events(true);
    /// ```
    pub fn with_tracing_events(mut self, wanted: bool) -> Self {
        self.tracing_spans.events = wanted;
        self
    }
}
