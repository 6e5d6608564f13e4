//! Workers of the export thread, which export batches from queues.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::config::settings::Batch;
use crate::otlp::outcome::SendOutcome;
use crate::otlp::retention::Retention;
use crate::pipeline::counts::Losses;
use crate::pipeline::parts::running_part::PartHandle;
use crate::pipeline::queue::{Item, Queue};
use crate::stats::Failure;

/// A destination for batches, such as an OTLP receiver.
pub(crate) trait Sink<T>: Send + Sync + 'static {
    /// Sends a batch and returns the outcome. While the batch waits for another attempt, the queue
    /// may give it up through `retention`.
    fn export(
        &self,
        batch: Vec<T>,
        retention: &Retention,
    ) -> impl Future<Output = SendOutcome> + Send;

    /// Called at the end of each pass, after all waiting items have been exported. `flush` is
    /// `true` if the pass was requested by a flush.
    fn end_pass(&self, flush: bool) -> impl Future<Output = ()> + Send {
        let _ = flush;
        std::future::ready(())
    }
}

/// Notified when everything recorded before the request has been handled.
pub(crate) type Waiter = oneshot::Sender<()>;

/// A task of the export thread, with a channel to request a flush.
pub(crate) struct Worker {
    pub(crate) flush: mpsc::UnboundedSender<Waiter>,
    pub(crate) task: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Whether the worker exports from a queue.
    pub(crate) is_queue: bool,
    /// The application's part that the worker exports to. It is shut down after the last flush.
    pub(crate) part: Option<Arc<dyn PartHandle>>,
}

/// Creates a queue and a worker that exports batches from it to `sink`. `losses` counts the
/// outcomes and logs losses.
pub(crate) fn queue<T, S>(batch: Batch, mut losses: Losses, sink: S) -> (Arc<Queue<T>>, Worker)
where
    T: Item,
    S: Sink<T>,
{
    let (flush, flushes) = mpsc::unbounded_channel();
    let queue = Arc::new(Queue::new(batch, losses.counters().clone()));
    let closing = Closing(queue.clone());
    let task = async move {
        let queue = &*closing.0;
        let sink = Arc::new(sink);
        let mut flushes = Flushes::new(flushes);
        while let Some(waiters) = flushes.next(queue.woken(), batch.schedule_delay).await {
            // This pass covers only the items that are waiting now. Otherwise it might never end,
            // because new items arrive while it sends.
            let mut waiting = queue.waiting();
            loop {
                let taken = queue.take(&mut waiting);
                if taken.is_empty() {
                    queue.release_batch();
                    break;
                }
                if !waiters.is_empty() {
                    queue.retention.skip_backoff();
                }
                let count = taken.len() as u64;
                let (sink, retention) = (sink.clone(), queue.retention.clone());
                let export = async move { sink.export(taken, &retention).await };
                let (retention, start) = (&queue.retention, Instant::now());
                let run = run_export(&mut losses, count, export, &mut flushes, retention, start);
                let outcome = run.await;
                losses.record_outcome(outcome);
                queue.release_batch();
            }
            sink.end_pass(!waiters.is_empty()).await;
            notify_waiters(waiters);
        }
    };
    let worker = Worker {
        flush,
        task: Box::pin(task),
        is_queue: true,
        part: None,
    };
    (queue, worker)
}

/// Closes the queue when the worker ends, because no other task exports from it.
struct Closing<T: Item>(Arc<Queue<T>>);

impl<T: Item> Drop for Closing<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Flush requests received by a worker.
pub(crate) struct Flushes {
    receiver: mpsc::UnboundedReceiver<Waiter>,
    /// Requests that arrived during an export. They wait for the next pass.
    early: Vec<Waiter>,
    /// Whether a request waits for the current export.
    wait: bool,
}

impl Flushes {
    pub(crate) fn new(receiver: mpsc::UnboundedReceiver<Waiter>) -> Self {
        Self {
            receiver,
            early: Vec::new(),
            wait: false,
        }
    }

