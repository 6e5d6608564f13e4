//! The outcome of sending one batch.

use crate::stats::Failure;

/// The outcome of sending one batch.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct SendOutcome {
    pub(crate) exported: u64,
    pub(crate) failed: u64,
    /// Given up while they waited for another attempt.
    pub(crate) dropped: u64,
    /// Why, and in more words, where some were lost.
    pub(crate) failure: Option<(Failure, String)>,
    /// Whether another attempt might have helped.
    pub(crate) may_pass: bool,
    /// A message of the receiver, although it took everything.
    pub(crate) warning: Option<String>,
}

impl SendOutcome {
    pub(crate) fn fail(&mut self, count: u64, failure: Failure, detail: String) {
        self.failed += count;
        self.failure = Some((failure, detail));
    }

    pub(crate) fn give_up(&mut self, count: u64, failure: Failure, detail: String) {
        self.dropped += count;
        self.failure = Some((failure, detail));
    }
}
