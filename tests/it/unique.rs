//! Exports attributes with duplicate keys. The receiver gets each key once.

use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider};
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::{
    Span, SpanContext, SpanId, TraceFlags, TraceId, Tracer, TracerProvider,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;

use crate::export::config;
use crate::support::attributes;
use crate::support::receiver::{Receiver, attributes_of};

fn duplicate_attributes() -> Vec<KeyValue> {
    [("a", 1), ("b", 2), ("a", 3)]
        .map(|(key, n)| KeyValue::new(key, n))
        .to_vec()
}

fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("scope")
        .with_attributes(duplicate_attributes())
        .build()
}

#[tokio::test]
async fn duplicate_attributes_of_the_application_are_exported_once() {
    let once = attributes([("a", "3"), ("b", "2")]);
    for protocol in ["grpc", "http/protobuf"] {
        let receiver = Receiver::start();
        let telemetry = config(&[
            ("ENVIRONMENT", "staging"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ])
        .with_endpoint(receiver.endpoint())
        .with_resource_attribute(KeyValue::new("team", "one"))
        .with_resource_attribute(KeyValue::new("team", "two"))
        .build()
        .expect("the configuration is valid");

        let tracer = telemetry
            .tracer_provider()
            .expect("traces are enabled")
            .tracer_with_scope(scope());
        let mut span = tracer
            .span_builder("span")
            .with_attributes(duplicate_attributes())
            .start(&tracer);
        span.set_attributes([KeyValue::new("c", 1), KeyValue::new("c", 2)]);
        span.add_event("event", duplicate_attributes());
        let (trace_id, span_id) = (TraceId::from(1), SpanId::from(2));
        let linked = SpanContext::new(
            trace_id,
            span_id,
            TraceFlags::SAMPLED,
            true,
            Default::default(),
        );
        span.add_link(linked, duplicate_attributes());
        span.end();

        let meter = telemetry
            .meter_provider()
            .expect("metrics are enabled")
            .meter_with_scope(scope());
        meter
            .u64_counter("counter")
            .build()
            .add(1, &duplicate_attributes());
        meter
            .f64_gauge("gauge")
            .build()
            .record(1.0, &duplicate_attributes());
        meter
            .f64_histogram("histogram")
            .build()
            .record(1.0, &duplicate_attributes());

        let logger = telemetry
            .logger_provider()
            .expect("logs are enabled")
            .logger_with_scope(scope());
        let mut record = logger.create_log_record();
        record.add_attributes([("a", 1), ("b", 2), ("a", 3)]);
        record.set_body(AnyValue::from("text"));
        logger.emit(record);

        let report = telemetry.shutdown().await;
        assert_eq!(report.lost(), 0, "{protocol}: {report:?}");
        let received = receiver.received();
        let spans = received.spans();
        let mut expected = once.clone();
        expected.insert("c".to_owned(), "2".to_owned());
        assert_eq!(attributes_of(&spans[0].attributes), expected);
        assert_eq!(attributes_of(&spans[0].events[0].attributes), once);
        assert_eq!(attributes_of(&spans[0].links[0].attributes), once);
        assert_eq!(attributes_of(&received.log_records()[0].attributes), once);
        let points = |name| match received.metric(name).and_then(|metric| metric.data) {
            Some(Data::Sum(data)) => data.data_points[0].attributes.clone(),
            Some(Data::Gauge(data)) => data.data_points[0].attributes.clone(),
            Some(Data::Histogram(data)) => data.data_points[0].attributes.clone(),
            other => panic!("{name}: {other:?}"),
        };
        for name in ["counter", "gauge", "histogram"] {
            assert_eq!(attributes_of(&points(name)).len(), 2, "{name}");
        }
        let resource = received.traces[0].resource_spans[0].resource.clone();
        let resource = attributes_of(&resource.expect("the resource is set").attributes);
        assert_eq!(resource["team"], "two");
    }
}
