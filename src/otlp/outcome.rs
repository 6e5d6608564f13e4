//! The outcome of sending one batch.

use crate::stats::Failure;

/// The outcome of sending one batch.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct SendOutcome {
    pub(crate) exported: u64,
    pub(crate) failed: u64,
    /// Why, and in more words, where some failed.
    pub(crate) failure: Option<(Failure, String)>,
    /// What the receiver had to say, although it took everything.
    pub(crate) warning: Option<String>,
}

impl SendOutcome {
    pub(crate) fn lose(&mut self, count: u64, failure: Failure, detail: String) {
        self.failed += count;
        self.failure = Some((failure, detail));
    }
}
