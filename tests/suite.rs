//! Runs twenty tests of an application that each start and stop it: one after the other with
//! `init`, and in parallel with `Config::build`.

#![cfg(feature = "init")]

use std::convert::Infallible;

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "it/support/receiver.rs"]
mod receiver;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use receiver::Receiver;
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{Config, TelemetryGuard, TelemetryLayer, increment_counter, with_tracer};

/// Only one application per process can use `init` at a time.
static INIT_LOCK: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn config(receiver: &Receiver) -> Config {
    Config::from_vars(|name| (name == "ENVIRONMENT").then(|| "staging".to_owned()))
        .with_endpoint(receiver.endpoint())
}

/// Serves some requests, stops, and checks that the receiver has exactly the telemetry of this application.
async fn serve(
    name: &'static str,
    receiver: &Receiver,
    telemetry: TelemetryGuard,
    layer: TelemetryLayer,
) {
    let service = layer.layer(service_fn(move |_: Request<()>| async move {
        with_tracer("suite", name, || {});
        increment_counter("suite.requests", "Requests of the suite.", []);
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    for _ in 0..3 {
        let response = service.clone().oneshot(Request::new(())).await;
        drop(response.expect("the service cannot fail"));
    }
    let report = telemetry.shutdown().await;
    assert_eq!(
        (report.lost(), report.timed_out),
        (0, false),
        "{name}: {report}"
    );
    let received = receiver.received();
    let mut spans: Vec<_> = received.spans().into_iter().map(|span| span.name).collect();
    spans.sort_unstable();
    let mut expected = ["GET", name].repeat(3);
    expected.sort_unstable();
    assert_eq!(spans, expected);
    assert!(received.metric("suite.requests").is_some(), "{name}");
}

async fn with_init(name: &'static str) {
    let _one = INIT_LOCK.lock().await;
    let receiver = Receiver::start();
    let telemetry = config(&receiver)
        .init()
        .expect("the previous test has stopped");
    serve(name, &receiver, telemetry, TelemetryLayer::new()).await;
}

async fn with_build(name: &'static str) {
    let receiver = Receiver::start();
    let telemetry = config(&receiver)
        .build()
        .expect("the configuration is valid");
    let tracers = telemetry
        .tracer_provider()
        .expect("traces are enabled")
        .clone();
    let meters = telemetry
        .meter_provider()
        .expect("metrics are enabled")
        .clone();
    let layer = TelemetryLayer::new()
        .with_tracer_provider(tracers)
        .with_meter_provider(meters);
    serve(name, &receiver, telemetry, layer).await;
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(
            mod $name {
                #[tokio::test]
                async fn an_application_starts_and_stops_with_init() {
                    super::with_init(stringify!($name)).await;
                }

                #[tokio::test]
                async fn an_application_starts_and_stops_beside_others_with_build() {
                    super::with_build(stringify!($name)).await;
                }
            }
        )*
    };
}

tests! {
    test_1 test_2 test_3 test_4 test_5 test_6 test_7 test_8 test_9 test_10
    test_11 test_12 test_13 test_14 test_15 test_16 test_17 test_18 test_19 test_20
}
