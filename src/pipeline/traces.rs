//! Spans on their way out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    SdkTracerProvider, ShouldSample, Span, SpanData, SpanLimits, SpanProcessor,
};

use crate::config::error::InitError;
use crate::config::settings::{Exporter, Limits, Signal};
use crate::logs::EndNotice;
use crate::otlp::client::OtlpClient;
use crate::otlp::outcome::Outcome;
use crate::pipeline::console::SpanPrinter;
use crate::pipeline::export::Building;
use crate::pipeline::export_thread::FlushHandle;
use crate::pipeline::queue::Queue;
use crate::pipeline::spans::ended::Ended;
use crate::pipeline::spans::message::{Around, SpanMessage};
use crate::pipeline::worker::{self, Sink};

pub(crate) fn provider(
    building: &mut Building,
    sampler: Box<dyn ShouldSample>,
) -> Result<(SdkTracerProvider, Arc<Spans>), InitError> {
    let batch = building.config.spans;
    let limits = span_limits(&building.config.limits);
    let mut spans = Spans::new(limits, building.end.clone());
    for exporter in building.config.exporters(Signal::Traces) {
        let (queue, worker) = match exporter {
            Exporter::Otlp => {
                let sink = SpanSink {
                    client: building.client(Signal::Traces, batch.export_timeout)?,
                    around: Around::new(
                        (&building.resource).into(),
                        building.config.limits.span_value_length,
                    ),
                };
                let counters = building.counters[Signal::Traces].clone();
                worker::queue(Signal::Traces, batch, counters, sink)
            }
            // Who reads the console is no receiver: what is shown there is not counted.
            Exporter::Console => {
                let printer = SpanPrinter::default();
                worker::queue(Signal::Traces, batch, Default::default(), printer)
            }
        };
        building.workers.push(worker);
        match exporter {
            Exporter::Otlp => spans.otlp = Some(queue),
            Exporter::Console => spans.console = Some(queue),
        }
    }
    let spans = Arc::new(spans);
    let provider = SdkTracerProvider::builder()
        .with_resource(building.resource.clone())
        .with_sampler(sampler)
        .with_span_limits(limits)
        .with_span_processor(Processor {
            spans: spans.clone(),
            flush: building.flush.clone(),
        })
        .build();
    Ok((provider, spans))
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

/// Where spans that have ended wait for export.
pub(crate) struct Spans {
    pub(crate) limits: SpanLimits,
    console: Option<Arc<Queue<Ended>>>,
    otlp: Option<Arc<Queue<Ended>>>,
    stopped: AtomicBool,
    end: EndNotice,
}

impl Spans {
    fn new(limits: SpanLimits, end: EndNotice) -> Self {
        Self {
            limits,
            console: None,
            otlp: None,
            stopped: AtomicBool::new(false),
            end,
        }
    }

    #[cfg(test)]
    pub(crate) fn to(queue: Arc<Queue<Ended>>, limits: SpanLimits) -> Self {
        Self {
            otlp: Some(queue),
            ..Self::new(limits, EndNotice::default())
        }
    }

    #[inline]
    pub(crate) fn push(&self, span: Ended) {
        if let Some(console) = &self.console {
            console.push(span.clone());
            console.wake();
        }
        if let Some(otlp) = &self.otlp {
            otlp.push(span);
        }
    }

    /// From here on nothing new is queued.
    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether a span that has ended now is lost.
    #[inline]
    pub(crate) fn has_stopped(&self) -> bool {
        let stopped = self.stopped.load(Ordering::Relaxed);
        if stopped {
            self.end.give();
        }
        stopped
    }
}

impl std::fmt::Debug for Spans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spans").finish_non_exhaustive()
    }
}

/// The way of the SDK's spans into the queues.
#[derive(Debug)]
struct Processor {
    spans: Arc<Spans>,
    flush: FlushHandle,
}

impl SpanProcessor for Processor {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        // A sampler may ask for a span to be recorded and yet not be exported.
        if span.span_context.is_sampled() {
            self.spans.push(Ended::Sdk(Box::new(span)));
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.flush.flush()
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.spans.stop();
        Ok(())
    }
}

struct SpanSink {
    client: OtlpClient,
    around: Arc<Around>,
}

impl Sink<Ended> for SpanSink {
    async fn export(&self, batch: Vec<Ended>) -> Outcome {
        let message = SpanMessage::new(batch, self.around.clone());
        self.client.export(message).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shuts_the_provider_down_ends_the_spans_that_are_made_without_it() {
        let spans = Arc::new(Spans::new(SpanLimits::default(), EndNotice::default()));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Processor {
                spans: spans.clone(),
                flush: FlushHandle::default(),
            })
            .build();
        assert!(!spans.has_stopped());
        provider.shutdown().expect("it runs");
        assert!(spans.has_stopped());
    }
}
