//! A flush of all workers and parts within one deadline.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::pipeline::parts::running_part::{PartHandle, UnqueuedParts};
use crate::pipeline::worker::{Waiter, Worker};

/// Everything that a flush covers.
pub(crate) struct Flush {
    workers: Vec<FlushedWorker>,
    unqueued: UnqueuedParts,
}

/// A handle to a running worker.
struct FlushedWorker {
    flush: mpsc::UnboundedSender<Waiter>,
    is_queue: bool,
    part: Option<Arc<dyn PartHandle>>,
}

/// Requests a flush from a worker. If the worker has ended, the returned receiver fails.
fn request_flush(flush: &mpsc::UnboundedSender<Waiter>) -> oneshot::Receiver<()> {
    let (done, flushed) = oneshot::channel();
    let _ = flush.send(done);
    flushed
}

impl Flush {
    /// Starts the workers as tasks of the current runtime.
    pub(crate) fn start(workers: Vec<Worker>, unqueued: UnqueuedParts) -> Self {
        let start = |worker: Worker| {
            tokio::spawn(worker.task);
            FlushedWorker {
                flush: worker.flush,
                is_queue: worker.is_queue,
                part: worker.part,
            }
        };
        Self {
            workers: workers.into_iter().map(start).collect(),
            unqueued,
        }
    }

    /// Flushes everything, and shuts the parts down if this is the `last` flush. Resolves to
    /// whether everything was handled within `timeout`.
    ///
    /// Parts are flushed concurrently, with one exception: processors around the export may release
    /// spans when they are flushed. The queues are flushed a second time for these spans. The
    /// processors have half of the timeout.
    pub(crate) fn flush(
        &self,
        last: bool,
        timeout: Duration,
    ) -> impl Future<Output = bool> + Send + use<> {
        let start = Instant::now();
        let (deadline, half) = (start + timeout, start + timeout / 2);
        let left = move || deadline.saturating_duration_since(Instant::now());
        let mut tasks = JoinSet::new();

        let around = self.unqueued.around.clone();
        let around_end = (!around.is_empty()).then(|| {
            let (unfinished, is_finished) = watch::channel(());
            tasks.spawn(async move {
                // Outer processors come first, because the inner ones may keep the spans they
                // release.
                for part in around {
                    part.flush().await;
                    if last {
                        part.shut_down(left()).await;
                    }
                }
                drop(unfinished);
                true
            });
            is_finished
        });

        let mut waiting = Vec::new();
        for worker in &self.workers {
            let flushed = request_flush(&worker.flush);
            let again = around_end.clone().filter(|_| worker.is_queue);
            let again = again.map(|is_finished| (is_finished, worker.flush.clone()));
            let part = worker.part.clone().filter(|_| last);
            if again.is_none() && part.is_none() {
                waiting.push(flushed);
                continue;
            }
            tasks.spawn(async move {
                let mut is_complete = flushed.await.is_ok();
                if let Some((mut is_finished, flush)) = again {
                    let _ = timeout_at(half, is_finished.changed()).await;
                    is_complete &= request_flush(&flush).await.is_ok();
                }
                if let Some(part) = part {
                    part.shut_down(left()).await;
                }
                is_complete
            });
        }
        for part in self.unqueued.others.clone() {
            tasks.spawn(async move {
                part.flush().await;
                if last {
                    part.shut_down(left()).await;
                }
                true
            });
        }

        let parts = self.parts().filter(|_| last);
        let parts: Vec<_> = parts.cloned().collect();
        async move {
            let all = async {
                let mut is_complete = true;
                for flushed in waiting {
                    is_complete &= flushed.await.is_ok();
                }
                while let Some(done) = tasks.join_next().await {
                    is_complete &= done.unwrap_or(false);
                }
                is_complete
            };
            let is_complete = timeout_at(deadline, all).await.unwrap_or(false);
            // A part that is blocked is shut down when it continues, but this flush does not wait
            // for it.
            for part in parts {
                drop(part.shut_down(timeout));
            }
            is_complete
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Arc<dyn PartHandle>> {
        let workers = self.workers.iter();
        let workers = workers.filter_map(|worker| worker.part.as_ref());
        let UnqueuedParts { around, others } = &self.unqueued;
        workers.chain(around).chain(others)
    }
}