    /// Waits for a reason to export: a flush request, a full batch, or the end of `delay`. Returns
    /// all pending flush requests, because one pass serves all of them. Returns `None` once all
    /// senders are dropped.
    pub(crate) async fn next(
        &mut self,
        woken: impl Future<Output = ()>,
        delay: Duration,
    ) -> Option<Vec<Waiter>> {
        let mut waiters = std::mem::take(&mut self.early);
        if waiters.is_empty() {
            tokio::select! {
                waiter = self.receiver.recv() => waiters.push(waiter?),
                () = woken => {}
                () = sleep(delay) => {}
            }
        }
        while let Ok(waiter) = self.receiver.try_recv() {
            waiters.push(waiter);
        }
        self.wait = !waiters.is_empty();
        Some(waiters)
    }

    /// Receives the next flush request during an export.
    async fn receive_early(&mut self) {
        match self.receiver.recv().await {
            Some(waiter) => {
                // The export of a part may never end. So a full list loses the flush requests that
                // nobody waits for.
                if self.early.len() == self.early.capacity() {
                    self.early.retain(|waiter| !waiter.is_closed());
                }
                self.early.push(waiter);
                self.wait = true;
            }
            None => std::future::pending().await,
        }
    }
}

/// Notifies the waiters that everything has been handled.
pub(crate) fn notify_waiters(waiters: Vec<oneshot::Sender<()>>) {
    for waiter in waiters {
        let _ = waiter.send(());
    }
}

