//! Tests memory use while the collector is down. The allocator counts for the whole process, so
//! this test is a process of its own.

#![cfg(feature = "init")]

#[path = "it/support/refused.rs"]
mod refused;

use std::alloc::System;
use std::convert::Infallible;

use bytes::Bytes;
use cap::Cap;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Empty;
use refused::refused_address;
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{Config, TelemetryLayer, add_span_event, attributes};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

const MIB: usize = 1024 * 1024;

/// The number of spans. Release builds send many more, because a request costs little there.
const REQUESTS: usize = if cfg!(debug_assertions) {
    10_000
} else {
    500_000
};

#[tokio::test]
async fn memory_stays_bounded_under_hostile_requests_while_the_collector_is_down() {
    let telemetry = Config::from_vars(|name| match name {
        "ENVIRONMENT" => Some("staging".to_owned()),
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(format!("http://{}", refused_address())),
        _ => None,
    });
    let telemetry = telemetry.init().expect("the configuration is valid");
    // One layer makes spans of this crate, the other makes spans of the SDK.
    let own = TelemetryLayer::new();
    let of_sdk = TelemetryLayer::new()
        .with_tracer_provider(
            telemetry
                .tracer_provider()
                .expect("traces are enabled")
                .clone(),
        )
        .with_meter_provider(
            telemetry
                .meter_provider()
                .expect("metrics are enabled")
                .clone(),
        );
    let services = [own, of_sdk].map(|layer| {
        layer.layer(service_fn(|_: Request<()>| async {
            add_span_event("event", attributes! { "key" => "value" });
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }))
    });

    let value = |text: String| HeaderValue::from_maybe_shared(Bytes::from(text));
    let value = |text| value(text).expect("a legal value");
    let agent = value("a".repeat(400 * 1024));
    let tracestate: Vec<_> = (0..32)
        .map(|n| format!("key{n}={}", "v".repeat(250)))
        .collect();
    let tracestate = value(tracestate.join(","));
    let baggage = value(format!("key={}", "v".repeat(8000)));
    let path = "p/".repeat(4 * 1024);

    let before = HEAP.allocated();
    let mut peaks = [0; 2];
    for n in 0..REQUESTS {
        let method = format!("M{n}");
        let mut request = Request::new(());
        *request.method_mut() = Method::from_bytes(method.as_bytes()).expect("a legal method");
        *request.uri_mut() = format!("/{path}{n}?query={n}")
            .parse()
            .expect("a valid path");
        let headers = request.headers_mut();
        headers.insert("user-agent", agent.clone());
        headers.insert("tracestate", tracestate.clone());
        headers.insert("baggage", baggage.clone());
        headers.insert("host", value(format!("host{n}")));
        headers.insert(
            "traceparent",
            value(format!("00-{:032x}-{:016x}-01", n + 1, n + 1)),
        );
        let response = services[n % 2].clone().oneshot(request).await;
        drop(response.expect("the service cannot fail"));
        if n % 100 == 0 {
            let peak = &mut peaks[usize::from(n >= REQUESTS / 2)];
            *peak = HEAP.allocated().saturating_sub(before).max(*peak);
        }
    }
    let [first, second] = peaks;
    println!(
        "{REQUESTS} requests: {} KiB in the first half, {} KiB in the second",
        first / 1024,
        second / 1024
    );
    // The limit covers the 16 MiB of the queue, one message in flight, and the metrics.
    assert!(first < 24 * MIB, "{first}");
    assert!(second <= first + MIB, "{first} and then {second}");
    let stats = telemetry.stats().traces;
    assert_eq!(stats.accepted, REQUESTS as u64);
    assert!(stats.failed + stats.dropped > stats.accepted - 3000);
}
