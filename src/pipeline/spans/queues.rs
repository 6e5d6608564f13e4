//! The queues for ended spans, one per exporter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crossbeam_utils::CachePadded;
use opentelemetry_sdk::trace::SpanLimits;

use crate::concurrent::per_thread::PerThread;
use crate::logs::EndWarning;
use crate::pipeline::queue::Queue;
use crate::pipeline::spans::ended::EndedSpan;

/// The queues in which ended spans wait for export.
pub(crate) struct SpanQueues {
    pub(crate) limits: SpanLimits,
    /// The queues other than OTLP, behind one pointer. Most services have none, so a single check
    /// is enough.
    others: Option<Box<Others>>,
    pub(crate) otlp: Option<Arc<Queue<EndedSpan>>>,
    /// The number of recorded spans that have not ended, per thread; `None` if no metric needs it.
    pub(crate) live: Option<Box<PerThread<CachePadded<AtomicI64>>>>,
    stopped: AtomicBool,
    end: EndWarning,
}

/// The queues for exporters other than OTLP.
#[derive(Default)]
struct Others {
    console: Option<Arc<Queue<EndedSpan>>>,
    /// The queues for the application's span exporters.
    parts: Vec<Arc<Queue<EndedSpan>>>,
}

impl Others {
    fn push(&self, span: &EndedSpan) {
        if let Some(console) = &self.console {
            console.push(span.clone());
            console.wake();
        }
        for part in &self.parts {
            part.push(span.clone());
        }
    }
}

impl SpanQueues {
    pub(crate) fn new(limits: SpanLimits, end: EndWarning) -> Self {
        Self {
            limits,
            others: None,
            otlp: None,
            live: None,
            stopped: AtomicBool::new(false),
            end,
        }
    }

    pub(crate) fn add_console(&mut self, queue: Arc<Queue<EndedSpan>>) {
        self.others.get_or_insert_default().console = Some(queue);
    }

    pub(crate) fn add_part(&mut self, queue: Arc<Queue<EndedSpan>>) {
        self.others.get_or_insert_default().parts.push(queue);
    }

    #[cfg(test)]
    pub(crate) fn to(queue: Arc<Queue<EndedSpan>>, limits: SpanLimits) -> Self {
        Self {
            otlp: Some(queue),
            ..Self::new(limits, EndWarning::default())
        }
    }

    #[inline]
    pub(crate) fn push(&self, span: EndedSpan) {
        if let Some(others) = &self.others {
            others.push(&span);
        }
        if let Some(otlp) = &self.otlp {
            otlp.push(span);
        }
    }

    /// Returns whether there is a queue.
    #[cfg(feature = "logs")]
    pub(crate) fn has_queue(&self) -> bool {
        self.otlp.is_some() || self.others.is_some()
    }

    /// Adds to the number of recorded spans that have not ended.
    #[inline]
    pub(crate) fn add_live(&self, change: i64) {
        if let Some(live) = &self.live {
            let live = live.for_this_thread();
            live.fetch_add(change, Ordering::Relaxed);
        }
    }

    /// Returns the number of recorded spans that have not ended.
    pub(crate) fn live(&self) -> i64 {
        let live = self.live.iter().flat_map(|live| live.iter());
        live.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Stops recording. No span is queued from now on.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Returns whether recording has stopped, so that a span that ends now is lost. If so, the
    /// first call logs a warning.
    #[inline]
    pub(crate) fn has_stopped(&self) -> bool {
        let stopped = self.stopped.load(Ordering::Relaxed);
        if stopped {
            self.end.log_once();
        }
        stopped
    }
}

impl std::fmt::Debug for SpanQueues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpanQueues").finish_non_exhaustive()
    }
}
