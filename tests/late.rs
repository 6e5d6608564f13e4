//! Sets the global providers of OpenTelemetry after their first use, so this test is a process of its own.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::Full;
use opentelemetry::global;
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{TelemetryLayer, bind_counter, increment_counter, with_tracer};

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
        let lines = String::from_utf8(lines).expect("the output is UTF-8");
        lines.matches(text).count()
    }
}

#[tokio::test]
async fn instruments_and_layers_that_were_used_early_record_with_global_providers_that_are_set_later()
 {
    let service = TelemetryLayer::new().layer(service_fn(|_: Request<()>| async {
        with_tracer("test", "in a request", || ());
        Ok::<_, Infallible>(Response::new(Full::<bytes::Bytes>::from("body")))
    }));
    let handle = Arc::new(bind_counter("handle.count", "Counted by a handle.", []));
    let everything = async || {
        let response = service.clone().oneshot(Request::new(())).await;
        drop(response.expect("the service cannot fail"));
        with_tracer("test", "outside", || ());
        increment_counter("named.count", "Counted by name.", []);
        handle.add(1);
    };
    for _ in 0..5 {
        everything().await;
    }

    // The provider of this layer applies only within its requests.
    let own = SdkTracerProvider::builder().build();
    let layer = TelemetryLayer::new().with_tracer_provider(own);
    let with_own = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::<bytes::Bytes>::from("body")))
    }));
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    drop(
        with_own
            .oneshot(Request::new(()))
            .await
            .expect("the service cannot fail"),
    );
    assert_eq!(lines.count("a span is not exported"), 0);
    for _ in 0..3 {
        with_tracer("test", "outside", || ());
        assert_eq!(lines.count("a span is not exported"), 1);
    }
    drop(guard);

    let spans = InMemorySpanExporter::default();
    let tracers = SdkTracerProvider::builder()
        .with_simple_exporter(spans.clone())
        .build();
    global::set_tracer_provider(tracers);
    everything().await;
    let names = || {
        let spans = spans
            .get_finished_spans()
            .expect("the exporter is not shut down");
        let mut names: Vec<_> = spans.into_iter().map(|span| span.name).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["GET", "in a request", "outside"]);

    let metrics = InMemoryMetricExporter::default();
    let meters = SdkMeterProvider::builder()
        .with_reader(PeriodicReader::builder(metrics.clone()).build())
        .build();
    global::set_meter_provider(meters.clone());
    everything().await;
    assert_eq!(names().len(), 6);
    meters.force_flush().expect("the provider is running");
    let metrics = metrics
        .get_finished_metrics()
        .expect("the provider is running");
    let mut names: Vec<_> = metrics
        .iter()
        .flat_map(|metrics| metrics.scope_metrics())
        .flat_map(|scope| scope.metrics())
        .map(|metric| metric.name().to_owned())
        .collect();
    names.retain(|name| !name.starts_with("otel."));
    names.sort();
    let expected = [
        "handle.count",
        "http.duration",
        "http.requests",
        "http.server.active_requests",
        "http.server.request.duration",
        "named.count",
    ];
    assert_eq!(names, expected);
}
