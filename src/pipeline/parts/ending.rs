//! The flush and the shutdown of parts, on their threads.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
#[cfg(feature = "logs")]
use opentelemetry_sdk::logs::LogProcessor;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::trace::SpanProcessor;
use tokio::sync::watch;

use crate::concurrent::caught::caught;
use crate::pipeline::parts::record::PartRecord;
use crate::pipeline::parts::thread::PartThread;

/// A call of a part that is under way.
pub(crate) type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A part that can be flushed and shut down.
pub(crate) trait Ends: Send + 'static {
    fn flush(&self) -> OTelSdkResult;
    fn shut_down(&self, timeout: Duration) -> OTelSdkResult;
}

impl Ends for Arc<dyn SpanProcessor> {
    fn flush(&self) -> OTelSdkResult {
        self.force_flush()
    }

    fn shut_down(&self, timeout: Duration) -> OTelSdkResult {
        self.shutdown_with_timeout(timeout)
    }
}

#[cfg(feature = "logs")]
impl Ends for Arc<dyn LogProcessor> {
    fn flush(&self) -> OTelSdkResult {
        self.force_flush()
    }

    fn shut_down(&self, timeout: Duration) -> OTelSdkResult {
        self.shutdown_with_timeout(timeout)
    }
}

impl Ends for Arc<dyn MetricReader> {
    fn flush(&self) -> OTelSdkResult {
        self.force_flush()
    }

    fn shut_down(&self, timeout: Duration) -> OTelSdkResult {
        self.shutdown_with_timeout(timeout)
    }
}

/// A part of any kind, for the export thread.
pub(crate) trait EndPart: Send + Sync {
    /// Has the part flushed, after all that it was called for before.
    fn flush(&self) -> Ending;

    /// Has the part shut down, after all that it was called for before: once.
    fn shut_down(&self, timeout: Duration) -> Ending;
}

/// A part on its thread.
pub(crate) struct RunningPart<P> {
    pub(crate) thread: PartThread<P>,
    pub(crate) record: Arc<PartRecord>,
    /// The end of a flush that has not begun: one is enough for all who wait.
    next_flush: Arc<Mutex<Option<watch::Receiver<()>>>>,
    is_shut_down: AtomicBool,
}

impl<P: Ends> RunningPart<P> {
    pub(crate) fn start(part: P, record: Arc<PartRecord>, with_runtime: bool) -> io::Result<Self> {
        Ok(Self {
            thread: PartThread::start(part, with_runtime)?,
            record,
            next_flush: Arc::default(),
            is_shut_down: AtomicBool::new(false),
        })
    }
}

impl<P: Ends> EndPart for RunningPart<P> {
    fn flush(&self) -> Ending {
        let mut next = lock(&self.next_flush);
        let end = next.get_or_insert_with(|| {
            let (flushing, end) = watch::channel(());
            let (next, record) = (self.next_flush.clone(), self.record.clone());
            drop(self.thread.call(move |part| {
                lock(&next).take();
                record.note_end(caught(|| part.flush()));
                drop(flushing);
            }));
            end
        });
        let mut end = end.clone();
        Box::pin(async move {
            let _ = end.changed().await;
        })
    }

    fn shut_down(&self, timeout: Duration) -> Ending {
        if self.is_shut_down.swap(true, Ordering::Relaxed) {
            return Box::pin(std::future::ready(()));
        }
        let record = self.record.clone();
        // The thread notes the end, because nobody may wait for it.
        let end = self.thread.call(move |part| {
            record.note_end(caught(|| part.shut_down(timeout)));
        });
        Box::pin(async move {
            end.await;
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The parts that are not behind a worker.
#[derive(Clone, Default)]
pub(crate) struct Beside {
    /// Span processors around the export: spans come out of their flush.
    pub(crate) around: Vec<Arc<dyn EndPart>>,
    pub(crate) others: Vec<Arc<dyn EndPart>>,
}
