//! What keeps telemetry running, and ends it.

use std::fmt;
use std::mem::ManuallyDrop;
use std::time::Duration;

use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;

use super::export::Export;
use super::runtime::ExportThread;
use super::settings::{Propagator, Signal};
use super::stats::{self, Counters, SignalStats};

/// Keeps telemetry running, and ends it.
///
/// End it with [`shutdown`](Self::shutdown), which sends what still waits. A guard that is merely
/// dropped does the same on the thread that drops it, for as long as the shutdown timeout.
#[must_use = "telemetry ends when the guard is dropped; bind it to a name, `let telemetry = ..`"]
pub struct TelemetryGuard {
    /// `None` where telemetry is switched off, and after shutdown.
    pub(super) running: Option<Running>,
    pub(super) propagators: Vec<Propagator>,
}

pub(super) struct Running {
    pub(super) thread: ExportThread,
    pub(super) export: Export,
    pub(super) timeout: Duration,
}

/// What became of the telemetry of a process so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Spans.
    pub traces: SignalStats,
    /// Metric points, counted each time that they are sent.
    pub metrics: SignalStats,
    /// Log records.
    pub logs: SignalStats,
}

/// How a flush or a shutdown ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Whether something was left undone: time ran out before all was sent or given up, or the
    /// metrics could not be collected.
    pub timed_out: bool,
    /// What became of all telemetry so far; after a shutdown nothing waits any more.
    pub stats: Stats,
}

impl Report {
    /// How many spans, metric points and log records were lost so far.
    pub fn lost(&self) -> u64 {
        let Stats {
            traces,
            metrics,
            logs,
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

impl TelemetryGuard {
    /// Sends what still waits, ends export, and says what was sent and what was lost.
    ///
    /// Takes at most the shutdown timeout (5 seconds unless told otherwise), all signals together.
    /// Call it when the server has stopped: what is recorded later is lost.
    pub async fn shutdown(mut self) -> Report {
        match self.running.take() {
            Some(running) => {
                running.stop_recording();
                // Where this future is dropped midway, the last of the provider must not be: it
                // would wait for an export thread that may be held up.
                let provider = ManuallyDrop::new(running.export.meter_provider.clone());
                let complete = running.thread.flush(true, running.timeout).await;
                let report = running.last_report(complete);
                drop(ManuallyDrop::into_inner(provider));
                report
            }
            None => Report::default(),
        }
    }

    /// Sends what waits now, and goes on.
    ///
    /// Takes at most the shutdown timeout, all signals together.
    pub async fn force_flush(&self) -> Report {
        match &self.running {
            Some(running) => {
                let complete = running.thread.flush(false, running.timeout).await;
                Report {
                    timed_out: !complete,
                    stats: running.stats(),
                }
            }
            None => Report::default(),
        }
    }

    /// What became of all telemetry so far; all zero where telemetry is switched off.
    pub fn stats(&self) -> Stats {
        self.running
            .as_ref()
            .map(Running::stats)
            .unwrap_or_default()
    }

    /// The tracer provider, for what else wants one; `None` where telemetry is switched off.
    ///
    /// It is flushed and shut down by this guard.
    pub fn tracer_provider(&self) -> Option<&SdkTracerProvider> {
        Some(&self.running.as_ref()?.export.tracer_provider)
    }

    /// The meter provider, for what else wants one; `None` where telemetry is switched off.
    ///
    /// It is flushed and shut down by this guard.
    pub fn meter_provider(&self) -> Option<&SdkMeterProvider> {
        Some(&self.running.as_ref()?.export.meter_provider)
    }

    /// The logger provider, for what else wants one; `None` where log records are not sent.
    ///
    /// It is flushed and shut down by this guard.
    #[cfg(feature = "logs")]
    pub fn logger_provider(&self) -> Option<&opentelemetry_sdk::logs::SdkLoggerProvider> {
        self.running.as_ref()?.export.logger_provider.as_ref()
    }

    /// A layer that sends log records, for a subscriber of your own; `None` where they are not
    /// sent. See [`Config::without_subscriber`](super::Config::without_subscriber).
    ///
    /// ```
    /// use tower_telemetry::{Config, LogLines, log_lines};
    /// use tracing_subscriber::prelude::*;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let telemetry = Config::from_env().without_subscriber().init()?;
    /// tracing_subscriber::registry()
    ///     .with(log_lines(LogLines::Text))
    ///     .with(telemetry.log_layer())
    ///     .init();
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "logs")]
    pub fn log_layer<S>(&self) -> Option<impl tracing_subscriber::Layer<S> + Send + Sync + use<S>>
    where
        S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    {
        self.logger_provider().map(crate::logs::log_records)
    }
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop_recording();
            let complete = running.thread.flush_blocking(true, running.timeout);
            running.last_report(complete);
        }
    }
}

