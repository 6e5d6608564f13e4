//! Exports over `http/json` to a receiver that is as strict as protobuf's own parser.

use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::{
    Link, Span, SpanBuilder, SpanContext, TraceFlags, TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Array, KeyValue, Value};
use serde_json::{Value as Json, json};
use tower_telemetry::{
    Config,
    config::{Exporter, Protocol},
};
use tracing_subscriber::prelude::*;

use crate::support::receiver::{Receiver, protobuf_json};

/// Collects all values of a field, at any depth.
fn values_of(key: &str, json: &Json, found: &mut Vec<Json>) {
    match json {
        Json::Object(fields) => {
            for (name, value) in fields {
                if name == key {
                    found.push(value.clone());
                }
                values_of(key, value, found);
            }
        }
        Json::Array(elements) => {
            for element in elements {
                values_of(key, element, found);
            }
        }
        _ => {}
    }
}

#[tokio::test]
async fn numbers_that_are_not_finite_are_sent_in_every_place() {
    let cases = [
        (f64::NAN, json!("NaN")),
        (f64::INFINITY, json!("Infinity")),
        (f64::NEG_INFINITY, json!("-Infinity")),
        (0.5, json!(0.5)),
    ];
    for (number, expected) in cases {
        let receiver = Receiver::start();
        let attribute = || KeyValue::new("number", number);
        let telemetry = Config::from_vars(|_| None)
            .with_exporters([Exporter::Otlp])
            .with_endpoint(receiver.endpoint())
            .with_protocol(Protocol::HttpJson)
            .with_resource_attribute(attribute())
            .build()
            .expect("the configuration is valid");

        let list = Value::Array(Array::F64(vec![1.0, number]));
        let linked = SpanContext::new(
            1.into(),
            2.into(),
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        );
        let span = SpanBuilder::from_name("span")
            .with_attributes([attribute(), KeyValue::new("list", list)])
            .with_links(vec![Link::new(linked, vec![attribute()], 0)]);
        let tracer = telemetry
            .tracer_provider()
            .expect("traces are enabled")
            .tracer("test");
        let mut span = tracer.build(span);
        span.add_event("event", vec![attribute()]);
        span.end();

        let meter = telemetry
            .meter_provider()
            .expect("metrics are enabled")
            .meter("test");
        meter
            .f64_gauge("series")
            .build()
            .record(1.0, &[attribute()]);
        // The SDK ignores infinite values, but a sum can become infinite.
        let large = if number.is_infinite() {
            f64::MAX.copysign(number)
        } else {
            0.25
        };
        for _ in 0..2 {
            meter.f64_up_down_counter("sum").build().add(large, &[]);
            meter.f64_histogram("histogram").build().record(large, &[]);
        }

        let logs = tracing_subscriber::registry().with(telemetry.log_layer());
        tracing::subscriber::with_default(logs, || tracing::info!(number, "logged"));

        let report = telemetry.shutdown().await;
        assert_eq!(report.lost(), 0, "{number}: {:?}", report.stats);
        let bodies = receiver.received().bodies;
        let bodies = bodies
            .iter()
            .map(|body| serde_json::from_slice::<Json>(body));
        let bodies = Json::from_iter(bodies.map(|body| body.expect("the text is JSON")));
        let all = |key: &str| {
            let mut found = Vec::new();
            values_of(key, &bodies, &mut found);
            found
        };
        // One in each of three resources, one on the span, two in its list, one each on its event
        // and link, one on the series, and one on the log record.
        let attributes = all("doubleValue");
        assert_eq!(attributes.len(), 10, "{attributes:?}");
        let others = attributes.iter().filter(|value| **value != expected);
        assert_eq!(others.collect::<Vec<_>>(), [&json!(1.0)]);
        let of_sums = if number.is_nan() {
            json!(0.5)
        } else {
            expected
        };
        let mut points = all("asDouble");
        points.retain(|value| *value != json!(1.0));
        assert_eq!(points, std::slice::from_ref(&of_sums));
        // The sum of the histogram is a number. The sum of the counter is an object.
        let mut sums = all("sum");
        sums.retain(|sum| !sum.is_object());
        assert_eq!(sums, [of_sums]);
    }
}

#[test]
fn the_test_receiver_accepts_only_the_json_of_otlp() {
    for (json, is_taken) in [
        (r#"{"intValue":"-9223372036854775808"}"#, true),
        (r#"{"intValue":1}"#, false),
        (r#"{"intValue":"1.5"}"#, false),
        (r#"{"timeUnixNano":"18446744073709551615"}"#, true),
        (r#"{"timeUnixNano":1700000000000000000}"#, false),
        (r#"{"bucketCounts":["0","1"]}"#, true),
        (r#"{"bucketCounts":[0,1]}"#, false),
        (r#"{"traceId":"0af7651916cd43dd8448eb211c80319c"}"#, true),
        (r#"{"traceId":"CvdlGRbNQ92ESOshHIAxnA=="}"#, false),
        (r#"{"spanId":"b7ad6b7169203331","parentSpanId":""}"#, true),
        (r#"{"spanId":[183,173]}"#, false),
        (r#"{"kind":2,"severityNumber":9}"#, true),
        (r#"{"kind":"SPAN_KIND_SERVER"}"#, false),
        (
            r#"{"doubleValue":"NaN","explicitBounds":[0.5,"Infinity"]}"#,
            true,
        ),
        (r#"{"doubleValue":null}"#, false),
        (r#"{"doubleValue":"inf"}"#, false),
        (r#"{"name":null}"#, false),
        (r#"{"name":7}"#, false),
        (r#"{"boolValue":"true"}"#, false),
        ("[]", false),
    ] {
        assert_eq!(protobuf_json(json.as_bytes()).is_some(), is_taken, "{json}");
    }
}
