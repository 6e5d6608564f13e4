//! The development exporter: finished spans as lines of text, a request together.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{SpanId, Status, TraceId};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::trace::{SpanData, SpanLimits};

use crate::logs::LogWriter;
use crate::otlp::outcome::SendOutcome;
use crate::otlp::retention::Retention;
use crate::pipeline::spans::ended::EndedSpan;
use crate::pipeline::worker::Sink;
use crate::semconv;

/// Bounds of what waits for the end of its request.
const MAX_WAITING: usize = 4096;
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Whether a span is the first of its trace in this process: the end of a request.
fn is_local_root(span: &SpanData) -> bool {
    span.parent_span_is_remote || span.parent_span_id == SpanId::INVALID
}

/// Prints the spans of a request when its first span has ended, and with it all others but such as
/// a middleware lets end a little later.
pub(crate) struct SpanPrinter {
    limits: SpanLimits,
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
    /// Whether a request has ended, and no span is known only as the parent of another.
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

    /// Writes each request with those below it, in the order in which they started, and then what
    /// is below none.
    fn write(mut self, text: &mut String) {
        self.others.sort_by_key(|span| span.start_time);
        let mut children: HashMap<SpanId, Vec<SpanData>> = HashMap::new();
        for span in self.others {
            children.entry(span.parent_span_id).or_default().push(span);
        }
        self.roots.sort_by_key(|span| span.start_time);
        for root in self.roots {
            write_span(&root, text);
            // The next one is the last.
            let below = |span: &SpanData, children: &mut HashMap<_, Vec<_>>, depth| {
                let below = children.remove(&id(span)).unwrap_or_default();
                below.into_iter().rev().map(move |child| (depth, child))
            };
            let mut next: Vec<_> = below(&root, &mut children, 1).collect();
            while let Some((depth, span)) = next.pop() {
                write_child(&span, depth, text);
                next.extend(below(&span, &mut children, depth + 1));
            }
        }
        let mut strays: Vec<_> = children.into_values().flatten().collect();
        strays.sort_by_key(|span| span.start_time);
        for span in &strays {
            write_span(span, text);
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
                waiting.add(span.into_span_data(&self.limits, None), text);
            }
        });
        print(&text);
        SendOutcome {
            exported,
            ..SendOutcome::default()
        }
    }

    async fn settled(&self, flush: bool) {
        print(&self.write(|waiting, text| waiting.write_late(flush, text)));
    }
}

impl Waiting {
    fn add(&mut self, span: SpanData, text: &mut String) {
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
            trace.write(text);
        }
    }

    /// Writes what has waited for too long: its request goes on, or ended before.
    fn write_late(&mut self, all: bool, text: &mut String) {
        let all = all || self.spans > MAX_WAITING;
        let late = |trace: &Trace| all || trace.since.elapsed() >= MAX_WAIT;
        for (_, trace) in self.traces.extract_if(|_, trace| late(trace)) {
            self.spans -= trace.len();
            trace.write(text);
        }
    }
}

/// `             load-user ok 1.23ms`, below the line of the request.
fn write_child(span: &SpanData, depth: usize, text: &mut String) {
    let _ = writeln!(
        text,
        "{:indent$} {} {} {:.2?}",
        "",
        span.name.escape_debug(),
        StatusOf(span),
        duration(span),
        indent = "12:34:56.789".len() + 2 * depth,
    );
}

fn duration(span: &SpanData) -> Duration {
    let duration = span.end_time.duration_since(span.start_time);
    duration.unwrap_or_default()
}

/// `12:34:56.789 GET /users/{id} 200 1.23ms trace=0af7..`
fn write_span(span: &SpanData, text: &mut String) {
    let _ = writeln!(
        text,
        "{} {} {} {:.2?} trace={}",
        Clock(span.start_time),
        span.name.escape_debug(),
        StatusOf(span),
        duration(span),
        span.span_context.trace_id(),
    );
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

/// How a span ended, in a word or two: the status of the response, and what went wrong.
struct StatusOf<'a>(&'a SpanData);

impl fmt::Display for StatusOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let find = |key: &str| -> Option<&Value> {
            let found = self.0.attributes.iter().find(|one| one.key.as_str() == key);
            found.map(|attribute| &attribute.value)
        };
        let code =
            find(semconv::HTTP_RESPONSE_STATUS_CODE).or_else(|| find(semconv::RPC_STATUS_CODE));
        let error = find(semconv::ERROR_TYPE);
        match (code, error, &self.0.status) {
            (Some(code), Some(error), _) if code.as_str() != error.as_str() => {
                write!(f, "{code} {}", error.as_str().escape_debug())
            }
            (Some(code), _, _) => write!(f, "{code}"),
            (None, Some(error), _) => write!(f, "{}", error.as_str().escape_debug()),
            (None, None, Status::Error { description }) if !description.is_empty() => {
                write!(f, "error: {}", description.escape_debug())
            }
            (None, None, Status::Error { .. }) => f.write_str("error"),
            (None, None, _) => f.write_str("ok"),
        }
    }
}

/// Prints what the metrics amount to, a line for each series.
pub(crate) fn print_metrics(metrics: &ResourceMetrics) {
    let mut lines = Vec::new();
    for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
        let name = match metric.unit() {
            "" => metric.name().to_owned(),
            unit => format!("{} ({unit})", metric.name()),
        };
        match metric.data() {
            AggregatedMetrics::F64(data) => add_points(&name, data, &mut lines),
            AggregatedMetrics::U64(data) => add_points(&name, data, &mut lines),
            AggregatedMetrics::I64(data) => add_points(&name, data, &mut lines),
        }
    }
    lines.sort();
    print(&lines.concat());
}

fn add_points<T: Copy + fmt::Display>(name: &str, data: &MetricData<T>, lines: &mut Vec<String>) {
    match data {
        MetricData::Gauge(gauge) => {
            for point in gauge.data_points() {
                lines.push(line(name, point.attributes(), &point.value()));
            }
        }
        MetricData::Sum(sum) => {
            for point in sum.data_points() {
                lines.push(line(name, point.attributes(), &point.value()));
            }
        }
        MetricData::Histogram(histogram) => {
            for point in histogram.data_points() {
                let summary = format!("count {} sum {:.6}", point.count(), point.sum());
                lines.push(line(name, point.attributes(), &summary));
            }
        }
        MetricData::ExponentialHistogram(histogram) => {
            for point in histogram.data_points() {
                let summary = format!("count {} sum {:.6}", point.count(), point.sum());
                lines.push(line(name, point.attributes(), &summary));
            }
        }
    }
}

fn line<'a>(
    name: &str,
    attributes: impl Iterator<Item = &'a KeyValue>,
    value: &dyn fmt::Display,
) -> String {
    let attributes: Vec<_> = attributes
        .map(|attribute| format!("{}={}", attribute.key, attribute.value))
        .collect();
    let attributes = attributes.join(" ");
    format!("{name} [{}] {value}\n", attributes.escape_debug())
}

/// Prints without holding up the export thread: the standard output may be one that nobody reads.
fn print(text: &str) {
    LogWriter::stdout().push(text.as_bytes());
}
