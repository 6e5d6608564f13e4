//! The thread that runs the whole export.
//!
//! The thread has its own runtime. Export therefore works inside and outside tokio, on one core or
//! many, and continues after the application's runtime has ended. Telemetry is suppressed on the
//! thread, so that the exporters' own connections are not traced. The thread lives from `init` to
//! shutdown, or only during a flush.

use std::fmt;
use std::io;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as blocking;
use std::sync::{Arc, OnceLock};
use std::thread::{self, ThreadId};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, dispatcher};

use crate::logs::emit_later;
use crate::pipeline::deadlines;
use crate::pipeline::flush::Flush;
use crate::pipeline::on_demand::{BetweenFlushes, OnDemand};
use crate::pipeline::parts::running_part::UnqueuedParts;
use crate::pipeline::worker::Worker;

/// Added to a timeout, so that the export thread usually reports the result itself.
const GRACE: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(crate) struct ExportThread {
    commands: mpsc::UnboundedSender<Command>,
    /// The id of the process that owns the thread.
    process: u32,
    lifetime: Lifetime,
}

/// When the thread exists.
#[derive(Clone)]
enum Lifetime {
    Always(ThreadId),
    DuringFlushes(Arc<OnDemand>),
}

/// Everything that the export thread runs.
pub(crate) struct Work {
    pub(crate) workers: Vec<Worker>,
    pub(crate) unqueued: UnqueuedParts,
    pub(crate) between_flushes: BetweenFlushes,
}

enum Command {
    Flush {
        /// Whether the thread ends after this flush.
        last: bool,
        timeout: Duration,
        /// Called with `true` if everything was handled in time.
        done: Box<dyn FnOnce(bool) + Send>,
    },
    /// Writes a log line as soon as a subscriber exists.
    Log(String),
}

/// A handle for the providers' own `force_flush`: flushes all signals within the shutdown timeout.
#[derive(Clone, Default)]
pub(crate) struct FlushHandle(Arc<OnceLock<(ExportThread, Duration)>>);

impl FlushHandle {
    pub(crate) fn connect(&self, thread: &ExportThread, timeout: Duration) {
        let _ = self.0.set((thread.clone(), timeout));
    }

    pub(crate) fn flush(&self) -> OTelSdkResult {
        let failed = |reason: &str| Err(OTelSdkError::InternalFailure(reason.to_owned()));
        let Some((thread, timeout)) = self.0.get() else {
            return failed("export has not started");
        };
        if thread.is_current() {
            return failed("a flush on the export thread would wait for itself");
        }
        if thread.is_forked() {
            return failed("the process was forked after `init` and does not export telemetry");
        }
        match thread.command_blocking(false, *timeout) {
            true => Ok(()),
            false if thread.commands.is_closed() => Err(OTelSdkError::AlreadyShutdown),
            false => Err(OTelSdkError::Timeout(*timeout)),
        }
    }
}

impl fmt::Debug for FlushHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlushHandle").finish_non_exhaustive()
    }
}

