//! The thread on which everything is exported.
//!
//! It has a runtime of its own, so that export works inside and outside of tokio, on one core as
//! on many, and goes on when the application's runtime is gone. Telemetry is suppressed on it: the
//! exporters' own connections are not traced.

use std::io;
use std::process;
use std::sync::mpsc as blocking;
use std::thread;
use std::time::Duration;

use opentelemetry::Context;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, dispatcher};

use super::batch::Worker;
use crate::logs::tell;

pub(super) struct ExportThread {
    commands: mpsc::UnboundedSender<Command>,
    /// The process that the thread is in.
    process: u32,
}

struct Command {
    /// Whether the thread ends with this.
    last: bool,
    timeout: Duration,
    done: blocking::Sender<bool>,
}

impl ExportThread {
    /// Starts the thread. `awaits_subscriber` says that `init` is about to install its own where
    /// there is none.
    pub(super) fn start(workers: Vec<Worker>, awaits_subscriber: bool) -> io::Result<Self> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (started, start) = blocking::channel();
        thread::Builder::new()
            .name("telemetry-export".to_owned())
            .spawn(move || {
                let _suppressed = Context::enter_telemetry_suppressed_scope();
                let _quiet = must_be_quiet(awaits_subscriber)
                    .then(|| dispatcher::set_default(&Dispatch::none()));
                // Made here, because async code, where `init` may run, must not drop one.
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let (runtime, result) = match runtime {
                    Ok(runtime) => (Some(runtime), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                let _ = started.send(result);
                if let Some(runtime) = runtime {
                    runtime.block_on(run(workers, receiver));
                    // A name that is being resolved must not hold the thread.
                    runtime.shutdown_background();
                }
            })?;
        start
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("it ended before it began")))?;
        Ok(Self {
            commands,
            process: process::id(),
        })
    }

    /// Has all that waits exported, and then ends the thread if this is the `last` time.
    ///
    /// Resolves to whether all was handled within `timeout`, on any executor or none.
    pub(super) async fn flush(&self, last: bool, timeout: Duration) -> bool {
        if self.was_left_behind() {
            return false;
        }
        let (done, flushed) = oneshot::channel();
        let flushing = self.command(last, timeout);
        // The export thread keeps to the timeout unless it is held up itself, by a subscriber of
        // the application or by its callbacks. This thread is not.
        let waiter = thread::Builder::new()
            .name("telemetry-flush".to_owned())
            .spawn(move || {
                let _ = done.send(flushing.wait());
            });
        match waiter {
            Ok(_) => flushed.await.unwrap_or(false),
            Err(_) => false,
        }
    }

    /// As [`flush`](Self::flush), on the current thread.
    pub(super) fn flush_blocking(&self, last: bool, timeout: Duration) -> bool {
        !self.was_left_behind() && self.command(last, timeout).wait()
    }

    /// Whether this is a process that was forked from the one with the thread: there is none here.
    fn was_left_behind(&self) -> bool {
        let was = process::id() != self.process;
        if was {
            tell(|| tracing::warn!("a process that is forked after `init` exports no telemetry"));
        }
        was
    }

    fn command(&self, last: bool, timeout: Duration) -> Flushing {
        let (done, flushed) = blocking::channel();
        let _ = self.commands.send(Command {
            last,
            timeout,
            done,
        });
        Flushing { flushed, timeout }
    }
}

/// A flush that was asked for.
struct Flushing {
    flushed: blocking::Receiver<bool>,
    timeout: Duration,
}

impl Flushing {
    fn wait(self) -> bool {
        // A little longer, so that it is the export thread that says what was done in time.
        let timeout = self.timeout + Duration::from_millis(50);
        self.flushed.recv_timeout(timeout).unwrap_or(false)
    }
}

/// Whether the libraries that export must not log here. A subscriber of the application may wait for
/// its output, and export would stand still.
fn must_be_quiet(awaits_subscriber: bool) -> bool {
    let is_missing = |dispatch: &Dispatch| dispatch.is::<NoSubscriber>();
    if awaits_subscriber && dispatcher::get_default(is_missing) {
        return false;
    }
    #[cfg(feature = "logs")]
    let is_own = crate::logs::is_installed();
    #[cfg(not(feature = "logs"))]
    let is_own = false;
    !is_own
}

async fn run(workers: Vec<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut flushes = Vec::new();
    for worker in workers {
        flushes.push(worker.flush);
        tokio::spawn(worker.task);
    }
    while let Some(command) = commands.recv().await {
        // A worker that cannot be asked is gone, and what it had with it.
        let waiting: Vec<_> = flushes
            .iter()
            .map(|flush| {
                let (done, flushed) = oneshot::channel();
                let _ = flush.send(done);
                flushed
            })
            .collect();
        let flush = async move {
            let all = async {
                let mut complete = true;
                for flushed in waiting {
                    complete &= flushed.await.is_ok();
                }
                complete
            };
            let complete = timeout(command.timeout, all).await.unwrap_or(false);
            let _ = command.done.send(complete);
        };
        if command.last {
            return flush.await;
        }
        tokio::spawn(flush);
    }
}
