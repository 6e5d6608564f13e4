//! Workers of the export thread, which take batches from queues.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::config::settings::{Batch, Signal};
use crate::otlp::outcome::SendOutcome;
use crate::pipeline::counts::{Counters, Losses};
use crate::pipeline::queue::{Item, Queue};
use crate::stats::Failure;

/// Where batches go.
pub(crate) trait Sink<T>: Send + Sync + 'static {
    /// Hands over a batch, and says what became of it.
    fn export(&self, batch: Vec<T>) -> impl Future<Output = SendOutcome> + Send;

    /// Everything that waited was handed over; `flush` says whether somebody asked for it.
    fn settled(&self, flush: bool) -> impl Future<Output = ()> + Send {
        let _ = flush;
        std::future::ready(())
    }
}

/// A task of the export thread, and the way to have it export all that waits.
pub(crate) struct Worker {
    pub(crate) flush: mpsc::UnboundedSender<oneshot::Sender<()>>,
    pub(crate) task: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Makes a queue and the worker that takes batches from it to `sink`.
pub(crate) fn queue<T, S>(
    signal: Signal,
    batch: Batch,
    counters: Arc<Counters>,
    sink: S,
) -> (Arc<Queue<T>>, Worker)
where
    T: Item,
    S: Sink<T>,
{
    let (flush, mut flushes) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
    let queue = Arc::new(Queue::new(batch, counters.clone()));
    let closing = Closing(queue.clone());
    let task = async move {
        let queue = &*closing.0;
        let sink = Arc::new(sink);
        let mut losses = Losses::new(signal, counters);
        while let Some(waiters) = next(&mut flushes, queue.woken(), batch.schedule_delay).await {
            // Not what comes while this is sent: there may be no end to that.
            let mut waiting = queue.waiting();
            loop {
                let (taken, bytes) = queue.take(&mut waiting);
                if taken.is_empty() {
                    break;
                }
                let count = taken.len() as u64;
                let sink = sink.clone();
                let export = async move { sink.export(taken).await };
                settle(&mut losses, count, export).await;
                queue.give_back(bytes);
            }
            sink.settled(!waiters.is_empty()).await;
            answer(waiters);
        }
    };
    let task = Box::pin(task);
    (queue, Worker { flush, task })
}

/// Closes the queue when the worker ends: nobody would take anything from it.
struct Closing<T: Item>(Arc<Queue<T>>);

impl<T: Item> Drop for Closing<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Waits until there may be something to do: someone waits for a flush, or a batch is complete, or
/// time is up. Returns all who wait for a flush, for one will do for them; `None` once nobody can
/// ask any more.
pub(crate) async fn next(
    flushes: &mut mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    woken: impl Future<Output = ()>,
    delay: Duration,
) -> Option<Vec<oneshot::Sender<()>>> {
    let first = tokio::select! {
        flush = flushes.recv() => Some(flush?),
        () = woken => None,
        () = sleep(delay) => None,
    };
    let mut waiters = Vec::from_iter(first);
    while let Ok(waiter) = flushes.try_recv() {
        waiters.push(waiter);
    }
    Some(waiters)
}

/// Tells those who wait that all was handed over.
pub(crate) fn answer(waiters: Vec<oneshot::Sender<()>>) {
    for waiter in waiters {
        let _ = waiter.send(());
    }
}

/// Runs an export of `count` items, and counts what became of them. It has a task of its own, so
/// that a panic in it is a failed export.
pub(crate) async fn settle(
    losses: &mut Losses,
    count: u64,
    export: impl Future<Output = SendOutcome> + Send + 'static,
) {
    const LOOK: Duration = Duration::from_secs(1);

    let mut export = pin!(tokio::spawn(export));
    let outcome = loop {
        // A receiver may ask for minutes of quiet, while the queue is full.
        tokio::select! {
            outcome = &mut export => break outcome,
            () = sleep(LOOK) => {
                losses.look(None);
            }
        }
    };
    losses.settle(outcome.unwrap_or_else(|_| {
        let mut outcome = SendOutcome::default();
        outcome.lose(count, Failure::Panic, "the exporter panicked".to_owned());
        outcome
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics at a batch with a 13 in it, and takes all others.
    struct Superstitious;

    impl Sink<u64> for Superstitious {
        async fn export(&self, batch: Vec<u64>) -> SendOutcome {
            assert!(!batch.contains(&13), "as it should");
            SendOutcome {
                exported: batch.len() as u64,
                ..SendOutcome::default()
            }
        }
    }

    fn small(size: usize) -> Batch {
        Batch::default()
            .with_max_queue_size(size)
            .with_max_export_batch_size(1)
    }

    async fn flush(worker: &mpsc::UnboundedSender<oneshot::Sender<()>>) {
        let (done, flushed) = oneshot::channel();
        worker.send(done).expect("the worker lives");
        flushed.await.expect("the worker lives");
    }

    #[tokio::test]
    async fn an_exporter_that_panics_has_failed_one_batch_and_goes_on() {
        let counters = Arc::new(Counters::default());
        let (queue, worker) =
            queue::<u64, _>(Signal::Traces, small(16), counters.clone(), Superstitious);
        tokio::spawn(worker.task);
        for item in [1, 13, 2] {
            queue.push(item);
        }
        flush(&worker.flush).await;
        let stats = counters.stats();
        assert_eq!((stats.accepted, stats.exported, stats.failed), (3, 2, 1));
        assert_eq!(stats.last_failure, Some(Failure::Panic));
    }

    #[tokio::test]
    async fn one_export_answers_all_who_wait_for_a_flush() {
        let (flush, mut flushes) = mpsc::unbounded_channel();
        let (waiters, flushed): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
        for waiter in waiters {
            flush.send(waiter).expect("it is open");
        }
        let waiters = next(
            &mut flushes,
            std::future::pending(),
            Duration::from_secs(60),
        )
        .await;
        answer(waiters.expect("the channel is open"));
        for flushed in flushed {
            flushed.await.expect("it was answered");
        }
    }
}
