//! Attempts to send one message, until it is taken or given up.

use std::time::Duration;

use tokio::time::Instant;

use crate::otlp::answer::{AttemptError, Retry};
use crate::otlp::pace::Pace;
use crate::otlp::retention::{Retention, Waited};
use crate::otlp::window::Window;
use crate::stats::Failure;

/// The attempts of one signal: a receiver that throttles one signal may take the others.
pub(crate) struct Retries {
    /// A message is given up when it is older.
    max_age: Duration,
    pace: Pace,
    window: Window,
}

/// Decides which failures are followed by another attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Repeat {
    /// All that may pass. The receiver may get a message twice: it can have taken one that was not
    /// answered.
    IfItMayPass,
    /// Failures that leave no doubt that the receiver did not take the message.
    IfSurelyNotTaken,
    /// None.
    Never,
}

/// The end of sending one message that was not taken.
pub(crate) enum Unsent {
    Failed(AttemptError),
    /// It was given up while it waited for its next attempt.
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

    /// Makes attempts while a window is open, and ends them with it.
    pub(crate) fn within(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// Returns how long an attempt that begins now may take of `timeout`.
    pub(crate) fn limit(&self, timeout: Duration) -> Duration {
        self.window.limit(timeout)
    }

    /// Returns when a message that is sent from now on is given up.
    pub(crate) fn oldest(&self) -> Instant {
        Instant::now() + self.max_age
    }

    /// Makes attempts until one is good, or another cannot help, or the message is given up.
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

    /// Waits until the pace and the connection allow an attempt.
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
                return Err(given_up("given up after the longest time for retries"));
            }
            match retention.wait_until(next.min(oldest)).await {
                Waited::Elapsed => {}
                Waited::Hurried => is_hurried = true,
                Waited::Abandoned => return Err(given_up("given up for newer items")),
            }
        }
        Ok(())
    }

    fn next_attempt(&self, is_hurried: bool) -> Option<Instant> {
        let next = self.pace.next_attempt(is_hurried);
        next.max(self.window.closed_until())
    }

    /// Waits until the pace allows an attempt, however long that is.
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
            // A timeout, also one of a gateway, or a connection that breaks, may come after the
            // receiver has taken the message.
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
