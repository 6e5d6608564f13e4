//! Tests processes that live only for a moment, and functions that are frozen between invocations.

use axum::body::Body;
use axum::{Router, routing::get};
use http::Request;
use http_body_util::BodyExt;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tower::ServiceExt;
use tower_telemetry::{Config, TelemetryLayer};

use crate::support::process::Process;
use crate::support::receiver::Receiver;

#[test]
fn a_process_of_50_ms_loses_no_telemetry() {
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;

    const RUNS: usize = 10;
    for protocol in ["grpc", "http/protobuf"] {
        let receiver = Receiver::start();
        let endpoint = receiver.endpoint();
        let run = |_| {
            let variables = [
                ("ENVIRONMENT", "staging"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ];
            Process::example("cli", &variables)
        };
        // The programs run concurrently and do not share anything.
        let mut runs: Vec<_> = (0..RUNS).map(run).collect();
        for run in &mut runs {
            assert!(run.wait().success(), "{:#?}", run.lines());
            println!("over {protocol}: {}", run.line("all of it took"));
        }
        let received = receiver.received();
        let spans = received.spans();
        assert_eq!(spans.len(), RUNS, "over {protocol}");
        assert!(spans.iter().all(|span| span.name == "import"));
        let records = received.log_records();
        let in_span = records.iter().filter(|record| !record.span_id.is_empty());
        assert_eq!(in_span.count(), RUNS, "over {protocol}");
        let metrics = received
            .metrics
            .iter()
            .flat_map(|one| &one.resource_metrics);
        let metrics = metrics.flat_map(|one| &one.scope_metrics);
        let counters = metrics.flat_map(|one| &one.metrics);
        let counters = counters.filter(|metric| metric.name == "cli.imports");
        let points = counters.map(|metric| match &metric.data {
            Some(Data::Sum(sum)) => sum.data_points.len(),
            _ => panic!("cli.imports is a counter"),
        });
        assert_eq!(points.sum::<usize>(), RUNS, "over {protocol}");
    }
}

#[tokio::test]
async fn a_flush_before_the_response_delivers_the_telemetry_of_an_invocation() {
    let receiver = Receiver::start();
    let telemetry = Config::from_vars(|_| None)
        .with_environment(tower_telemetry::config::Environment::Staging)
        .with_endpoint(receiver.endpoint())
        .build()
        .expect("the configuration is valid");
    let provider = telemetry.tracer_provider().expect("traces are enabled");
    let layer = TelemetryLayer::new().with_tracer_provider(SdkTracerProvider::clone(provider));
    let app: Router = Router::new()
        .route("/users/{id}", get(async || "Ada"))
        .layer(layer);
    for invocation in 1..=3 {
        let request = Request::get("/users/42").body(Body::empty());
        let response = app.clone().oneshot(request.expect("a valid request")).await;
        let (_, body) = response.expect("the service cannot fail").into_parts();
        let body = body
            .collect()
            .await
            .expect("the body is complete")
            .to_bytes();
        let report = telemetry.force_flush().await;
        assert_eq!((body, report.timed_out), ("Ada".into(), false));
        assert_eq!(receiver.received().spans().len(), invocation);
    }
}
