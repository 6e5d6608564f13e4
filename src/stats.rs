//! Counts of exported and lost telemetry.

use std::fmt;

/// Counts of the spans, metric points or log records of a process so far.
///
/// `accepted` is always the sum of `exported`, `failed`, `dropped` and `waiting`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignalStats {
    /// The number of items that were passed to the export.
    pub accepted: u64,
    /// The number of items that the receiver accepted.
    pub exported: u64,
    /// The number of items that the receiver did not accept after an attempt to send them.
    pub failed: u64,
    /// The number of items in `failed` that a receiver rejected from accepted messages (OTLP
    /// specification, "Partial Success"). `None` if the exporter hides the number and counts
    /// rejected items as exported, as the crate `opentelemetry-otlp` does over gRPC.
    pub rejected: Option<u64>,
    /// The number of items that were given up because the queue was full or time ran out. Some of
    /// them may have arrived if their batch was being sent.
    pub dropped: u64,
    /// The number of items in the queue, being sent, or kept for another attempt.
    pub waiting: u64,
    /// The reason why the last failed attempt to export failed. A later attempt may have succeeded.
    pub last_failure: Option<Failure>,
}

impl SignalStats {
    /// Returns the number of lost items: failed or dropped.
    pub fn lost(&self) -> u64 {
        self.failed.saturating_add(self.dropped)
    }
}

/// The reason why an export failed. Its text is short and contains no exported data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// The host name of the receiver could not be resolved.
    Dns,
    /// The receiver refused the connection.
    Refused,
    /// Connecting or the response timed out.
    Timeout,
    /// TLS failed, for example because one side does not trust the other's certificate.
    Tls,
    /// The connection failed for another reason.
    Connection,
    /// The receiver responded with this HTTP status.
    HttpStatus(u16),
    /// The receiver responded with the gRPC status of this name.
    GrpcStatus(&'static str),
    /// The receiver accepted a message but rejected some of its items.
    Rejected,
    /// The response does not come from an OTLP receiver.
    NoReceiver,
    /// A single span, metric point or log record exceeds the maximum size of a message.
    TooLarge,
    /// The exporter or another part of the pipeline panicked.
    Panic,
    /// A custom exporter failed. The log contains its error.
    Exporter,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns => f.write_str("dns"),
            Self::Refused => f.write_str("refused"),
            Self::Timeout => f.write_str("timeout"),
            Self::Tls => f.write_str("tls"),
            Self::Connection => f.write_str("connection"),
            Self::HttpStatus(code) => write!(f, "http status {code}"),
            Self::GrpcStatus(name) => write!(f, "grpc status {name}"),
            Self::Rejected => f.write_str("rejected"),
            Self::NoReceiver => f.write_str("no otlp receiver"),
            Self::TooLarge => f.write_str("too large"),
            Self::Panic => f.write_str("panic"),
            Self::Exporter => f.write_str("exporter"),
        }
    }
}

/// The kind of a custom part of the pipeline, see [`Config`](crate::Config).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PartKind {
    /// A part added with [`Config::with_span_processor`](crate::Config::with_span_processor) or
    /// [`Config::with_span_processor_around`](crate::Config::with_span_processor_around).
    SpanProcessor,
    /// A part added with [`Config::with_span_exporter`](crate::Config::with_span_exporter).
    SpanExporter,
    /// A part added with `Config::with_log_processor`.
    LogProcessor,
    /// A part added with `Config::with_log_exporter`.
    LogExporter,
    /// A part added with [`Config::with_metric_reader`](crate::Config::with_metric_reader).
    MetricReader,
    /// A part added with [`Config::with_metric_exporter`](crate::Config::with_metric_exporter).
    MetricExporter,
}

impl PartKind {
    fn noun(self) -> &'static str {
        match self {
            Self::SpanProcessor | Self::SpanExporter => "span",
            Self::LogProcessor | Self::LogExporter => "log record",
            Self::MetricReader | Self::MetricExporter => "metric point",
        }
    }
}

impl fmt::Display for PartKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SpanProcessor => "span processor",
            Self::SpanExporter => "span exporter",
            Self::LogProcessor => "log processor",
            Self::LogExporter => "log exporter",
            Self::MetricReader => "metric reader",
            Self::MetricExporter => "metric exporter",
        })
    }
}

/// Counts of the items in one custom part of the pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartStats {
    /// The kind of the part.
    pub kind: PartKind,
    /// The name of its type, without the path.
    pub name: String,
    /// The counts. `None` for a metric reader, because a reader collects by itself and its points
    /// cannot be counted.
    ///
    /// An item counts as `exported` once an exporter has returned without an error, or once a
    /// processor has returned. Later losses in a processor are unknown.
    pub counts: Option<SignalStats>,
    /// The number of calls to its flush and shutdown that failed or panicked.
    pub failed_flushes: u64,
}

