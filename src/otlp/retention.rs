//! A message that waits for its next attempt, and the events that end its waiting early.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::stats::Failure;

/// Nothing waits, or an attempt is under way.
const BUSY: u8 = 0;
const WAITING: u8 = 1;
/// The message was given up while it waited.
const ABANDONED: u8 = 2;

/// Connects the sender of a message with the queue that the message came from.
///
/// The sender says when the message merely waits for its next attempt. Then the queue may take the
/// message's place for newer items, from any thread and without waiting.
#[derive(Default)]
pub(crate) struct Retention {
    state: AtomicU8,
    is_hurried: AtomicBool,
    /// The message was abandoned, or is hurried.
    changed: Notify,
    /// An attempt has failed, and there will be another.
    failed: Notify,
    last_failure: Mutex<Option<(Failure, String)>>,
}

/// The end of a wait for the next attempt.
#[derive(Debug, PartialEq)]
pub(crate) enum Waited {
    /// The time has come.
    Elapsed,
    /// Somebody waits for a flush.
    Hurried,
    /// The queue needs the place of the message.
    Abandoned,
}

impl Retention {
    /// Waits until a time, until the message is abandoned, or until it is hurried.
    pub(crate) async fn wait_until(&self, time: Instant) -> Waited {
        self.state.store(WAITING, Ordering::SeqCst);
        loop {
            let is_hurried = self.is_hurried.swap(false, Ordering::SeqCst);
            let is_over = is_hurried || time <= Instant::now();
            if is_over || self.state.load(Ordering::SeqCst) == ABANDONED {
                let (was, is) = (WAITING, BUSY);
                let ended =
                    self.state
                        .compare_exchange(was, is, Ordering::SeqCst, Ordering::SeqCst);
                return match ended {
                    Err(_) => Waited::Abandoned,
                    Ok(_) if is_hurried => Waited::Hurried,
                    Ok(_) => Waited::Elapsed,
                };
            }
            tokio::select! {
                () = sleep_until(time) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Returns whether the message merely waits.
    pub(crate) fn is_waiting(&self) -> bool {
        self.state.load(Ordering::Relaxed) == WAITING
    }

    /// Gives the message up if it merely waits, and returns whether it does.
    pub(crate) fn abandon(&self) -> bool {
        let (was, is) = (WAITING, ABANDONED);
        let abandoned = self
            .state
            .compare_exchange(was, is, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok();
        if abandoned {
            self.changed.notify_one();
        }
        abandoned
    }

    /// Makes the next attempt come at once, unless the receiver has asked for quiet.
    pub(crate) fn hurry(&self) {
        self.is_hurried.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// Begins anew for the next message, and returns whether the last one was abandoned.
    pub(crate) fn reset(&self) -> bool {
        self.is_hurried.store(false, Ordering::SeqCst);
        *self.last() = None;
        self.state.swap(BUSY, Ordering::SeqCst) == ABANDONED
    }

    /// Notes that an attempt has failed, and that there will be another.
    pub(crate) fn note(&self, failure: Option<(Failure, String)>) {
        *self.last() = failure;
        self.failed.notify_one();
    }

    /// Waits for the next failed attempt of a message that is kept.
    pub(crate) async fn failed(&self) {
        self.failed.notified().await;
    }

    /// Returns why the last attempt of this message failed.
    pub(crate) fn last_failure(&self) -> Option<(Failure, String)> {
        self.last().clone()
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<(Failure, String)>> {
        self.last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_time_or_earlier_if_somebody_needs_it() {
        for (event, expected, early) in [
            (None, Waited::Elapsed, false),
            (Some(true), Waited::Hurried, true),
            (Some(false), Waited::Abandoned, true),
        ] {
            let retention = Arc::new(Retention::default());
            assert!(!retention.abandon(), "nothing waits");
            let start = Instant::now();
            let waiter = retention.clone();
            let waiting = tokio::spawn(async move { waiter.wait_until(start + LONG).await });
            tokio::time::sleep(LONG / 2).await;
            assert!(retention.is_waiting());
            match event {
                Some(true) => retention.hurry(),
                Some(false) => assert!(retention.abandon()),
                None => {}
            }
            assert_eq!(waiting.await.expect("it does not panic"), expected);
            assert_eq!(start.elapsed() < LONG, early, "{expected:?}");
            assert!(!retention.abandon(), "nothing waits any more");
            assert_eq!(retention.reset(), expected == Waited::Abandoned);
        }
    }
}
