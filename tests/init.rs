//! Tests `init` and its effect on the process, so this test is a process of its own.

#![cfg(feature = "init")]

use std::convert::Infallible;
use std::sync::Barrier;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use opentelemetry::global;
use opentelemetry::trace::{Span, Tracer};
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{
    Config, TelemetryLayer,
    config::{Exporter, InitError},
};

#[tokio::test]
async fn only_one_of_many_concurrent_inits_succeeds_and_everything_uses_its_providers() {
    const THREADS: usize = 32;
    // The layer is made before `init`. Its later requests are recorded.
    let service = TelemetryLayer::new().layer(service_fn(|_: Request<()>| async {
        tower_telemetry::with_tracer("test", "child", || {});
        tower_telemetry::increment_counter("test.count", "Counted.", []);
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));

    // This request comes before `init` and is not recorded.
    let response = service.clone().oneshot(Request::new(())).await;
    let response = response.expect("the service cannot fail");
    assert!(!response.headers().contains_key("x-trace-id"));

    // A failed `init` does not prevent a later one.
    let error = Config::from_vars(|_| None).with_endpoint("nonsense").init();
    assert!(matches!(error, Err(InitError::Endpoint { .. })));

    let barrier = Barrier::new(THREADS);
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    Config::from_vars(|_| None)
                        .with_exporters([Exporter::Console])
                        .init()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("the thread does not panic"))
            .collect()
    });
    let (mut won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, THREADS - 1));
    for result in lost {
        assert!(matches!(result, Err(InitError::AlreadyInitialized)));
    }
    let telemetry = won.remove(0).expect("one init succeeded");

    let response = service
        .oneshot(Request::new(()))
        .await
        .expect("the service cannot fail");
    assert!(response.headers().contains_key("x-trace-id"));
    let span = global::tracer("test").start("global");
    assert!(
        span.span_context().is_sampled(),
        "the global functions of OpenTelemetry use the same providers"
    );
    drop(span);
    drop(response);

    let again = Config::from_vars(|_| None).init();
    let error = again.expect_err("the first telemetry still runs");
    assert!(matches!(error, InitError::AlreadyInitialized));
    assert!(error.to_string().contains("Config::build"), "{error}");
    assert!(!telemetry.shutdown().await.timed_out);
    // Calls after the shutdown do nothing.
    tower_telemetry::with_tracer("test", "late", || {});
    tower_telemetry::increment_counter("test.count", "Counted.", []);
}