impl ExportThread {
    /// Starts the thread. `awaits_subscriber` means that `init` is about to install its own
    /// subscriber if there is none.
    pub(crate) fn start(work: Work, awaits_subscriber: bool) -> io::Result<Self> {
        deadlines::start()?;
        let Work {
            workers, unqueued, ..
        } = work;
        let (commands, receiver) = mpsc::unbounded_channel();
        let (started, start) = blocking::channel();
        let thread = thread::Builder::new()
            .name("telemetry-export".to_owned())
            .spawn(move || {
                let _suppressed = Context::enter_telemetry_suppressed_scope();
                let _quiet = must_not_log(awaits_subscriber)
                    .then(|| dispatcher::set_default(&Dispatch::none()));
                // The runtime is built on this thread, because async code must not drop one, and
                // `init` may run in async code.
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let (runtime, result) = match runtime {
                    Ok(runtime) => (Some(runtime), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                let _ = started.send(result);
                if let Some(runtime) = runtime {
                    runtime.block_on(run(workers, unqueued, receiver));
                    // A pending name resolution must not block the end of the thread.
                    runtime.shutdown_background();
                }
            })?;
        start
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended before it started")))?;
        Ok(Self {
            commands,
            process: process::id(),
            lifetime: Lifetime::Always(thread.thread().id()),
        })
    }

    /// Like [`start`](Self::start), but with a new thread for each flush and none between flushes.
    pub(crate) fn start_on_demand(work: Work, awaits_subscriber: bool) -> io::Result<Self> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let task = run(work.workers, work.unqueued, receiver);
        let on_demand = OnDemand::new(task, work.between_flushes, move || {
            must_not_log(awaits_subscriber)
        })?;
        Ok(Self {
            commands,
            process: process::id(),
            lifetime: Lifetime::DuringFlushes(Arc::new(on_demand)),
        })
    }

    /// Returns whether the current thread is the export thread.
    fn is_current(&self) -> bool {
        match &self.lifetime {
            Lifetime::Always(id) => *id == thread::current().id(),
            Lifetime::DuringFlushes(on_demand) => on_demand.is_current_thread(),
        }
    }

    /// Exports everything that is waiting, and ends the thread if this is the `last` flush.
    ///
    /// Resolves to whether everything was handled within `timeout`. Works on any executor or none.
    pub(crate) async fn flush(&self, last: bool, timeout: Duration) -> bool {
        if self.is_forked() {
            return false;
        }
        let (done, flushed) = oneshot::channel();
        let started = self.command(last, timeout, move |complete| {
            let _ = done.send(complete);
        });
        if !started {
            return false;
        }
        // The export thread keeps the timeout itself, unless a subscriber or a callback of the
        // application blocks it.
        let flushed = self.within(timeout + GRACE, flushed).await;
        self.end_flush();
        flushed.is_some_and(|flushed| flushed.unwrap_or(false))
    }

    /// Waits for a future for at most `timeout`. Works on any executor or none.
    pub(crate) async fn within<T>(
        &self,
        timeout: Duration,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        match self.lifetime {
            Lifetime::Always(_) => deadlines::within(timeout, future).await,
            Lifetime::DuringFlushes(_) => deadlines::within_alone(timeout, future).await,
        }
    }

    /// Returns whether the thread exists only during flushes.
    pub(crate) fn is_on_demand(&self) -> bool {
        matches!(self.lifetime, Lifetime::DuringFlushes(_))
    }

    fn end_flush(&self) {
        if let Lifetime::DuringFlushes(on_demand) = &self.lifetime {
            on_demand.join();
        }
    }

    /// Blocking version of [`flush`](Self::flush).
    pub(crate) fn flush_blocking(&self, last: bool, timeout: Duration) -> bool {
        !self.is_forked() && self.command_blocking(last, timeout)
    }

    /// Returns whether this process was forked from the one that owns the thread. A forked process
    /// has no export thread.
    fn is_forked(&self) -> bool {
        let is_forked = process::id() != self.process;
        if is_forked {
            emit_later(|| {
                tracing::warn!(
                    target: "tower_telemetry",
                    "a process that is forked after `init` does not export telemetry"
                );
            });
        }
        is_forked
    }

    /// Starts a flush and returns whether it has started.
    fn command(
        &self,
        last: bool,
        timeout: Duration,
        done: impl FnOnce(bool) + Send + 'static,
    ) -> bool {
        let send = |done| {
            let _ = self.commands.send(Command::Flush {
                last,
                timeout,
                done,
            });
        };
        let Lifetime::DuringFlushes(on_demand) = &self.lifetime else {
            send(Box::new(done));
            return true;
        };
        let started = on_demand.flush(timeout, |flush_guard| {
            send(Box::new(move |complete| {
                flush_guard.end(move || done(complete));
            }));
        });
        let has_started = started.is_ok();
        if let Err(error) = started {
            emit_later(move || {
                tracing::warn!(
                    target: "tower_telemetry",
                    "the thread for a flush cannot be started ({error}); telemetry waits for the next flush"
                );
            });
        }
        has_started
    }

    fn command_blocking(&self, last: bool, timeout: Duration) -> bool {
        let (done, flushed) = blocking::channel();
        let started = self.command(last, timeout, move |complete| {
            let _ = done.send(complete);
        });
        if !started {
            return false;
        }
        let flushed = flushed.recv_timeout(timeout + GRACE).unwrap_or(false);
        self.end_flush();
        flushed
    }

    /// Writes a log line as soon as a subscriber can receive it.
    pub(crate) fn log_when_subscribed(&self, line: String) {
        let _ = self.commands.send(Command::Log(line));
    }
}

/// Writes a log line once a subscriber is installed. There is no notification for that, so it
/// polls.
async fn log_when_subscribed(line: String) {
    const FIRST_PAUSE: Duration = Duration::from_millis(10);
    const LAST_PAUSE: Duration = Duration::from_secs(5);

    let line = Arc::new((line, AtomicBool::new(false)));
    let mut pause = FIRST_PAUSE;
    while !line.1.load(Ordering::Relaxed) {
        let line = line.clone();
        emit_later(move || {
            let (text, is_logged) = &*line;
            if has_subscriber() && !is_logged.swap(true, Ordering::Relaxed) {
                tracing::info!(target: "tower_telemetry", "{text}");
            }
        });
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Returns whether there is a subscriber.
pub(crate) fn has_subscriber() -> bool {
    dispatcher::get_default(|dispatch| !dispatch.is::<NoSubscriber>())
}

/// Returns whether libraries must not log on this thread. A subscriber of the application may wait
/// for its output, and would block the export.
fn must_not_log(awaits_subscriber: bool) -> bool {
    if awaits_subscriber && !has_subscriber() {
        return false;
    }
    #[cfg(feature = "logs")]
    let is_own = crate::logs::is_installed();
    #[cfg(not(feature = "logs"))]
    let is_own = false;
    !is_own
}

async fn run(
    workers: Vec<Worker>,
    unqueued: UnqueuedParts,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let all = Flush::start(workers, unqueued);
    while let Some(command) = commands.recv().await {
        let (last, timeout, done) = match command {
            Command::Flush {
                last,
                timeout,
                done,
            } => (last, timeout, done),
            Command::Log(line) => {
                tokio::spawn(log_when_subscribed(line));
                continue;
            }
        };
        let flush = all.flush(last, timeout);
        let flush = async move { done(flush.await) };
        if last {
            // Dropping the senders ends each worker after this flush. Otherwise, metrics would be
            // collected again while another signal still waits for its receiver, and would count as
            // lost.
            drop(all);
            return flush.await;
        }
        tokio::spawn(flush);
    }
}
