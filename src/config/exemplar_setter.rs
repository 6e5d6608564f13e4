//! The setter of the exemplar filter.

use crate::config::builder::Config;
use crate::config::settings::exemplar_filter::ExemplarFilter;

impl Config {
    /// Sets which requests become exemplars of the layers' metrics (metrics SDK, "Exemplar").
    /// Overrides `OTEL_METRICS_EXEMPLAR_FILTER`. Defaults to requests in sampled traces.
    ///
    /// An exemplar is a measurement with the ids of its trace and span. Each point of the layers'
    /// histograms has the latest exemplar of each bucket since the previous export, and each point of
    /// their counters has the latest one. Only the exporter of this crate sends exemplars, over OTLP. Exporters and readers of your own, the
    /// exporter of the crate `opentelemetry-otlp` and the text for Prometheus have none.
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
