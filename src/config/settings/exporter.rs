//! Places that telemetry is sent to.

use crate::config::settings::signal::Signal;

/// Where telemetry is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exporter {
    /// To an OTLP receiver, for instance the OpenTelemetry Collector.
    Otlp,
    /// To the standard output: a line for each span, and the metrics at shutdown.
    Console,
    /// To Prometheus, which asks for metrics at `/metrics`, as cumulative totals. It takes no traces and no
    /// logs, wherever it is chosen for them.
    #[cfg(feature = "prometheus")]
    Prometheus,
}

impl Exporter {
    #[cfg(not(feature = "prometheus"))]
    pub(crate) const ALL: [Self; 2] = [Self::Console, Self::Otlp];
    #[cfg(feature = "prometheus")]
    pub(crate) const ALL: [Self; 3] = [Self::Console, Self::Otlp, Self::Prometheus];

    /// Whether it takes a signal.
    pub(crate) fn takes(self, signal: Signal) -> bool {
        matches!(self, Self::Otlp | Self::Console) || signal == Signal::Metrics
    }

    /// As in `OTEL_TRACES_EXPORTER`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Otlp => "otlp",
            Self::Console => "console",
            #[cfg(feature = "prometheus")]
            Self::Prometheus => "prometheus",
        }
    }

    /// Returns the names of some, as in `OTEL_TRACES_EXPORTER`.
    pub(crate) fn list(exporters: &[Self]) -> String {
        if exporters.is_empty() {
            return "none".to_owned();
        }
        let names: Vec<_> = exporters.iter().map(|one| one.name()).collect();
        names.join(",")
    }
}
