//! The spans of each request as lines of text, together.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::Value;
use opentelemetry::trace::{SpanId, Status, TraceId};
use opentelemetry_sdk::trace::{SpanData, SpanLimits};

use crate::otlp::outcome::SendOutcome;
use crate::otlp::retention::Retention;
use crate::pipeline::console::style::{Color, Style, print};
use crate::pipeline::spans::ended::EndedSpan;
use crate::pipeline::worker::Sink;
use crate::semconv;

/// Characters of a path that are shown, so that a line fits into 100 columns.
const MAX_PATH: usize = 30;

/// Limits of spans that wait for the end of their request.
const MAX_WAITING: usize = 4096;
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Whether a span is the first of its trace in this process: the end of a request.
fn is_local_root(span: &SpanData) -> bool {
    span.parent_span_is_remote || span.parent_span_id == SpanId::INVALID
}

/// Prints the spans of a request together, when the span of the request and all spans below it have
/// ended.
pub(crate) struct SpanPrinter {
    limits: SpanLimits,
    style: Style,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    traces: HashMap<TraceId, Trace>,
    spans: usize,
}

/// The spans of a trace that have ended.
struct Trace {
    since: Instant,
    /// The spans of requests; a trace may have several of them here.
    roots: Vec<SpanData>,
    others: Vec<SpanData>,
}

impl Trace {
    /// Returns whether a request has ended, and the parents of all spans have ended too.
    fn is_complete(&self) -> bool {
        if self.roots.is_empty() {
            return false;
        }
        let ids: HashSet<_> = self.roots.iter().chain(&self.others).map(id).collect();
        self.others
            .iter()
            .all(|span| ids.contains(&span.parent_span_id))
    }

    fn len(&self) -> usize {
        self.roots.len() + self.others.len()
    }

    /// Writes each request with its descendants, in the order of their start times, and then the
    /// spans without a known parent.
    fn write(mut self, style: Style, text: &mut String) {
        self.others.sort_by_key(|span| span.start_time);
        let mut children: HashMap<SpanId, Vec<SpanData>> = HashMap::new();
        for span in self.others {
            children.entry(span.parent_span_id).or_default().push(span);
        }
        self.roots.sort_by_key(|span| span.start_time);
        for root in self.roots {
            write_span(&root, None, style, text);
            // A stack. Its last element is written next.
            let below = |span: &SpanData, children: &mut HashMap<_, Vec<_>>, depth| {
                let below = children.remove(&id(span)).unwrap_or_default();
                below.into_iter().rev().map(move |child| (depth, child))
            };
            let mut next: Vec<_> = below(&root, &mut children, 1).collect();
            while let Some((depth, span)) = next.pop() {
                write_span(&span, Some(depth), style, text);
                next.extend(below(&span, &mut children, depth + 1));
            }
        }
        let mut orphans: Vec<_> = children.into_values().flatten().collect();
        orphans.sort_by_key(|span| span.start_time);
        for span in &orphans {
            write_span(span, None, style, text);
        }
    }
}

fn id(span: &SpanData) -> SpanId {
    span.span_context.span_id()
}

impl SpanPrinter {
    pub(crate) fn new(limits: SpanLimits) -> Self {
        Self {
            limits,
            style: Style::of_stdout(),
            waiting: Mutex::default(),
        }
    }

    fn write(&self, write: impl FnOnce(&mut Waiting, &mut String)) -> String {
        let mut text = String::new();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        write(&mut waiting, &mut text);
        text
    }
}

impl Sink<EndedSpan> for SpanPrinter {
    async fn export(&self, batch: Vec<EndedSpan>, _: &Retention) -> SendOutcome {
        let exported = batch.len() as u64;
        let text = self.write(|waiting, text| {
            for span in batch {
                let span = span.into_span_data(&self.limits, None);
                waiting.add(span, self.style, text);
            }
        });
        print(&text);
        SendOutcome {
            exported,
            ..SendOutcome::default()
        }
    }

    async fn end_pass(&self, flush: bool) {
        print(&self.write(|waiting, text| waiting.write_overdue(flush, self.style, text)));
    }
}

impl Waiting {
    fn add(&mut self, span: SpanData, style: Style, text: &mut String) {
        let trace_id = span.span_context.trace_id();
        let trace = self.traces.entry(trace_id).or_insert_with(|| Trace {
            since: Instant::now(),
            roots: Vec::new(),
            others: Vec::new(),
        });
        self.spans += 1;
        if is_local_root(&span) {
            trace.roots.push(span);
        } else {
            trace.others.push(span);
        }
        if trace.is_complete()
            && let Some(trace) = self.traces.remove(&trace_id)
        {
            self.spans -= trace.len();
            trace.write(style, text);
        }
    }

