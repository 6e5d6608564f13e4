//! Deadlines that work on any executor or none, even if the export thread is blocked.
//!
//! One thread per process watches all deadlines. It is started with the first export thread,
//! because starting a thread may fail at shutdown.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use std::{io, process, thread};

use tokio::sync::oneshot;

/// Above this number of deadlines, the ones whose waiter is gone are removed.
const MANY: usize = 1024;

struct Watch {
    process: u32,
    deadlines: Sender<Deadline>,
}

struct Deadline {
    time: Instant,
    due: oneshot::Sender<()>,
}

static WATCH: Mutex<Option<Watch>> = Mutex::new(None);

/// Starts the thread unless it is already running.
pub(crate) fn start() -> io::Result<()> {
    watch().map(drop)
}

/// Waits for a future for at most `timeout`. Returns `None` if it is not ready by then.
pub(crate) async fn within<T>(timeout: Duration, future: impl Future<Output = T>) -> Option<T> {
    let (due, deadline) = oneshot::channel();
    let time = Instant::now() + timeout;
    if let Ok(watch) = watch() {
        let watch = watch.as_ref().map(|watch| &watch.deadlines);
        let _ = watch.map(|deadlines| deadlines.send(Deadline { time, due }));
    }
    let mut future = pin!(future);
    tokio::select! {
        biased;
        value = &mut future => Some(value),
        // If the thread could not be started, only the future completes this.
        Ok(()) = deadline => None,
    }
}

/// Like [`within`], but starts a thread for this one deadline, which ends with it.
pub(crate) async fn within_alone<T>(
    timeout: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    let first = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
    if let Poll::Ready(value) = first {
        return Some(value);
    }
    let (due, deadline) = oneshot::channel();
    let (over, is_over) = channel::<()>();
    let watcher = thread::Builder::new()
        .name("telemetry-deadline".to_owned())
        .spawn(move || {
            if is_over.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
                let _ = due.send(());
            }
        });
    let value = tokio::select! {
        biased;
        value = &mut future => Some(value),
        // If the thread could not be started, only the future completes this.
        Ok(()) = deadline => None,
    };
    drop(over);
    // The thread is about to end, so this does not block.
    let _ = watcher.map(thread::JoinHandle::join);
    value
}

fn watch() -> io::Result<MutexGuard<'static, Option<Watch>>> {
    let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    // A forked process does not inherit the thread.
    if watch
        .as_ref()
        .is_none_or(|watch| watch.process != process::id())
    {
        let (deadlines, receiver) = channel();
        thread::Builder::new()
            .name("telemetry-deadlines".to_owned())
            .spawn(move || run(&receiver))?;
        *watch = Some(Watch {
            process: process::id(),
            deadlines,
        });
    }
    Ok(watch)
}

fn run(deadlines: &Receiver<Deadline>) {
    let mut watched: BTreeMap<(Instant, u64), oneshot::Sender<()>> = BTreeMap::new();
    for number in 0.. {
        let next = watched.first_key_value().map(|((time, _), _)| *time);
        let received = match next {
            Some(time) => deadlines.recv_timeout(time.saturating_duration_since(Instant::now())),
            None => deadlines.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(Deadline { time, due }) => {
                if watched.len() >= MANY {
                    watched.retain(|_, due| !due.is_closed());
                }
                watched.insert((time, number), due);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let later = watched.split_off(&(Instant::now(), u64::MAX));
        for (_, due) in std::mem::replace(&mut watched, later) {
            let _ = due.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_hold_without_a_runtime_in_any_order() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        // This runtime has no timer.
        let runtime = { runtime }.build().expect("the runtime can be built");
        runtime.block_on(async {
            let wait = |milliseconds| {
                let timeout = Duration::from_millis(milliseconds);
                async move {
                    let start = Instant::now();
                    let never = std::future::pending::<()>();
                    assert_eq!(within(timeout, never).await, None);
                    assert!(start.elapsed() >= timeout);
                }
            };
            tokio::join!(wait(30), wait(1), wait(20), wait(10));
            let ready = within(Duration::ZERO, std::future::ready(1)).await;
            assert_eq!(ready, Some(1));
        });
    }

    #[test]
    fn a_deadline_with_its_own_thread_holds_without_a_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        // This runtime has no timer.
        let runtime = { runtime }.build().expect("the runtime can be built");
        runtime.block_on(async {
            let start = Instant::now();
            let timeout = Duration::from_millis(20);
            let never = std::future::pending::<()>();
            assert_eq!(within_alone(timeout, never).await, None);
            assert!(start.elapsed() >= timeout);
            let ready = within_alone(Duration::ZERO, std::future::ready(1)).await;
            assert_eq!(ready, Some(1));
            let later = within_alone(Duration::from_secs(3600), tokio::task::yield_now()).await;
            assert_eq!(later, Some(()));
        });
    }
}
