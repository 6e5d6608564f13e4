//! Queues between the threads that record and the thread that exports.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::config::{Batch, Signal};
use super::otlp::ExportError;

/// What became of the spans, the metric points or the log records of a process so far.
///
/// `recorded` is the sum of all others, once nothing waits any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignalStats {
    /// Handed over for export.
    pub recorded: u64,
    /// Taken by every receiver that they were sent to.
    pub exported: u64,
    /// Sent, or tried to, and not taken.
    pub failed: u64,
    /// Given up, because the queue was full or time ran out; of a batch that was on its way then,
    /// some may have arrived.
    pub dropped: u64,
}

/// The counts behind [`SignalStats`].
#[derive(Default)]
pub(super) struct Counters {
    recorded: AtomicU64,
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl Counters {
    pub(super) fn stats(&self) -> SignalStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SignalStats {
            recorded: get(&self.recorded),
            exported: get(&self.exported),
            failed: get(&self.failed),
            dropped: get(&self.dropped),
        }
    }

    /// What became of all when nothing will be exported any more: what still waits is dropped.
    pub(super) fn last_stats(&self) -> SignalStats {
        let stats = self.stats();
        SignalStats {
            dropped: stats.recorded.saturating_sub(stats.exported + stats.failed),
            ..stats
        }
    }
}

/// Where batches go.
pub(super) trait Sink<T>: Send + Sync + 'static {
    /// Hands over a batch, and says how many of it the receiver rejected.
    fn export(&self, batch: Vec<T>) -> impl Future<Output = Result<u64, ExportError>> + Send;

    /// Everything that waited was handed over; `flush` says whether somebody asked for it.
    fn settled(&self, flush: bool) -> impl Future<Output = ()> + Send {
        let _ = flush;
        std::future::ready(())
    }
}

/// The recording end of a queue. It never blocks, and never wakes the exporting end for one item.
pub(super) struct Queue<T> {
    items: mpsc::Sender<T>,
    wake: Arc<Notify>,
    counters: Arc<Counters>,
    batch_size: usize,
}

impl<T> Queue<T> {
    pub(super) fn push(&self, item: T) {
        self.counters.recorded.fetch_add(1, Ordering::Relaxed);
        match self.items.try_send(item) {
            Ok(()) => {
                if self.items.max_capacity() - self.items.capacity() >= self.batch_size {
                    self.wake();
                }
            }
            Err(_) => {
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            }
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
    T: Send + 'static,
    S: Sink<T>,
{
    let (sender, mut items) = mpsc::channel(batch.max_queue_size);
    let (flush, mut flushes) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
    let wake = Arc::new(Notify::new());
    let batch_size = batch.max_export_batch_size.min(batch.max_queue_size);
    let queue = Queue {
        items: sender,
        wake: wake.clone(),
        counters: counters.clone(),
        batch_size,
    };
    let task = async move {
        let sink = Arc::new(sink);
        let mut losses = Losses::new(signal, counters.clone());
        while let Some(waiters) = next(&mut flushes, &wake, batch.schedule_delay).await {
            let mut waiting = items.len();
            while waiting > 0 {
                let mut items = take(&mut items, waiting.min(batch_size));
                if items.is_empty() {
                    break;
                }
                waiting -= items.len();
                let count = items.len() as u64;
                let sink = sink.clone();
                let items = std::mem::take(&mut items);
                let result = guarded(async move { sink.export(items).await }).await;
                losses.settle(count, result);
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

/// Runs an export in a task of its own, so that a panic in it is a failed export.
pub(super) async fn guarded(
    export: impl Future<Output = Result<u64, ExportError>> + Send + 'static,
) -> Result<u64, ExportError> {
    match tokio::spawn(export).await {
        Ok(result) => result,
        Err(_) => Err(ExportError::panicked()),
    }
}

/// Counts what becomes of batches, and says when loss begins and when it ends, each at most once a
/// minute.
pub(super) struct Losses {
    signal: Signal,
    counters: Arc<Counters>,
    /// What was lost when a batch was last settled.
    lost: u64,
    told: Option<Instant>,
    /// Whether it was said that loss has begun, and not yet that it has ended.
    losing: bool,
}

impl Losses {
    const PAUSE: Duration = Duration::from_secs(60);

    pub(super) fn new(signal: Signal, counters: Arc<Counters>) -> Self {
        Self {
            signal,
            counters,
            lost: 0,
            told: None,
            losing: false,
        }
    }

    /// Counts metric points, which do not pass through a [`Queue`].
    pub(super) fn record(&self, count: u64) {
        self.counters.recorded.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts what became of `count` items.
    pub(super) fn settle(&mut self, count: u64, result: Result<u64, ExportError>) {
        let (rejected, reason) = match result {
            Ok(0) => (0, "the queue was full".to_owned()),
            Ok(rejected) => (rejected.min(count), "the receiver rejected some".to_owned()),
            Err(error) => (count, error.reason),
        };
        let exported = count - rejected;
        self.counters
            .exported
            .fetch_add(exported, Ordering::Relaxed);
        self.counters.failed.fetch_add(rejected, Ordering::Relaxed);

        let stats = self.counters.stats();
        let lost = stats.failed + stats.dropped;
        let more_is_lost = lost > self.lost;
        self.lost = lost;
        let may_tell = self.told.is_none_or(|told| told.elapsed() >= Self::PAUSE);
        let signal = self.signal.name();
        if more_is_lost && may_tell {
            tracing::warn!(
                lost,
                reason,
                "telemetry is lost: not all {signal} are exported"
            );
            self.told = Some(Instant::now());
            self.losing = true;
        } else if self.losing && !more_is_lost {
            tracing::info!(
                lost,
                "no more telemetry is lost: {signal} are exported again"
            );
            self.losing = false;
        }
    }
}
