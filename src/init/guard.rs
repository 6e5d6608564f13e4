//! The guard of the telemetry that runs.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;

use crate::config::settings::{Propagator, Signal};
use crate::logs::{self, LogWriter, tell};
#[cfg(feature = "logs")]
use crate::logs::{Source, filtered_log_records};
use crate::pipeline::counts::Counters;
use crate::pipeline::export::Export;
use crate::pipeline::export_thread::ExportThread;
#[cfg(feature = "prometheus")]
use crate::pipeline::prometheus::service::PrometheusService;
use crate::providers::generations;
use crate::providers::layer_variables::LayerSettings;
use crate::stats::{Report, SignalStats, Stats};

/// Whether some `init` has begun whose guard has not ended. The providers alone cannot tell: of two
/// that race, both would start exporting.
pub(super) static INITIALIZED: AtomicBool = AtomicBool::new(false);

/// Keeps telemetry running, and ends it.
///
/// End it with [`shutdown`](Self::shutdown), which sends what still waits. A guard that is merely
/// dropped does the same on the thread that drops it, for as long as the shutdown timeout.
#[must_use = "telemetry ends when the guard is dropped; bind it to a name, `let telemetry = ..`"]
pub struct TelemetryGuard {
    /// `None` where telemetry is switched off, and after shutdown.
    pub(crate) pipeline: Option<Pipeline>,
    pub(crate) propagators: Vec<Propagator>,
    pub(crate) layers: LayerSettings,
    /// Whether its telemetry is that of the process.
    pub(crate) is_of_process: bool,
    #[cfg(feature = "logs")]
    pub(crate) log_filter: crate::logs::LogFilter,
    #[cfg(feature = "tracing")]
    pub(crate) span_filter: crate::bridge::SpanFilter,
}

pub(crate) struct Pipeline {
    pub(crate) thread: ExportThread,
    pub(crate) export: Export,
    pub(crate) timeout: Duration,
}

impl TelemetryGuard {
    /// Sends what still waits, ends export, and says what was sent and what was lost.
    ///
    /// Takes at most the shutdown timeout (5 seconds unless told otherwise), all signals together. While
    /// a receiver is down it takes all of it, because the receiver may come back.
    /// Call it when the server has stopped: what is recorded later is lost, and one warning says so.
    /// Layers and functions that go on then do nothing but pass context on, until
    /// [`init`](crate::init) is called again.
    pub async fn shutdown(mut self) -> Report {
        self.leave_process();
        match self.pipeline.take() {
            Some(pipeline) => {
                pipeline.stop_recording();
                // Where this future is dropped midway, the last of the provider must not be: it
                // would wait for an export thread that may be held up.
                let provider = ManuallyDrop::new(pipeline.export.meter_provider.clone());
                let begin = Instant::now();
                let complete = pipeline.thread.flush(true, pipeline.timeout).await;
                let report = pipeline.last_report(complete);
                drop(ManuallyDrop::into_inner(provider));
                pipeline.write_last_lines(begin).await;
                report
            }
            None => Report::default(),
        }
    }

    /// Sends what waits now, and goes on.
    ///
    /// Takes at most the shutdown timeout, all signals together. What a receiver does not take by then
    /// is kept and sent again.
    pub async fn force_flush(&self) -> Report {
        let Some(pipeline) = &self.pipeline else {
            return Report::default();
        };
        let begin = Instant::now();
        let complete = pipeline.thread.flush(false, pipeline.timeout).await;
        if pipeline.thread.is_on_demand() {
            pipeline.write_last_lines(begin).await;
        }
        Report {
            timed_out: !complete,
            stats: pipeline.stats(),
        }
    }

