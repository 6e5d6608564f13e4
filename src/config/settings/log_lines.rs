//! Log lines and their filter.

use crate::logs::{LogFilter, LogLines};

/// Settings of log lines.
#[derive(Clone, Debug)]
pub(crate) struct LogLineSettings {
    /// Whether `init` installs a subscriber.
    pub(crate) wanted: bool,
    /// `None` for the default of the environment.
    pub(crate) style: Option<LogLines>,
    /// Chooses which events become log lines and log records.
    pub(crate) filter: LogFilter,
}
