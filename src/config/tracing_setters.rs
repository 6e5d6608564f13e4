//! Setters for spans of `tracing`.

use crate::config::builder::Config;
use crate::providers::variables::ConfigWarning;

impl Config {
    /// Sets which spans of `tracing` are exported: a level, `off`, or directives in the syntax of
    /// `RUST_LOG`. Overrides `TRACING_SPANS`. Defaults to `info`.
    ///
    /// The filter is independent of `RUST_LOG`, which applies to log lines and log records. The
    /// span of tower-http's `TraceLayer` is omitted, because the request already has a span. An
    /// invalid filter has no effect, and is one of the [`warnings`](Self::warnings).
    ///
    /// The setting applies to the subscriber of [`init`](Self::init) and to
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

    /// Sets whether events of `tracing` are also recorded as events of the current span. By
    /// default, they are only log records.
    ///
    /// If enabled, the error of a function with `#[instrument(err)]` sets the status of its span.
    /// No other event changes the status of a span, and no event changes the status of a request's
    /// span.
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
