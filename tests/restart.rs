//! Starts and stops an application repeatedly in one process, as its tests do. `init` applies to
//! the whole process, so this test is a process of its own.

#![cfg(all(feature = "init", feature = "logs"))]

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "it/support/receiver.rs"]
mod receiver;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Empty;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use receiver::{Received, Receiver};
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{
    ClientTelemetryLayer, Config, TelemetryLayer, bind_counter,
    config::{Exporter, InitError},
    increment_counter, with_tracer,
};
use tracing_subscriber::prelude::*;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .expect("the lock is not poisoned")
            .write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn count(&self, text: &str) -> usize {
        let lines = self.0.lock().expect("the lock is not poisoned").clone();
        String::from_utf8(lines)
            .expect("the output is UTF-8")
            .matches(text)
            .count()
    }
}

/// Returns the sum of the points of a counter.
fn sum(received: &Received, name: &str) -> i64 {
    let Some(Data::Sum(data)) = received.metric(name).and_then(|metric| metric.data) else {
        return 0;
    };
    let points = data.data_points.iter();
    points
        .map(|point| match point.value {
            Some(Value::AsInt(value)) => value,
            other => panic!("{other:?}"),
        })
        .sum()
}

#[tokio::test]
async fn instruments_layers_and_log_layers_follow_every_restart_of_telemetry() {
    let lines = Lines::default();
    let writer = lines.clone();
    // The application installs its own subscriber once. It stays, and so does its layer for log records.
    let first = Receiver::start();
    let config = |receiver: &Receiver| {
        Config::from_vars(|_| None)
            .with_exporters([Exporter::Otlp])
            .with_endpoint(receiver.endpoint())
            .without_subscriber()
    };
    let mut telemetry = Some(
        config(&first)
            .init()
            .expect("no other telemetry is initialized"),
    );
    tracing_subscriber::registry()
        .with(
            tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(move || writer.clone()),
        )
        .with(telemetry.as_ref().and_then(|guard| guard.log_layer()))
        .init();
    // The start line comes without another event, while telemetry runs.
    while lines.count("environment=development") == 0 {
        tokio::task::yield_now().await;
    }
    let handle = bind_counter("handle.count", "Counted by a handle.", []);
    let sent = Arc::new(Mutex::new(HeaderMap::new()));
    let keep = sent.clone();
    let client = ClientTelemetryLayer::new().layer(service_fn(move |request: Request<()>| {
        *keep.lock().expect("the lock is not poisoned") = request.headers().clone();
        async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
    }));
    let service = TelemetryLayer::new().layer(service_fn(move |_: Request<()>| {
        let client = client.clone();
        async move {
            with_tracer("test", "child", || ());
            let request = Request::get("http://localhost/")
                .body(())
                .expect("a valid request");
            drop(client.oneshot(request).await);
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    }));
    let request = || {
        let request = Request::get("/").header("traceparent", TRACEPARENT);
        service
            .clone()
            .oneshot(request.body(()).expect("a valid request"))
    };

    for round in 0..20 {
        let receiver = Receiver::start();
        let (receiver, guard) = match telemetry.take() {
            Some(guard) => (&first, guard),
            None => (
                &receiver,
                config(&receiver)
                    .init()
                    .expect("no other telemetry is initialized"),
            ),
        };
        let second = config(receiver).init();
        assert!(matches!(second, Err(InitError::AlreadyInitialized)));
        let response = request().await.expect("the service cannot fail");
        assert!(response.headers().contains_key("x-trace-id"), "{round}");
        drop(response);
        handle.add(1);
        increment_counter("named.count", "Counted by name.", []);
        tracing::info!("logged in round {round}");
        let fresh = bind_counter("fresh.count", "Counted by a new handle.", []);
        fresh.add(1);
        assert_eq!(guard.shutdown().await.lost(), 0);

        // After the shutdown, layers and handles do nothing and pass context on.
        let response = request().await.expect("the service cannot fail");
        assert!(!response.headers().contains_key("x-trace-id"), "{round}");
        let headers = sent.lock().expect("the lock is not poisoned").clone();
        assert_eq!(headers["traceparent"], TRACEPARENT);
        handle.add(1);
        with_tracer("test", "late", || increment_counter("named.count", "", []));
        tracing::info!("logged late in round {round}");

        let received = receiver.received();
        let mut names: Vec<_> = received.spans().into_iter().map(|span| span.name).collect();
        names.sort();
        assert_eq!(names, ["GET", "GET", "child"], "{round}");
        for name in [
            "handle.count",
            "named.count",
            "fresh.count",
            "http.requests",
        ] {
            assert_eq!(sum(&received, name), 1, "{name} in {round}");
        }
        let logged = received.log_records().into_iter().filter(|record| {
            let body = format!("{:?}", record.body);
            body.contains("logged")
        });
        assert_eq!(logged.count(), 1, "{round}");
        // Another thread logs these lines. The first start line is logged as soon as there is a subscriber.
        for text in ["telemetry has ended", "environment=development"] {
            let count = || lines.count(text);
            let start = std::time::Instant::now();
            while count() < round + 1 && start.elapsed() < std::time::Duration::from_secs(20) {
                tokio::task::yield_now().await;
            }
            assert_eq!(count(), round + 1, "{text}");
        }
    }
}
