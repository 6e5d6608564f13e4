//! Sets up the application's parts for the providers of a pipeline.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::metrics::ManualReader;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::trace::{SpanLimits, SpanProcessor};

use crate::concurrent::caught::catch_panic;
use crate::config::error::InitError;
use crate::config::parts::Named;
use crate::config::settings::Signal;
use crate::pipeline::building::Building;
use crate::pipeline::counts::Losses;
#[cfg(feature = "logs")]
use crate::pipeline::log_record::Record;
#[cfg(feature = "logs")]
use crate::pipeline::parts::exporters::LogPart;
use crate::pipeline::parts::exporters::SpanPart;
#[cfg(feature = "logs")]
use crate::pipeline::parts::log_processors::LogProcessorPart;
use crate::pipeline::parts::metrics::{self, MetricPart};
use crate::pipeline::parts::readers::ReaderPart;
use crate::pipeline::parts::record::PartRecord;
use crate::pipeline::parts::running_part::{Flushable, RunningPart};
use crate::pipeline::parts::span_processors::{SpanProcessorPart, SpanProcessors};
use crate::pipeline::queue::Queue;
use crate::pipeline::readers::SharedReader;
use crate::pipeline::spans::ended::EndedSpan;
use crate::pipeline::worker;
use crate::stats::PartKind;

/// Starts the thread of a part.
fn start<P: Flushable>(
    part: P,
    record: &Arc<PartRecord>,
    with_runtime: bool,
) -> Result<Arc<RunningPart<P>>, InitError> {
    let running = RunningPart::start(part, record.clone(), with_runtime);
    running.map(Arc::new).map_err(InitError::Thread)
}

fn losses(signal: Signal, record: &PartRecord) -> Losses {
    Losses::new(signal, record.shown(), record.counters.clone())
}

/// Calls a part before it runs, and logs if the call panics.
fn prepare(record: &PartRecord, emit_later: impl FnOnce()) {
    if catch_panic(emit_later).is_none() {
        record.log_panic();
    }
}

/// Sets up the span exporters and returns their queues.
pub(crate) fn span_exporters(
    building: &mut Building,
    limits: SpanLimits,
) -> Result<Vec<Arc<Queue<EndedSpan>>>, InitError> {
    let batch = building.config.spans;
    let mut queues = Vec::new();
    for Named { name, mut part } in take(&mut building.parts.span_exporters) {
        let record = building.record(PartKind::SpanExporter, name);
        prepare(&record, || part.set_resource(&building.resource));
        let part = start(part, &record, true)?;
        let sink = SpanPart {
            part: part.clone(),
            limits,
            value_length: building.config.limits.span_value_length,
            timeout: batch.export_timeout,
        };
        let (queue, mut worker) = worker::queue(batch, losses(Signal::Traces, &record), sink);
        worker.part = Some(part);
        building.workers.push(worker);
        queues.push(queue);
    }
    Ok(queues)
}

/// Sets up the span processors, both those before and those around the `export`.
pub(crate) fn span_processors(
    building: &mut Building,
    export: impl SpanProcessor + 'static,
) -> Result<SpanProcessors, InitError> {
    let (mut before_export, mut around) = (Vec::new(), Vec::new());
    for Named { name, part: given } in take(&mut building.parts.span_processors) {
        let record = building.record(PartKind::SpanProcessor, name);
        let mut processor = given.processor;
        prepare(&record, || processor.set_resource(&building.resource));
        let processor: Arc<dyn SpanProcessor> = processor.into();
        let running = start(processor.clone(), &record, false)?;
        let part = SpanProcessorPart { processor, record };
        match given.around {
            Some(export) => {
                building.unqueued.around.push(running);
                around.push((part, export));
            }
            None => {
                building.unqueued.others.push(running);
                before_export.push(part);
            }
        }
    }
    Ok(SpanProcessors::new(before_export, around, Box::new(export)))
}

/// Sets up the log exporters and returns their queues.
#[cfg(feature = "logs")]
pub(crate) fn log_exporters(building: &mut Building) -> Result<Vec<Arc<Queue<Record>>>, InitError> {
    let batch = building.config.logs;
    let mut queues = Vec::new();
    for Named { name, mut part } in take(&mut building.parts.log_exporters) {
        let record = building.record(PartKind::LogExporter, name);
        prepare(&record, || part.set_resource(&building.resource));
        let part = start(part, &record, true)?;
        let sink = LogPart {
            part: part.clone(),
            timeout: batch.export_timeout,
        };
        let (queue, mut worker) = worker::queue(batch, losses(Signal::Logs, &record), sink);
        worker.part = Some(part);
        building.workers.push(worker);
        queues.push(queue);
    }
    Ok(queues)
}

/// Sets up the log processors.
#[cfg(feature = "logs")]
pub(crate) fn log_processors(building: &mut Building) -> Result<Vec<LogProcessorPart>, InitError> {
    use opentelemetry_sdk::logs::LogProcessor;

    let mut parts = Vec::new();
    for Named { name, mut part } in take(&mut building.parts.log_processors) {
        let record = building.record(PartKind::LogProcessor, name);
        prepare(&record, || part.set_resource(&building.resource));
        let processor: Arc<dyn LogProcessor> = part.into();
        let running = start(processor.clone(), &record, false)?;
        building.unqueued.others.push(running);
        parts.push(LogProcessorPart::new(processor, record));
    }
    Ok(parts)
}

/// Sets up the metric readers.
pub(crate) fn metric_readers(building: &mut Building) -> Result<Vec<ReaderPart>, InitError> {
    let mut readers = Vec::new();
    for Named { name, part } in take(&mut building.parts.metric_readers) {
        let record = building.record(PartKind::MetricReader, name);
        let reader: Arc<dyn MetricReader> = part.into();
        let running = start(reader.clone(), &record, false)?;
        building.unqueued.others.push(running);
        readers.push(ReaderPart::new(
            reader,
            record,
            building.reader_flush.take(),
        ));
    }
    Ok(readers)
}

/// Sets up the metric exporters and returns the readers that collect for them.
pub(crate) fn metric_exporters(building: &mut Building) -> Result<Vec<SharedReader>, InitError> {
    let interval = building.config.metric_interval;
    let timeout: Duration = building.config.metric_timeout;
    let mut readers = Vec::new();
    for Named { name, part } in take(&mut building.parts.metric_exporters) {
        let record = building.record(PartKind::MetricExporter, name);
        let temporality = catch_panic(|| part.temporality());
        if temporality.is_none() {
            record.log_panic();
        }
        let reader = ManualReader::builder().with_temporality(temporality.unwrap_or_default());
        let reader = Arc::new(reader.build());
        readers.push(SharedReader {
            reader: reader.clone(),
            flush: building.reader_flush.take(),
        });
        let part = MetricPart {
            exporter: part,
            reader,
        };
        let part = start(part, &record, true)?;
        let losses = losses(Signal::Metrics, &record);
        building
            .workers
            .push(metrics::worker(interval, timeout, losses, part));
    }
    Ok(readers)
}
