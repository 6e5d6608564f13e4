//! Runs the example with its own pipeline as a user does, without the default features.

use axum::body::Body;
use axum::http::{Request, Version};

use crate::support::process::Process;
use crate::support::receiver::{Receiver, attributes_of};
use crate::support::{TRACE_ID, TRACEPARENT, send};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_service_with_its_own_providers_exports_all_signals_of_a_request_through_them() {
    let receiver = Receiver::start();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*receiver.endpoint()),
        ("OTEL_SERVICE_NAME", "users"),
    ];
    let mut server = Process::example_with("own_pipeline", "axum", &variables);
    let request = Request::get(format!("{}/users/42", server.url()))
        .header("traceparent", TRACEPARENT)
        .body(Body::empty());
    let response = send(Version::HTTP_11, request.expect("a valid request")).await;
    assert_eq!(response.body(), "Hello, Arthur!\n");
    assert_eq!(response.headers()["x-trace-id"], TRACE_ID);
    server.terminate();
    assert!(server.wait().success(), "{:#?}", server.lines());

    let received = receiver.received();
    let spans = received.spans();
    let named = |name: &str| {
        let span = spans.iter().find(|span| span.name == name);
        span.unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
    };
    assert_eq!(spans.len(), 2);
    let (request, load) = (named("GET /users/{id}"), named("load-user"));
    for (span, parent) in [
        (request, "b7ad6b7169203331"),
        (load, &hex(&request.span_id)),
    ] {
        assert_eq!(hex(&span.trace_id), TRACE_ID, "{}", span.name);
        assert_eq!(hex(&span.parent_span_id), parent, "{}", span.name);
    }
    let attributes = attributes_of(&request.attributes);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.route", "/users/{id}"),
        ("url.path", "/users/42"),
    ] {
        assert_eq!(attributes[key], value, "{key}");
    }

    for metric in [
        "http.requests",
        "http.server.request.duration",
        "users.loaded",
    ] {
        assert!(received.metric(metric).is_some(), "{metric}");
    }
    let records = received.log_records();
    let greeted = records.iter().find(|one| hex(&one.trace_id) == TRACE_ID);
    let greeted = greeted.expect("the log line of the handler was exported");
    assert_eq!(greeted.span_id, request.span_id);
    assert_eq!(attributes_of(&greeted.attributes)["user"], "42");

    let resources = [
        received.traces[0].resource_spans[0].resource.clone(),
        received.metrics[0].resource_metrics[0].resource.clone(),
        received.logs[0].resource_logs[0].resource.clone(),
    ];
    for resource in resources {
        let resource = attributes_of(&resource.expect("the resource is set").attributes);
        assert_eq!(resource["service.name"], "users");
    }
}
