//! The guard that keeps telemetry running.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;

use crate::config::settings::{Propagator, Signal};
use crate::logs::{self, LAST_LINES, LogWriter, emit_later};
#[cfg(feature = "logs")]
use crate::logs::{Source, filtered_log_records};
use crate::pipeline::counts::Counters;
use crate::pipeline::export::Export;
use crate::pipeline::export_thread::ExportThread;
use crate::pipeline::hints::hint_at_shutdown;
#[cfg(feature = "prometheus")]
use crate::pipeline::prometheus::service::PrometheusService;
use crate::providers::generations;
use crate::providers::layer_variables::LayerSettings;
use crate::stats::{Report, SignalStats, Stats};

/// Whether an `init` has started and its guard has not ended yet. Checking the providers is not
/// enough: two concurrent `init` calls would both start an export.
pub(super) static INITIALIZED: AtomicBool = AtomicBool::new(false);

/// Keeps telemetry running until it is shut down or dropped.
///
/// Call [`shutdown`](Self::shutdown) at the end of the program to send all waiting telemetry.
/// Dropping the guard does the same, but blocks the current thread for up to the shutdown timeout.
#[must_use = "telemetry ends when the guard is dropped; bind it to a name, `let telemetry = ..`"]
pub struct TelemetryGuard {
    /// `None` if telemetry is switched off, and after shutdown.
    pub(crate) pipeline: Option<Pipeline>,
    pub(crate) propagators: Vec<Propagator>,
    pub(crate) layers: LayerSettings,
    /// Whether `init` created this guard for the whole process.
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
    /// Sends all waiting telemetry, stops the export and reports what was sent and what was lost.
    ///
    /// Takes at most the shutdown timeout (5 seconds by default) for all signals together. If a
    /// receiver is down, it takes the whole timeout, because the receiver may come back.
    ///
    /// Call it after the server has stopped. Telemetry recorded later is lost, and one warning is
    /// logged. From then on, layers and handler functions only propagate context, until
    /// [`init`](crate::init) is called again.
    pub async fn shutdown(mut self) -> Report {
        self.leave_process();
        match self.pipeline.take() {
            Some(pipeline) => {
                pipeline.stop_recording();
                // If this future is dropped early, the last clone of the provider must not be
                // dropped with it: its drop would wait for the export thread, which may be blocked.
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

    /// Sends all waiting telemetry now and continues recording.
    ///
    /// Takes at most the shutdown timeout for all signals together. Telemetry that a receiver has
    /// not accepted by then is kept and sent again.
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

    /// Blocking version of [`force_flush`](Self::force_flush), for programs without `async`.
    ///
    /// Blocks the current thread for at most the shutdown timeout. If called inside a
    /// tokio runtime, it blocks a thread of that runtime.
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

    /// Returns the counts of all telemetry so far. All counts are zero if telemetry is switched
    /// off.
    pub fn stats(&self) -> Stats {
        self.pipeline
            .as_ref()
            .map(Pipeline::stats)
            .unwrap_or_default()
    }

    /// Returns the tracer provider, for other libraries that need one; `None` if telemetry is
    /// switched off.
    ///
    /// The guard flushes it and shuts it down. Its own `force_flush` sends all signals within the
    /// shutdown timeout. On the export thread, in a callback of an observable instrument,
    /// `force_flush` returns an error.
    pub fn tracer_provider(&self) -> Option<&SdkTracerProvider> {
        Some(&self.pipeline.as_ref()?.export.tracer_provider)
    }

    /// Returns the meter provider, for other libraries that need one; `None` if telemetry is
    /// switched off.
    ///
    /// The guard flushes it and shuts it down. Its own `force_flush` sends all signals within the
    /// shutdown timeout. On the export thread, in a callback of an observable instrument,
    /// `force_flush` returns an error.
    pub fn meter_provider(&self) -> Option<&SdkMeterProvider> {
        Some(&self.pipeline.as_ref()?.export.meter_provider)
    }

    /// Returns a service that responds to Prometheus scrapes, to be mounted in your application's
    /// router; `None` unless [`Exporter::Prometheus`](crate::config::Exporter::Prometheus) is
    /// configured.
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

    /// Returns the logger provider, for other libraries that need one; `None` if log records are
    /// not exported.
    ///
    /// The guard flushes it and shuts it down. Its own `force_flush` sends all signals within the
    /// shutdown timeout. On the export thread, in a callback of an observable instrument,
    /// `force_flush` returns an error.
    #[cfg(feature = "logs")]
    pub fn logger_provider(&self) -> Option<&opentelemetry_sdk::logs::SdkLoggerProvider> {
        self.pipeline.as_ref()?.export.logger_provider.as_ref()
    }

    /// Returns a `tracing` layer that exports log records, for your own subscriber; `None` if log
    /// records are not exported. See
    /// [`Config::without_subscriber`](crate::init::Config::without_subscriber).
    ///
    /// The layer uses the same filter as [`init`](crate::init): `RUST_LOG`, which defaults to
    /// `info`. For another filter, wrap [`logger_provider`](Self::logger_provider) in your own
    /// bridge. If [`init`](crate::init) returned this guard, the layer sends to the guard of the
    /// most recent `init`.
    ///
    /// The records are the same as those of `opentelemetry-appender-tracing`, with these
    /// differences:
    ///
    /// | | `opentelemetry-appender-tracing` | this layer |
    /// |---|---|---|
    /// | time | only the observed time | the time of the event; the observed time is the same |
    /// | event name | the source location if the event has no name, with paths of the build machine | only a name set by the event: `name: ".."`, or the field `event.name` |
    /// | events of the `log` crate | scope `log`; fields `log.target`, `log.module_path`, `log.file`, `log.line` | the scope is the target, as for `tracing` events; none of these fields |
    /// | a key that occurs twice in an event | exported twice | exported once, with the last value (specification, "Attribute Collections") |
    /// | an error as the value of a field | `exception.message`; repeated if there are several errors | the first error is `exception.message`; other errors keep the names of their fields |
    /// | fields such as `r#type` | `r#type` | `type` |
    /// | messages of OpenTelemetry's SDK | exported | not exported, because they are about the export |
    ///
    /// Errors have no `exception.type`, because the type name of a `&dyn Error` is not available.
    /// Trace ids, span ids and flags come from OpenTelemetry's current context.
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
    /// Takes the warning about the Prometheus port.
    pub(super) fn prometheus_warning(&mut self) -> Option<crate::config::ConfigWarning> {
        let export = &mut self.pipeline.as_mut()?.export;
        export.prometheus.as_mut()?.warning.take()
    }
}

impl TelemetryGuard {
    /// Ends the telemetry of the process if this guard owns it, so that `init` can be called again.
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
    /// Stops queueing new items, so that the shutdown is bounded.
    fn stop_recording(&self) {
        // These fail only if the provider was shut down before.
        let _ = self.export.tracer_provider.shutdown();
        #[cfg(feature = "logs")]
        let _ = self
            .export
            .logger_provider
            .as_ref()
            .map(|provider| provider.shutdown());
    }

    /// Waits for pending log lines and for the lines about the flush that started at `begin`.
    fn write_lines(&self, begin: Instant) {
        let left = || self.timeout.saturating_sub(begin.elapsed()).max(LAST_LINES);
        // A subscriber of the application may block on its output forever.
        if !logs::has_emitted() || logs::flush_events(left()) {
            LogWriter::stdout().flush(left());
        }
    }

    /// Async version of `write_lines`, for any executor or none.
    async fn write_last_lines(&self, begin: Instant) {
        let lines = async {
            if !logs::has_emitted() || logs::flush_async().await {
                LogWriter::stdout().written().await;
            }
        };
        let left = self.timeout.saturating_sub(begin.elapsed()).max(LAST_LINES);
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

    /// Returns the report after the last flush and logs what was lost at shutdown.
    fn last_report(&self, complete: bool) -> Report {
        if complete {
            // The meter provider comes last, because the last flush still collects metrics.
            let _ = self.export.meter_provider.shutdown();
        } else {
            // The export thread may be blocked in a callback forever. The provider would wait for
            // it on shutdown and when its last clone is dropped.
            std::mem::forget(self.export.meter_provider.clone());
        }
        let report = Report {
            timed_out: !complete,
            stats: self.stats_by(Counters::last_stats),
        };
        // All other losses were logged while the pipeline was running.
        let before = self.stats();
        let given_up = |(last, before): (SignalStats, SignalStats)| -> u64 {
            last.dropped.saturating_sub(before.dropped)
        };
        let (last, before) = (&report.stats, &before);
        let signals = [
            (last.traces, before.traces),
            (last.metrics, before.metrics),
            (last.logs, before.logs),
        ];
        let [traces, metrics, logs] = signals.map(given_up);
        if [traces, metrics, logs] != [0; 3] {
            let mut lost = signals.iter().filter(|signal| given_up(**signal) > 0);
            let hint = hint_at_shutdown(lost.find_map(|(last, _)| last.last_failure));
            emit_later(move || {
                tracing::warn!(
                    target: "tower_telemetry",
                    traces,
                    metrics,
                    logs,
                    "telemetry is lost: not everything was exported before the shutdown ended; {hint}"
                );
            });
        }
        for (part, before) in last.parts.iter().zip(&before.parts) {
            let (Some(counts), Some(before)) = (part.counts, before.counts) else {
                continue;
            };
            let (lost, kind, name) = (given_up((counts, before)), part.kind, part.name.clone());
            if lost > 0 {
                emit_later(move || {
                    tracing::warn!(
                        target: "tower_telemetry",
                        lost,
                        "telemetry is lost: the {kind} {name:?} did not export everything before the \
                         shutdown ended"
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
        let [one, other] =
            [telemetry(), telemetry()].map(|guard| guard.expect("telemetry is disabled"));
        is_send(one.force_flush());
        is_send(other.shutdown());
    }

    #[test]
    fn a_report_is_shown_as_one_short_paragraph() {
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
