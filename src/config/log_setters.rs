//! Setters for log lines and log records.

use crate::config::builder::Config;
use crate::logs::LogLines;
use crate::providers::variables::ConfigWarning;

impl Config {
    /// Sets the format of log lines. Overrides `LOG_FORMAT`. Defaults to text in development and
    /// JSON elsewhere.
    pub fn with_log_lines(mut self, style: LogLines) -> Self {
        self.log_lines.style = Some(style);
        self
    }

    /// Sets the filter of log lines and log records, in the syntax of `RUST_LOG`. Overrides
    /// `RUST_LOG`. An invalid filter has no effect, and is one of the [`warnings`](Self::warnings).
    pub fn with_log_filter(mut self, directives: &str) -> Self {
        match self.log_lines.filter.clone().with_directives(directives) {
            Ok(filter) => self.log_lines.filter = filter,
            Err(reason) => {
                let consequence = format!("is not a filter ({reason}); it has no effect");
                let origin = "Config::with_log_filter";
                let warning = ConfigWarning::new(origin, Some(directives), consequence);
                self.warnings.push(warning);
            }
        }
        self
    }

    /// Sets the lowest level of the SDK's own messages that are logged if no log filter is set;
    /// `None` logs none. Overrides `OTEL_LOG_LEVEL`. Defaults to
    /// [`Level::WARN`](tracing::Level::WARN).
    pub fn with_sdk_log_level(mut self, level: Option<tracing::Level>) -> Self {
        self.log_lines.filter = self.log_lines.filter.with_sdk_level(level.into());
        self
    }

    /// Prevents [`init`](Self::init) from installing a `tracing` subscriber. Build one of your own
    /// from [`log_lines`](crate::log_lines) for log lines and
    /// [`TelemetryGuard::log_layer`](crate::TelemetryGuard::log_layer) for log records.
    pub fn without_subscriber(mut self) -> Self {
        self.log_lines.installs_subscriber = false;
        self
    }
}
