//! A log writer that never blocks its caller: a separate thread writes the lines, unless threads are
//! switched off.

use std::fmt;
use std::io::{self, Write};
use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::concurrent::caught::without_panic;
use crate::logs::output::{count_lines, write_all};
use crate::logs::threads;

/// Maximum number of bytes that wait to be written.
const MAX_WAITING: usize = 4 * 1024 * 1024;

/// Capacity of the buffer that an idle writer keeps, in bytes.
const IDLE_CAPACITY: usize = 64 * 1024;

/// Time that the end of the main thread waits for its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Writes log lines on a separate thread, so that an output that nobody reads blocks no request.
///
/// Lines are kept in memory, at most 4 MiB. The thread writes them immediately and in order. While
/// the memory is full, because nobody reads the output, new lines are dropped. The writer
/// [counts](Self::lost) them, and logs their number once it can write again.
///
/// [`init`](crate::init) and the console exporter write to [`stdout`](Self::stdout). A layer of your
/// own can write to it too:
///
/// ```
/// use tower_telemetry::logs::{LogFormat, LogWriter};
/// use tracing_subscriber::{Registry, fmt, prelude::*};
///
/// let lines = fmt::layer()
///     .with_writer(LogWriter::stdout())
///     .event_format(LogFormat::default());
/// let subscriber = Registry::default().with(lines);
/// ```
///
/// After [`Config::with_export_thread(false)`](crate::Config::with_export_thread), there is no such
/// thread: the thread that logs writes the line, and blocks while nobody reads the output. Lines of
/// other threads are written by it, too.
///
/// # The end of a program
///
/// When a [`TelemetryGuard`](crate::TelemetryGuard) shuts down or is dropped, it waits for earlier
/// lines, within the shutdown timeout. On Linux, a thread with the name `main` that has written
/// lines also waits for them when it ends or calls [`std::process::exit`]: for at most a second, and
/// only while the output accepts them. Elsewhere, call [`flush`](Self::flush). A program that aborts
/// or is killed loses the lines of its last moment, usually less than a millisecond.
#[derive(Clone)]
pub struct LogWriter(Arc<Shared>);

struct Shared {
    /// The process that has the thread. A forked process starts its own.
    process: u32,
    output: Box<dyn Fn() -> Box<dyn Write> + Send + Sync>,
    state: Mutex<State>,
    /// Notified when lines wait.
    wake: Condvar,
    /// Notified after a write.
    written: Condvar,
    forked: OnceLock<Arc<Shared>>,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Whether the thread runs, or another thread writes in its place.
    running: bool,
    /// Number of bytes that were accepted, and that were written or failed.
    accepted: u64,
    done: u64,
    lost: u64,
    /// Number of the lost lines that the log mentions.
    reported: u64,
    /// The value of `done` when a flush last ran out of time.
    timed_out_at: Option<u64>,
    /// Pending flushes, each with the value of `done` that it waits for.
    #[cfg(feature = "init")]
    waiters: Vec<(u64, tokio::sync::oneshot::Sender<()>)>,
}

impl LogWriter {
    /// Returns the writer of the process's standard output.
    pub fn stdout() -> Self {
        static STDOUT: OnceLock<LogWriter> = OnceLock::new();
        STDOUT
            .get_or_init(|| Self::from_output(|| Box::new(io::stdout().lock())))
            .clone()
    }

    /// Creates a writer to another output, with its own thread. The thread runs until the program
    /// ends.
    ///
    /// ```
    /// use tower_telemetry::logs::LogWriter;
    ///
    /// let errors = LogWriter::new(std::io::stderr());
    /// ```
    pub fn new(output: impl Write + Send + 'static) -> Self {
        struct Locked<W>(Arc<Mutex<W>>);

        impl<W: Write> Write for Locked<W> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                locked(&self.0).write(bytes)
            }