    /// Writes traces that have waited for too long, because their request is still running or has
    /// been written before.
    fn write_overdue(&mut self, all: bool, style: Style, text: &mut String) {
        let all = all || self.spans > MAX_WAITING;
        let overdue = |trace: &Trace| all || trace.since.elapsed() >= MAX_WAIT;
        for (_, trace) in self.traces.extract_if(|_, trace| overdue(trace)) {
            self.spans -= trace.len();
            trace.write(style, text);
        }
    }
}

/// Writes `12:34:56.789 GET /users/{id} (/users/42) 200 1.23ms trace=0af7..` for a request, and
/// `             load-user ok 1.23ms` for a span below it.
fn write_span(span: &SpanData, depth: Option<usize>, style: Style, text: &mut String) {
    let indent = "12:34:56.789".len() + 2 * depth.unwrap_or(0);
    let _ = match depth {
        None => write!(text, "{}", style.dim(Clock(span.start_time))),
        Some(_) => write!(text, "{:indent$}", ""),
    };
    let _ = write!(text, " {}", span.name.escape_debug());
    if let Some(path) = path_unless_in_name(span) {
        let _ = write!(text, " {}", style.dim(path));
    }
    let span_end = span_end(span);
    let _ = write!(
        text,
        " {} {:.2?}",
        style.colored(span_end.color, &span_end.words),
        duration(span)
    );
    if depth.is_none() {
        let trace = format_args!("trace={}", span.span_context.trace_id());
        let _ = write!(text, " {}", style.dim(trace));
    }
    text.push('\n');
    if let Some(message) = message(span) {
        let message = style.colored(Color::Red, message.escape_debug());
        let _ = writeln!(text, "{:indent$} ! {message}", "");
    }
}

/// Returns the path of a request, unless its name contains it.
fn path_unless_in_name(span: &SpanData) -> Option<String> {
    let path = attribute(span, semconv::URL_PATH)?.as_str();
    let route = attribute(span, semconv::HTTP_ROUTE);
    if route.is_some_and(|route| route.as_str() == path) || span.name.ends_with(&*path) {
        return None;
    }
    let shown: String = path.escape_debug().take(MAX_PATH + 1).collect();
    let shown = match shown.char_indices().nth(MAX_PATH) {
        Some((end, _)) => format!("{}..", &shown[..end]),
        None => shown,
    };
    Some(match route {
        Some(_) => format!("({shown})"),
        None => shown,
    })
}

/// Returns the message of a failed span, unless the line shows it.
fn message(span: &SpanData) -> Option<&str> {
    match &span.status {
        Status::Error { description } if !description.is_empty() => {
            let description: &str = description;
            (attribute(span, semconv::ERROR_TYPE).is_none_or(|error| error.as_str() != description))
                .then_some(description)
        }
        _ => None,
    }
}

fn attribute<'a>(span: &'a SpanData, key: &str) -> Option<&'a Value> {
    let mut attributes = span.attributes.iter();
    let found = attributes.find(|attribute| attribute.key.as_str() == key);
    found.map(|attribute| &attribute.value)
}

fn duration(span: &SpanData) -> Duration {
    let duration = span.end_time.duration_since(span.start_time);
    duration.unwrap_or_default()
}

/// The time of day, UTC.
struct Clock(SystemTime);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or_default();
        let seconds = since.as_secs() % (24 * 60 * 60);
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let milliseconds = since.subsec_millis();
        write!(f, "{hours:02}:{minutes:02}:{seconds:02}.{milliseconds:03}")
    }
}

/// How a span ended.
struct SpanEnd {
    /// The status of the response, and the type of the error.
    words: String,
    color: Color,
}

fn span_end(span: &SpanData) -> SpanEnd {
    let status = attribute(span, semconv::HTTP_RESPONSE_STATUS_CODE);
    let code = status.or_else(|| attribute(span, semconv::RPC_STATUS_CODE));
    let error = attribute(span, semconv::ERROR_TYPE).map(|error| error.as_str());
    let failed = matches!(span.status, Status::Error { .. });
    let words = match (code, error) {
        (Some(code), Some(error)) if code.as_str() != error => {
            format!("{code} {}", error.escape_debug())
        }
        (Some(code), _) => code.to_string(),
        (None, Some(error)) => error.escape_debug().to_string(),
        (None, None) if failed => "error".to_owned(),
        (None, None) => "ok".to_owned(),
    };
    let color = match status {
        _ if failed => Color::Red,
        Some(Value::I64(400..)) => Color::Yellow,
        Some(Value::I64(300..)) => Color::Cyan,
        _ => Color::Green,
    };
    SpanEnd { words, color }
}

