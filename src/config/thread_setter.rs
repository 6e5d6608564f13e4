//! The setter of the thread that exports.

use crate::config::builder::Config;
use crate::config::settings::batch::NEVER;

impl Config {
    /// Sets whether a thread exports all the time, in place of `TELEMETRY_EXPORT_THREAD`. It does by default.
    ///
    /// Without it, the process has no thread of this crate between flushes: for command line programs, and for
    /// functions whose process is frozen between invocations. Telemetry waits in its queues, and is sent by
    /// [`TelemetryGuard::force_flush`](crate::TelemetryGuard::force_flush),
    /// [`force_flush_blocking`](crate::TelemetryGuard::force_flush_blocking),
    /// [`shutdown`](crate::TelemetryGuard::shutdown) and the drop of the guard. Each of them starts a thread, and
    /// ends it before it returns; so the same holds inside of a tokio runtime of any kind and without one.
    ///
    /// | | with the thread | without it |
    /// |---|---|---|
    /// | spans, log records | sent when a batch is complete, or after the schedule delay | sent at flushes |
    /// | full queue | the oldest message that waits for another attempt is dropped, else the new item | the same, else the oldest item |
    /// | metrics | collected at intervals and at flushes | collected once by each flush; deltas are per flush |
    /// | connections | kept | made by each flush, and closed at its end |
    /// | an attempt | takes the export timeout at most | ends with the flush, too |
    /// | log lines of [`init`](Self::init) | written by a thread | written by the thread that logs, which waits for the output |
    /// | warnings about export | written soon | written at the end of a flush |
    ///
    /// Three things keep threads of their own, and one warning says so: the exporter for Prometheus, processors,
    /// exporters and readers of your own, and a name that the system still resolves when a flush ends. Metrics
    /// about runtimes are read at each flush, and need no thread.
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

    /// Leaves export to flushes.
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
    fn one_warning_names_what_keeps_threads_of_its_own() {
        let base = || Config::from_vars(|_| None).with_service_name("shop");
        let with_part = || base().with_span_exporter(InMemorySpanExporter::default());
        let warnings = |config: Config| {
            let warnings = config.all_warnings().into_iter();
            warnings.map(|one| one.to_string()).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(warnings(with_part()), none);
        assert_eq!(warnings(base().with_export_thread(false)), none);
        let expected = "TELEMETRY_EXPORT_THREAD=\"false\" leaves the threads of";
        let told = warnings(with_part().with_export_thread(false));
        assert_eq!(
            told,
            [format!("{expected} span_exporter(InMemorySpanExporter)")]
        );
        #[cfg(feature = "prometheus")]
        {
            let exporters = [crate::config::Exporter::Prometheus];
            let config = with_part().with_metrics_exporters(exporters);
            let told = warnings(config.with_export_thread(false));
            let both = "the exporter for Prometheus, span_exporter(InMemorySpanExporter)";
            assert_eq!(told, [format!("{expected} {both}")]);
        }
    }
}