    /// As [`force_flush`](Self::force_flush), on the current thread, which waits for it: for programs without
    /// `async`. It works inside of a tokio runtime, too, and blocks its thread.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tower_telemetry::Config;
    /// let telemetry = Config::from_vars(|_| None).with_export_thread(false).build()?;
    /// for _file in ["a.csv", "b.csv"] {
    ///     // .. import it ..
    ///     let report = telemetry.force_flush_blocking();
    ///     assert!(!report.timed_out);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn force_flush_blocking(&self) -> Report {
        let Some(pipeline) = &self.pipeline else {
            return Report::default();
        };
        let begin = Instant::now();
        let complete = pipeline.thread.flush_blocking(false, pipeline.timeout);
        if pipeline.thread.is_on_demand() {
            pipeline.write_lines(begin);
        }
        Report {
            timed_out: !complete,
            stats: pipeline.stats(),
        }
    }

    /// Returns the counts of all telemetry so far; all are zero if telemetry is switched off.
    pub fn stats(&self) -> Stats {
        self.pipeline
            .as_ref()
            .map(Pipeline::stats)
            .unwrap_or_default()
    }

    /// The tracer provider, for what else wants one; `None` where telemetry is switched off.
    ///
    /// It is flushed and shut down by this guard. Its own `force_flush` sends all signals, within the
    /// shutdown timeout, and fails on the export thread, in a callback of an observable instrument.
    pub fn tracer_provider(&self) -> Option<&SdkTracerProvider> {
        Some(&self.pipeline.as_ref()?.export.tracer_provider)
    }

    /// The meter provider, for what else wants one; `None` where telemetry is switched off.
    ///
    /// It is flushed and shut down by this guard. Its own `force_flush` sends all signals, within the
    /// shutdown timeout, and fails on the export thread, in a callback of an observable instrument.
    pub fn meter_provider(&self) -> Option<&SdkMeterProvider> {
        Some(&self.pipeline.as_ref()?.export.meter_provider)
    }

    /// Returns the service that answers Prometheus, to mount in an application of your own; `None` where
    /// [`Exporter::Prometheus`](crate::config::Exporter::Prometheus) is not chosen.
    ///
    /// ```
    /// use tower_telemetry::{Config, config::Exporter};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let telemetry = Config::from_vars(|_| None)
    ///     .with_metrics_exporters([Exporter::Prometheus])
    ///     .without_prometheus_server()
    ///     .build()?;
    /// assert!(telemetry.prometheus().is_some());
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "prometheus")]
    pub fn prometheus(&self) -> Option<PrometheusService> {
        let prometheus = self.pipeline.as_ref()?.export.prometheus.as_ref()?;
        Some(prometheus.service.clone())
    }

    /// The logger provider, for what else wants one; `None` where log records are not sent.
    ///
    /// It is flushed and shut down by this guard. Its own `force_flush` sends all signals, within the
    /// shutdown timeout, and fails on the export thread, in a callback of an observable instrument.
    #[cfg(feature = "logs")]
    pub fn logger_provider(&self) -> Option<&opentelemetry_sdk::logs::SdkLoggerProvider> {
        self.pipeline.as_ref()?.export.logger_provider.as_ref()
    }

    /// Returns a layer that sends log records, for a subscriber of your own; `None` where they are
    /// not sent. See [`Config::without_subscriber`](crate::init::Config::without_subscriber).
    ///
    /// It filters as [`init`](crate::init) does: by `RUST_LOG`, `info` where that is not set. For
    /// another filter, put a bridge of your own around
    /// [`logger_provider`](Self::logger_provider). The layer of a guard that [`init`](crate::init) has
    /// returned sends to whichever guard of `init` came last.
    ///
    /// Records are those of `opentelemetry-appender-tracing`, with these differences:
    ///
    /// | | there | here |
    /// |---|---|---|
    /// | time | observed time alone | both: the time of the event, and the same as observed time |
    /// | event name | the place in the source where no name is given, with paths of the build | only a name that the event gives: `name: ".."`, or the field `event.name` |
    /// | events of the crate `log` | scope `log`; fields `log.target`, `log.module_path`, `log.file`, `log.line` | the scope is the target, as of `tracing`; none of the fields |
    /// | a key twice in an event | twice | once, with the last value (specification, "Attribute Collections") |
    /// | an error as a field's value | `exception.message`; of several errors several times | `exception.message` is the first error; others keep the names of their fields |
    /// | fields such as `r#type` | `r#type` | `type` |
    /// | messages of OpenTelemetry's SDK | sent | not sent: they are about sending |
    ///
    /// An error has no `exception.type`: the type of a `&dyn Error` cannot be named. Ids and flags
    /// are those of OpenTelemetry's current context.
    ///
    /// ```
    /// use tower_telemetry::{Config, log_lines, logs::LogLines};
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
        let provider = self.logger_provider()?;
        let source = if self.is_of_process {
            Source::Process
        } else {
            Source::of(provider, &self.layers.baggage)
        };
        Some(filtered_log_records(source, &self.log_filter))
    }
}

