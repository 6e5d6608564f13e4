//! The logger provider and the log queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogProcessor, SdkLogRecord, SdkLoggerProvider};

use crate::config::error::InitError;
use crate::config::settings::{Exporter, Limits, Signal};
use crate::logs::EndWarning;
use crate::otlp::client::OtlpClient;
use crate::otlp::outcome::SendOutcome;
use crate::otlp::retention::Retention;
use crate::otlp::retries::RetryPolicy;
use crate::pipeline::building::Building;
use crate::pipeline::counts::Losses;
use crate::pipeline::export_thread::FlushHandle;
use crate::pipeline::log_record::Record;
use crate::pipeline::part_setup;
use crate::pipeline::queue::Queue;
#[cfg(feature = "opentelemetry-otlp")]
use crate::pipeline::reference::ReferenceLogs;
use crate::pipeline::self_metrics;
use crate::pipeline::unique_keys;
use crate::pipeline::worker::{self, Sink, Worker};

/// Builds the logger provider; `None` if log records are not exported. The console has its own log
/// lines.
pub(crate) fn provider(building: &mut Building) -> Result<Option<SdkLoggerProvider>, InitError> {
    let exporters = building.config.exporters(Signal::Logs);
    let to_otlp = exporters.contains(&Exporter::Otlp);
    if !to_otlp && !building.parts.take_logs() {
        return Ok(None);
    }
    let mut queues = Vec::new();
    if to_otlp {
        queues.push(otlp(building)?);
    }
    queues.extend(part_setup::log_exporters(building)?);
    let mut provider = SdkLoggerProvider::builder().with_resource(building.resource.clone());
    // The application's processors come first, so that their changes are exported.
    for processor in part_setup::log_processors(building)? {
        provider = provider.with_log_processor(processor);
    }
    let provider = provider.with_log_processor(Records {
        queues: queues.into(),
        shut_down: AtomicBool::new(false),
        flush: building.flush.clone(),
        end: building.end.clone(),
    });
    Ok(Some(provider.build()))
}

/// Creates the queue for the OTLP receiver.
fn otlp(building: &mut Building) -> Result<Arc<Queue<Record>>, InitError> {
    let batch = building.config.logs;
    let client = building.client(Signal::Logs, batch.export_timeout)?;
    let losses = building.losses(Signal::Logs, client.receiver());
    let exporter = self_metrics::exporter(Signal::Logs, &client);
    let (queue, worker) = otlp_queue(building, client, losses);
    building.register_self_metrics(Signal::Logs, exporter, Some(queue.clone()));
    building.workers.push(worker);
    Ok(queue)
}

fn otlp_queue(
    building: &mut Building,
    client: OtlpClient,
    losses: Losses,
) -> (Arc<Queue<Record>>, Worker) {
    let (batch, limits) = (building.config.logs, building.config.limits);
    #[cfg(feature = "opentelemetry-otlp")]
    if building.config.is_by_reference(Signal::Logs) {
        let sink = ReferenceLogs::new(building.reference(Signal::Logs, client), limits);
        return worker::queue(batch, losses, sink);
    }
    let sink = LogSink {
        client,
        resource: (&building.resource).into(),
        limits,
    };
    worker::queue(batch, losses, sink)
}

/// The log processor that queues every record.
struct Records {
    queues: Box<[Arc<Queue<Record>>]>,
    /// Set by the shutdown, because the SDK still emits records after it.
    shut_down: AtomicBool,
    flush: FlushHandle,
    end: EndWarning,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl LogProcessor for Records {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.shut_down.load(Ordering::Relaxed) {
            self.end.log_once();
            return;
        }
        for queue in &self.queues {
            queue.push(Box::new((record.clone(), scope.clone())));
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.flush.flush()
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.shut_down.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Moves the attribute `event.name` to the event name field, which replaced it in the conventions.
fn name_events(request: &mut ExportLogsServiceRequest) {
    let scopes = request
        .resource_logs
        .iter_mut()
        .flat_map(|resource| &mut resource.scope_logs);
    for record in scopes.flat_map(|scope| &mut scope.log_records) {
        let is_name = |attribute: &KeyValue| attribute.key == "event.name";
        if record.event_name.is_empty()
            && let Some(place) = record.attributes.iter().position(is_name)
            && let Some(AnyValue {
                value: Some(Value::StringValue(name)),
            }) = &mut record.attributes[place].value
        {
            record.event_name = std::mem::take(name);
            record.attributes.remove(place);
        }
    }
}

struct LogSink {
    client: OtlpClient,
    resource: ResourceAttributesWithSchema,
    limits: Limits,
}

impl Sink<Record> for LogSink {
    async fn export(&self, batch: Vec<Record>, retention: &Retention) -> SendOutcome {
        let records: Vec<_> = batch.iter().map(|record| (&record.0, &record.1)).collect();
        let mut request = ExportLogsServiceRequest {
            resource_logs: group_logs_by_resource_and_scope(
                &LogBatch::new(&records),
                &self.resource,
            ),
        };
        drop(batch);
        retention.pause();
        name_events(&mut request);
        unique_keys::in_logs(&mut request);
        self.limits.cut_logs(&mut request);
        self.client
            .export(request, RetryPolicy::IfTemporary, retention)
            .await
    }
}