#[cfg(test)]
mod tests {
    use opentelemetry::KeyValue;
    use opentelemetry::trace::{SpanContext, SpanKind, TraceFlags};
    use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};

    use super::*;

    fn span(name: &'static str, parent: u64, id: u64, attributes: Vec<KeyValue>) -> SpanData {
        let trace_id = TraceId::from(0x0af7651916cd43dd8448eb211c80319c);
        let start_time = SystemTime::UNIX_EPOCH + Duration::from_millis(45_296_789 + id);
        SpanData {
            span_context: SpanContext::new(
                trace_id,
                SpanId::from(id),
                TraceFlags::SAMPLED,
                false,
                Default::default(),
            ),
            parent_span_id: SpanId::from(parent),
            parent_span_is_remote: false,
            span_kind: SpanKind::Server,
            name: name.into(),
            start_time,
            end_time: start_time + Duration::from_micros(7150),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: Default::default(),
        }
    }

    fn request(name: &'static str, route: Option<&str>, path: &str, status: i64) -> SpanData {
        let mut attributes = vec![
            KeyValue::new(semconv::URL_PATH, path.to_owned()),
            KeyValue::new(semconv::HTTP_RESPONSE_STATUS_CODE, status),
        ];
        if let Some(route) = route {
            attributes.push(KeyValue::new(semconv::HTTP_ROUTE, route.to_owned()));
        }
        span(name, 0, 1, attributes)
    }

    fn printed(spans: Vec<SpanData>, style: Style) -> String {
        let mut waiting = Waiting::default();
        let mut text = String::new();
        for span in spans {
            waiting.add(span, style, &mut text);
        }
        text
    }

    const TRACE: &str = "trace=0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_path_is_shown_if_the_name_does_not_contain_it() {
        let long = format!("/{}", "x".repeat(60));
        for (span, shown) in [
            (
                request("GET /healthz", Some("/healthz"), "/healthz", 200),
                "GET /healthz 200",
            ),
            (
                request("GET /users/{id}", Some("/users/{id}"), "/users/42", 200),
                "GET /users/{id} (/users/42) 200",
            ),
            (request("GET", None, "/nothing", 404), "GET /nothing 404"),
            (
                request("GET", None, "/\u{1b}[0m", 404),
                "GET /\\u{1b}[0m 404",
            ),
            (
                request("GET", None, &long, 404),
                &format!("GET {}.. 404", &long[..30]),
            ),
        ] {
            let line = printed(vec![span], Style::new(false));
            assert_eq!(line, format!("12:34:56.790 {shown} 7.15ms {TRACE}\n"));
            assert!(line.len() <= 100, "{line}");
        }
    }

    #[test]
    fn a_failed_span_shows_its_message_below() {
        let mut failed = span(
            "load-user",
            1,
            2,
            vec![KeyValue::new(semconv::ERROR_TYPE, "timeout")],
        );
        failed.status = Status::error("the database did not answer");
        let spans = vec![failed, request("GET", None, "/", 200)];
        assert_eq!(
            printed(spans, Style::new(false)),
            format!(
                "12:34:56.790 GET / 200 7.15ms {TRACE}\n\
                 \x20              load-user timeout 7.15ms\n\
                 \x20              ! the database did not answer\n"
            )
        );
        let mut failed = request("GET", None, "/", 500);
        failed.status = Status::error("a\nb");
        let text = printed(vec![failed], Style::new(false));
        assert!(text.ends_with("\n             ! a\\nb\n"), "{text}");
    }

    #[test]
    fn colours_follow_the_status() {
        let failed = |mut span: SpanData| {
            span.status = Status::error("");
            span
        };
        for (span, code) in [
            (request("GET", None, "/", 200), 32),
            (request("GET", None, "/", 304), 36),
            (request("GET", None, "/", 404), 33),
            (failed(request("GET", None, "/", 500)), 31),
            (span("task", 0, 1, Vec::new()), 32),
            (failed(span("task", 0, 1, Vec::new())), 31),
        ] {
            let text = printed(vec![span], Style::new(true));
            assert!(text.contains(&format!("\x1b[{code}m")), "{text:?}");
            assert!(text.starts_with("\x1b[2m12:34:56.790\x1b[0m "), "{text:?}");
        }
    }
}