            fn flush(&mut self) -> io::Result<()> {
                locked(&self.0).flush()
            }
        }

        let output = Arc::new(Mutex::new(output));
        Self::from_output(move || Box::new(Locked(output.clone())))
    }

    fn from_output(output: impl Fn() -> Box<dyn Write> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared::new(Box::new(output))))
    }

    /// Returns the number of lines that were lost so far, because the memory was full or the output
    /// failed.
    pub fn lost(&self) -> u64 {
        locked(&self.shared().state).lost
    }

    /// Waits until all earlier lines are written or have failed, for at most `timeout`. Returns
    /// `false` if the time was not enough.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.shared().flush(timeout)
    }

    /// Waits like [`flush`](Self::flush), without a limit. It works on any executor.
    #[cfg(feature = "init")]
    pub(crate) async fn written(&self) {
        let (done, written) = tokio::sync::oneshot::channel();
        self.shared().call_when_written(done);
        let _ = written.await;
    }

    /// Ends the thread once no line waits, if threads are switched off.
    #[cfg(feature = "init")]
    pub(crate) fn end_disabled_thread(&self) {
        let shared = self.shared();
        // Locked, so that the thread cannot miss the notification.
        let _state = locked(&shared.state);
        shared.wake.notify_one();
    }

    /// Writes whole lines.
    pub(crate) fn push(&self, lines: &[u8]) {
        let shared = self.shared();
        shared.push(lines);
        last_lines::wait_for(shared);
    }

    /// Returns the state of this process, which may be a fork.
    fn shared(&self) -> &Arc<Shared> {
        let mut shared = &self.0;
        while shared.process != process::id() {
            shared = shared.forked.get_or_init(|| {
                let parent = self.0.clone();
                Arc::new(Shared::new(Box::new(move || (parent.output)())))
            });
        }
        shared
    }
}

impl fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriter").finish_non_exhaustive()
    }
}

/// Each call must contain whole lines. A write never blocks or fails.
impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    /// Does nothing, because the thread writes immediately.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "logs")]
impl tracing_subscriber::fmt::MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Shared {
    fn new(output: Box<dyn Fn() -> Box<dyn Write> + Send + Sync>) -> Self {
        Self {
            process: process::id(),
            output,
            state: Mutex::default(),
            wake: Condvar::new(),
            written: Condvar::new(),
            forked: OnceLock::new(),
        }
    }

    fn push(self: &Arc<Self>, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let mut state = locked(&self.state);
        let are_threads_enabled = threads::are_enabled();
        if are_threads_enabled {
            // Before the check of the room: earlier starts may have failed until the memory was full.
            self.start(&mut state);
        }
        if state.waiting.len() + lines.len() > MAX_WAITING {
            state.lost += count_lines(lines);
            return;
        }
        state.waiting.extend_from_slice(lines);
        state.accepted += lines.len() as u64;
        let writes_here = !are_threads_enabled && !state.running;
        state.running |= writes_here;
        drop(state);
        if writes_here {
            let mut has_ended = false;
            without_panic(|| {
                self.run(true);
                has_ended = true;
            });
            if !has_ended {
                locked(&self.state).running = false;
            }
        } else {
            self.wake.notify_one();
        }
    }

    /// Starts the thread, unless it runs. After a failure, the next call tries again.
    fn start(self: &Arc<Self>, state: &mut State) {
        if !state.running {
            let shared = self.clone();
            let thread = thread::Builder::new().name("log-lines".to_owned());
            state.running = thread.spawn(move || shared.run(false)).is_ok();
        }
    }

    /// Sends to `done` when all earlier lines are written or have failed.
    #[cfg(feature = "init")]
    fn call_when_written(self: &Arc<Self>, done: tokio::sync::oneshot::Sender<()>) {
        let mut state = locked(&self.state);
        let accepted = state.accepted;
        if state.done < accepted {
            self.start(&mut state);
            state.waiters.push((accepted, done));
        }
    }

