//! A message that waits for its next attempt, and the events that end the wait early.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::stats::Failure;

/// The time of a pause in the work on a message. The threads of the application can then serve the
/// requests that have been waiting.
const PAUSE: Duration = Duration::from_micros(100);

/// No message is waiting, or an attempt is in progress.
const BUSY: u8 = 0;
const WAITING: u8 = 1;
/// The message was abandoned while it waited.
const ABANDONED: u8 = 2;

/// Connects the sender of a message with the queue from which the message came.
///
/// The sender marks the message while it waits for its next attempt. During that time the queue may
/// abandon the message to make room for newer items, from any thread and without blocking.
#[derive(Default)]
pub(crate) struct Retention {
    state: AtomicU8,
    skips_backoff: AtomicBool,
    /// Whether a flush or another complete batch waits for this message.
    is_urgent: AtomicBool,
    #[cfg(test)]
    pauses: std::sync::atomic::AtomicUsize,
    /// Notified when the message is abandoned or its backoff is skipped.
    changed: Notify,
    /// Notified when an attempt has failed and another will follow.
    failed: Notify,
    last_failure: Mutex<Option<(Failure, String)>>,
}

/// The reason why a wait for the next attempt ended.
#[derive(Debug, PartialEq)]
pub(crate) enum WaitEnd {
    /// The time was reached.
    Elapsed,
    /// A flush is waiting.
    BackoffSkipped,
    /// The queue needs the room.
    Abandoned,
}

impl Retention {
    /// Waits until `time`, or until the message is abandoned or its backoff is skipped.
    pub(crate) async fn wait_until(&self, time: Instant) -> WaitEnd {
        self.state.store(WAITING, Ordering::SeqCst);
        loop {
            let skips_backoff = self.skips_backoff.swap(false, Ordering::SeqCst);
            let is_over = skips_backoff || time <= Instant::now();
            if is_over || self.state.load(Ordering::SeqCst) == ABANDONED {
                let (was, is) = (WAITING, BUSY);
                let ended =
                    self.state
                        .compare_exchange(was, is, Ordering::SeqCst, Ordering::SeqCst);
                return match ended {
                    Err(_) => WaitEnd::Abandoned,
                    Ok(_) if skips_backoff => WaitEnd::BackoffSkipped,
                    Ok(_) => WaitEnd::Elapsed,
                };
            }
            tokio::select! {
                () = sleep_until(time) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Returns whether the message waits for its next attempt.
    pub(crate) fn is_waiting(&self) -> bool {
        self.state.load(Ordering::Relaxed) == WAITING
    }

    /// Abandons the message if it is waiting, and returns whether it was.
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

    /// Lets other threads use the processor before the work on the message continues, unless the
    /// message is urgent.
    ///
    /// Work on a batch takes about a millisecond. If the export thread and a thread of the
    /// application have the same processor, requests wait until the work pauses. The export thread
    /// sleeps here, because the shortest time of a timer of tokio is a millisecond.
    pub(crate) fn pause(&self) {
        if !self.is_urgent.load(Ordering::Relaxed) {
            #[cfg(test)]
            self.pauses.fetch_add(1, Ordering::Relaxed);
            thread::sleep(PAUSE);
        }
    }

    /// Ends the pauses in the work on the message.
    pub(crate) fn set_urgent(&self) {
        self.is_urgent.store(true, Ordering::Relaxed);
    }

    /// Makes the next attempt start at once, unless the receiver has requested a delay.
    pub(crate) fn skip_backoff(&self) {
        self.set_urgent();
        self.skips_backoff.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// Resets the state for the next message, and returns whether the last one was abandoned.
    pub(crate) fn reset(&self) -> bool {
        self.skips_backoff.store(false, Ordering::SeqCst);
        self.is_urgent.store(false, Ordering::Relaxed);
        *self.last() = None;
        self.state.swap(BUSY, Ordering::SeqCst) == ABANDONED
    }

    /// Records a failed attempt that is followed by another.
    pub(crate) fn record_failure(&self, failure: Option<(Failure, String)>) {
        *self.last() = failure;
        self.failed.notify_one();
    }

    /// Waits for the next failed attempt that is followed by another.
    pub(crate) async fn failed(&self) {
        self.failed.notified().await;
    }

    /// Returns why the last attempt for this message failed.
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

    impl Retention {
        pub(crate) fn is_urgent(&self) -> bool {
            self.is_urgent.load(Ordering::Relaxed)
        }

        /// Returns the number of pauses since the last call.
        pub(crate) fn take_pauses(&self) -> usize {
            self.pauses.swap(0, Ordering::Relaxed)
        }
    }

    #[test]
    fn work_on_a_message_pauses_unless_a_flush_waits_for_it() {
        let retention = Retention::default();
        retention.pause();
        assert_eq!(retention.take_pauses(), 1);
        retention.skip_backoff();
        retention.pause();
        assert_eq!(retention.take_pauses(), 0);
        // The flush waits for this message, and not for the next one.
        retention.reset();
        retention.pause();
        assert_eq!(retention.take_pauses(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_time_or_when_hurried_or_abandoned() {
        for (event, expected, early) in [
            (None, WaitEnd::Elapsed, false),
            (Some(true), WaitEnd::BackoffSkipped, true),
            (Some(false), WaitEnd::Abandoned, true),
        ] {
            let retention = Arc::new(Retention::default());
            assert!(!retention.abandon(), "no batch waits");
            let start = Instant::now();
            let waiter = retention.clone();
            let waiting = tokio::spawn(async move { waiter.wait_until(start + LONG).await });
            tokio::time::sleep(LONG / 2).await;
            assert!(retention.is_waiting());
            match event {
                Some(true) => retention.skip_backoff(),
                Some(false) => assert!(retention.abandon()),
                None => {}
            }
            assert_eq!(waiting.await.expect("the task does not panic"), expected);
            assert_eq!(start.elapsed() < LONG, early, "{expected:?}");
            assert!(!retention.abandon(), "no batch waits any more");
            assert_eq!(retention.reset(), expected == WaitEnd::Abandoned);
        }
    }
}
