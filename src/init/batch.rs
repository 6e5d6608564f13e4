//! Queues between the threads that record and the thread that exports.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::sleep;

use super::settings::{Batch, Signal};
use super::stats::{Counters, Failure, Losses, Outcome};

/// Something that waits in a queue.
pub(super) trait Item: Send + 'static {
    /// As what it is exported.
    type Exported: Send;

    /// About how much memory it takes.
    fn bytes(&self) -> usize;

    /// Makes of it what is exported, on the thread that exports.
    fn into_exported(self) -> Self::Exported;
}

/// Where batches go.
pub(super) trait Sink<T>: Send + Sync + 'static {
    /// Hands over a batch, and says what became of it.
    fn export(&self, batch: Vec<T>) -> impl Future<Output = Outcome> + Send;

    /// Everything that waited was handed over; `flush` says whether somebody asked for it.
    fn settled(&self, flush: bool) -> impl Future<Output = ()> + Send {
        let _ = flush;
        std::future::ready(())
    }
}

/// Memory that each place in a queue may take on average. What this crate takes from a request is
/// at most 6 KiB a span; the rest is for what handlers add.
const BYTES_PER_ITEM: usize = 8 * 1024;

/// The recording end of a queue. It never blocks, and never wakes the exporting end for one item.
pub(super) struct Queue<T> {
    items: mpsc::Sender<T>,
    wake: Arc<Notify>,
    counters: Arc<Counters>,
    batch_size: usize,
    /// Of what waits, and of the batch that is being exported.
    bytes: Arc<AtomicUsize>,
}

impl<T: Item> Queue<T> {
    pub(super) fn push(&self, item: T) {
        self.counters.accept(1);
        let bytes = item.bytes();
        let waiting = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let has_room = waiting <= self.items.max_capacity().saturating_mul(BYTES_PER_ITEM);
        if has_room && self.items.try_send(item).is_ok() {
            if self.items.max_capacity() - self.items.capacity() >= self.batch_size {
                self.wake();
            }
        } else {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counters.drop_one();
        }
    }

    /// Has what waits exported soon.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// A task of the export thread, and the way to have it export all that waits.
pub(super) struct Worker {
    pub(super) flush: mpsc::UnboundedSender<oneshot::Sender<()>>,
    pub(super) task: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Makes a queue and the worker that takes batches from it to `sink`.
pub(super) fn queue<T, S>(
    signal: Signal,
    batch: Batch,
    counters: Arc<Counters>,
    sink: S,
) -> (Queue<T>, Worker)
where
    T: Item,
    S: Sink<T::Exported>,
{
    let (sender, mut items) = mpsc::channel(batch.max_queue_size);
    let (flush, mut flushes) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
    let wake = Arc::new(Notify::new());
    let bytes = Arc::new(AtomicUsize::new(0));
    let batch_size = batch.max_export_batch_size.min(batch.max_queue_size);
    let queue = Queue {
        items: sender,
        wake: wake.clone(),
        counters: counters.clone(),
        batch_size,
        bytes: bytes.clone(),
    };
    let task = async move {
        let sink = Arc::new(sink);
        let mut losses = Losses::new(signal, counters);
        while let Some(waiters) = next(&mut flushes, &wake, batch.schedule_delay).await {
            let mut waiting = items.len();
            while waiting > 0 {
                let taken = take(&mut items, waiting.min(batch_size));
                if taken.is_empty() {
                    break;
                }
                waiting -= taken.len();
                let count = taken.len() as u64;
                let taken_bytes = taken.iter().map(Item::bytes).sum();
                let sink = sink.clone();
                let taken = taken.into_iter().map(Item::into_exported).collect();
                let export = async move { sink.export(taken).await };
                settle(&mut losses, count, export).await;
                bytes.fetch_sub(taken_bytes, Ordering::Relaxed);
            }
            sink.settled(!waiters.is_empty()).await;
            answer(waiters);
        }
    };
    let task = Box::pin(task);
    (queue, Worker { flush, task })
}

/// Waits until there may be something to do: someone waits for a flush, or a batch is complete, or
/// time is up. Returns all who wait for a flush, for one will do for them; `None` once nobody can
/// ask any more.
pub(super) async fn next(
    flushes: &mut mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    wake: &Notify,
    delay: Duration,
) -> Option<Vec<oneshot::Sender<()>>> {
    let first = tokio::select! {
        flush = flushes.recv() => Some(flush?),
        () = wake.notified() => None,
        () = sleep(delay) => None,
    };
    let mut waiters = Vec::from_iter(first);
    while let Ok(waiter) = flushes.try_recv() {
        waiters.push(waiter);
    }
    Some(waiters)
}

/// Tells those who wait that all was handed over.
pub(super) fn answer(waiters: Vec<oneshot::Sender<()>>) {
    for waiter in waiters {
        let _ = waiter.send(());
    }
}

fn take<T>(items: &mut mpsc::Receiver<T>, count: usize) -> Vec<T> {
    let mut batch = Vec::with_capacity(count);
    while batch.len() < count
        && let Ok(item) = items.try_recv()
    {
        batch.push(item);
    }
    batch
}

/// Runs an export of `count` items, and counts what became of them. It has a task of its own, so
/// that a panic in it is a failed export.
pub(super) async fn settle(
    losses: &mut Losses,
    count: u64,
    export: impl Future<Output = Outcome> + Send + 'static,
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
        let mut outcome = Outcome::default();
        outcome.lose(count, Failure::Panic, "the exporter panicked".to_owned());
        outcome
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Item for u64 {
        type Exported = Self;

        fn into_exported(self) -> Self {
            self
        }

        fn bytes(&self) -> usize {
            usize::try_from(*self).expect("it is small")
        }
    }

    /// Panics at a batch with a 13 in it, and takes all others.
    struct Superstitious;

    impl Sink<u64> for Superstitious {
        async fn export(&self, batch: Vec<u64>) -> Outcome {
            assert!(!batch.contains(&13), "as it should");
            Outcome {
                exported: batch.len() as u64,
                ..Outcome::default()
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
    async fn what_waits_is_bounded_in_number_and_in_bytes_until_it_is_exported() {
        let counters = Arc::new(Counters::default());
        let (queue, worker) =
            queue::<u64, _>(Signal::Traces, small(4), counters.clone(), Superstitious);
        let room = 4 * BYTES_PER_ITEM as u64;
        // Too large by itself; as large as can be; nothing fits besides it.
        for item in [room + 1, room, 1] {
            queue.push(item);
        }
        assert_eq!(counters.stats().dropped, 2);
        tokio::spawn(worker.task);
        flush(&worker.flush).await;
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 0);
        // Now the number bounds.
        for _ in 0..5 {
            queue.push(0);
        }
        assert_eq!(counters.stats().dropped, 3);
        flush(&worker.flush).await;
        let stats = counters.stats();
        assert_eq!((stats.accepted, stats.exported, stats.dropped), (8, 5, 3));
    }

    #[tokio::test]
    async fn one_export_answers_all_who_wait_for_a_flush() {
        let (flush, mut flushes) = mpsc::unbounded_channel();
        let (waiters, flushed): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
        for waiter in waiters {
            flush.send(waiter).expect("it is open");
        }
        let waiters = next(&mut flushes, &Notify::new(), Duration::from_secs(60)).await;
        answer(waiters.expect("the channel is open"));
        for flushed in flushed {
            flushed.await.expect("it was answered");
        }
    }
}