    fn flush(self: &Arc<Self>, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut state = locked(&self.state);
        let accepted = state.accepted;
        if state.done < accepted {
            self.start(&mut state);
        }
        while state.done < accepted {
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => timeout,
            };
            if left.is_zero() {
                state.timed_out_at = Some(state.done);
                return false;
            }
            let waited = self.written.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Writes lines as they come. Returns when no line waits if `end` is set.
    fn run(&self, end: bool) {
        let mut lines = Vec::new();
        loop {
            let mut state = locked(&self.state);
            while state.waiting.is_empty() {
                if end || !threads::are_enabled() {
                    state.running = false;
                    return;
                }
                let woken = self.wake.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut lines, &mut state.waiting);
            drop(state);
            let written = write_all(&mut *(self.output)(), &lines);
            let mut state = locked(&self.state);
            state.done += lines.len() as u64;
            state.timed_out_at = None;
            #[cfg(feature = "init")]
            {
                let done = state.done;
                state.waiters.retain(|(_, waiter)| !waiter.is_closed());
                let is_done = |(accepted, _): &mut (u64, _)| *accepted <= done;
                for (_, waiter) in state.waiters.extract_if(.., is_done) {
                    let _ = waiter.send(());
                }
            }
            let mut unreported = 0;
            match written {
                // The warning needs room. While there is little, another write follows.
                Ok(()) if state.waiting.len() <= MAX_WAITING / 2 => {
                    unreported = state.lost - state.reported;
                    state.reported = state.lost;
                }
                Ok(()) => {}
                Err(_) => state.lost += count_lines(&lines),
            }
            drop(state);
            self.written.notify_all();
            lines.clear();
            lines.shrink_to(IDLE_CAPACITY);
            if unreported > 0 {
                without_panic(|| {
                    tracing::warn!(
                        target: "tower_telemetry",
                        lost = unreported,
                        "log lines were lost: the output was not read, or writing failed"
                    );
                });
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the last lines of a program.
mod last_lines {
    use std::cell::RefCell;
    use std::sync::{Arc, Weak};
    use std::thread;

    use super::{LAST_LINES, Shared, locked};

    thread_local! {
        /// The writers that the main thread has used.
        static WRITERS: RefCell<Writers> = RefCell::new(Writers {
            is_main: thread::current().name() == Some("main"),
            writers: Vec::new(),
        });
    }

    struct Writers {
        is_main: bool,
        writers: Vec<Weak<Shared>>,
    }

    /// Makes the main thread wait for these lines when it ends.
    pub(crate) fn wait_for(shared: &Arc<Shared>) {
        // This fails while the thread ends. Nothing waits for such late lines.
        let _ = WRITERS.try_with(|writers| {
            if let Ok(mut writers) = writers.try_borrow_mut()
                && writers.is_main
            {
                let is_same = |one: &Weak<Shared>| std::ptr::eq(one.as_ptr(), &raw const **shared);
                if !writers.writers.iter().any(is_same) {
                    writers.writers.push(Arc::downgrade(shared));
                }
            }
        });
    }

    impl Drop for Writers {
        fn drop(&mut self) {
            for shared in self.writers.iter().filter_map(Weak::upgrade) {
                // An output that was blocked during an earlier flush is not waited for again.
                if locked(&shared.state).timed_out_at.is_none() {
                    shared.flush(LAST_LINES);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_filled_up_without_a_thread_writes_again() {
        let writer = LogWriter::new(io::sink());
        let state = || locked(&writer.0.state);
        // This is the state after thread starts that failed.
        state().waiting = vec![b'\n'; MAX_WAITING];
        state().accepted = MAX_WAITING as u64;
        assert!(!state().running);
        writer.push(b"one more\n");
        assert!(writer.flush(Duration::from_secs(20)));
        assert_eq!(writer.lost(), 1);
    }

    #[test]
    fn a_flush_starts_a_thread_for_waiting_lines() {
        let writer = LogWriter::new(io::sink());
        locked(&writer.0.state).waiting = b"line\n".to_vec();
        locked(&writer.0.state).accepted = 5;
        assert!(writer.flush(Duration::from_secs(20)));
    }

    /// Writes each time that it receives a message.
    struct Gate(std::sync::mpsc::Receiver<()>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lost_lines_are_reported_once_there_is_room_for_the_warning() {
        let (gate, opened) = std::sync::mpsc::channel();
        let writer = LogWriter::new(Gate(opened));
        let until = |is_done: &dyn Fn(&State) -> bool| {
            let end = Instant::now() + Duration::from_secs(20);
            while !is_done(&locked(&writer.0.state)) {
                assert!(Instant::now() < end);
                thread::yield_now();
            }
        };
        writer.push(b"written first\n");
        until(&|state| state.waiting.is_empty());
        writer.push(&[b'\n'; MAX_WAITING]);
        writer.push(b"lost\n");
        gate.send(()).expect("the thread writes");
        // The thread now writes the lines that filled the memory.
        until(&|state| state.done == 14 && state.waiting.is_empty());
        assert_eq!(locked(&writer.0.state).reported, 0);
        gate.send(()).expect("the thread writes");
        until(&|state| state.reported == 1);
    }
}
