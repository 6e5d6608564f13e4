//! Log lines that are written by a thread that nobody waits for, or, where there is none, at the next flush.
//!
//! A subscriber of the application may write to an output that is not read. The export thread, a
//! request or a shutdown must not stand still in it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{process, thread};

use tracing::Dispatch;
use tracing::dispatcher::{get_default, with_default};
use tracing::subscriber::NoSubscriber;

use crate::concurrent::caught::without_panic;
use crate::logs::threads;
use crate::logs::writer::LogWriter;

/// Lines that may wait. There are few: each kind is told once, or once a minute.
const MAX_WAITING: usize = 64;

type Line = Box<dyn FnOnce() + Send>;

struct Teller {
    process: u32,
    lines: SyncSender<Line>,
    /// `None` while a thread takes lines from it.
    untaken: Option<Receiver<Line>>,
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
    start();
    let left = deadline.saturating_duration_since(Instant::now());
    sent && told.recv_timeout(left).is_ok()
}

/// As [`flush`], on any executor or none, and for as long as it takes.
pub(crate) async fn told() -> bool {
    let (done, told) = tokio::sync::oneshot::channel();
    let sent = send(Box::new(move || {
        let _ = done.send(());
    }));
    start();
    sent && told.await.is_ok()
}

/// Ends the threads that write lines, as soon as they have nothing to write, where none are wanted any more.
pub(crate) fn end_unwanted_threads() {
    LogWriter::stdout().end_unwanted_thread();
    if was_used() {
        send(Box::new(|| {}));
    }
}

/// Whether a line was ever told in this process.
pub(crate) fn was_used() -> bool {
    teller()
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
    let mut teller = teller();
    // A process that is forked has no thread.
    if teller
        .as_ref()
        .is_none_or(|teller| teller.process != process::id())
    {
        let (lines, receiver) = sync_channel(MAX_WAITING);
        *teller = Some(Teller {
            process: process::id(),
            lines,
            untaken: Some(receiver),
        });
    }
    let Some(teller) = &mut *teller else {
        return false;
    };
    if threads::are_wanted() && !teller.start() {
        return false;
    }
    teller.lines.try_send(line).is_ok()
}

/// Has a thread take the lines that wait.
fn start() {
    if let Some(teller) = &mut *teller() {
        teller.start();
    }
}

fn teller() -> MutexGuard<'static, Option<Teller>> {
    TELLER.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Teller {
    /// Starts the thread, unless it runs, and returns whether it runs.
    fn start(&mut self) -> bool {
        let Some(lines) = self.untaken.take() else {
            return true;
        };
        // Lent to the thread by a mutex: where there can be no thread, the lines stay.
        let lent = Arc::new(Mutex::new(Some(lines)));
        let taken = lent.clone();
        let thread = thread::Builder::new().name("log-messages".to_owned());
        let started = thread.spawn(move || {
            let lines = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(lines) = lines {
                run(lines);
            }
        });
        if started.is_err() {
            self.untaken = lent.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        started.is_ok()
    }
}

fn run(lines: Receiver<Line>) {
    loop {
        let next = match threads::are_wanted() {
            true => lines.recv().ok(),
            false => lines.try_recv().ok(),
        };
        if let Some(line) = next {
            without_panic(line);
            continue;
        }
        let mut teller = teller();
        // One may have come just now.
        if let Ok(line) = lines.try_recv() {
            drop(teller);
            without_panic(line);
            continue;
        }
        if let Some(teller) = teller.as_mut().filter(|one| one.process == process::id()) {
            teller.untaken = Some(lines);
        }
        return;
    }
}
