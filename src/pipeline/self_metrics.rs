//! Metrics about the export itself (semantic conventions, "OpenTelemetry SDK metrics").
//!
//! The values are read from the counts behind [`Stats`](crate::stats::Stats) when metrics are
//! collected. They cost nothing on the request path.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use crate::config::settings::{Protocol, Signal};
use crate::otlp::client::OtlpClient;
use crate::pipeline::counts::{Counters, ObservedQueue};
use crate::pipeline::spans::queues::SpanQueues;
use crate::providers::instrumentation_scope;
use crate::stats::Failure;

/// The export of one signal over OTLP.
#[derive(Clone)]
pub(crate) struct Observed {
    signal: Signal,
    counters: Arc<Counters>,
    queue: Option<Arc<dyn ObservedQueue>>,
    /// The attributes that describe the exporter.
    exporter: Vec<KeyValue>,
}

impl Observed {
    pub(crate) fn new(
        signal: Signal,
        counters: Arc<Counters>,
        queue: Option<Arc<dyn ObservedQueue>>,
        exporter: Vec<KeyValue>,
    ) -> Self {
        Self {
            signal,
            counters,
            queue,
            exporter,
        }
    }
}

/// Returns the attributes that describe a signal's exporter.
pub(crate) fn exporter(signal: Signal, client: &OtlpClient) -> Vec<KeyValue> {
    let protocol = match client.protocol {
        Protocol::Grpc => "grpc",
        Protocol::HttpProtobuf => "http",
        #[cfg(feature = "http-json")]
        Protocol::HttpJson => "http_json",
    };
    let noun = match signal {
        Signal::Traces => "span",
        Signal::Metrics => "metric",
        Signal::Logs => "log",
    };
    let mut exporter = component(&format!("otlp_{protocol}_{noun}_exporter"));
    if let Some(host) = client.uri.host() {
        exporter.push(KeyValue::new("server.address", host.to_owned()));
    }
    if let Some(port) = client.uri.port_u16() {
        exporter.push(KeyValue::new("server.port", i64::from(port)));
    }
    exporter
}

/// Registers observable instruments for the signals.
pub(crate) fn register(
    provider: &SdkMeterProvider,
    signals: &[Observed],
    queues: &Arc<SpanQueues>,
) {
    let meter = provider.meter_with_scope(instrumentation_scope());
    register_live_spans(&meter, queues.clone());
    for observed in signals {
        register_exporter(&meter, observed);
        if observed.queue.is_some() {
            register_processor(&meter, observed);
        }
    }
}

fn register_live_spans(meter: &Meter, queues: Arc<SpanQueues>) {
    let sampled = [KeyValue::new(
        "otel.span.sampling_result",
        "RECORD_AND_SAMPLE",
    )];
    meter
        .i64_observable_up_down_counter("otel.sdk.span.live")
        .with_unit("{span}")
        .with_description("Recorded spans that have not ended.")
        .with_callback(move |observer| observer.observe(queues.live(), &sampled))
        .build();
}

fn register_exporter(meter: &Meter, observed: &Observed) {
    let (noun, unit) = match observed.signal {
        Signal::Traces => ("span", "{span}"),
        Signal::Metrics => ("metric_data_point", "{data_point}"),
        Signal::Logs => ("log", "{log_record}"),
    };
    let Observed {
        counters, exporter, ..
    } = observed.clone();
    meter
        .u64_observable_counter(format!("otel.sdk.exporter.{noun}.exported"))
        .with_unit(unit)
        .with_description("Items whose export has finished, successfully or not.")
        .with_callback(move |observer| {
            observer.observe(counters.stats().exported, &exporter);
            for (failure, count) in counters.lost_by_failure() {
                observer.observe(count, &with_error(&exporter, error_type(failure)));
            }
        })
        .build();
    let Observed {
        counters,
        exporter,
        queue,
        ..
    } = observed.clone();
    meter
        .i64_observable_up_down_counter(format!("otel.sdk.exporter.{noun}.inflight"))
        .with_unit(unit)
        .with_description(
            "Items that were handed to the exporter and whose export has not finished.",
        )
        .with_callback(move |observer| {
            let queued = queue
                .as_ref()
                .map_or(0, |queue| queue.size_and_capacity()[0]);
            let inflight = counters.stats().waiting.saturating_sub(queued);
            observer.observe(i64::try_from(inflight).unwrap_or(i64::MAX), &exporter);
        })
        .build();
}

fn register_processor(meter: &Meter, observed: &Observed) {
    let (noun, unit) = match observed.signal {
        Signal::Logs => ("log", "{log_record}"),
        _ => ("span", "{span}"),
    };
    let processor = component(&format!("batching_{noun}_processor"));
    for (index, name, description) in [
        (0, "size", "Items waiting in the queue."),
        (1, "capacity", "The maximum number of items that can wait."),
    ] {
        let (queue, processor) = (observed.queue.clone(), processor.clone());
        meter
            .i64_observable_up_down_counter(format!("otel.sdk.processor.{noun}.queue.{name}"))
            .with_unit(unit)
            .with_description(description)
            .with_callback(move |observer| {
                let value = queue.as_ref().map(|queue| queue.size_and_capacity()[index]);
                let value = value.and_then(|value| i64::try_from(value).ok());
                observer.observe(value.unwrap_or(0), &processor);
            })
            .build();
    }
    let Observed {
        counters, queue, ..
    } = observed.clone();
    meter
        .u64_observable_counter(format!("otel.sdk.processor.{noun}.processed"))
        .with_unit(unit)
        .with_description("Items that were handed to the exporter or did not fit into the queue.")
        .with_callback(move |observer| {
            let queued = queue
                .as_ref()
                .map_or(0, |queue| queue.size_and_capacity()[0]);
            let full = counters.queue_full();
            let handed_over = counters.stats().accepted.saturating_sub(full + queued);
            observer.observe(handed_over, &processor);
            observer.observe(full, &with_error(&processor, "queue_full".to_owned()));
        })
        .build();
}

fn component(kind: &str) -> Vec<KeyValue> {
    vec![
        KeyValue::new("otel.component.type", kind.to_owned()),
        KeyValue::new("otel.component.name", format!("{kind}/0")),
    ]
}

fn with_error(attributes: &[KeyValue], error: String) -> Vec<KeyValue> {
    let mut attributes = attributes.to_vec();
    attributes.push(KeyValue::new("error.type", error));
    attributes
}

fn error_type(failure: Failure) -> String {
    match failure {
        Failure::Refused => "connection_refused".to_owned(),
        Failure::HttpStatus(code) => code.to_string(),
        Failure::GrpcStatus(name) => name.to_owned(),
        Failure::NoReceiver => "no_otlp_receiver".to_owned(),
        Failure::TooLarge => "too_large".to_owned(),
        other => other.to_string(),
    }
}
