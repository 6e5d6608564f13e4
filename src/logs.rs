//! Log lines that carry the ids of the current span, and log records over OTLP.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The format of log lines: one of `tracing-subscriber`, and then `trace_id` and `span_id` of the
/// current span, where there is one (OpenTelemetry, "Trace Context in non-OTLP Log Formats").
///
/// Colours are those that the layer is told, with `with_ansi`. Fields of an event that are called
/// `trace_id` or `span_id` are there besides. [`init`](crate::init) uses it. In a subscriber of your own, give it to the `fmt` layer; that of
/// JSON needs the fields of spans in JSON, too:
///
/// ```
/// use tower_telemetry::LogFormat;
/// use tracing_subscriber::fmt::format::JsonFields;
/// use tracing_subscriber::fmt::{format, layer};
/// use tracing_subscriber::{Registry, prelude::*};
///
/// let text = Registry::default().with(layer().event_format(LogFormat::default()));
/// let compact = LogFormat::text(format().compact().without_time());
/// let compact = Registry::default().with(layer().event_format(compact));
/// let json = LogFormat::json(format().json().flatten_event(true));
/// let json = layer().fmt_fields(JsonFields::new()).event_format(json);
/// let json = Registry::default().with(json);
/// ```
#[derive(Clone, Debug)]
pub struct LogFormat<F = Full, T = SystemTime> {
    inner: Format<F, T>,
    is_json: bool,
}

impl Default for LogFormat {
    fn default() -> Self {
        Self::text(Format::default())
    }
}

impl<F, T> LogFormat<F, T> {
    /// Lines of text.
    pub fn text(inner: Format<F, T>) -> Self {
        let is_json = false;
        Self { inner, is_json }
    }
}

impl<T> LogFormat<Json, T> {
    /// One object a line; the ids are at its top.
    pub fn json(inner: Format<Json, T>) -> Self {
        let is_json = true;
        Self { inner, is_json }
    }
}

impl<S, N, F, T> FormatEvent<S, N> for LogFormat<F, T>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    Format<F, T>: FormatEvent<S, N> + Clone,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // The SDK may be about to change the context when it says something.
        let is_of_sdk = is_of_sdk(event.metadata());
        let ids = (!is_of_sdk).then(|| {
            Context::map_current(|cx| {
                let span = cx.span();
                let span_context = span.span_context();
                let is_valid = span_context.is_valid();
                is_valid.then(|| (span_context.trace_id(), span_context.span_id()))
            })
        });
        let inner = self.inner.clone().with_ansi(writer.has_ansi_escapes());
        let Some((trace_id, span_id)) = ids.flatten() else {
            return inner.format_event(context, writer, event);
        };
        // The inner format ends the line, which is to go on.
        let mut line = String::new();
        inner.format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end_matches('\n');
        match line.strip_suffix('}') {
            Some(object) if self.is_json => {
                let comma = if object.ends_with('{') { "" } else { "," };
                writeln!(
                    writer,
                    r#"{object}{comma}"trace_id":"{trace_id}","span_id":"{span_id}"}}"#
                )
            }
            _ => writeln!(writer, "{line} trace_id={trace_id} span_id={span_id}"),
        }
    }
}

