//! Log lines that carry the ids of the current span.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The format of log lines: that of `tracing-subscriber`, and then `trace_id` and `span_id` of the
/// current span, where there is one.
///
/// [`init`](crate::init) uses it. In a subscriber of your own, give it to the `fmt` layer:
///
/// ```
/// use tracing_subscriber::prelude::*;
///
/// let subscriber = tracing_subscriber::registry()
///     .with(tracing_subscriber::fmt::layer().event_format(tower_telemetry::LogFormat::default()));
/// ```
#[derive(Clone, Debug, Default)]
pub struct LogFormat {
    inner: Format<Full>,
}

impl<S, N> FormatEvent<S, N> for LogFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
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
        writeln!(
            writer,
            "{} trace_id={trace_id} span_id={span_id}",
            line.trim_end_matches('\n')
        )
    }
}

/// Makes a subscriber that writes log lines and sends log records the subscriber of the process,
/// unless there is one already.
#[cfg(feature = "init")]
pub(crate) fn install(
    provider: Option<&opentelemetry_sdk::logs::SdkLoggerProvider>,
    sdk_level: tracing::level_filters::LevelFilter,
) {
    use std::io::{IsTerminal, stdout};

    use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::{EnvFilter, prelude::*};

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
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(stdout().is_terminal())
        .event_format(LogFormat::default());
    // What the SDK says of its own work is for the console alone.
    let records = provider.map(|provider| {
        OpenTelemetryTracingBridge::new(provider).with_filter(filter_fn(|metadata| {
            !metadata.target().starts_with("opentelemetry")
        }))
    });
    let subscriber = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(records);
    if tracing::subscriber::set_global_default(subscriber).is_ok()
        && let Some((text, error)) = problem
    {
        tracing::warn!("RUST_LOG={text:?} is not a filter ({error}); using info");
    }
}
