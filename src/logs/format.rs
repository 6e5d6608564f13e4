//! The format of log lines: one of `tracing-subscriber`, with the ids of the current span.

use std::fmt;

use opentelemetry::trace::TraceContextExt;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::logs::sdk_events::is_of_sdk;

/// The format of log lines: one of `tracing-subscriber`, and then `trace_id` and `span_id` of the
/// current span, where there is one (OpenTelemetry, "Trace Context in non-OTLP Log Formats").
///
/// Colours are those that the layer is told, with `with_ansi`. Fields of an event that are called
/// `trace_id` or `span_id` are there besides. [`init`](crate::init) uses it. In a subscriber of your own, give it to the `fmt` layer; that of
/// JSON needs the fields of spans in JSON, too:
///
/// ```
/// use tower_telemetry::logs::LogFormat;
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
            crate::current_context::map(|cx| {
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