#[cfg(feature = "init")]
pub use with_init::{LogLines, log_lines};
/// Whether it is OpenTelemetry's SDK that says something.
fn is_of_sdk(metadata: &Metadata) -> bool {
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

#[cfg(feature = "init")]
pub(crate) use with_init::{install, log_records};

#[cfg(feature = "init")]
mod with_init {
    use std::collections::HashMap;
    use std::io::{IsTerminal, stdout};
    use std::sync::{Mutex, PoisonError};
    use std::time::{Duration, Instant};

    use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
    use opentelemetry_sdk::logs::SdkLoggerProvider;
    use tracing::callsite::Identifier;
    use tracing::level_filters::LevelFilter;
    use tracing::{Event, Metadata, Subscriber};
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::fmt::format::JsonFields;
    use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
    use tracing_subscriber::registry::LookupSpan;
    use tracing_subscriber::{EnvFilter, fmt};

    use super::{LogFormat, is_of_sdk};

    /// How log lines look.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[non_exhaustive]
    pub enum LogLines {
        /// Text, with colours on a terminal.
        Text,
        /// JSON, one object a line.
        Json,
    }

    /// The layer of [`init`](crate::init) that writes log lines to the standard output, with the
    /// ids of the current span, for a subscriber of your own. What OpenTelemetry's SDK says is
    /// written once a minute at most, each message.
    ///
    /// ```
    /// use tower_telemetry::{LogLines, log_lines};
    /// use tracing_subscriber::{EnvFilter, Registry, prelude::*};
    ///
    /// let lines = log_lines(LogLines::Json).with_filter(EnvFilter::new("info"));
    /// let subscriber = Registry::default().with(lines);
    /// ```
    pub fn log_lines<S>(lines: LogLines) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        lines_from(lines, LevelFilter::TRACE)
    }

    /// The same, with the SDK's messages from this level on.
    fn lines_from<S>(lines: LogLines, sdk_level: LevelFilter) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        // As `tracing-subscriber` has it, and only where somebody sees it.
        let wants_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let layer = fmt::layer().with_ansi(stdout().is_terminal() && wants_colours);
        let sdk = SdkNowAndThen {
            level: sdk_level,
            told: Mutex::default(),
        };
        match lines {
            LogLines::Text => layer
                .event_format(LogFormat::default())
                .with_filter(sdk)
                .boxed(),
            LogLines::Json => layer
                .fmt_fields(JsonFields::new())
                .event_format(LogFormat::json(fmt::format().json()))
                .with_filter(sdk)
                .boxed(),
        }
    }

    /// A layer that sends log records. What the SDK says of its own work is not among them.
    pub(crate) fn log_records<S>(provider: &SdkLoggerProvider) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let is_wanted = |metadata: &Metadata| !is_of_sdk(metadata);
        OpenTelemetryTracingBridge::new(provider)
            .with_filter(filter_fn(is_wanted))
            .boxed()
    }

    /// Lets each of the SDK's messages pass once a minute: some come with every span.
    struct SdkNowAndThen {
        level: LevelFilter,
        told: Mutex<HashMap<Identifier, Instant>>,
    }

    impl<S> Filter<S> for SdkNowAndThen {
        fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
            !is_of_sdk(metadata) || *metadata.level() <= self.level
        }

        fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
            const PAUSE: Duration = Duration::from_secs(60);

            if !is_of_sdk(event.metadata()) {
                return true;
            }
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let last = told.insert(event.metadata().callsite(), now);
            match last {
                Some(last) if now.duration_since(last) < PAUSE => {
                    told.insert(event.metadata().callsite(), last);
                    false
                }
                _ => true,
            }
        }
    }

    /// Makes a subscriber that writes log lines and sends log records the subscriber of the
    /// process, also for what is logged through the crate `log`, and returns whether it is: there
    /// may be one already.
    pub(crate) fn install(
        provider: Option<&SdkLoggerProvider>,
        lines: LogLines,
        sdk_level: LevelFilter,
    ) -> bool {
        let text = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
        let builder = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
        // What of the SDK is shown is said by its own variable, unless this one says anything.
        let (filter, sdk_level, problem) = match builder.parse(&text) {
            Ok(filter) if !text.is_empty() => (filter, LevelFilter::TRACE, None),
            result => {
                let filter = format!("info,opentelemetry={}", sdk_level.max(LevelFilter::INFO));
                (EnvFilter::new(filter), sdk_level, result.err())
            }
        };
        let subscriber = tracing_subscriber::registry()
            .with(filter)
            .with(lines_from(lines, sdk_level))
            .with(provider.map(log_records));
        if tracing::subscriber::set_global_default(subscriber).is_err() {
            return false;
        }
        // It fails where `log` has a logger already, which is then left alone.
        let _ = tracing_log::LogTracer::init();
        if let Some(error) = problem {
            tracing::warn!("RUST_LOG={text:?} is not a filter ({error}); using info");
        }
        true
    }
}
