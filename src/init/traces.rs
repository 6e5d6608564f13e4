//! Spans on their way out.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, ShouldSample, Span, SpanData, SpanProcessor};

use super::batch::{self, Queue, Sink};
use super::config::{Exporter, Signal};
use super::console::{self, SpanPrinter};
use super::error::InitError;
use super::export::{Building, use_the_guard};
use super::otlp::{ExportError, OtlpClient};

pub(super) fn provider(
    building: &mut Building,
    sampler: Box<dyn ShouldSample>,
) -> Result<SdkTracerProvider, InitError> {
    let batch = building.config.spans;
    let mut spans = Spans::default();
    for exporter in building.config.exporters(Signal::Traces) {
        let (queue, worker) = match exporter {
            Exporter::Otlp => {
                let sink = SpanSink {
                    client: building.client(Signal::Traces)?,
                    resource: (&building.resource).into(),
                };
                let counters = building.counters[Signal::Traces].clone();
                batch::queue(Signal::Traces, batch, counters, sink)
            }
            // Who reads the console is no receiver: what is shown there is not counted.
            Exporter::Console => {
                let printer = SpanPrinter::default();
                batch::queue(Signal::Traces, batch, Default::default(), printer)
            }
        };
        building.workers.push(worker);
        match exporter {
            Exporter::Otlp => spans.otlp = Some(queue),
            Exporter::Console => spans.console = Some(queue),
        }
    }
    Ok(SdkTracerProvider::builder()
        .with_resource(building.resource.clone())
        .with_sampler(sampler)
        .with_span_processor(spans)
        .build())
}

/// The span processor: into the queues with every span that is to be exported.
#[derive(Default)]
struct Spans {
    console: Option<Queue<SpanData>>,
    otlp: Option<Queue<SpanData>>,
}

impl std::fmt::Debug for Spans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spans").finish_non_exhaustive()
    }
}

impl SpanProcessor for Spans {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        // A sampler may ask for a span to be recorded and yet not be exported.
        if !span.span_context.is_sampled() {
            return;
        }
        if let Some(console) = &self.console {
            let ends_request = console::is_local_root(&span);
            console.push(span.clone());
            if ends_request {
                console.wake();
            }
        }
        if let Some(otlp) = &self.otlp {
            otlp.push(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        use_the_guard()
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

struct SpanSink {
    client: OtlpClient,
    resource: ResourceAttributesWithSchema,
}

impl Sink<SpanData> for SpanSink {
    async fn export(&self, batch: Vec<SpanData>) -> Result<u64, ExportError> {
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(batch, &self.resource),
        };
        let answer: ExportTraceServiceResponse = self.client.export(&request).await?;
        let rejected = answer
            .partial_success
            .map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }
}
