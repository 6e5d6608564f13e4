//! The name and the counts of a part.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};

use crate::logs::emit_later;
use crate::pipeline::counts::Counters;
use crate::semconv;
use crate::stats::{Failure, PartKind, PartStats, SignalStats};

/// The name and the counts of a part.
pub(crate) struct PartRecord {
    pub(crate) kind: PartKind,
    pub(crate) name: String,
    pub(crate) counters: Arc<Counters>,
    failed_flushes: AtomicU64,
    has_logged_panic: AtomicBool,
    has_logged_flush: AtomicBool,
}

impl PartRecord {
    pub(crate) fn new(kind: PartKind, name: String) -> Arc<Self> {
        Arc::new(Self {
            kind,
            name,
            counters: Arc::default(),
            failed_flushes: AtomicU64::new(0),
            has_logged_panic: AtomicBool::new(false),
            has_logged_flush: AtomicBool::new(false),
        })
    }

    /// Returns the part's name for log lines.
    pub(crate) fn shown(&self) -> String {
        format!("the {} {:?}", self.kind, self.name)
    }

    /// Returns the counts, which `read` takes from the counters.
    pub(crate) fn stats(&self, read: fn(&Counters) -> SignalStats) -> PartStats {
        let counts = match self.kind {
            PartKind::MetricReader => None,
            // Processors have no queue. An item has been processed if the processor did not panic.
            PartKind::SpanProcessor | PartKind::LogProcessor => {
                let counts = self.counters.stats();
                Some(SignalStats {
                    exported: counts.accepted.saturating_sub(counts.failed),
                    waiting: 0,
                    ..counts
                })
            }
            _ => Some(read(&self.counters)),
        };
        PartStats {
            kind: self.kind,
            name: self.name.clone(),
            counts,
            failed_flushes: self.failed_flushes.load(Ordering::Relaxed),
        }
    }

    /// Counts an item that is lost because the part panicked.
    #[cold]
    pub(crate) fn count_lost(&self) {
        self.counters.count_failed(Failure::Panic);
        self.log_panic();
    }

    /// Logs that the part panicked, once per part.
    #[cold]
    pub(crate) fn log_panic(&self) {
        if !self.has_logged_panic.swap(true, Ordering::Relaxed) {
            let part = self.shown();
            emit_later(move || {
                tracing::warn!(
                    target: "tower_telemetry",
                    "{part} panicked; all other parts continue. This is logged only once"
                );
            });
        }
    }

    /// Records the result of a flush or shutdown; `None` if it panicked.
    pub(crate) fn record_end(&self, result: Option<OTelSdkResult>) {
        // A part that the application has shut down has nothing left to export.
        if matches!(result, Some(Ok(()) | Err(OTelSdkError::AlreadyShutdown))) {
            return;
        }
        self.failed_flushes.fetch_add(1, Ordering::Relaxed);
        if self.has_logged_flush.swap(true, Ordering::Relaxed) {
            return;
        }
        let part = self.shown();
        let reason = match result {
            Some(Err(error)) => shown_error(&error),
            _ => "it panicked".to_owned(),
        };
        emit_later(move || {
            tracing::warn!(
                target: "tower_telemetry",
                reason,
                "{part} could not be flushed or shut down. This is logged only once"
            );
        });
    }
}

/// Returns the message of an error, with known secrets redacted.
pub(crate) fn shown_error(error: &OTelSdkError) -> String {
    semconv::redacted_message([error as &dyn std::fmt::Display], None)
}
