//! The runtimes whose metrics are recorded.

use std::fmt;

use tokio::runtime::{Handle, RuntimeMetrics};

/// Whether runtime metrics are recorded, and the runtimes that were added.
#[derive(Default)]
pub(crate) struct Runtimes {
    pub(crate) wanted: bool,
    pub(crate) named: Vec<(Option<String>, RuntimeMetrics)>,
}

impl Runtimes {
    pub(crate) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            named: Vec::new(),
        }
    }

    /// Returns the runtimes that were added, or else the current runtime.
    pub(crate) fn observed(&self) -> Vec<(Option<String>, RuntimeMetrics)> {
        if !self.named.is_empty() {
            return self.named.clone();
        }
        let current = Handle::try_current().ok();
        current
            .map(|one| (None, one.metrics()))
            .into_iter()
            .collect()
    }
}

impl fmt::Debug for Runtimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.named.iter().filter_map(|(name, _)| name.as_ref());
        f.debug_struct("Runtimes")
            .field("wanted", &self.wanted)
            .field("named", &names.collect::<Vec<_>>())
            .finish()
    }
}
