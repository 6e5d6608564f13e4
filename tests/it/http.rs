//! Tests HTTP server spans and metrics over real connections.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, Version};
use axum::routing::{any, get};
use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::trace::Sampler;

use crate::support::{
    Point, Server, TRACE_ID, TRACEPARENT, TestTelemetry, Value, attributes, send, span_attributes,
};

fn app(telemetry: &TestTelemetry) -> Router {
    let nested = Router::new().route("/{item}", get(async || "nested"));
    Router::new()
        .route("/users/{id}", get(async || "Ada"))
        .route("/any", any(async || "any"))
        .route("/status/{code}", get(status))
        .nest("/nested/{list}", nested)
        .layer(telemetry.layer())
}

async fn status(axum::extract::Path(code): axum::extract::Path<u16>) -> StatusCode {
    StatusCode::from_u16(code).expect("the code is a status")
}

fn get_request(server: &Server, path: &str) -> axum::http::request::Builder {
    Request::get(format!("http://{}{path}", server.address))
}

#[tokio::test]
async fn a_request_becomes_one_span_with_the_attributes_of_the_conventions() {
    let telemetry = TestTelemetry::new();
    let server = Server::start(app(&telemetry)).await;
    let request = get_request(&server, "/users/42?page=1&sig=secret")
        .header("traceparent", TRACEPARENT)
        .header("tracestate", "vendor=1")
        .header("user-agent", "test/1.0")
        .body(Body::empty())
        .expect("a valid request");
    let response = send(Version::HTTP_11, request).await;
    assert_eq!(response.body(), "Ada");
    assert_eq!(response.headers()["x-trace-id"], TRACE_ID);

    let span = telemetry.only_span().await;
    assert_eq!(span.name, "GET /users/{id}");
    assert_eq!(span.span_kind, SpanKind::Server);
    assert_eq!(span.status, Status::Unset);
    assert_eq!(span.span_context.trace_id().to_string(), TRACE_ID);
    assert_eq!(span.span_context.trace_state().header(), "vendor=1");
    assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
    assert!(span.parent_span_is_remote);
    assert!(span.events.is_empty() && span.links.is_empty());
    let scope = &span.instrumentation_scope;
    assert_eq!(scope.name(), "tower-telemetry");
    assert_eq!(scope.version(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(
        scope.schema_url(),
        Some("https://opentelemetry.io/schemas/1.45.0")
    );

    let mut found = span_attributes(&span);
    let port = found
        .remove("network.peer.port")
        .expect("the attribute is set");
    assert!(
        port.parse::<u16>()
            .is_ok_and(|port| port != server.address.port())
    );
    assert_eq!(
        found,
        attributes([
            ("client.address", "127.0.0.1"),
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("http.route", "/users/{id}"),
            ("network.peer.address", "127.0.0.1"),
            ("network.protocol.version", "1.1"),
            ("server.address", "127.0.0.1"),
            ("server.port", &server.address.port().to_string()),
            ("url.path", "/users/42"),
            ("url.query", "page=1&sig=REDACTED"),
            ("url.scheme", "http"),
            ("user_agent.original", "test/1.0"),
        ])
    );
}

#[tokio::test]
async fn a_request_is_measured_in_both_sets_of_metrics() {
    let telemetry = TestTelemetry::new();
    let server = Server::start(app(&telemetry)).await;
    let request = get_request(&server, "/users/42").body(Body::empty());
    send(Version::HTTP_11, request.expect("a valid request")).await;
    let span = telemetry.only_span().await;

    let short = attributes([
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.route", "/users/{id}"),
    ]);
    let conventions = attributes([
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.route", "/users/{id}"),
        ("network.protocol.version", "1.1"),
        ("url.scheme", "http"),
    ]);
    let seconds = span
        .end_time
        .duration_since(span.start_time)
        .expect("time goes forward")
        .as_secs_f64();
    let buckets = vec![
        0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    ];
    let milliseconds = buckets.iter().map(|bound| bound * 1000.0).collect();

    assert_eq!(
        telemetry.point("http.requests"),
        Point {
            attributes: short.clone(),
            value: Value::Count(1)
        }
    );
    assert_eq!(
        telemetry.point("http.duration"),
        Point {
            attributes: short,
            value: Value::Histogram {
                count: 1,
                sum: seconds * 1000.0,
                bounds: milliseconds,
            }
        }
    );
    assert_eq!(
        telemetry.point("http.server.request.duration"),
        Point {
            attributes: conventions,
            value: Value::Histogram {
                count: 1,
                sum: seconds,
                bounds: buckets,
            }
        }
    );
    assert_eq!(
        telemetry.point("http.server.active_requests"),
        Point {
            attributes: attributes([("http.request.method", "GET"), ("url.scheme", "http")]),
            value: Value::Sum(0),
        }
    );

    let metrics = telemetry.metrics();
    let units = metrics
        .values()
        .map(|metric| (metric.name.as_str(), metric.unit.as_str()));
    assert_eq!(
        units.collect::<Vec<_>>(),
        [
            ("http.duration", "ms"),
            ("http.requests", "{request}"),
            ("http.server.active_requests", "{request}"),
            ("http.server.request.duration", "s"),
        ]
    );
    for metric in metrics.values() {
        assert_eq!(metric.scope, span.instrumentation_scope);
    }
}

#[tokio::test]
async fn over_http_2_the_version_and_the_authority_are_recorded() {
    let telemetry = TestTelemetry::new();
    let server = Server::start(app(&telemetry)).await;
    let request = get_request(&server, "/users/42").body(Body::empty());
    send(Version::HTTP_2, request.expect("a valid request")).await;

    let found = span_attributes(&telemetry.only_span().await);
    assert_eq!(found["network.protocol.version"], "2");
    assert_eq!(found["server.address"], "127.0.0.1");
    assert_eq!(found["server.port"], server.address.port().to_string());
    assert_eq!(found["url.scheme"], "http");
}

#[tokio::test]
async fn a_route_is_recorded_as_the_router_names_it_or_not_at_all() {
    for (method, path, name, route) in [
        ("GET", "/users/42", "GET /users/{id}", Some("/users/{id}")),
        (
            "GET",
            "/nested/1/2",
            "GET /nested/{list}/{item}",
            Some("/nested/{list}/{item}"),
        ),
        ("GET", "/nowhere", "GET", None),
        ("PURGE", "/any", "HTTP /any", Some("/any")),
        ("get", "/any", "HTTP /any", Some("/any")),
    ] {
        let telemetry = TestTelemetry::new();
        let server = Server::start(app(&telemetry)).await;
        let request = get_request(&server, path)
            .method(method)
            .body(Body::empty());
        send(Version::HTTP_11, request.expect("a valid request")).await;

        let span = telemetry.only_span().await;
        let found = span_attributes(&span);
        assert_eq!(span.name, name, "{method} {path}");
        assert_eq!(found.get("http.route").map(String::as_str), route);
        if name.starts_with("HTTP") {
            assert_eq!(found["http.request.method"], "_OTHER");
            assert_eq!(found["http.request.method_original"], method);
            let point = telemetry.point("http.requests");
            assert_eq!(point.attributes["http.request.method"], "_OTHER");
            assert!(
                !point
                    .attributes
                    .contains_key("http.request.method_original")
            );
        } else {
            assert!(!found.contains_key("http.request.method_original"));
        }
    }
}

#[tokio::test]
async fn only_a_server_error_status_is_an_error() {
    for (code, status, error) in [
        ("204", Status::Unset, None),
        ("302", Status::Unset, None),
        ("404", Status::Unset, None),
        ("499", Status::Unset, None),
        ("500", Status::error(""), Some("500")),
        ("503", Status::error(""), Some("503")),
        ("599", Status::error(""), Some("599")),
        ("666", Status::error(""), Some("_OTHER")),
    ] {
        let telemetry = TestTelemetry::new();
        let server = Server::start(app(&telemetry)).await;
        let request = get_request(&server, &format!("/status/{code}")).body(Body::empty());
        send(Version::HTTP_11, request.expect("a valid request")).await;

        let span = telemetry.only_span().await;
        let found = span_attributes(&span);
        assert_eq!(span.status, status, "{code}");
        assert_eq!(found["http.response.status_code"], code);
        assert_eq!(found.get("error.type").map(String::as_str), error, "{code}");
        for metric in [
            "http.requests",
            "http.duration",
            "http.server.request.duration",
        ] {
            let found = telemetry.point(metric).attributes;
            let status = found.get("http.response.status_code").map(String::as_str);
            assert_eq!(status, (code != "666").then_some(code), "{metric}");
            assert_eq!(
                found.get("error.type").map(String::as_str),
                error,
                "{metric}"
            );
        }
    }
}

#[tokio::test]
async fn a_request_without_a_valid_parent_starts_a_trace_and_the_response_names_it() {
    for traceparent in [
        None,
        Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1"),
    ] {
        let telemetry = TestTelemetry::new();
        let server = Server::start(app(&telemetry)).await;
        let mut request = get_request(&server, "/users/42");
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        let request = request.body(Body::empty()).expect("a valid request");
        let response = send(Version::HTTP_11, request).await;

        let span = telemetry.only_span().await;
        let trace_id = span.span_context.trace_id().to_string();
        assert_ne!(trace_id, TRACE_ID);
        assert_eq!(response.headers()["x-trace-id"], trace_id);
        assert_eq!(response.headers().get_all("x-trace-id").iter().count(), 1);
        assert_eq!(span.parent_span_id.to_string(), "0000000000000000");
    }
}

#[tokio::test]
async fn an_unsampled_request_is_measured_and_has_a_trace_id() {
    let telemetry = TestTelemetry::with_sampler(Sampler::AlwaysOff);
    let server = Server::start(app(&telemetry)).await;
    let request = get_request(&server, "/users/42").header("traceparent", TRACEPARENT);
    let request = request.body(Body::empty()).expect("a valid request");
    let response = send(Version::HTTP_11, request).await;

    assert_eq!(response.headers()["x-trace-id"], TRACE_ID);
    assert_eq!(telemetry.point("http.requests").value, Value::Count(1));
    assert_eq!(telemetry.spans().len(), 0);
}

#[tokio::test]
async fn the_layer_can_be_applied_to_a_single_route() {
    let telemetry = TestTelemetry::new();
    let with = get(async || "with").layer(telemetry.layer());
    let app = Router::new()
        .route("/with/{id}", with)
        .route("/without", get(async || "without"));
    let server = Server::start(app).await;
    for path in ["/with/1", "/without"] {
        let request = get_request(&server, path).body(Body::empty());
        send(Version::HTTP_11, request.expect("a valid request")).await;
    }
    assert_eq!(telemetry.only_span().await.name, "GET /with/{id}");
}
