//! The application's span and log exporters, which export from queues.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
#[cfg(feature = "logs")]
use opentelemetry_sdk::logs::LogBatch;
use opentelemetry_sdk::trace::SpanLimits;
use tokio::time::timeout;

#[cfg(feature = "logs")]
use crate::config::parts::AnyLogExporter;
use crate::config::parts::{AnySpanExporter, Exporting};
use crate::otlp::outcome::SendOutcome;
use crate::otlp::retention::Retention;
#[cfg(feature = "logs")]
use crate::pipeline::log_record::Record;
use crate::pipeline::parts::record::shown_error;
use crate::pipeline::parts::running_part::{Flushable, PartHandle, RunningPart};
use crate::pipeline::parts::thread::drive;
use crate::pipeline::spans::ended::EndedSpan;
use crate::pipeline::worker::Sink;
use crate::stats::Failure;

impl Flushable for Box<dyn AnySpanExporter> {
    fn flush(&self) -> OTelSdkResult {
        (**self).force_flush()
    }

    fn shut_down(&self, timeout: Duration) -> OTelSdkResult {
        (**self).shut_down(timeout)
    }
}

#[cfg(feature = "logs")]
impl Flushable for Box<dyn AnyLogExporter> {
    /// Does nothing: log exporters have no flush.
    fn flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shut_down(&self, timeout: Duration) -> OTelSdkResult {
        (**self).shut_down(timeout)
    }
}

/// The result of an export that did not panic.
pub(crate) type Exported = Result<OTelSdkResult, tokio::time::error::Elapsed>;

/// Runs an export on the current thread, which is the thread of its part. The export is given up
/// after `limit`.
pub(crate) fn run(limit: Duration, export: Exporting<'_>) -> Exported {
    drive(timeout(limit, export))
}

/// Returns the outcome of the export of `count` items.
pub(crate) fn outcome(count: u64, exported: Option<Exported>) -> SendOutcome {
    let mut outcome = SendOutcome::default();
    match exported {
        Some(Ok(Ok(()))) => outcome.exported = count,
        Some(Ok(Err(error))) => {
            let failure = match error {
                OTelSdkError::Timeout(_) => Failure::Timeout,
                _ => Failure::Exporter,
            };
            outcome.fail(count, failure, shown_error(&error));
        }
        Some(Err(_)) => {
            let detail = "the exporter timed out".to_owned();
            outcome.fail(count, Failure::Timeout, detail);
        }
        None => outcome.fail(count, Failure::Panic, "the exporter panicked".to_owned()),
    }
    outcome
}

/// A sink that passes spans to a span exporter.
pub(crate) struct SpanPart {
    pub(crate) part: Arc<RunningPart<Box<dyn AnySpanExporter>>>,
    pub(crate) limits: SpanLimits,
    pub(crate) value_length: Option<usize>,
    pub(crate) timeout: Duration,
}

impl Sink<EndedSpan> for SpanPart {
    async fn export(&self, batch: Vec<EndedSpan>, _: &Retention) -> SendOutcome {
        let count = batch.len() as u64;
        let (limits, length, limit) = (self.limits, self.value_length, self.timeout);
        let export = self.part.thread.call(move |exporter| {
            let spans = batch.into_iter();
            let spans = spans.map(|span| span.into_span_data(&limits, length));
            run(limit, exporter.export(spans.collect()))
        });
        outcome(count, export.await)
    }

    async fn end_pass(&self, flush: bool) {
        if flush {
            self.part.flush().await;
        }
    }
}

/// A sink that passes log records to a log exporter.
#[cfg(feature = "logs")]
pub(crate) struct LogPart {
    pub(crate) part: Arc<RunningPart<Box<dyn AnyLogExporter>>>,
    pub(crate) timeout: Duration,
}

#[cfg(feature = "logs")]
impl Sink<Record> for LogPart {
    async fn export(&self, batch: Vec<Record>, _: &Retention) -> SendOutcome {
        let count = batch.len() as u64;
        let limit = self.timeout;
        let export = self.part.thread.call(move |exporter| {
            let records: Vec<_> = batch.iter().map(|record| (&record.0, &record.1)).collect();
            run(limit, exporter.export(LogBatch::new(&records)))
        });
        outcome(count, export.await)
    }
}