/// Runs an export of `count` items that have been waiting since `start`.
///
/// The export runs in its own task, so that a panic counts as a failed export. A flush request
/// during the export cuts short the pause before the next attempt.
pub(crate) async fn run_export(
    losses: &mut Losses,
    count: u64,
    export: impl Future<Output = SendOutcome> + Send + 'static,
    flushes: &mut Flushes,
    retention: &Retention,
    start: Instant,
) -> SendOutcome {
    const CHECK_INTERVAL: Duration = Duration::from_secs(1);

    let mut export = pin!(tokio::spawn(export));
    let outcome = loop {
        // The batch may be retried for minutes, so losses of a full queue are checked every second.
        tokio::select! {
            outcome = &mut export => break outcome,
            () = flushes.receive_early() => retention.skip_backoff(),
            () = retention.failed() => {
                losses.record_failure(retention.last_failure(), start.elapsed(), flushes.wait);
            }
            () = sleep(CHECK_INTERVAL) => {
                losses.log_losses(None);
                losses.record_failure(retention.last_failure(), start.elapsed(), flushes.wait);
            }
        }
    };
    outcome.unwrap_or_else(|_| {
        let mut outcome = SendOutcome::default();
        outcome.fail(count, Failure::Panic, "the exporter panicked".to_owned());
        outcome
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{HashSet, VecDeque};
    use std::sync::Mutex;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::config::settings::Signal;
    use crate::otlp::response::{AttemptError, Retry};
    use crate::otlp::retries::{Retries, RetryPolicy, SendError};
    use crate::pipeline::counts::Counters;

    /// A sink that panics if a batch contains 13 and accepts all other batches.
    struct PanicsOn13;

    impl Sink<u64> for PanicsOn13 {
        async fn export(&self, batch: Vec<u64>, _: &Retention) -> SendOutcome {
            assert!(!batch.contains(&13), "on purpose");
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
        worker.send(done).expect("the worker runs");
        flushed.await.expect("the worker runs");
    }

    #[tokio::test]
    async fn a_panic_of_the_exporter_fails_one_batch_and_the_export_continues() {
        let counters = Arc::new(Counters::default());
        let losses = Losses::new(Signal::Traces, "the receiver".to_owned(), counters.clone());
        let (queue, worker) = queue::<u64, _>(small(16), losses, PanicsOn13);
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
    async fn one_export_serves_all_waiting_flushes() {
        let (flush, flushes) = mpsc::unbounded_channel();
        let mut flushes = Flushes::new(flushes);
        let (waiters, flushed): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
        for waiter in waiters {
            flush.send(waiter).expect("the channel is open");
        }
        let waiters = flushes
            .next(std::future::pending(), Duration::from_secs(60))
            .await;
        notify_waiters(waiters.expect("the channel is open"));
        for flushed in flushed {
            flushed.await.expect("the waiter is notified");
        }
    }

    /// A sink that follows a script: a response and its latency for each attempt.
    struct Scripted {
        retries: Retries,
        script: Mutex<VecDeque<(Reply, Duration)>>,
        taken: Mutex<Vec<u64>>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Reply {
        Accept,
        /// The attempt fails and cannot be retried.
        Reject,
        /// The attempt fails and can be retried, soon or after this many milliseconds.
        RetryLater(Option<u64>),
        /// The receiver accepts the items without responding.
        NoResponse,
    }

    impl Sink<Numbered> for Arc<Scripted> {
        async fn export(&self, batch: Vec<Numbered>, retention: &Retention) -> SendOutcome {
            let take = || {
                let numbers = batch.iter().map(|item| item.0);
                self.taken
                    .lock()
                    .expect("the lock is not poisoned")
                    .extend(numbers);
            };
            let attempt = || async {
                let next = self
                    .script
                    .lock()
                    .expect("the lock is not poisoned")
                    .pop_front();
                let (reply, latency) = next.unwrap_or((Reply::Accept, Duration::ZERO));
                sleep(latency).await;
                let failed = |retry| Err(AttemptError::new(Failure::Refused, "refused", retry));
                match reply {
                    Reply::Accept => {
                        take();
                        Ok(())
                    }
                    Reply::Reject => failed(Retry::Never),
                    Reply::RetryLater(None) => failed(Retry::Soon),
                    Reply::RetryLater(Some(delay)) => {
                        failed(Retry::After(Duration::from_millis(delay)))
                    }
                    Reply::NoResponse => {
                        take();
                        Err(AttemptError::timeout())
                    }
                }
            };
            let give_up_at = self.retries.give_up_at();
            let (policy, not_before) = (RetryPolicy::IfTemporary, || None);
            let run = self
                .retries
                .run(attempt, not_before, give_up_at, policy, retention);
            let (mut outcome, count) = (SendOutcome::default(), batch.len() as u64);
            match run.await {
                Ok(()) => outcome.exported = count,
                Err(SendError::Failed(error)) => outcome.fail(count, error.failure, error.detail),
                Err(SendError::GivenUp(failure, detail)) => outcome.give_up(count, failure, detail),
            }
            outcome
        }
    }

    /// An item with a number.
    struct Numbered(u64);

    impl Item for Numbered {
        fn estimated_size(&self) -> usize {
            1
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(u64),
        Wait(u64),
        Flush,
    }

    const CAPACITY: u64 = 32;

    async fn check_counts(script: Vec<(Reply, Duration)>, steps: Vec<Step>) {
        let is_reject = |(reply, _): &(Reply, Duration)| matches!(reply, Reply::Reject);
        let has_reject = script.iter().any(is_reject);
        let sink = Arc::new(Scripted {
            retries: Retries::new(Duration::from_secs(24 * 60 * 60)),
            script: Mutex::new(script.into()),
            taken: Mutex::default(),
        });
        let counters = Arc::new(Counters::default());
        let losses = Losses::new(Signal::Traces, "the receiver".to_owned(), counters.clone());
        let batch = Batch::default()
            .with_max_queue_size(CAPACITY as usize)
            .with_max_export_batch_size(8)
            .with_schedule_delay(Duration::from_millis(50));
        let (queue, worker) = queue::<Numbered, _>(batch, losses, sink.clone());
        tokio::spawn(worker.task);
        let mut was_full = false;
        let mut check = || {
            let stats = counters.stats();
            let waiting = queue.waiting().iter().sum::<usize>() as u64 + queue.taken();
            let handled = stats.exported + stats.failed + stats.dropped;
            assert_eq!(stats.accepted, handled + waiting, "{stats:?}");
            assert_eq!(stats.waiting, waiting, "{stats:?}");
            // A batch that was given up keeps its memory until the worker runs.
            assert!(waiting <= CAPACITY + 8, "{stats:?}");
            was_full |= waiting >= CAPACITY;
            assert!(
                was_full || stats.dropped == 0,
                "the queue had room: {stats:?}"
            );
            assert!(has_reject || stats.failed == 0, "{stats:?}");
        };
        let mut pushed = 0;
        for step in steps {
            match step {
                Step::Push(count) => {
                    for _ in 0..count {
                        queue.push(Numbered(pushed));
                        pushed += 1;
                        check();
                    }
                }
                Step::Wait(milliseconds) => {
                    let end = Instant::now() + Duration::from_millis(milliseconds);
                    while Instant::now() < end {
                        sleep(Duration::from_millis(7)).await;
                        check();
                    }
                }
                Step::Flush => {
                    let (done, _) = oneshot::channel();
                    worker.flush.send(done).expect("the worker runs");
                    tokio::task::yield_now().await;
                    check();
                }
            }
        }
        flush(&worker.flush).await;
        check();
        let stats = counters.stats();
        assert_eq!((stats.accepted, stats.waiting), (pushed, 0));
        let taken = sink.taken.lock().expect("the lock is not poisoned");
        let unique: HashSet<_> = taken.iter().collect();
        // A batch that was accepted without a response may be given up later.
        assert!(unique.len() as u64 >= stats.exported);
        assert!(unique.len() as u64 <= pushed);
        if stats.failed + stats.dropped == 0 {
            assert_eq!(unique.len() as u64, pushed);
        }
    }

    proptest! {
        #[test]
        fn the_counts_add_up_at_all_times_whatever_the_receiver_does(
            script in vec((
                prop_oneof![
                    Just(Reply::Accept),
                    Just(Reply::Reject),
                    Just(Reply::RetryLater(None)),
                    Just(Reply::RetryLater(None)),
                    (0u64..3000).prop_map(|delay| Reply::RetryLater(Some(delay))),
                    Just(Reply::NoResponse),
                ],
                (0u64..300).prop_map(Duration::from_millis),
            ), 0..40),
            steps in vec(prop_oneof![
                (1u64..20).prop_map(Step::Push),
                (1u64..20).prop_map(Step::Push),
                (1u64..400).prop_map(Step::Wait),
                Just(Step::Flush),
            ], 1..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("the runtime can be built");
            runtime.block_on(check_counts(script, steps));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_batch_is_dropped_only_when_newer_items_need_its_place() {
        let later = (Reply::RetryLater(Some(60_000)), Duration::ZERO);
        let sink = Arc::new(Scripted {
            retries: Retries::new(Duration::from_secs(300)),
            script: Mutex::new([later].into()),
            taken: Mutex::default(),
        });
        let counters = Arc::new(Counters::default());
        let losses = Losses::new(Signal::Traces, "the receiver".to_owned(), counters.clone());
        let batch = Batch::default()
            .with_max_queue_size(CAPACITY as usize)
            .with_max_export_batch_size(8);
        let (queue, worker) = queue::<Numbered, _>(batch, losses, sink.clone());
        tokio::spawn(worker.task);
        for number in 0..CAPACITY {
            queue.push(Numbered(number));
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(
            (counters.stats().waiting, counters.stats().dropped),
            (32, 0)
        );
        // The oldest eight items wait for a retry. Dropping them frees more than the one place
        // needed.
        queue.push(Numbered(CAPACITY));
        sleep(Duration::from_millis(1)).await;
        assert_eq!(
            (counters.stats().waiting, counters.stats().dropped),
            (25, 8)
        );
        flush(&worker.flush).await;
        let stats = counters.stats();
        assert_eq!((stats.exported, stats.dropped, stats.failed), (25, 8, 0));
        let taken = sink.taken.lock().expect("the lock is not poisoned");
        assert_eq!(*taken, Vec::from_iter(8..=CAPACITY));
    }
}
