//! Attempts to send a message until it is accepted or given up.

use std::time::Duration;

use tokio::time::Instant;

use crate::otlp::backoff::Backoff;
use crate::otlp::response::{AttemptError, Retry};
use crate::otlp::retention::{Retention, WaitEnd};
use crate::otlp::window::Window;
use crate::stats::Failure;

/// The attempts for one signal. Signals are independent, because a receiver may throttle only one.
pub(crate) struct Retries {
    /// The age at which a message is given up.
    max_age: Duration,
    backoff: Backoff,
    window: Window,
}

/// The failures that are followed by another attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RetryPolicy {
    /// Every failure that may be temporary. The receiver may get a message twice, because it may
    /// have accepted a message without responding.
    IfTemporary,
    /// Failures after which the receiver certainly did not accept the message.
    IfNotAccepted,
    /// None.
    Never,
}

/// The result for a message that was not accepted.
pub(crate) enum SendError {
    Failed(AttemptError),
    /// The message was given up while it waited for its next attempt.
    GivenUp(Failure, String),
}

impl Retries {
    pub(crate) fn new(max_age: Duration) -> Self {
        Self {
            max_age,
            backoff: Backoff::default(),
            window: Window::default(),
        }
    }

    /// Limits attempts to the times when `window` is open.
    pub(crate) fn within(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// Returns the time limit of an attempt that starts now, at most `timeout`.
    pub(crate) fn limit(&self, timeout: Duration) -> Duration {
        self.window.limit(timeout)
    }

    /// Returns the time at which a message that is sent now is given up.
    pub(crate) fn give_up_at(&self) -> Instant {
        Instant::now() + self.max_age
    }

    /// Makes attempts until one succeeds, another cannot help, or the message is given up.
    pub(crate) async fn run<T, F>(
        &self,
        attempt: impl Fn() -> F,
        not_before: impl Fn() -> Option<Instant>,
        give_up_at: Instant,
        policy: RetryPolicy,
        retention: &Retention,
    ) -> Result<T, SendError>
    where
        F: Future<Output = Result<T, AttemptError>>,
    {
        loop {
            self.wait(&not_before, give_up_at, retention).await?;
            let error = match attempt().await {
                Ok(taken) => {
                    self.backoff.succeed();
                    return Ok(taken);
                }
                Err(error) => error,
            };
            let delay = match error.retry {
                Retry::Never => {
                    // The receiver responded, so the next message need not wait.
                    self.backoff.succeed();
                    return Err(SendError::Failed(error));
                }
                Retry::Soon => None,
                Retry::After(delay) => Some(delay),
            };
            self.backoff
                .fail(delay, error.failure, error.detail.clone());
            if !policy.allows(error.failure) {
                return Err(SendError::Failed(error));
            }
            retention.record_failure(Some((error.failure, error.detail)));
        }
    }

    /// Waits until the backoff and the connection allow an attempt.
    async fn wait(
        &self,
        not_before: impl Fn() -> Option<Instant>,
        give_up_at: Instant,
        retention: &Retention,
    ) -> Result<(), SendError> {
        let mut skips_backoff = false;
        let given_up = |reason: &str| {
            let failure = self.backoff.last_failure();
            let (failure, detail) = failure.unwrap_or((Failure::Timeout, String::new()));
            SendError::GivenUp(failure, format!("{detail} ({reason})"))
        };
        while let Some(next) = self.next_attempt(skips_backoff).max(not_before()) {
            if Instant::now() >= give_up_at {
                return Err(given_up("given up after the maximum time for retries"));
            }
            match retention.wait_until(next.min(give_up_at)).await {
                WaitEnd::Elapsed => {}
                WaitEnd::BackoffSkipped => skips_backoff = true,
                WaitEnd::Abandoned => {
                    return Err(given_up("given up to make room for newer items"));
                }
            }
        }
        Ok(())
    }

    fn next_attempt(&self, skips_backoff: bool) -> Option<Instant> {
        let next = self.backoff.next_attempt(skips_backoff);
        next.max(self.window.closed_until())
    }

    /// Waits until the backoff allows an attempt, without a limit.
    pub(crate) async fn ready(&self, retention: &Retention) {
        let mut skips_backoff = false;
        while let Some(next) = self.next_attempt(skips_backoff) {
            skips_backoff = retention.wait_until(next).await == WaitEnd::BackoffSkipped;
        }
    }
}

impl RetryPolicy {
    fn allows(self, failure: Failure) -> bool {
        match self {
            Self::IfTemporary => true,
            // After a timeout, at this side or at a gateway, or after a broken connection, the
            // receiver may have accepted the message.
            Self::IfNotAccepted => matches!(
                failure,
                Failure::Dns
                    | Failure::Refused
                    | Failure::Tls
                    | Failure::HttpStatus(429 | 502 | 503)
                    | Failure::GrpcStatus("UNAVAILABLE" | "RESOURCE_EXHAUSTED")
            ),
            Self::Never => false,
        }
    }
}
