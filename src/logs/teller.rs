//! Log lines that are written by a thread that nobody waits for.
//!
//! A subscriber of the application may write to an output that is not read. The export thread, a
//! request or a shutdown must not stand still in it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{process, thread};

use tracing::Dispatch;
use tracing::dispatcher::{get_default, with_default};
use tracing::subscriber::NoSubscriber;

use crate::concurrent::caught::without_panic;

/// Lines that may wait. There are few: each kind is told once, or once a minute.
const MAX_WAITING: usize = 64;

type Line = Box<dyn FnOnce() + Send>;

struct Teller {
    process: u32,
    lines: SyncSender<Line>,
}

/// Writes a log line soon, with the subscriber of this thread, or else that of the process. Lost
/// where many wait already.
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

/// Waits until the lines that were told before are written, `timeout` at most, and returns whether
/// they are.
pub(crate) fn flush(timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    let (done, told) = sync_channel(1);
    let sent = send(Box::new(move || {
        let _ = done.send(());
    }));
    let left = deadline.saturating_duration_since(Instant::now());
    sent && told.recv_timeout(left).is_ok()
}

/// As [`flush`], on any executor or none, and for as long as it takes.
pub(crate) async fn told() -> bool {
    let (done, told) = tokio::sync::oneshot::channel();
    let sent = send(Box::new(move || {
        let _ = done.send(());
    }));
    sent && told.await.is_ok()
}

/// Whether a line was ever told in this process.
pub(crate) fn was_used() -> bool {
    let teller = TELLER.lock().unwrap_or_else(PoisonError::into_inner);
    teller
        .as_ref()
        .is_some_and(|teller| teller.process == process::id())
}

/// Says, once, that telemetry has ended: shared by all that may still be asked to record.
#[derive(Clone, Default)]
pub(crate) struct EndNotice(Arc<AtomicBool>);

impl EndNotice {
    /// Says it, when something is recorded after the end.
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
    // A process that is forked has no thread.
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
