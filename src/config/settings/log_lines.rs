//! Log lines and their filter.

use std::fmt;

use crate::config::settings::shown::REDACTED;
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
        // A URL is a filter too, of a target that no event has.
        let filter = format!("{:?}", self.filter);
        let is_url = filter.contains("//") || filter.contains('@');
        let filter = if is_url { REDACTED } else { &filter };
        f.debug_struct("LogLineSettings")
            .field("wanted", &self.wanted)
            .field("style", &self.style)
            .field("filter", &format_args!("{filter}"))
            .finish()
    }
}
