//! The exporters.

use crate::config::settings::signal::Signal;

/// A destination of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exporter {
    /// An OTLP receiver, such as the OpenTelemetry Collector.
    Otlp,
    /// Standard output: a line for each span, and the metrics at shutdown.
    Console,
    /// Prometheus, which scrapes metrics at `/metrics` as cumulative totals. It is ignored for
    /// traces and logs.
    #[cfg(feature = "prometheus")]
    Prometheus,
}

impl Exporter {
    #[cfg(not(feature = "prometheus"))]
    pub(crate) const ALL: [Self; 2] = [Self::Console, Self::Otlp];
    #[cfg(feature = "prometheus")]
    pub(crate) const ALL: [Self; 3] = [Self::Console, Self::Otlp, Self::Prometheus];

    /// Returns whether the exporter supports a signal.
    pub(crate) fn supports(self, signal: Signal) -> bool {
        matches!(self, Self::Otlp | Self::Console) || signal == Signal::Metrics
    }

    /// Returns the name in `OTEL_TRACES_EXPORTER`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Otlp => "otlp",
            Self::Console => "console",
            #[cfg(feature = "prometheus")]
            Self::Prometheus => "prometheus",
        }
    }

    /// Returns a list of exporters as in `OTEL_TRACES_EXPORTER`.
    pub(crate) fn list(exporters: &[Self]) -> String {
        if exporters.is_empty() {
            return "none".to_owned();
        }
        let names: Vec<_> = exporters.iter().map(|one| one.name()).collect();
        names.join(",")
    }
}
