//! The format of log lines: a format of `tracing-subscriber` and the ids of the current span.

use std::cell::Cell;
use std::fmt;

use opentelemetry::trace::{SpanId, TraceContextExt, TraceId};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::logs::sdk_events::is_of_sdk;
use crate::propagation::hex;

/// A format of log lines: a format of `tracing-subscriber`, followed by `trace_id` and `span_id` of
/// the current span, if there is one (OpenTelemetry, "Trace Context in non-OTLP Log Formats").
///
/// [`init`](crate::init) uses it. In a subscriber of your own, pass it to the `fmt` layer. The JSON
/// format also needs [`JsonFields`](tracing_subscriber::fmt::format::JsonFields). Colours follow
/// `with_ansi` of the layer. Fields of an event with the names `trace_id` or `span_id` are kept:
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
    ids: Ids,
}

/// How lines show the ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    Whole,
    /// The beginning of the trace id, in text.
    #[cfg(feature = "init")]
    Short,
}

impl Default for LogFormat {
    fn default() -> Self {
        Self::text(Format::default())
    }
}

impl<F, T> LogFormat<F, T> {
    /// Creates a format of text lines.
    pub fn text(inner: Format<F, T>) -> Self {
        Self {
            inner,
            is_json: false,
            ids: Ids::Whole,
        }
    }

    #[cfg(feature = "init")]
    pub(crate) fn with_ids(self, ids: Ids) -> Self {
        Self { ids, ..self }
    }
}

impl<T> LogFormat<Json, T> {
    /// Creates a format with one JSON object per line. The ids are at its top level.
    pub fn json(inner: Format<Json, T>) -> Self {
        Self {
            inner,
            is_json: true,
            ids: Ids::Whole,
        }
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
        // The SDK may log while it changes the context, which must not be read then.
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
        let mut line = BUFFER.try_with(Cell::take).unwrap_or_default();
        let written = inner
            .format_event(context, Writer::new(&mut line), event)
            .and_then(|()| self.write_with_ids(&line, trace_id, span_id, &mut writer));
        if line.capacity() <= MAX_BUFFER {
            line.clear();
            let _ = BUFFER.try_with(|buffer| buffer.set(line));
        }
        written
    }
}

/// Digits of a short trace id.
#[cfg(feature = "init")]
const SHORT: usize = 8;

/// Bound of the buffer that a thread keeps, in bytes.
const MAX_BUFFER: usize = 16 * 1024;

thread_local! {
    /// The inner format ends the line, so it writes to a buffer. A buffer for each line would be
    /// allocated and grow several times.
    static BUFFER: Cell<String> = const { Cell::new(String::new()) };
}

impl<F, T> LogFormat<F, T> {
    /// Writes a line of the inner format, with the ids at its end.
    fn write_with_ids(
        &self,
        line: &str,
        trace_id: TraceId,
        span_id: SpanId,
        writer: &mut Writer<'_>,
    ) -> fmt::Result {
        let trace_id: [u8; 32] = hex::encode(trace_id.to_bytes());
        let span_id: [u8; 16] = hex::encode(span_id.to_bytes());
        let trace_id = str::from_utf8(&trace_id).map_err(|_| fmt::Error)?;
        let span_id = str::from_utf8(&span_id).map_err(|_| fmt::Error)?;
        let line = line.trim_end_matches('\n');
        let object = line.strip_suffix('}').filter(|_| self.is_json);
        let parts = match (object, self.ids) {
            (Some(object), _) => {
                let before = match object.ends_with('{') {
                    true => "\"trace_id\":\"",
                    false => ",\"trace_id\":\"",
                };
                [
                    object,
                    before,
                    trace_id,
                    "\",\"span_id\":\"",
                    span_id,
                    "\"}\n",
                ]
            }
            (None, Ids::Whole) => [line, " trace_id=", trace_id, " span_id=", span_id, "\n"],
            #[cfg(feature = "init")]
            (None, Ids::Short) => [line, " trace=", &trace_id[..SHORT], "", "", "\n"],
        };
        parts.iter().try_for_each(|part| writer.write_str(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_ids<F>(format: &LogFormat<F>, line: &str) -> String {
        let mut text = String::new();
        let trace_id = TraceId::from(0x0af7651916cd43dd8448eb211c80319c);
        let span_id = SpanId::from(0xb7ad6b7169203331);
        let mut writer = Writer::new(&mut text);
        let written = format.write_with_ids(line, trace_id, span_id, &mut writer);
        written.expect("a string accepts any text");
        text
    }

    #[test]
    fn ids_are_inserted_before_the_line_break() {
        const TEXT: &str = " trace_id=0af7651916cd43dd8448eb211c80319c span_id=b7ad6b7169203331\n";
        const JSON: &str = "\"trace_id\":\"0af7651916cd43dd8448eb211c80319c\",\
                            \"span_id\":\"b7ad6b7169203331\"}\n";

        for (line, is_json, open, end) in [
            ("a line\n", false, "a line", TEXT),
            ("two\nlines\n\n", false, "two\nlines", TEXT),
            ("no break", false, "no break", TEXT),
            ("{a}\n", false, "{a}", TEXT),
            ("\n", false, "", TEXT),
            ("{}\n", true, "{", JSON),
            ("{\"a\":1}\n", true, "{\"a\":1,", JSON),
            ("{\"a\":{}}\n", true, "{\"a\":{},", JSON),
            (
                "{\"a\":{\"b\":\"}\\n{\"}}\n",
                true,
                "{\"a\":{\"b\":\"}\\n{\"},",
                JSON,
            ),
            ("no object\n", true, "no object", TEXT),
        ] {
            let written = match is_json {
                true => with_ids(&LogFormat::json(Format::default().json()), line),
                false => with_ids(&LogFormat::default(), line),
            };
            assert_eq!(written, format!("{open}{end}"));
        }
    }

    #[cfg(feature = "init")]
    #[test]
    fn only_text_lines_have_short_ids() {
        let text = LogFormat::default().with_ids(Ids::Short);
        assert_eq!(with_ids(&text, "a line\n"), "a line trace=0af76519\n");
        let json = LogFormat::json(Format::default().json()).with_ids(Ids::Short);
        let object = with_ids(&json, "{\"a\":1}\n");
        assert!(
            object.ends_with("\"span_id\":\"b7ad6b7169203331\"}\n"),
            "{object}"
        );
    }
}
