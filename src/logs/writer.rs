//! A writer that never makes anybody wait: a thread of its own writes, where there may be one.

use std::fmt;
use std::io::{self, Write};
use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::concurrent::caught::without_panic;
use crate::logs::output::{count, write_all};
use crate::logs::threads;

/// Bytes that may wait to be written.
const MAX_WAITING: usize = 4 * 1024 * 1024;

/// Memory that stays with a writer when nothing waits.
const KEPT: usize = 64 * 1024;

/// How long the end of a program waits for its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Writes log lines on a thread of its own, so that an output that nobody reads stops no request.
///
/// Lines wait in memory, 4 MiB at most, and are written at once by the writer's thread, in
/// the order in which it came. While the output is not read and the memory is full, lines are lost;
/// they are [counted](Self::lost), and one log line says how many there were when the output is read
/// again.
///
/// The lines of [`init`](crate::init) and of the console exporter go through
/// [`stdout`](Self::stdout). Give it to a layer of your own:
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
/// After an [`init`](crate::init) whose [`Config`](crate::Config) has
/// [no thread](crate::Config::with_export_thread), the thread that logs writes, and waits for the output. Other
/// threads leave their lines to it meanwhile.
///
/// # The end of a program
///
/// [`TelemetryGuard`](crate::TelemetryGuard) waits for the lines that were written before its
/// shutdown or its drop, within the shutdown timeout. On Linux, a thread called `main` that has
/// written waits for them too when it ends or calls [`std::process::exit`], a second at most and
/// only while the output takes them. [`flush`](Self::flush) does it anywhere. A program that aborts,
/// or is killed, loses what its writer has had no time for, usually less than a millisecond's lines.
#[derive(Clone)]
pub struct LogWriter(Arc<Shared>);

struct Shared {
    /// The process that has the thread. A process that is forked from it begins anew.
    process: u32,
    output: Box<dyn Fn() -> Box<dyn Write> + Send + Sync>,
    state: Mutex<State>,
    /// Something waits.
    wake: Condvar,
    /// Something was written.
    written: Condvar,
    forked: OnceLock<Arc<Shared>>,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Whether the thread was started, or another thread writes in its place.
    running: bool,
    /// Bytes that came, and that were written or given up.
    came: u64,
    done: u64,
    lost: u64,
    /// How many of the lost lines were told of.
    told: u64,
    /// The bytes that were written when a wait last ended in vain.
    in_vain: Option<u64>,
    /// Waiters, each with the number of bytes that it waits for.
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

    /// Makes a writer to another output, with a thread of its own. The thread stays until the
    /// program ends.
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

    /// Returns how many lines were lost so far, because the output was not read or could not be
    /// written to.
    pub fn lost(&self) -> u64 {
        locked(&self.shared().state).lost
    }

    /// Waits until all that came before is written or given up, `timeout` at most, and returns
    /// whether it is.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.shared().flush(timeout)
    }

    /// As [`flush`](Self::flush), on any executor or none, and for as long as it takes.
    #[cfg(feature = "init")]
    pub(crate) async fn written(&self) {
        let (done, written) = tokio::sync::oneshot::channel();
        self.shared().call_when_written(done);
        let _ = written.await;
    }

    /// Ends the thread, as soon as nothing waits, if threads are not wanted any more.
    #[cfg(feature = "init")]
    pub(crate) fn end_unwanted_thread(&self) {
        let shared = self.shared();
        // Locked, so that the thread cannot miss it.
        let _state = locked(&shared.state);
        shared.wake.notify_one();
    }

    /// Writes whole lines.
    pub(crate) fn push(&self, lines: &[u8]) {
        let shared = self.shared();
        shared.push(lines);
        last_lines::wait_for(shared);
    }

    /// The writer of this process.
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

