//! The thread on which everything is exported.
//!
//! It has a runtime of its own, so that export works inside and outside of tokio, on one core as
//! on many, and goes on when the application's runtime is gone. Telemetry is suppressed on it: the
//! exporters' own connections are not traced.

use std::io;
use std::sync::mpsc as blocking;
use std::thread;
use std::time::Duration;

use opentelemetry::Context;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::batch::Worker;

pub(super) struct ExportThread {
    commands: mpsc::UnboundedSender<Command>,
}

struct Command {
    /// Whether the thread ends with this.
    last: bool,
    timeout: Duration,
    done: Box<dyn FnOnce(bool) + Send>,
}

impl ExportThread {
    pub(super) fn start(workers: Vec<Worker>) -> io::Result<Self> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("telemetry-export".to_owned())
            .spawn(move || {
                let _suppressed = Context::enter_telemetry_suppressed_scope();
                runtime.block_on(run(workers, receiver));
                // A name that is being resolved must not hold the thread.
                runtime.shutdown_background();
            })?;
        Ok(Self { commands })
    }

    /// Has all that waits exported, and then ends the thread if this is the `last` time.
    ///
    /// Resolves to whether all was handled within `timeout`, on any executor or none.
    pub(super) async fn flush(&self, last: bool, timeout: Duration) -> bool {
        let (done, flushed) = oneshot::channel();
        self.command(last, timeout, move |complete| {
            let _ = done.send(complete);
        });
        flushed.await.unwrap_or(false)
    }

    /// As [`flush`](Self::flush), on the current thread.
    pub(super) fn flush_blocking(&self, last: bool, timeout: Duration) -> bool {
        let (done, flushed) = blocking::channel();
        self.command(last, timeout, move |complete| {
            let _ = done.send(complete);
        });
        // The thread keeps to the timeout; this is for one that cannot run.
        flushed
            .recv_timeout(timeout + Duration::from_millis(50))
            .unwrap_or(false)
    }

    fn command(&self, last: bool, timeout: Duration, done: impl FnOnce(bool) + Send + 'static) {
        let _ = self.commands.send(Command {
            last,
            timeout,
            done: Box::new(done),
        });
    }
}

async fn run(workers: Vec<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut flushes = Vec::new();
    for worker in workers {
        flushes.push(worker.flush);
        tokio::spawn(worker.task);
    }
    while let Some(command) = commands.recv().await {
        let flushes = flushes.clone();
        let flush = async move {
            let waiting: Vec<_> = flushes
                .iter()
                .filter_map(|flush| {
                    let (done, flushed) = oneshot::channel();
                    flush.send(done).ok().map(|()| flushed)
                })
                .collect();
            let all = async {
                let mut complete = true;
                for flushed in waiting {
                    complete &= flushed.await.is_ok();
                }
                complete
            };
            let complete = timeout(command.timeout, all).await.unwrap_or(false);
            (command.done)(complete);
        };
        if command.last {
            return flush.await;
        }
        tokio::spawn(flush);
    }
}
