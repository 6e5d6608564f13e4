//! The earliest time of the next attempt: exponential backoff, and throttling by the receiver.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::stats::Failure;

/// The maximum pause after the first failure. It doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// The maximum delay that a receiver can request.
const MAX_QUIET: Duration = Duration::from_secs(5 * 60);

/// The maximum jitter that is added to a requested delay.
const QUIET_JITTER: Duration = Duration::from_millis(100);

/// The times of the attempts for one signal. They also apply to the batch after a failed one.
#[derive(Default)]
pub(crate) struct Pace(Mutex<State>);

#[derive(Default)]
struct State {
    /// The number of failed attempts since the last successful one.
    failures: u32,
    backoff_until: Option<Instant>,
    quiet_until: Option<Instant>,
    last_failure: Option<(Failure, String)>,
}

impl Pace {
    /// Returns the time of the next attempt; `None` if it may be made now. `is_hurried` skips the
    /// backoff, but not a delay that the receiver has requested.
    pub(crate) fn next_attempt(&self, is_hurried: bool) -> Option<Instant> {
        let mut state = self.state();
        if is_hurried {
            state.backoff_until = None;
            state.failures = state.failures.min(1);
        }
        let until = state.backoff_until.max(state.quiet_until);
        until.filter(|until| *until > Instant::now())
    }

    /// Records a response that needs no other attempt.
    pub(crate) fn succeed(&self) {
        let mut state = self.state();
        // A requested delay still applies, because it may belong to another message.
        state.failures = 0;
        state.backoff_until = None;
        state.last_failure = None;
    }

    /// Records a failure that is followed by another attempt, and the delay that the receiver
    /// requested (OTLP specification, "Throttling").
    pub(crate) fn fail(&self, quiet: Option<Duration>, failure: Failure, detail: String) {
        let mut state = self.state();
        let now = Instant::now();
        let ceiling = FIRST_PAUSE.saturating_mul(1 << state.failures.min(16));
        state.failures += 1;
        state.backoff_until = Some(now + random_below(ceiling.min(LAST_PAUSE)));
        if let Some(quiet) = quiet {
            let until = now + quiet.min(MAX_QUIET) + random_below(QUIET_JITTER);
            state.quiet_until = state.quiet_until.max(Some(until));
        }
        state.last_failure = Some((failure, detail));
    }

    /// Returns why the last attempt failed, whichever message it sent.
    pub(crate) fn last_failure(&self) -> Option<(Failure, String)> {
        self.state().last_failure.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a random duration below `ceiling` ("full jitter"), so that clients that failed at the
/// same time do not retry at the same time.
fn random_below(ceiling: Duration) -> Duration {
    let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(RandomState::new().hash_one(()) % nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(pace: &Pace) -> Duration {
        let next = pace.next_attempt(false);
        next.map_or(Duration::ZERO, |next| next - Instant::now())
    }

    fn fail(pace: &Pace, quiet: Option<Duration>) {
        pace.fail(quiet, Failure::Refused, String::new());
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_from_100_ms_to_5_s_and_are_random() {
        let mut longest = [Duration::ZERO; 20];
        for _ in 0..200 {
            let pace = Pace::default();
            for longest in &mut longest {
                fail(&pace, None);
                *longest = pause(&pace).max(*longest);
            }
            pace.succeed();
            assert_eq!(pause(&pace), Duration::ZERO);
        }
        for (failure, longest) in longest.into_iter().enumerate() {
            let ceiling = (FIRST_PAUSE * (1 << failure.min(10))).min(LAST_PAUSE);
            assert!(longest <= ceiling, "{failure}: {longest:?}");
            assert!(longest > ceiling / 2, "{failure}: {longest:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_requested_delay_is_kept_up_to_five_minutes() {
        for (asked, kept) in [(1, 1), (300, 300), (u64::MAX, 300)] {
            let pace = Pace::default();
            fail(&pace, Some(Duration::from_secs(asked)));
            // A shorter delay, a success or a flush do not shorten it.
            fail(&pace, Some(Duration::ZERO));
            pace.succeed();
            let next = pace
                .next_attempt(true)
                .expect("the receiver has requested a delay");
            let (quiet, kept) = (next - Instant::now(), Duration::from_secs(kept));
            assert!((kept..=kept + QUIET_JITTER).contains(&quiet), "{quiet:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_does_not_wait_for_the_backoff() {
        let pace = Pace::default();
        for _ in 0..20 {
            fail(&pace, None);
        }
        assert_eq!(pace.next_attempt(true), None);
        fail(&pace, None);
        assert!(pause(&pace) <= 2 * FIRST_PAUSE);
    }
}