#[cfg(feature = "prometheus")]
impl TelemetryGuard {
    /// Takes the warning about the port for Prometheus.
    pub(super) fn prometheus_warning(&mut self) -> Option<crate::config::ConfigWarning> {
        let export = &mut self.pipeline.as_mut()?.export;
        export.prometheus.as_mut()?.warning.take()
    }
}

impl TelemetryGuard {
    /// Ends the telemetry of the process, if it is this, so that there may be another `init`.
    fn leave_process(&mut self) {
        if std::mem::take(&mut self.is_of_process) {
            let notice = self.pipeline.as_ref().map(|one| one.export.end.clone());
            generations::end(notice);
            INITIALIZED.store(false, Ordering::SeqCst);
        }
    }
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        self.leave_process();
        if let Some(pipeline) = self.pipeline.take() {
            pipeline.stop_recording();
            let begin = Instant::now();
            let complete = pipeline.thread.flush_blocking(true, pipeline.timeout);
            pipeline.last_report(complete);
            pipeline.write_lines(begin);
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

impl Pipeline {
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

    /// Waits for the log lines that were written before, and for those about the flush that began at `begin`.
    fn write_lines(&self, begin: Instant) {
        let left = || self.timeout.saturating_sub(begin.elapsed());
        // A subscriber of the application may be held up in its output for good.
        if !logs::was_told() || logs::flush_told(left()) {
            LogWriter::stdout().flush(left());
        }
    }

    /// The same, on any executor or none.
    async fn write_last_lines(&self, begin: Instant) {
        let lines = async {
            if !logs::was_told() || logs::told().await {
                LogWriter::stdout().written().await;
            }
        };
        let left = self.timeout.saturating_sub(begin.elapsed());
        self.thread.within(left, lines).await;
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
            lost_lines: LogWriter::stdout().lost(),
            parts: self
                .export
                .records
                .iter()
                .map(|part| part.stats(read))
                .collect(),
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
        let given_up =
            |last: SignalStats, told: SignalStats| last.dropped.saturating_sub(told.dropped);
        let (last, before) = (&report.stats, &told);
        let traces = given_up(last.traces, before.traces);
        let metrics = given_up(last.metrics, before.metrics);
        let logs = given_up(last.logs, before.logs);
        if [traces, metrics, logs] != [0; 3] {
            tell(move || {
                tracing::warn!(
                    target: "tower_telemetry",
                    traces,
                    metrics,
                    logs,
                    "telemetry is lost: not all was exported when telemetry was shut down"
                );
            });
        }
        for (part, before) in last.parts.iter().zip(&before.parts) {
            let (Some(counts), Some(before)) = (part.counts, before.counts) else {
                continue;
            };
            let (lost, kind, name) = (given_up(counts, before), part.kind, part.name.clone());
            if lost > 0 {
                tell(move || {
                    tracing::warn!(
                        target: "tower_telemetry",
                        lost,
                        "telemetry is lost: not all went through the {kind} {name:?} when telemetry was \
                         shut down"
                    );
                });
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Failure;

    #[test]
    fn a_flush_and_a_shutdown_can_be_spawned() {
        fn is_send(_: impl Send) {}
        let telemetry = || crate::Config::from_vars(|_| Some("false".to_owned())).build();
        let [one, other] = [telemetry(), telemetry()].map(|guard| guard.expect("it is off"));
        is_send(one.force_flush());
        is_send(other.shutdown());
    }

    #[test]
    fn a_report_is_one_short_paragraph() {
        let stats = |exported, failed, dropped, last_failure| SignalStats {
            accepted: exported + failed + dropped,
            exported,
            failed,
            rejected: Some(0),
            dropped,
            waiting: 0,
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
                 status 503), 1 log record (last failure: refused); 1 log line not written; some \
                 work was not finished in time",
            ),
        ] {
            let report = Report {
                timed_out,
                stats: Stats {
                    traces,
                    metrics,
                    logs,
                    lost_lines: u64::from(timed_out),
                    parts: Vec::new(),
                },
            };
            assert_eq!(report.to_string(), expected);
        }
    }
}
