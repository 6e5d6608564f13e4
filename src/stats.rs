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
    /// The part of `failed` that a receiver rejected of messages that it took (OTLP specification, "Partial
    /// Success"). `None` where the exporter hides it, and counts rejected items as exported: the crate
    /// `opentelemetry-otlp` over gRPC.
    pub rejected: Option<u64>,
    /// Given up, because the queue was full or time ran out; of a batch that was on its way then,
    /// some may have arrived.
    pub dropped: u64,
    /// In the queue, on their way, or kept for another attempt.
    pub waiting: u64,
    /// Why an attempt to export failed the last time that one did. It may have been followed by an
    /// attempt that did not fail.
    pub last_failure: Option<Failure>,
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
    /// The exporter panicked.
    Panic,
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
        }
    }
}

/// Counts of the telemetry of a process so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
}

/// How a flush or a shutdown ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Whether something was left undone: time ran out before all was sent or given up, or the
    /// metrics could not be collected.
    pub timed_out: bool,
    /// The counts at the end of the flush or shutdown; after a shutdown nothing waits.
    pub stats: Stats,
}

impl Report {
    /// How many spans, metric points and log records were lost so far.
    pub fn lost(&self) -> u64 {
        let Stats {
            traces,
            metrics,
            logs,
            ..
        } = self.stats;
        let signals = [traces, metrics, logs];
        signals
            .iter()
            .map(|signal| signal.failed + signal.dropped)
            .sum()
    }
}

/// One short paragraph: how much was sent and how much was lost, of each signal, and why.
///
/// `sent 120 spans, 34 metric points, 12 log records; lost nothing`
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stats {
            traces,
            metrics,
            logs,
            lost_lines,
        } = self.stats;
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
        let lost = signals.map(|(stats, noun)| {
            let lost = stats.failed.saturating_add(stats.dropped);
            (lost, noun, stats.last_failure)
        });
        let mut lost = lost.iter().filter(|(lost, ..)| *lost > 0).peekable();
        if lost.peek().is_none() {
            f.write_str("nothing")?;
        }
        while let Some((count, noun, failure)) = lost.next() {
            write!(f, "{}", Amount(*count, noun))?;
            if let Some(failure) = failure {
                write!(f, " (last failure: {failure})")?;
            }
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
        if lost_lines > 0 {
            write!(f, "; {} not written", Amount(lost_lines, "log line"))?;
        }
        if self.timed_out {
            f.write_str("; not all was done in time")?;
        }
        Ok(())
    }
}

/// How many of something.
struct Amount<'a>(u64, &'a str);

impl fmt::Display for Amount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, noun) = self;
        write!(f, "{count} {noun}{}", if *count == 1 { "" } else { "s" })
    }
}
