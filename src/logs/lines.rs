//! The layer that writes log lines, and the subscriber of `init`.

use std::sync::OnceLock;

use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::{Context, Filter, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::logs::colors::stdout_has_colors;
use crate::logs::filter::{LogFilter, SdkRateLimit};
use crate::logs::format::{Ids, LogFormat};
use crate::logs::records::{LogRecords, Source};
use crate::logs::sdk_events::is_of_sdk;
use crate::logs::writer::LogWriter;
use crate::semconv::REQUEST_TARGET;

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogLines {
    /// Text, with colours on a terminal. In [development](crate::config::Environment::Development),
    /// the lines of [`init`](crate::init) show only the beginning of the trace id, as
    /// `trace=0af76519`, if the console exporter shows the whole id with the request.
    Text,
    /// JSON, one object per line.
    Json,
}

/// Returns the layer that [`init`](crate::init) uses for log lines, for a subscriber of your own. It
/// writes lines with the ids of the current span to the standard output, and never blocks: see
/// [`LogWriter`].
///
/// The layer filters by `RUST_LOG`. The default, also for an invalid value, is `info`. Each event of
/// the OpenTelemetry SDK is written at most once a minute. If `RUST_LOG` is not set, the level of
/// these events is `OTEL_LOG_LEVEL`. A filter around the layer can only remove more lines. For
/// another filter, use a layer of `tracing_subscriber::fmt` with a [`LogFormat`].
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
    layer(lines, Ids::Whole)
        .with_filter(not_of_request(filter.env_filter()).and(of_sdk))
        .boxed()
}

/// Removes the spans of requests, so that lines stay short. A line has the ids of its request.
fn not_of_request<S>(filter: impl Filter<S>) -> impl Filter<S> {
    filter.and(filter_fn(|metadata| metadata.target() != REQUEST_TARGET))
}

fn layer<S>(lines: LogLines, ids: Ids) -> BoxedLayer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = fmt::layer()
        .with_ansi(stdout_has_colors())
        .with_writer(LogWriter::stdout());
    match lines {
        LogLines::Text => layer
            .event_format(LogFormat::default().with_ids(ids))
            .boxed(),
        LogLines::Json => layer
            .fmt_fields(JsonFields::new())
            .event_format(LogFormat::json(fmt::format().json()))
            .boxed(),
    }
}

/// The layer of `init` for logs. It is one layer with one filter, because each layer with a filter
/// makes every span more expensive.
struct Logs<S> {
    lines: BoxedLayer<S>,
    of_sdk: SdkRateLimit,
    records: LogRecords,
}

impl<S> Layer<S> for Logs<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        self.lines.on_new_span(attributes, id, cx);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, cx: Context<'_, S>) {
        self.lines.on_record(id, values, cx);
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        if self.of_sdk.admits(event) {
            self.lines.on_event(event, cx.clone());
        }
        if !is_of_sdk(event.metadata()) {
            self.records.on_event(event, cx);
        }
    }
}

/// The settings of the subscriber of `init`, which stays for the whole process.
static INSTALLED: OnceLock<(LogLines, Ids, LogFilter)> = OnceLock::new();

/// Returns whether `init` has set the subscriber of the process. This subscriber never blocks.
pub(crate) fn is_installed() -> bool {
    INSTALLED.get().is_some()
}

/// The outcome of installing the subscriber of `init`.
pub(crate) enum Installed {
    Now,
    /// An earlier `init` has installed it. `same` is whether the settings are equal.
    Before {
        same: bool,
    },
    /// The application has installed its own subscriber.
    Not,
}

/// A layer of the subscriber of `init`.
pub(crate) type BoxedLayer<S> = Box<dyn Layer<S> + Send + Sync>;

/// Installs a subscriber of the process that writes log lines and sends log records. It also gets
/// the records of the crate `log`. `subscriber` creates the subscriber with the layer for logs.
pub(crate) fn install<S>(
    lines: LogLines,
    ids: Ids,
    filter: &LogFilter,
    subscriber: impl FnOnce(BoxedLayer<S>) -> Dispatch,
) -> Installed
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    if let Some((first_lines, first_ids, first_filter)) = INSTALLED.get() {
        let same = *first_lines == lines && *first_ids == ids && first_filter == filter;
        return Installed::Before { same };
    }
    // `RUST_LOG` applies to lines and records, not to spans.
    let logs = Logs {
        lines: layer(lines, ids),
        of_sdk: filter.of_sdk(),
        records: LogRecords(Source::Process),
    };
    let logs = logs.with_filter(not_of_request(filter.env_filter()));
    if tracing::dispatcher::set_global_default(subscriber(logs.boxed())).is_err() {
        return Installed::Not;
    }
    let _ = INSTALLED.set((lines, ids, filter.clone()));
    // This fails if `log` has a logger already, which then stays.
    let _ = tracing_log::LogTracer::init();
    Installed::Now
}