impl fmt::Debug for TelemetryGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TelemetryGuard")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Running {
    /// From here on nothing new is queued, so that a shutdown has an end.
    fn stop_recording(&self) {
        // These fail only where it was done before.
        let _ = self.export.tracer_provider.shutdown();
        #[cfg(feature = "logs")]
        let _ = self
            .export
            .logger_provider
            .as_ref()
            .map(|provider| provider.shutdown());
    }

    fn stats(&self) -> Stats {
        self.stats_by(Counters::stats)
    }

    fn stats_by(&self, read: fn(&Counters) -> SignalStats) -> Stats {
        let stats = |signal| read(&self.export.counters[signal]);
        Stats {
            traces: stats(Signal::Traces),
            metrics: stats(Signal::Metrics),
            logs: stats(Signal::Logs),
        }
    }

    /// The report after the last flush, when the thread has ended.
    fn last_report(&self, complete: bool) -> Report {
        if complete {
            // Last, because metrics are collected until the last flush.
            let _ = self.export.meter_provider.shutdown();
        } else {
            // The export thread may be held up in a callback for good. The provider would wait for
            // it, when it is shut down and when the last of it is dropped.
            std::mem::forget(self.export.meter_provider.clone());
        }
        let report = Report {
            timed_out: !complete,
            stats: self.stats_by(Counters::last_stats),
        };
        // While it ran, all else that was lost has been told.
        let told = self.stats();
        let given_up = [
            (report.stats.traces, told.traces),
            (report.stats.metrics, told.metrics),
            (report.stats.logs, told.logs),
        ]
        .map(|(last, told)| last.dropped.saturating_sub(told.dropped));
        let [traces, metrics, logs] = given_up;
        if given_up != [0; 3] {
            stats::tell(|| {
                tracing::warn!(
                    traces,
                    metrics,
                    logs,
                    "telemetry is lost: not all was exported when telemetry was shut down"
                );
            });
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::stats::Failure;

    #[test]
    fn a_report_is_one_short_paragraph() {
        let stats = |exported, failed, dropped, last_failure| SignalStats {
            accepted: exported + failed + dropped,
            exported,
            failed,
            dropped,
            last_failure,
        };
        let none = SignalStats::default();
        for (traces, metrics, logs, timed_out, expected) in [
            (
                none,
                none,
                none,
                false,
                "sent 0 spans, 0 metric points, 0 log records; lost nothing",
            ),
            (
                stats(120, 0, 0, None),
                stats(34, 0, 0, None),
                stats(12, 0, 0, None),
                false,
                "sent 120 spans, 34 metric points, 12 log records; lost nothing",
            ),
            (
                stats(1, 0, 1, None),
                stats(1, 0, 0, Some(Failure::Timeout)),
                stats(1, 0, 0, None),
                false,
                "sent 1 span, 1 metric point, 1 log record; lost 1 span",
            ),
            (
                stats(7, 2, 3, Some(Failure::HttpStatus(503))),
                none,
                stats(0, 1, 0, Some(Failure::Refused)),
                true,
                "sent 7 spans, 0 metric points, 0 log records; lost 5 spans (last failure: http \
                 status 503), 1 log record (last failure: refused); not all was done in time",
            ),
        ] {
            let report = Report {
                timed_out,
                stats: Stats {
                    traces,
                    metrics,
                    logs,
                },
            };
            assert_eq!(report.to_string(), expected);
        }
    }
}
