//! Tests how a layer reads the context of incoming requests.

use crate::support::{TRACEPARENT, TestTelemetry, get, send_through};

#[tokio::test]
async fn the_random_flag_is_passed_on() {
    use opentelemetry_sdk::trace::Sampler;

    for sampler in [Sampler::AlwaysOn, Sampler::AlwaysOff] {
        let telemetry = TestTelemetry::with_sampler(sampler);
        let layer = telemetry.layer().with_traceresponse();
        for (flags, random) in [("03", true), ("01", false), ("02", true), ("00", false)] {
            let traceparent = TRACEPARENT.replace("-01", &format!("-{flags}"));
            let response = send_through(&layer, get("/").header("traceparent", traceparent)).await;
            let answer = response.headers()["traceresponse"]
                .to_str()
                .expect("the text is UTF-8");
            let found = u8::from_str_radix(&answer[53..], 16).expect("the flags are hex");
            assert_eq!(found & 0x02 != 0, random, "{flags}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_propagator_of_the_layer_replaces_the_default_ones() {
    let telemetry = TestTelemetry::new();
    let propagator = opentelemetry::propagation::TextMapCompositePropagator::new(vec![]);
    let layer = telemetry.layer().with_propagator(propagator);
    send_through(&layer, get("/").header("traceparent", TRACEPARENT)).await;
    let propagator = opentelemetry_sdk::propagation::TraceContextPropagator::new();
    let layer = telemetry.layer().with_propagator(propagator);
    send_through(&layer, get("/").header("traceparent", TRACEPARENT)).await;
    let spans = telemetry.spans();
    let continued = spans.iter().map(|span| span.parent_span_is_remote);
    assert_eq!(continued.collect::<Vec<_>>(), [false, true]);
}
