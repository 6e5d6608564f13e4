//! Places that telemetry is sent to.

/// Where telemetry is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exporter {
    /// To an OTLP receiver, for instance the OpenTelemetry Collector.
    Otlp,
    /// To the standard output: a line for each span, and the metrics at shutdown.
    Console,
}

impl Exporter {
    /// As in `OTEL_TRACES_EXPORTER`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Otlp => "otlp",
            Self::Console => "console",
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
