//! Flushes parts and shuts them down, on their own threads.

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

use crate::concurrent::caught::catch_panic;
use crate::pipeline::parts::record::PartRecord;
use crate::pipeline::parts::thread::PartThread;

/// A call to a part in progress.
pub(crate) type PartCall = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A part that can be flushed and shut down.
pub(crate) trait Flushable: Send + 'static {
    fn flush(&self) -> OTelSdkResult;
    fn shut_down(&self, timeout: Duration) -> OTelSdkResult;
}

impl Flushable for Arc<dyn SpanProcessor> {
    fn flush(&self) -> OTelSdkResult {
        self.force_flush()
    }

    fn shut_down(&self, timeout: Duration) -> OTelSdkResult {
        self.shutdown_with_timeout(timeout)
    }
}

#[cfg(feature = "logs")]
impl Flushable for Arc<dyn LogProcessor> {
    fn flush(&self) -> OTelSdkResult {
        self.force_flush()
    }

    fn shut_down(&self, timeout: Duration) -> OTelSdkResult {
        self.shutdown_with_timeout(timeout)
    }
}

impl Flushable for Arc<dyn MetricReader> {
    fn flush(&self) -> OTelSdkResult {
        self.force_flush()
    }

    fn shut_down(&self, timeout: Duration) -> OTelSdkResult {
        self.shutdown_with_timeout(timeout)
    }
}

/// A part of any kind, as seen by the export thread.
pub(crate) trait PartHandle: Send + Sync {
    /// Flushes the part after all earlier calls to it.
    fn flush(&self) -> PartCall;

    /// Shuts the part down after all earlier calls to it. Only the first call has an effect.
    fn shut_down(&self, timeout: Duration) -> PartCall;
}

/// A part and its thread.
pub(crate) struct RunningPart<P> {
    pub(crate) thread: PartThread<P>,
    pub(crate) record: Arc<PartRecord>,
    /// Notified at the end of a flush that has not started yet. One flush serves all callers.
    next_flush: Arc<Mutex<Option<watch::Receiver<()>>>>,
    is_shut_down: AtomicBool,
}

impl<P: Flushable> RunningPart<P> {
    pub(crate) fn start(part: P, record: Arc<PartRecord>, with_runtime: bool) -> io::Result<Self> {
        Ok(Self {
            thread: PartThread::start(part, with_runtime)?,
            record,
            next_flush: Arc::default(),
            is_shut_down: AtomicBool::new(false),
        })
    }
}

impl<P: Flushable> PartHandle for RunningPart<P> {
    fn flush(&self) -> PartCall {
        let mut next = lock(&self.next_flush);
        let end = next.get_or_insert_with(|| {
            let (flushing, end) = watch::channel(());
            let (next, record) = (self.next_flush.clone(), self.record.clone());
            drop(self.thread.call(move |part| {
                lock(&next).take();
                record.record_end(catch_panic(|| part.flush()));
                drop(flushing);
            }));
            end
        });
        let mut end = end.clone();
        Box::pin(async move {
            let _ = end.changed().await;
        })
    }

    fn shut_down(&self, timeout: Duration) -> PartCall {
        if self.is_shut_down.swap(true, Ordering::Relaxed) {
            return Box::pin(std::future::ready(()));
        }
        let record = self.record.clone();
        // The result is recorded on the part's thread, because the caller may no longer wait.
        let end = self.thread.call(move |part| {
            record.record_end(catch_panic(|| part.shut_down(timeout)));
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
pub(crate) struct UnqueuedParts {
    /// Span processors around the export. Their flush may release spans.
    pub(crate) around: Vec<Arc<dyn PartHandle>>,
    pub(crate) others: Vec<Arc<dyn PartHandle>>,
}
