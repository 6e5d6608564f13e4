//! Log events of this crate, emitted on a separate thread.
//!
//! The application's subscriber may block, for example on an output that nobody reads. This must not
//! block the export thread, a request or a shutdown.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{process, thread};

use tracing::Dispatch;
use tracing::dispatcher::{get_default, with_default};
use tracing::subscriber::NoSubscriber;

use crate::concurrent::caught::without_panic;

/// Maximum number of events that wait. Events are rare: most kinds are logged once.
const MAX_WAITING: usize = 64;

type Line = Box<dyn FnOnce() + Send>;

struct Teller {
    process: u32,
    lines: SyncSender<Line>,
}

/// Emits an event soon, to the subscriber of the current thread or else of the process. Drops it if
/// too many events wait.
pub(crate) fn tell(line: impl FnOnce() + Send + 'static) {
    let dispatch = get_default(Dispatch::clone);
    send(Box::new(move || {
        if dispatch.is::<NoSubscriber>() {
            line();
        } else {
            with_default(&dispatch, line);
        }
    }));
}

/// Waits until all earlier events are emitted, for at most `timeout`. Returns `false` if the time
/// was not enough.
pub(crate) fn flush(timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    let (done, told) = sync_channel(1);
    let sent = send(Box::new(move || {
        let _ = done.send(());
    }));
    let left = deadline.saturating_duration_since(Instant::now());
    sent && told.recv_timeout(left).is_ok()
}

/// Waits like [`flush`], without a limit. It works on any executor.
pub(crate) async fn told() -> bool {
    let (done, told) = tokio::sync::oneshot::channel();
    let sent = send(Box::new(move || {
        let _ = done.send(());
    }));
    sent && told.await.is_ok()
}

/// Returns whether this process has emitted an event here.
pub(crate) fn was_used() -> bool {
    let teller = TELLER.lock().unwrap_or_else(PoisonError::into_inner);
    teller
        .as_ref()
        .is_some_and(|teller| teller.process == process::id())
}

/// Logs once that something was recorded after the end of telemetry.
#[derive(Clone, Default)]
pub(crate) struct EndNotice(Arc<AtomicBool>);

impl EndNotice {
    /// Logs the warning, unless it was logged before.
    pub(crate) fn give(&self) {
        if !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Relaxed) {
            tell(|| {
                tracing::warn!(
                    target: "tower_telemetry",
                    "telemetry has ended, and what is recorded now is lost; keep the \
                     `TelemetryGuard` for as long as there is something to record"
                );
            });
        }
    }
}

static TELLER: Mutex<Option<Teller>> = Mutex::new(None);

fn send(line: Line) -> bool {
    let mut teller = TELLER.lock().unwrap_or_else(PoisonError::into_inner);
    // A forked process has no thread yet.
    if teller
        .as_ref()
        .is_none_or(|teller| teller.process != process::id())
    {
        let (lines, receiver) = sync_channel(MAX_WAITING);
        let thread = thread::Builder::new().name("log-messages".to_owned());
        if thread.spawn(move || run(&receiver)).is_err() {
            return false;
        }
        *teller = Some(Teller {
            process: process::id(),
            lines,
        });
    }
    match &*teller {
        Some(teller) => teller.lines.try_send(line).is_ok(),
        None => false,
    }
}

fn run(lines: &Receiver<Line>) {
    while let Ok(line) = lines.recv() {
        without_panic(line);
    }
}
