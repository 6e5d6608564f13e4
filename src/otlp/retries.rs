//! Attempts to send a message until it is accepted or given up.

use std::time::Duration;

use tokio::time::Instant;

use crate::otlp::pace::Pace;
use crate::otlp::response::{AttemptError, Retry};
use crate::otlp::retention::{Retention, Waited};
use crate::otlp::window::Window;
use crate::stats::Failure;

/// The attempts for one signal. Signals are independent, because a receiver may throttle only one.
pub(crate) struct Retries {
    /// The age at which a message is given up.
    max_age: Duration,
    pace: Pace,
    window: Window,
}

/// The failures that are followed by another attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Repeat {
    /// Every failure that may be temporary. The receiver may get a message twice, because it may
    /// have accepted a message without responding.
    IfItMayPass,
    /// Failures after which the receiver certainly did not accept the message.
    IfSurelyNotTaken,
    /// None.
    Never,
}

/// The result for a message that was not accepted.
pub(crate) enum Unsent {
    Failed(AttemptError),
    /// The message was given up while it waited for its next attempt.
    GivenUp(Failure, String),
}

impl Retries {
    pub(crate) fn new(max_age: Duration) -> Self {
        Self {
            max_age,
            pace: Pace::default(),
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
    pub(crate) fn oldest(&self) -> Instant {
        Instant::now() + self.max_age
    }

    /// Makes attempts until one succeeds, another cannot help, or the message is given up.
    pub(crate) async fn run<T, F>(
        &self,
        attempt: impl Fn() -> F,
        not_before: impl Fn() -> Option<Instant>,
        oldest: Instant,
        repeat: Repeat,
        retention: &Retention,
    ) -> Result<T, Unsent>
    where
        F: Future<Output = Result<T, AttemptError>>,
    {
        loop {
            self.wait(&not_before, oldest, retention).await?;
            let error = match attempt().await {
                Ok(taken) => {
                    self.pace.succeed();
                    return Ok(taken);
                }
                Err(error) => error,
            };
            let quiet = match error.retry {
                Retry::Never => {
                    self.pace.succeed();
                    return Err(Unsent::Failed(error));
                }
                Retry::Soon => None,
                Retry::After(quiet) => Some(quiet),
            };
            self.pace.fail(quiet, error.failure, error.detail.clone());
            if !repeat.allows(error.failure) {
                return Err(Unsent::Failed(error));
            }
            retention.note(Some((error.failure, error.detail)));
        }
    }

    /// Waits until the backoff and the connection allow an attempt.
    async fn wait(
        &self,
        not_before: impl Fn() -> Option<Instant>,
        oldest: Instant,
        retention: &Retention,
    ) -> Result<(), Unsent> {
        let mut is_hurried = false;
        let given_up = |reason: &str| {
            let failure = self.pace.last_failure();
            let (failure, detail) = failure.unwrap_or((Failure::Timeout, String::new()));
            Unsent::GivenUp(failure, format!("{detail} ({reason})"))
        };
        while let Some(next) = self.next_attempt(is_hurried).max(not_before()) {
            if Instant::now() >= oldest {
                return Err(given_up("given up after the maximum time for retries"));
            }
            match retention.wait_until(next.min(oldest)).await {
                Waited::Elapsed => {}
                Waited::Hurried => is_hurried = true,
                Waited::Abandoned => return Err(given_up("given up to make room for newer items")),
            }
        }
        Ok(())
    }

    fn next_attempt(&self, is_hurried: bool) -> Option<Instant> {
        let next = self.pace.next_attempt(is_hurried);
        next.max(self.window.closed_until())
    }

    /// Waits until the backoff allows an attempt, without a limit.
    pub(crate) async fn ready(&self, retention: &Retention) {
        let mut is_hurried = false;
        while let Some(next) = self.next_attempt(is_hurried) {
            is_hurried = retention.wait_until(next).await == Waited::Hurried;
        }
    }
}

impl Repeat {
    fn allows(self, failure: Failure) -> bool {
        match self {
            Self::IfItMayPass => true,
            // After a timeout, at this side or at a gateway, or after a broken connection, the
            // receiver may have accepted the message.
            Self::IfSurelyNotTaken => matches!(
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
