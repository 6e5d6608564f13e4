//! Counts of exported and of lost telemetry.

use std::fmt;

/// Counts of the spans, the metric points or the log records of a process so far.
///
/// `accepted` is the sum of `exported`, `failed`, `dropped` and `waiting` at every moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignalStats {
    /// Handed over for export.
    pub accepted: u64,
    /// Taken by the receiver.
    pub exported: u64,
    /// Sent, or tried to, and not taken.
    pub failed: u64,
    /// Given up, because the queue was full or time ran out; of a batch that was on its way then,
    /// some may have arrived.
    pub dropped: u64,
    /// In the queue, on their way, or kept for another attempt.
    pub waiting: u64,
    /// Why an attempt to export failed the last time that one did. It may have been followed by an
    /// attempt that did not fail.
    pub last_failure: Option<Failure>,
}

impl SignalStats {
    /// Returns how many items were lost: failed, or dropped.
    pub fn lost(&self) -> u64 {
        self.failed.saturating_add(self.dropped)
    }
}

/// Why an export failed. Its text is short, and says nothing of what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// The name of the receiver could not be resolved.
    Dns,
    /// The receiver refused the connection.
    Refused,
    /// There was no connection, or no answer, in time.
    Timeout,
    /// The receiver's certificate is not trusted, or it did not trust ours, or TLS failed otherwise.
    Tls,
    /// The connection failed in another way.
    Connection,
    /// The answer had this status.
    HttpStatus(u16),
    /// The answer had the status of this name.
    GrpcStatus(&'static str),
    /// The receiver took the message, and rejected some of what was in it.
    Rejected,
    /// The answer is not that of an OTLP receiver.
    NoReceiver,
    /// One span, metric point or log record alone is larger than a message may be.
    TooLarge,
    /// The exporter, or another part of the pipeline, panicked.
    Panic,
    /// An exporter of the application failed. The log says how.
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

/// The kind of a part that the application has given to [`Config`](crate::Config).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PartKind {
    /// Of [`Config::with_span_processor`](crate::Config::with_span_processor) and
    /// [`Config::with_span_processor_around`](crate::Config::with_span_processor_around).
    SpanProcessor,
    /// Of [`Config::with_span_exporter`](crate::Config::with_span_exporter).
    SpanExporter,
    /// Of `Config::with_log_processor`.
    LogProcessor,
    /// Of `Config::with_log_exporter`.
    LogExporter,
    /// Of [`Config::with_metric_reader`](crate::Config::with_metric_reader).
    MetricReader,
    /// Of [`Config::with_metric_exporter`](crate::Config::with_metric_exporter).
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

/// Counts of what went through one part of the application's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartStats {
    /// The kind of the part.
    pub kind: PartKind,
    /// The name of its type, without the path.
    pub name: String,
    /// The counts. `None` for a metric reader: it collects by itself, so that its points are not known
    /// here.
    ///
    /// An item is `exported` when the exporter has returned without an error, or when the processor has
    /// returned: what a processor does with it later is not known here.
    pub counts: Option<SignalStats>,
    /// How many calls of its flush and its shutdown have failed or panicked.
    pub failed_flushes: u64,
}

impl PartStats {
    /// Returns how many items were lost.
    pub fn lost(&self) -> u64 {
        self.counts.map_or(0, |counts| counts.lost())
    }
}

/// `span exporter "Vendor": sent 120 spans, lost 3 spans (last failure: timeout)`
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
/// An item that goes to several places is counted in each: `traces`, `metrics` and `logs` have what goes
/// to the OTLP receiver, and `parts` what goes through parts of the application's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Spans.
    pub traces: SignalStats,
    /// Metric points, counted each time that they are sent.
    pub metrics: SignalStats,
    /// Log records.
    pub logs: SignalStats,
    /// Lines of the process that were lost because its standard output was not read: log lines, and
    /// those of the console exporter. See [`LogWriter`](crate::logs::LogWriter).
    pub lost_lines: u64,
    /// The parts that [`Config`](crate::Config) was given, in the order of [`PartKind`].
    pub parts: Vec<PartStats>,
}

/// How a flush or a shutdown ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Whether something was left undone: time ran out before all was sent or given up, or the
    /// metrics could not be collected.
    pub timed_out: bool,
    /// The counts at the end of the flush or shutdown; after a shutdown nothing waits.
    pub stats: Stats,
}

impl Report {
    /// How many spans, metric points and log records were lost so far, on their way to the OTLP receiver
    /// and in parts of the application's. One that was lost in two places counts twice.
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

/// One short paragraph: how much was sent and how much was lost, of each signal and in each part of the
/// application's, and why.
///
/// `sent 120 spans, 34 metric points, 12 log records; lost nothing`
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
        for part in parts {
            write!(f, "; {part}")?;
        }
        if *lost_lines > 0 {
            write!(f, "; {} not written", Amount(*lost_lines, "log line"))?;
        }
        if self.timed_out {
            f.write_str("; not all was done in time")?;
        }
        Ok(())
    }
}

/// How many of something were lost, and why the last attempt failed.
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

/// How many of something.
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
