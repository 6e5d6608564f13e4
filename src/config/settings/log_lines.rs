//! Settings of log lines.

use std::fmt;

use crate::config::settings::shown::shown_filter;
use crate::logs::{LogFilter, LogLines};

/// Settings of log lines.
#[derive(Clone)]
pub(crate) struct LogLineSettings {
    /// Whether `init` installs a subscriber.
    pub(crate) installs_subscriber: bool,
    /// `None` means the environment's default.
    pub(crate) style: Option<LogLines>,
    /// The filter of log lines and log records.
    pub(crate) filter: LogFilter,
}

impl fmt::Debug for LogLineSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filter = shown_filter(&self.filter);
        f.debug_struct("LogLineSettings")
            .field("installs_subscriber", &self.installs_subscriber)
            .field("style", &self.style)
            .field("filter", &format_args!("{filter}"))
            .finish()
    }
}
