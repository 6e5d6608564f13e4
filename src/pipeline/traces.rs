//! The tracer provider and the span queues.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::{SpanId, TraceFlags};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    SdkTracerProvider, ShouldSample, Span, SpanData, SpanLimits, SpanProcessor,
};

use crate::config::error::InitError;
use crate::config::settings::{Exporter, Limits, Signal};
use crate::otlp::client::OtlpClient;
use crate::otlp::outcome::SendOutcome;
use crate::otlp::retention::Retention;
use crate::otlp::retries::RetryPolicy;
use crate::pipeline::building::Building;
use crate::pipeline::console::SpanPrinter;
use crate::pipeline::counts::Losses;
use crate::pipeline::export_thread::FlushHandle;
use crate::pipeline::part_setup;
use crate::pipeline::parts::sampling::CaughtIdGenerator;
use crate::pipeline::parts::span_processors::SpanProcessors;
use crate::pipeline::queue::Queue;
#[cfg(feature = "opentelemetry-otlp")]
use crate::pipeline::reference::ReferenceSpans;
use crate::pipeline::self_metrics;
use crate::pipeline::spans::ended::EndedSpan;
use crate::pipeline::spans::message::{BatchHeader, SpanMessage};
use crate::pipeline::spans::queues::SpanQueues;
use crate::pipeline::worker::{self, Sink, Worker};
use crate::propagation::{RANDOM_FLAG, with_flags};

pub(crate) fn provider(
    building: &mut Building,
    sampler: Box<dyn ShouldSample>,
) -> Result<(SdkTracerProvider, Arc<SpanQueues>), InitError> {
    let batch = building.config.spans;
    let limits = span_limits(&building.config.limits);
    let mut queues = SpanQueues::new(limits, building.end.clone());
    queues.live = building.config.self_metrics.then(Box::default);
    for exporter in building.config.exporters(Signal::Traces) {
        let (queue, worker) = match exporter {
            Exporter::Otlp => {
                let client = building.client(Signal::Traces, batch.export_timeout)?;
                let losses = building.losses(Signal::Traces, client.receiver());
                let exporter = self_metrics::exporter(Signal::Traces, &client);
                let (queue, worker) = otlp_queue(building, client, losses, limits);
                building.register_self_metrics(Signal::Traces, exporter, Some(queue.clone()));
                (queue, worker)
            }
            // Spans shown on the console are not counted, because the console is not a receiver.
            _ => {
                let console = "the console".to_owned();
                let losses = Losses::new(Signal::Traces, console, Default::default());
                worker::queue(batch, losses, SpanPrinter::new(limits))
            }
        };
        building.workers.push(worker);
        match exporter {
            Exporter::Otlp => queues.otlp = Some(queue),
            _ => queues.add_console(queue),
        }
    }
    for queue in part_setup::span_exporters(building, limits)? {
        queues.add_part(queue);
    }
    let queues = Arc::new(queues);
    let mut provider = SdkTracerProvider::builder()
        .with_resource(building.resource.clone())
        .with_sampler(sampler)
        .with_span_limits(limits);
    let has_random_ids = building.parts.id_generator.is_none();
    if let Some(generator) = building.parts.id_generator.take() {
        provider = provider.with_id_generator(CaughtIdGenerator::new(generator));
    }
    let processor = Processor {
        queues: queues.clone(),
        parts: part_setup::span_processors(building, Export(queues.clone()))?,
        flush: building.flush.clone(),
        has_random_ids,
    };
    Ok((provider.with_span_processor(processor).build(), queues))
}

fn otlp_queue(
    building: &mut Building,
    client: OtlpClient,
    losses: Losses,
    limits: SpanLimits,
) -> (Arc<Queue<EndedSpan>>, Worker) {
    let batch = building.config.spans;
    let value_length = building.config.limits.span_value_length;
    #[cfg(feature = "opentelemetry-otlp")]
    if building.config.is_by_reference(Signal::Traces) {
        let sink = ReferenceSpans {
            client: building.reference(Signal::Traces, client),
            limits,
            value_length,
        };
        return worker::queue(batch, losses, sink);
    }
    let header = BatchHeader::new((&building.resource).into(), limits, value_length);
    worker::queue(batch, losses, SpanSink { client, header })
}

fn span_limits(limits: &Limits) -> SpanLimits {
    SpanLimits {
        max_attributes_per_span: limits.span_attributes,
        max_events_per_span: limits.span_events,
        max_links_per_span: limits.span_links,
        max_attributes_per_event: limits.event_attributes,
        max_attributes_per_link: limits.link_attributes,
    }
}

/// The span processor of the SDK's tracer provider.
#[derive(Debug)]
struct Processor {
    queues: Arc<SpanQueues>,
    parts: SpanProcessors,
    flush: FlushHandle,
    has_random_ids: bool,
}

impl SpanProcessor for Processor {
    fn on_start(&self, span: &mut Span, cx: &Context) {
        self.queues.add_live(1);
        self.parts.on_start(span, cx);
    }

    fn on_end(&self, mut span: SpanData) {
        self.queues.add_live(-1);
        if self.has_random_ids && span.parent_span_id == SpanId::INVALID {
            // The SDK does not set the random flag of a new trace.
            let flags = span.span_context.trace_flags() | TraceFlags::new(RANDOM_FLAG);
            span.span_context = with_flags(&span.span_context, flags);
        }
        self.parts.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.flush.flush()
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.queues.stop();
        Ok(())
    }
}

/// The span processor that queues the SDK's spans. It runs after all other processors.
#[derive(Debug)]
struct Export(Arc<SpanQueues>);

impl SpanProcessor for Export {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        // A sampler may record a span that is not exported.
        if span.span_context.is_sampled() {
            self.0.push(EndedSpan::Sdk(Box::new(span)));
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

struct SpanSink {
    client: OtlpClient,
    header: Arc<BatchHeader>,
}

impl Sink<EndedSpan> for SpanSink {
    async fn export(&self, batch: Vec<EndedSpan>, retention: &Retention) -> SendOutcome {
        let message = SpanMessage::new(batch, self.header.clone());
        self.client
            .export(message, RetryPolicy::IfTemporary, retention)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::EndWarning;

    #[test]
    fn the_shutdown_of_the_provider_also_stops_spans_created_without_it() {
        let queues = Arc::new(SpanQueues::new(
            SpanLimits::default(),
            EndWarning::default(),
        ));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Processor {
                queues: queues.clone(),
                parts: SpanProcessors::new(
                    Vec::new(),
                    Vec::new(),
                    Box::new(Export(queues.clone())),
                ),
                flush: FlushHandle::default(),
                has_random_ids: true,
            })
            .build();
        assert!(!queues.has_stopped());
        provider.shutdown().expect("the provider is not shut down");
        assert!(queues.has_stopped());
    }
}
