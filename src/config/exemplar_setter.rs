//! The setter of the filter of exemplars.

use crate::config::builder::Config;
use crate::config::settings::exemplar_filter::ExemplarFilter;

impl Config {
    /// Sets which requests are exemplars of the metrics of the layers, in place of
    /// `OTEL_METRICS_EXEMPLAR_FILTER`: those in sampled traces by default (metrics SDK, "Exemplar").
    ///
    /// An exemplar is a measurement with the ids of its trace and span. The points of the layers' counters
    /// and histograms have the latest one of each bucket since the export before. They are exported
    /// over OTLP by the exporter of this crate alone. Exporters and readers of yours, the exporter of the
    /// crate `opentelemetry-otlp` and the text for Prometheus have none.
    ///
    /// ```
    /// use tower_telemetry::{Config, config::ExemplarFilter};
    ///
    /// let config = Config::from_env().with_exemplar_filter(ExemplarFilter::AlwaysOff);
    /// ```
    pub fn with_exemplar_filter(mut self, filter: ExemplarFilter) -> Self {
        self.exemplars = filter;
        self
    }
}
