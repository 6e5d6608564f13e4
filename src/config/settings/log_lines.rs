//! Log lines and their filter.

use std::fmt;

use crate::config::settings::shown::shown_filter;
use crate::logs::{LogFilter, LogLines};

/// Settings of log lines.
#[derive(Clone)]
pub(crate) struct LogLineSettings {
    /// Whether `init` installs a subscriber.
    pub(crate) wanted: bool,
    /// `None` for the default of the environment.
    pub(crate) style: Option<LogLines>,
    /// Chooses which events become log lines and log records.
    pub(crate) filter: LogFilter,
}

impl fmt::Debug for LogLineSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filter = shown_filter(&self.filter);
        f.debug_struct("LogLineSettings")
            .field("wanted", &self.wanted)
            .field("style", &self.style)
            .field("filter", &format_args!("{filter}"))
            .finish()
    }
}