/// Takes each call for whole lines, and never waits or fails.
impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    /// Does nothing: the thread writes at once.
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
        let are_threads_wanted = threads::are_wanted();
        if are_threads_wanted {
            // First, because it may have failed until there was no more room.
            self.start(&mut state);
        }
        if state.waiting.len() + lines.len() > MAX_WAITING {
            state.lost += count(lines);
            return;
        }
        state.waiting.extend_from_slice(lines);
        state.came += lines.len() as u64;
        let writes_here = !are_threads_wanted && !state.running;
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

    /// Starts the thread, unless it runs. If that fails now, it may not the next time.
    fn start(self: &Arc<Self>, state: &mut State) {
        if !state.running {
            let shared = self.clone();
            let thread = thread::Builder::new().name("log-lines".to_owned());
            state.running = thread.spawn(move || shared.run(false)).is_ok();
        }
    }

    /// Answers when all that came before is written or given up.
    #[cfg(feature = "init")]
    fn call_when_written(self: &Arc<Self>, done: tokio::sync::oneshot::Sender<()>) {
        let mut state = locked(&self.state);
        let came = state.came;
        if state.done < came {
            self.start(&mut state);
            state.waiters.push((came, done));
        }
    }

    fn flush(self: &Arc<Self>, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut state = locked(&self.state);
        let came = state.came;
        if state.done < came {
            self.start(&mut state);
        }
        while state.done < came {
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => timeout,
            };
            if left.is_zero() {
                state.in_vain = Some(state.done);
                return false;
            }
            let waited = self.written.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Writes what waits, again and again, or until nothing waits if that is the `end`.
    fn run(&self, end: bool) {
        let mut lines = Vec::new();
        loop {
            let mut state = locked(&self.state);
            while state.waiting.is_empty() {
                if end || !threads::are_wanted() {
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
            state.in_vain = None;
            #[cfg(feature = "init")]
            {
                let done = state.done;
                state.waiters.retain(|(_, waiter)| !waiter.is_closed());
                let is_done = |(came, _): &mut (u64, _)| *came <= done;
                for (_, waiter) in state.waiters.extract_if(.., is_done) {
                    let _ = waiter.send(());
                }
            }
            let mut untold = 0;
            match written {
                Ok(()) => {
                    untold = state.lost - state.told;
                    state.told = state.lost;
                }
                Err(_) => state.lost += count(&lines),
            }
            drop(state);
            self.written.notify_all();
            lines.clear();
            lines.shrink_to(KEPT);
            if untold > 0 {
                without_panic(|| {
                    tracing::warn!(
                        target: "tower_telemetry",
                        lost = untold,
                        "log lines are lost: the output was not read, or could not be written to"
                    );
                });
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lines that a program writes just before its end.
mod last_lines {
    use std::cell::RefCell;
    use std::sync::{Arc, Weak};
    use std::thread;

    use super::{LAST_LINES, Shared, locked};

    thread_local! {
        /// The writers of this thread, if it is the main one.
        static WRITERS: RefCell<Writers> = RefCell::new(Writers {
            is_main: thread::current().name() == Some("main"),
            writers: Vec::new(),
        });
    }

    struct Writers {
        is_main: bool,
        writers: Vec<Weak<Shared>>,
    }

    /// Has the main thread wait for the lines when it ends.
    pub(crate) fn wait_for(shared: &Arc<Shared>) {
        // It fails while the thread ends, which nobody waits for then.
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
                // Whoever has waited in vain before need not do so again.
                if locked(&shared.state).in_vain.is_none() {
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
    fn a_writer_whose_thread_could_not_start_until_it_was_full_writes_again() {
        let writer = LogWriter::new(io::sink());
        let state = || locked(&writer.0.state);
        // As after thread starts that failed.
        state().waiting = vec![b'\n'; MAX_WAITING];
        state().came = MAX_WAITING as u64;
        assert!(!state().running);
        writer.push(b"one more\n");
        assert!(writer.flush(Duration::from_secs(20)));
        assert_eq!(writer.lost(), 1);
    }

    #[test]
    fn lines_that_wait_for_a_thread_get_one_when_they_are_flushed() {
        let writer = LogWriter::new(io::sink());
        locked(&writer.0.state).waiting = b"line\n".to_vec();
        locked(&writer.0.state).came = 5;
        assert!(writer.flush(Duration::from_secs(20)));
    }
}
