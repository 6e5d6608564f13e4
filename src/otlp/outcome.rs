//! The outcome of sending one batch.

use crate::otlp::response::Retry;
use crate::otlp::retries::SendError;
use crate::semconv;
use crate::stats::Failure;

/// How many items of a batch were exported or lost, and why.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct SendOutcome {
    pub(crate) exported: u64,
    pub(crate) failed: u64,
    /// The number of items in `failed` that the receiver rejected from accepted messages.
    pub(crate) rejected: u64,
    /// The number of items that were given up while they waited for another attempt.
    pub(crate) dropped: u64,
    /// The reason for the loss, and a message with details.
    pub(crate) failure: Option<(Failure, String)>,
    /// Whether another attempt might have succeeded.
    pub(crate) is_temporary: bool,
    /// A message from a receiver that accepted everything.
    pub(crate) warning: Option<String>,
}

impl SendOutcome {
    pub(crate) fn fail(&mut self, count: u64, failure: Failure, detail: String) {
        self.failed += count;
        self.failure = Some((failure, detail));
    }

    /// Adds the result of a message of `count` items: the number of rejected items, or the failure.
    /// Returns whether the message was given up, which also ends the attempts for all later
    /// messages.
    pub(crate) fn add(&mut self, count: u64, sent: Result<(i64, String), SendError>) -> bool {
        match sent {
            Ok((rejected, reason)) => {
                let rejected = u64::try_from(rejected).unwrap_or(0).min(count);
                let reason = semconv::truncate(&reason, 256);
                self.exported += count - rejected;
                if rejected > 0 {
                    let detail = format!("the receiver rejected some items: {reason}");
                    self.rejected += rejected;
                    self.fail(rejected, Failure::Rejected, detail);
                } else if !reason.is_empty() {
                    self.warning = Some(reason.into_owned());
                }
            }
            Err(SendError::Failed(error)) => {
                self.is_temporary |= error.retry != Retry::Never;
                self.fail(count, error.failure, error.detail);
            }
            Err(SendError::GivenUp(failure, detail)) => {
                self.give_up(count, failure, detail);
                return true;
            }
        }
        false
    }

    pub(crate) fn give_up(&mut self, count: u64, failure: Failure, detail: String) {
        self.dropped += count;
        self.failure = Some((failure, detail));
    }
}
