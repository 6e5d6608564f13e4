//! Log lines that carry the ids of the current span, and log records over OTLP.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The format of log lines: one of `tracing-subscriber`, and then `trace_id` and `span_id` of the
/// current span, where there is one (OpenTelemetry, "Trace Context in non-OTLP Log Formats").
///
/// [`init`](crate::init) uses it. In a subscriber of your own, give it to the `fmt` layer; that of
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
        let ids = Context::map_current(|cx| {
            let span = cx.span();
            let span_context = span.span_context();
            let is_valid = span_context.is_valid();
            is_valid.then(|| (span_context.trace_id(), span_context.span_id()))
        });
        let Some((trace_id, span_id)) = ids else {
            return self.inner.format_event(context, writer, event);
        };
        // The inner format ends the line, which is to go on.
        let mut line = String::new();
        let inner = self.inner.clone().with_ansi(writer.has_ansi_escapes());
        inner.format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end_matches('\n');
        match line.strip_suffix('}') {
            Some(object) if self.is_json => writeln!(
                writer,
                r#"{object},"trace_id":"{trace_id}","span_id":"{span_id}"}}"#
            ),
            _ => writeln!(writer, "{line} trace_id={trace_id} span_id={span_id}"),
        }
    }
}

#[cfg(feature = "init")]
pub use with_init::{LogLines, log_lines};
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
    use tracing_subscriber::util::SubscriberInitExt;
    use tracing_subscriber::{EnvFilter, fmt};

    use super::LogFormat;

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
        let layer = fmt::layer().with_ansi(stdout().is_terminal());
        let sdk = SdkNowAndThen::default();
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

    fn is_of_sdk(metadata: &Metadata) -> bool {
        metadata.target().starts_with("opentelemetry")
    }

    /// Lets each of the SDK's messages pass once a minute: some come with every span.
    #[derive(Default)]
    struct SdkNowAndThen {
        told: Mutex<HashMap<Identifier, Instant>>,
    }

    impl<S> Filter<S> for SdkNowAndThen {
        fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
            true
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
        let default = format!("info,opentelemetry={sdk_level},opentelemetry_sdk={sdk_level}");
        let (filter, problem) = {
            let text = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
            let builder = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
            match builder.parse(&text) {
                Ok(filter) if !text.is_empty() => (filter, None),
                Ok(_) => (EnvFilter::new(&default), None),
                Err(error) => (EnvFilter::new(&default), Some((text, error))),
            }
        };
        if tracing::dispatcher::has_been_set() {
            return false;
        }
        let subscriber = tracing_subscriber::registry()
            .with(filter)
            .with(log_lines(lines))
            .with(provider.map(log_records));
        // It fails as well where only `log` has a logger already, which is then left alone.
        let _ = subscriber.try_init();
        if let Some((text, error)) = problem {
            tracing::warn!("RUST_LOG={text:?} is not a filter ({error}); using info");
        }
        true
    }
}
