//! Log events of this crate, emitted on a separate thread, or at the next flush if threads are
//! switched off.
//!
//! The application's subscriber may block, for example on an output that nobody reads. This must not
//! block the export thread, a request or a shutdown.

use std::cell::Cell;
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

/// Maximum number of events that wait. Events are rare: most kinds are logged once.
const MAX_WAITING: usize = 64;

type Line = Box<dyn FnOnce() + Send>;

struct EventThread {
    process: u32,
    lines: SyncSender<Line>,
    /// `None` while the thread has the receiver.
    idle_receiver: Option<Receiver<Line>>,
}

/// Emits an event soon, to the subscriber of the current thread or else of the process. Drops it if
/// too many events wait.
pub(crate) fn emit_later(line: impl FnOnce() + Send + 'static) {
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
    let (done, flushed) = sync_channel(1);
    let sent = send(Box::new(move || {
        let _ = done.send(());
    }));
    start();
    let left = deadline.saturating_duration_since(Instant::now());
    sent && flushed.recv_timeout(left).is_ok()
}

/// Waits like [`flush`], without a limit. It works on any executor.
pub(crate) async fn flush_async() -> bool {
    let (done, flushed) = tokio::sync::oneshot::channel();
    let sent = send(Box::new(move || {
        let _ = done.send(());
    }));
    start();
    sent && flushed.await.is_ok()
}

/// Ends the threads that write lines once no line waits, if threads are switched off.
pub(crate) fn end_disabled_threads() {
    LogWriter::stdout().end_disabled_thread();
    if was_used() {
        send(Box::new(|| {}));
    }
}

/// Returns whether this process has emitted an event here.
pub(crate) fn was_used() -> bool {
    event_thread()
        .as_ref()
        .is_some_and(|event_thread| event_thread.process == process::id())
}

/// Logs once that something was recorded after the end of telemetry.
#[derive(Clone, Default)]
pub(crate) struct EndWarning(Arc<AtomicBool>);

impl EndWarning {
    /// Logs the warning, unless it was logged before.
    pub(crate) fn log_once(&self) {
        // A warning about losses in a shutdown comes after the end, and becomes a log record, too.
        if EMITS.get() {
            return;
        }
        if !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Relaxed) {
            emit_later(|| {
                tracing::warn!(
                    target: "tower_telemetry",
                    "telemetry has ended, and everything recorded from now on is lost; keep the \
                     `TelemetryGuard` until the end of the program"
                );
            });
        }
    }
}

static EVENT_THREAD: Mutex<Option<EventThread>> = Mutex::new(None);

thread_local! {
    /// Whether this thread emits the events of this crate, and nothing else.
    static EMITS: Cell<bool> = const { Cell::new(false) };
}

fn send(line: Line) -> bool {
    let mut event_thread = event_thread();
    // A forked process has no thread yet.
    if event_thread
        .as_ref()
        .is_none_or(|event_thread| event_thread.process != process::id())
    {
        let (lines, receiver) = sync_channel(MAX_WAITING);
        *event_thread = Some(EventThread {
            process: process::id(),
            lines,
            idle_receiver: Some(receiver),
        });
    }
    let Some(event_thread) = &mut *event_thread else {
        return false;
    };
    if threads::are_enabled() && !event_thread.start() {
        return false;
    }
    event_thread.lines.try_send(line).is_ok()
}

/// Starts the thread, if something was logged here.
fn start() {
    if let Some(event_thread) = &mut *event_thread() {
        event_thread.start();
    }
}

fn event_thread() -> MutexGuard<'static, Option<EventThread>> {
    EVENT_THREAD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EventThread {
    /// Starts the thread, unless it runs, and returns whether it runs.
    fn start(&mut self) -> bool {
        let Some(lines) = self.idle_receiver.take() else {
            return true;
        };
        // In a mutex, so that the receiver is not lost if the thread cannot start.
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
            self.idle_receiver = lent.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        started.is_ok()
    }
}

fn run(lines: Receiver<Line>) {
    EMITS.set(true);
    loop {
        let next = match threads::are_enabled() {
            true => lines.recv().ok(),
            false => lines.try_recv().ok(),
        };
        if let Some(line) = next {
            without_panic(line);
            continue;
        }
        let mut event_thread = event_thread();
        // A line may have come since the last look.
        if let Ok(line) = lines.try_recv() {
            drop(event_thread);
            without_panic(line);
            continue;
        }
        if let Some(event_thread) = event_thread
            .as_mut()
            .filter(|one| one.process == process::id())
        {
            event_thread.idle_receiver = Some(lines);
        }
        return;
    }
}
