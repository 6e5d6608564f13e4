//! Log records on their way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogProcessor, SdkLogRecord, SdkLoggerProvider};

use super::batch::{self, Queue, Sink};
use super::config::{Exporter, Signal};
use super::error::InitError;
use super::export::{Building, use_the_guard};
use super::otlp::{ExportError, OtlpClient};

/// `None` where log records are not sent anywhere; the console has log lines of its own.
pub(super) fn provider(building: &mut Building) -> Result<Option<SdkLoggerProvider>, InitError> {
    if !building
        .config
        .exporters(Signal::Logs)
        .contains(&Exporter::Otlp)
    {
        return Ok(None);
    }
    let sink = LogSink {
        client: building.client(Signal::Logs)?,
        resource: (&building.resource).into(),
    };
    let counters = building.counters[Signal::Logs].clone();
    let (queue, worker) = batch::queue(Signal::Logs, building.config.logs, counters, sink);
    building.workers.push(worker);
    let provider = SdkLoggerProvider::builder()
        .with_resource(building.resource.clone())
        .with_log_processor(Records {
            queue,
            shut_down: AtomicBool::new(false),
        });
    Ok(Some(provider.build()))
}

/// Boxed, because a record is large and a queue of them grows in blocks.
type Record = Box<(SdkLogRecord, InstrumentationScope)>;

/// The log processor: into the queue with every record.
struct Records {
    queue: Queue<Record>,
    /// The SDK goes on emitting after its shutdown.
    shut_down: AtomicBool,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl LogProcessor for Records {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if !self.shut_down.load(Ordering::Relaxed) {
            self.queue.push(Box::new((record.clone(), scope.clone())));
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        use_the_guard()
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.shut_down.store(true, Ordering::Relaxed);
        Ok(())
    }
}

struct LogSink {
    client: OtlpClient,
    resource: ResourceAttributesWithSchema,
}

impl Sink<Record> for LogSink {
    async fn export(&self, batch: Vec<Record>) -> Result<u64, ExportError> {
        let records: Vec<_> = batch.iter().map(|record| (&record.0, &record.1)).collect();
        let request = ExportLogsServiceRequest {
            resource_logs: group_logs_by_resource_and_scope(
                &LogBatch::new(&records),
                &self.resource,
            ),
        };
        let answer: ExportLogsServiceResponse = self.client.export(&request).await?;
        let rejected = answer
            .partial_success
            .map_or(0, |partial| partial.rejected_log_records);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }
}
