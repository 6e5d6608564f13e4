//! The setter of the export thread.

use crate::config::builder::Config;
use crate::config::settings::batch::NEVER;

impl Config {
    /// Sets whether a background thread exports telemetry. Overrides `TELEMETRY_EXPORT_THREAD`.
    /// Defaults to `true`.
    ///
    /// With `false`, the process has no thread of this crate between flushes. This is meant for
    /// command line programs, and for functions whose process is frozen between invocations.
    /// Telemetry stays in the queues until it is sent by
    /// [`TelemetryGuard::force_flush`](crate::TelemetryGuard::force_flush),
    /// [`force_flush_blocking`](crate::TelemetryGuard::force_flush_blocking),
    /// [`shutdown`](crate::TelemetryGuard::shutdown) or the drop of the guard. Each of them starts a
    /// thread and ends it before it returns, so they work in every tokio runtime and without one.
    ///
    /// | | with the thread | without it |
    /// |---|---|---|
    /// | spans, log records | sent when a batch is complete, or after the schedule delay | sent at flushes |
    /// | full queue | drops the oldest message that waits for another attempt, else the new item | drops the oldest message that waits for another attempt, else the oldest item |
    /// | metrics | collected at intervals and at flushes | collected once per flush; deltas are per flush |
    /// | connections | stay open | opened by each flush, and closed at its end |
    /// | an attempt | ends after the export timeout | ends after the export timeout or with the flush |
    /// | log lines of [`init`](Self::init) | written by a separate thread | written by the thread that logs, which blocks while nobody reads the output |
    /// | warnings about export | logged immediately | logged at the end of a flush |
    ///
    /// The exporter for Prometheus, and processors, exporters and readers of your own still have
    /// threads; one warning names them. A host name that is being resolved when a flush ends keeps its
    /// thread until the system answers. Metrics about runtimes are read at each flush and need no
    /// thread.
    ///
    /// ```
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_env().with_export_thread(false);
    /// ```
    pub fn with_export_thread(mut self, wanted: bool) -> Self {
        self.export_thread = wanted;
        self
    }

    /// Disables export between flushes.
    pub(crate) fn export_at_flushes_only(&mut self) {
        self.spans = self.spans.at_flushes_only();
        self.logs = self.logs.at_flushes_only();
        self.metric_interval = NEVER;
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::InMemorySpanExporter;

    use super::*;

    #[test]
    fn one_warning_names_the_parts_that_still_need_threads() {
        let base = || Config::from_vars(|_| None).with_service_name("shop");
        let with_part = || base().with_span_exporter(InMemorySpanExporter::default());
        let warnings = |config: Config| {
            let warnings = config.all_warnings().into_iter();
            warnings.map(|one| one.to_string()).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(warnings(with_part()), none);
        assert_eq!(warnings(base().with_export_thread(false)), none);
        let expected = "TELEMETRY_EXPORT_THREAD=\"false\" cannot stop the threads of";
        let actual = warnings(with_part().with_export_thread(false));
        assert_eq!(
            actual,
            [format!("{expected} span_exporter(InMemorySpanExporter)")]
        );
        #[cfg(feature = "prometheus")]
        {
            let exporters = [crate::config::Exporter::Prometheus];
            let config = with_part().with_metrics_exporters(exporters);
            let actual = warnings(config.with_export_thread(false));
            let both = "the exporter for Prometheus, span_exporter(InMemorySpanExporter)";
            assert_eq!(actual, [format!("{expected} {both}")]);
        }
    }
}
