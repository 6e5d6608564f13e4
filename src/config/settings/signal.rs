//! The three signals.

/// A signal: one of the three kinds of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    pub(crate) const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    /// Returns the variable for the exporters of the signal.
    pub(crate) fn exporter_variable(self) -> String {
        format!("OTEL_{}_EXPORTER", self.name().to_ascii_uppercase())
    }
}

/// A value for each [`Signal`].
#[derive(Clone, Debug, Default)]
pub(crate) struct PerSignal<T>([T; 3]);

impl<T> std::ops::Index<Signal> for PerSignal<T> {
    type Output = T;

    fn index(&self, signal: Signal) -> &T {
        &self.0[signal as usize]
    }
}

impl<T> std::ops::IndexMut<Signal> for PerSignal<T> {
    fn index_mut(&mut self, signal: Signal) -> &mut T {
        &mut self.0[signal as usize]
    }
}
