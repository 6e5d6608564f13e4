//! The layer that writes log lines, and the subscriber of `init`.

use std::io::{IsTerminal, stdout};
use std::sync::OnceLock;

use tracing::Subscriber;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::{Filter, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::logs::filter::LogFilter;
use crate::logs::format::LogFormat;
use crate::logs::records::log_records;
use crate::logs::writer::LogWriter;
use crate::semconv::REQUEST_TARGET;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogLines {
    /// Text, with colours on a terminal.
    Text,
    /// JSON, one object a line.
    Json,
}

/// Returns the layer of [`init`](crate::init) that writes log lines to the standard output, with
/// the ids of the current span, for a subscriber of your own. It never waits for the output: see
/// [`LogWriter`].
///
/// It filters as `init` does: by `RUST_LOG` of the process, `info` where that is not set or is not
/// a filter. Each message of OpenTelemetry's SDK is written once a minute at most, from the level
/// `OTEL_LOG_LEVEL` on where `RUST_LOG` is not set. A filter around the layer can only take away
/// more; for another filter, give a [`LogFormat`] to a layer of `tracing_subscriber::fmt`.
///
/// ```
/// use tower_telemetry::{log_lines, logs::LogLines};
/// use tracing_subscriber::{Registry, prelude::*};
///
/// let subscriber = Registry::default().with(log_lines(LogLines::Json));
/// ```
pub fn log_lines<S>(lines: LogLines) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = LogFilter::from_env();
    let of_sdk = filter.of_sdk();
    layer(lines, not_of_request(filter.env_filter()).and(of_sdk))
}

/// Leaves out the spans of requests: a line has the ids of the request, and stays short.
fn not_of_request<S>(filter: impl Filter<S>) -> impl Filter<S> {
    filter.and(filter_fn(|metadata| metadata.target() != REQUEST_TARGET))
}

fn layer<S>(
    lines: LogLines,
    filter: impl Filter<S> + Send + Sync + 'static,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // As `tracing-subscriber` has it, and only where somebody sees it.
    let wants_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = fmt::layer()
        .with_ansi(stdout().is_terminal() && wants_colours)
        .with_writer(LogWriter::stdout());
    match lines {
        LogLines::Text => layer
            .event_format(LogFormat::default())
            .with_filter(filter)
            .boxed(),
        LogLines::Json => layer
            .fmt_fields(JsonFields::new())
            .event_format(LogFormat::json(fmt::format().json()))
            .with_filter(filter)
            .boxed(),
    }
}

/// How the subscriber of `init` was set up. It stays for the process.
static INSTALLED: OnceLock<(LogLines, LogFilter)> = OnceLock::new();

/// Whether the subscriber of the process is that of `init`, which never waits for an output.
pub(crate) fn is_installed() -> bool {
    INSTALLED.get().is_some()
}

/// The outcome of installing the subscriber of `init`.
pub(crate) enum Installed {
    Now,
    /// By an `init` before; `same` says whether lines look and are filtered as they would now.
    Before {
        same: bool,
    },
    /// There is one of the application.
    Not,
}

/// A layer for the subscriber of `init`.
pub(crate) type RegistryLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Makes a subscriber that writes log lines and sends log records the subscriber of the process,
/// also for what is logged through the crate `log`. `spans` is the layer of spans.
pub(crate) fn install(
    lines: LogLines,
    filter: &LogFilter,
    spans: Option<RegistryLayer>,
) -> Installed {
    if let Some((first_lines, first_filter)) = INSTALLED.get() {
        let same = *first_lines == lines && first_filter == filter;
        return Installed::Before { same };
    }
    // The filter is that of lines and records alone: spans are exported whatever `RUST_LOG` says.
    let logs = layer(lines, filter.of_sdk()).and_then(log_records());
    let logs = logs.with_filter(not_of_request(filter.env_filter()));
    let subscriber = tracing_subscriber::registry().with(spans).with(logs);
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        return Installed::Not;
    }
    let _ = INSTALLED.set((lines, filter.clone()));
    // It fails where `log` has a logger already, which is then left alone.
    let _ = tracing_log::LogTracer::init();
    Installed::Now
}
