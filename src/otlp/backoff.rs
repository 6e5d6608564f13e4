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
const MAX_DELAY: Duration = Duration::from_secs(5 * 60);

/// The maximum jitter that is added to a requested delay.
const DELAY_JITTER: Duration = Duration::from_millis(100);

/// The times of the attempts for one signal. They also apply to the batch after a failed one.
#[derive(Default)]
pub(crate) struct Backoff(Mutex<State>);

#[derive(Default)]
struct State {
    /// The number of failed attempts since the last successful one.
    failures: u32,
    backoff_until: Option<Instant>,
    delayed_until: Option<Instant>,
    last_failure: Option<(Failure, String)>,
}

impl Backoff {
    /// Returns the time of the next attempt; `None` if it may be made now. `skips_backoff` ignores the
    /// backoff, but not a delay that the receiver has requested.
    pub(crate) fn next_attempt(&self, skips_backoff: bool) -> Option<Instant> {
        let mut state = self.state();
        if skips_backoff {
            state.backoff_until = None;
            state.failures = state.failures.min(1);
        }
        let until = state.backoff_until.max(state.delayed_until);
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
    pub(crate) fn fail(&self, delay: Option<Duration>, failure: Failure, detail: String) {
        let mut state = self.state();
        let now = Instant::now();
        let ceiling = FIRST_PAUSE.saturating_mul(1 << state.failures.min(16));
        state.failures += 1;
        state.backoff_until = Some(now + random_below(ceiling.min(LAST_PAUSE)));
        if let Some(delay) = delay {
            let until = now + delay.min(MAX_DELAY) + random_below(DELAY_JITTER);
            state.delayed_until = state.delayed_until.max(Some(until));
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

    fn pause(backoff: &Backoff) -> Duration {
        let next = backoff.next_attempt(false);
        next.map_or(Duration::ZERO, |next| next - Instant::now())
    }

    fn fail(backoff: &Backoff, delay: Option<Duration>) {
        backoff.fail(delay, Failure::Refused, String::new());
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_from_100_ms_to_5_s_and_are_random() {
        let mut longest = [Duration::ZERO; 20];
        for _ in 0..200 {
            let backoff = Backoff::default();
            for longest in &mut longest {
                fail(&backoff, None);
                *longest = pause(&backoff).max(*longest);
            }
            backoff.succeed();
            assert_eq!(pause(&backoff), Duration::ZERO);
        }
        for (failure, longest) in longest.into_iter().enumerate() {
            let ceiling = (FIRST_PAUSE * (1 << failure.min(10))).min(LAST_PAUSE);
            assert!(longest <= ceiling, "{failure}: {longest:?}");
            assert!(longest > ceiling / 2, "{failure}: {longest:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_requested_delay_is_kept_up_to_five_minutes() {
        for (requested, kept) in [(1, 1), (300, 300), (u64::MAX, 300)] {
            let backoff = Backoff::default();
            fail(&backoff, Some(Duration::from_secs(requested)));
            // A shorter delay, a success or a flush do not shorten it.
            fail(&backoff, Some(Duration::ZERO));
            backoff.succeed();
            let next = backoff
                .next_attempt(true)
                .expect("the receiver has requested a delay");
            let (delay, kept) = (next - Instant::now(), Duration::from_secs(kept));
            assert!((kept..=kept + DELAY_JITTER).contains(&delay), "{delay:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_does_not_wait_for_the_backoff() {
        let backoff = Backoff::default();
        for _ in 0..20 {
            fail(&backoff, None);
        }
        assert_eq!(backoff.next_attempt(true), None);
        fail(&backoff, None);
        assert!(pause(&backoff) <= 2 * FIRST_PAUSE);
    }
}