impl PartStats {
    /// Returns the number of lost items.
    pub fn lost(&self) -> u64 {
        self.counts.map_or(0, |counts| counts.lost())
    }
}

/// Writes the counts, such as `span exporter "Vendor": sent 120 spans, lost 3 spans (last failure:
/// timeout)`.
impl fmt::Display for PartStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            name,
            counts,
            failed_flushes,
        } = self;
        write!(f, "{kind} {name:?}: ")?;
        match counts {
            Some(counts) => {
                let noun = kind.noun();
                write!(f, "sent {}, lost ", Amount(counts.exported, noun))?;
                match counts.lost() {
                    0 => f.write_str("nothing")?,
                    lost => Lost(lost, noun, counts.last_failure).fmt(f)?,
                }
            }
            None => f.write_str("not counted")?,
        }
        if *failed_flushes > 0 {
            write!(f, ", {} failed", Amount(*failed_flushes, "flush"))?;
        }
        Ok(())
    }
}

/// Counts of the telemetry of a process so far.
///
/// An item with several destinations is counted for each: `traces`, `metrics` and `logs` count what
/// is sent to the OTLP receiver, and `parts` counts what passes through custom parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Spans.
    pub traces: SignalStats,
    /// Metric points, counted each time they are sent.
    pub metrics: SignalStats,
    /// Log records.
    pub logs: SignalStats,
    /// Lines that were lost because the standard output of the process was not read: log lines and
    /// lines of the console exporter. See [`LogWriter`](crate::logs::LogWriter).
    pub lost_lines: u64,
    /// The custom parts, in the order of [`PartKind`].
    pub parts: Vec<PartStats>,
}

/// The result of a flush or a shutdown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Whether the work is incomplete: the timeout passed before all items were sent or given up,
    /// or the metrics could not be collected.
    pub timed_out: bool,
    /// The counts at the end of the flush or shutdown. After a shutdown, nothing is waiting.
    pub stats: Stats,
}

impl Report {
    /// Returns the number of spans, metric points and log records that have been lost on the way to
    /// the OTLP receiver and in custom parts. An item that was lost in two places counts twice.
    pub fn lost(&self) -> u64 {
        let Stats {
            traces,
            metrics,
            logs,
            parts,
            ..
        } = &self.stats;
        let signals = [traces, metrics, logs];
        let in_parts = parts.iter().map(PartStats::lost);
        signals.iter().map(|signal| signal.lost()).sum::<u64>() + in_parts.sum::<u64>()
    }
}

/// Writes one short paragraph: how much was sent and lost for each signal and in each custom part,
/// and why.
///
/// For example: `sent 120 spans, 34 metric points, 12 log records; lost nothing`
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stats {
            traces,
            metrics,
            logs,
            lost_lines,
            parts,
        } = &self.stats;
        let signals = [
            (traces, "span"),
            (metrics, "metric point"),
            (logs, "log record"),
        ];
        f.write_str("sent ")?;
        for (index, (stats, noun)) in signals.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{}", Amount(stats.exported, noun))?;
        }
        f.write_str("; lost ")?;
        let lost = signals.map(|(stats, noun)| Lost(stats.lost(), noun, stats.last_failure));
        let mut lost = lost.iter().filter(|lost| lost.0 > 0).peekable();
        if lost.peek().is_none() {
            f.write_str("nothing")?;
        }
        while let Some(one) = lost.next() {
            one.fmt(f)?;
            if lost.peek().is_some() {
                f.write_str(", ")?;
            }
        }
        let hidden = signals.iter().filter(|(stats, _)| {
            let is_hidden = stats.rejected.is_none();
            is_hidden && stats.exported > 0
        });
        let hidden: Vec<_> = hidden.map(|(_, noun)| format!("{noun}s")).collect();
        if !hidden.is_empty() {
            let nouns = hidden.join(", ");
            write!(f, "; unknown how many {nouns} the receiver rejected")?;
        }
        for part in parts {
            write!(f, "; {part}")?;
        }
        if *lost_lines > 0 {
            write!(f, "; {} not written", Amount(*lost_lines, "log line"))?;
        }
        if self.timed_out {
            f.write_str("; some work was not finished in time")?;
        }
        Ok(())
    }
}

/// The number of lost items, and why the last attempt failed.
struct Lost<'a>(u64, &'a str, Option<Failure>);

impl fmt::Display for Lost<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, noun, failure) = self;
        Amount(*count, noun).fmt(f)?;
        match failure {
            Some(failure) => write!(f, " (last failure: {failure})"),
            None => Ok(()),
        }
    }
}

/// A number of items.
struct Amount<'a>(u64, &'a str);

impl fmt::Display for Amount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, noun) = self;
        let plural = match (count, noun.ends_with("sh")) {
            (1, _) => "",
            (_, true) => "es",
            (_, false) => "s",
        };
        write!(f, "{count} {noun}{plural}")
    }
}
