//! The application's log processors.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::logs::Severity;
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogProcessor, SdkLogRecord};

use crate::concurrent::caught::catch_panic;
use crate::pipeline::parts::record::PartRecord;

/// A log processor whose calls are counted and whose panics are caught.
///
/// It is flushed and shut down on its own thread.
pub(crate) struct LogProcessorPart {
    processor: Arc<dyn LogProcessor>,
    record: Arc<PartRecord>,
    /// Set by the shutdown, because the SDK still emits records after it.
    is_shut_down: AtomicBool,
}

impl LogProcessorPart {
    pub(crate) fn new(processor: Arc<dyn LogProcessor>, record: Arc<PartRecord>) -> Self {
        Self {
            processor,
            record,
            is_shut_down: AtomicBool::new(false),
        }
    }
}

impl fmt::Debug for LogProcessorPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.record.name)
    }
}

impl LogProcessor for LogProcessorPart {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.is_shut_down.load(Ordering::Relaxed) {
            return;
        }
        self.record.counters.accept(1);
        let emit = || {
            // Prevents endless recursion if the processor itself logs.
            let _suppressed = Context::enter_telemetry_suppressed_scope();
            self.processor.emit(record, scope);
        };
        if catch_panic(emit).is_none() {
            self.record.count_lost();
        }
    }

    fn event_enabled(&self, level: Severity, target: &str, name: Option<&str>) -> bool {
        let enabled = catch_panic(|| self.processor.event_enabled(level, target, name));
        enabled.unwrap_or_else(|| {
            self.record.log_panic();
            true
        })
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.is_shut_down.store(true, Ordering::Relaxed);
        Ok(())
    }
}
