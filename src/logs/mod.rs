//! Log lines that carry the ids of the current span, and log records over OTLP.

#[cfg(feature = "init")]
mod colors;
#[cfg(feature = "init")]
mod event_thread;
#[cfg(all(feature = "init", feature = "logs"))]
mod filter;
#[cfg(feature = "logs")]
mod format;
#[cfg(all(feature = "init", feature = "logs"))]
mod lines;
mod output;
#[cfg(all(feature = "init", feature = "logs"))]
mod records;
#[cfg(feature = "logs")]
mod sdk_events;
mod threads;
mod writer;

#[cfg(all(feature = "init", feature = "logs"))]
pub(crate) use filter::LogFilter;
#[cfg(all(feature = "init", feature = "logs"))]
pub(crate) use format::Ids;
#[cfg(feature = "logs")]
pub use format::LogFormat;
#[cfg(all(feature = "init", feature = "logs"))]
pub(crate) use lines::{BoxedLayer, Installed, install, is_installed};
#[cfg(all(feature = "init", feature = "logs"))]
pub use lines::{LogLines, log_lines};
#[cfg(all(feature = "init", feature = "logs"))]
pub(crate) use records::{Source, filtered_log_records, set_process_logger};

#[cfg(feature = "init")]
pub(crate) use colors::stdout_has_colors;
#[cfg(feature = "init")]
pub(crate) use event_thread::{
    EndWarning, emit_later, end_disabled_threads, flush as flush_events, flush_async,
    was_used as has_emitted,
};
#[cfg(feature = "init")]
pub(crate) use threads::enable_threads;
pub use writer::LogWriter;

/// The time for the last lines if a flush or a shutdown has taken its whole timeout. One of these
/// lines says what was lost.
#[cfg(feature = "init")]
pub(crate) const LAST_LINES: std::time::Duration = std::time::Duration::from_millis(250);
