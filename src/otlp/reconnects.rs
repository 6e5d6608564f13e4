//! Limits the connections to a receiver that does not respond.

use std::error::Error;
use std::fmt;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::stats::Failure;

/// Limits the connections to one receiver, for all signals together.
///
/// Two rules apply until the receiver responds:
///
/// - Each failure is followed by a pause, which doubles from 0.1 to 0.5 seconds. If a receiver
///   whose port refused connections comes back, even after an hour, it is reached within a second.
///   Refused connections cost it nothing.
/// - Each accepted connection takes a token. There are 8 tokens, and 7 more each minute. So a
///   receiver that accepts and closes connections, or a load balancer without a receiver, gets at
///   most 15 connections in any minute.
pub(crate) struct Reconnects(Mutex<State>);

struct State {
    tokens: f64,
    /// The time at which `tokens` was computed.
    counted: Instant,
    failures: u32,
    failed: Instant,
    last: Option<(Failure, String)>,
}

impl State {
    /// Returns the end of the pause after the last failure.
    fn pause_end(&self) -> Instant {
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => {
                let doubled = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(10));
                doubled.min(LONGEST_PAUSE)
            }
        };
        self.failed + pause
    }
}

const BURST: f64 = 8.0;
const PER_SECOND: f64 = 7.0 / 60.0;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The maximum pause, and the maximum time that a request waits for a connection. A request that
/// would wait longer fails at once.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The error of a connection that was not attempted, because earlier ones had failed.
#[derive(Debug)]
pub(crate) struct Postponed {
    pub(crate) failure: Failure,
    /// The message of the last failure.
    pub(crate) detail: String,
}

impl fmt::Display for Postponed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl Error for Postponed {}

/// The token of a connection. It is returned unless the peer accepts the connection.
pub(crate) struct Token<'a>(&'a Reconnects);

impl Token<'_> {
    /// Keeps the token, because the connection was accepted.
    pub(crate) fn keep(self) {
        mem::forget(self);
    }
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.tokens = (state.tokens + 1.0).min(BURST);
    }
}

impl Reconnects {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(State {
            tokens: BURST,
            counted: now,
            failures: 0,
            failed: now,
            last: None,
        }))
    }

    /// Waits until a connection is allowed, and takes a token.
    pub(crate) async fn may_connect(&self) -> Result<Token<'_>, Postponed> {
        let until = Instant::now() + LONGEST_PAUSE;
        loop {
            match self.take(Instant::now()) {
                Ok(()) => return Ok(Token(self)),
                Err(wait) if Instant::now() + wait <= until => sleep(wait).await,
                Err(_) => {
                    let (failure, detail) = self.last().unwrap_or_else(|| {
                        let detail = "too many connections without a response";
                        (Failure::Connection, detail.to_owned())
                    });
                    return Err(Postponed { failure, detail });
                }
            }
        }
    }

    /// Takes a token, or returns the time until one is available.
    fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.state();
        let past = now.saturating_duration_since(state.counted).as_secs_f64();
        state.tokens = (state.tokens + past * PER_SECOND).min(BURST);
        state.counted = now;
        let wait = state.pause_end().saturating_duration_since(now);
        let missing = (1.0 - state.tokens).max(0.0) / PER_SECOND;
        // The extra millisecond makes up for rounding, which could leave slightly less than a
        // token.
        let wait = match missing > 0.0 {
            true => wait.max(Duration::from_secs_f64(missing) + Duration::from_millis(1)),
            false => wait,
        };
        if wait > Duration::ZERO {
            return Err(wait);
        }
        state.tokens -= 1.0;
        Ok(())
    }

    /// Returns the end of the pause after the last failure; `None` if there is no pause.
    pub(crate) fn pause_until(&self) -> Option<Instant> {
        let end = self.state().pause_end();
        (end > Instant::now()).then_some(end)
    }

    /// Records a connection that failed or brought no response.
    pub(crate) fn record_failure(&self, failure: Failure, detail: &str) {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        state.failed = Instant::now();
        state.last = Some((failure, detail.to_owned()));
    }

    /// Returns the last failure since the receiver last responded.
    pub(crate) fn last(&self) -> Option<(Failure, String)> {
        self.state().last.clone()
    }

    /// Clears all failures, because the receiver has responded.
    pub(crate) fn record_response(&self) {
        let mut state = self.state();
        state.tokens = BURST;
        state.failures = 0;
        state.last = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Returns the maximum number of connections in any minute.
    fn most(made: &[Instant]) -> usize {
        let within = |start: &Instant| {
            let end = *start + MINUTE;
            made.iter()
                .filter(|one| (start..&end).contains(one))
                .count()
        };
        made.iter().map(within).max().unwrap_or(0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Holds for any times at which signals send, and for connections that stay open for any
        /// time.
        #[test]
        fn a_peer_that_accepts_and_closes_gets_at_most_15_connections_in_any_minute(
            steps in prop::collection::vec((0u64..2000, 0u8..4), 50..400),
        ) {
            let reconnects = Reconnects::new();
            let mut now = Instant::now();
            let mut made = Vec::new();
            for (pause, closed) in steps {
                now += Duration::from_millis(pause);
                if reconnects.take(now).is_ok() {
                    made.push(now);
                }
                for _ in 0..closed {
                    reconnects.record_failure(Failure::Connection, "the peer closed it");
                }
            }
            prop_assert!(most(&made) <= 15, "{}", most(&made));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_is_reached_within_a_second_of_its_return() {
        for away in [2, 30, 3600] {
            let reconnects = Reconnects::new();
            let back = Instant::now() + Duration::from_secs(away);
            let mut tries = 0;
            let found = loop {
                let token = reconnects.may_connect().await;
                assert!(token.is_ok(), "a refused connection costs no token");
                if Instant::now() >= back {
                    break Instant::now();
                }
                tries += 1;
                drop(token);
                reconnects.record_failure(Failure::Refused, "the peer refused it");
            };
            assert!(
                found - back <= LONGEST_PAUSE,
                "after {away} s: {:?}",
                found - back
            );
            assert!(tries <= 4 + 2 * away, "{tries} tries in {away} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_resets_the_pauses_and_a_request_that_would_wait_long_fails_at_once() {
        let reconnects = Reconnects::new();
        let start = Instant::now();
        let refusal = loop {
            match reconnects.may_connect().await {
                Ok(token) => {
                    token.keep();
                    reconnects.record_failure(Failure::Tls, "the certificate is not trusted");
                }
                Err(postponed) => break postponed,
            }
        };
        assert_eq!(refusal.failure, Failure::Tls);
        assert_eq!(refusal.to_string(), "the certificate is not trusted");
        assert!(start.elapsed() < Duration::from_secs(8));

        reconnects.record_response();
        let start = Instant::now();
        for _ in 0..3 {
            assert!(reconnects.may_connect().await.is_ok());
        }
        assert_eq!(start.elapsed(), Duration::ZERO, "signals start together");
    }
}
