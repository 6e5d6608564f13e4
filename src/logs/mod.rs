//! Log lines that carry the ids of the current span, and log records over OTLP.

#[cfg(feature = "logs")]
mod format;
#[cfg(all(feature = "init", feature = "logs"))]
mod lines;
#[cfg(all(feature = "init", feature = "logs"))]
mod records;
#[cfg(feature = "init")]
mod teller;
mod writer;

#[cfg(feature = "logs")]
pub use format::LogFormat;
#[cfg(all(feature = "init", feature = "logs"))]
pub(crate) use lines::{Installed, LogFilter, install, is_installed};
#[cfg(all(feature = "init", feature = "logs"))]
pub use lines::{LogLines, log_lines};
#[cfg(all(feature = "init", feature = "logs"))]
pub(crate) use records::{Source, filtered_log_records, set_process_logger};

#[cfg(feature = "init")]
pub(crate) use teller::{EndNotice, flush as flush_told, tell, was_used as was_told};
pub use writer::LogWriter;

/// Runs what logs. A subscriber of the application that panics must not end a thread of ours.
fn guarded(log: impl FnOnce()) {
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(log));
}

/// Whether the event is one of OpenTelemetry's SDK.
#[cfg(feature = "logs")]
fn is_of_sdk(metadata: &tracing::Metadata) -> bool {
    let name = metadata.target().split("::").next().unwrap_or("");
    let part = name
        .strip_prefix("opentelemetry")
        .map(|rest| rest.trim_start_matches(['-', '_']));
    part.is_some_and(|part| {
        [
            "",
            "sdk",
            "http",
            "otlp",
            "proto",
            "appender-tracing",
            "appender_tracing",
        ]
        .contains(&part)
    })
}
