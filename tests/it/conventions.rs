//! Compares the names in all telemetry with the names of the semantic conventions. The names come
//! from the JavaScript package, because the Rust crate has an older version.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::Full;
use opentelemetry::KeyValue;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_telemetry::{
    AttemptsLayer, RequestBodySizeLayer,
    layers::{ForwardedHeader, MetricSet},
    set_span_error,
};

use crate::export::config;
use crate::support::npm::install;
use crate::support::receiver::{Receiver, attributes_of};
use crate::support::{TestTelemetry, span_attributes};

const VERSION: &str = "1.45.0";

/// The names that this crate defines itself.
const OWN: [&str; 4] = [
    "function.duration",
    "http.duration",
    "http.requests",
    "process.executable.name",
];

/// Returns the names of the conventions, and whether each is deprecated.
fn published(folder: &std::path::Path) -> BTreeMap<String, bool> {
    let files = folder.join("node_modules/@opentelemetry/semantic-conventions/dist");
    let mut names = BTreeMap::new();
    for stability in ["stable", "experimental"] {
        for kind in ["attributes", "metrics", "events"] {
            let file = files.join(format!("{stability}_{kind}.d.cts"));
            let text = std::fs::read_to_string(file).expect("the package has this file");
            let mut is_deprecated = false;
            for line in text.lines() {
                if line.starts_with("/**") {
                    is_deprecated = false;
                } else if line.contains("@deprecated") {
                    is_deprecated = true;
                } else if let Some((_, name)) = line.split_once(": \"")
                    && line.starts_with("declare const ")
                {
                    let name = name.trim_end_matches("\";");
                    names.insert(name.to_owned(), is_deprecated);
                }
            }
        }
    }
    names
}

#[tower_telemetry::with_tracer("test", metrics)]
async fn fails() -> Result<(), std::io::Error> {
    let error = std::io::Error::other("on purpose");
    set_span_error(&error);
    Err(error)
}

async fn serve(telemetry: &TestTelemetry) {
    const CAPTURED: HeaderName = HeaderName::from_static("x-request-id");
    let layer = telemetry
        .layer()
        .with_metrics([
            MetricSet::Basic,
            MetricSet::Conventions,
            MetricSet::BodySizes,
        ])
        .with_trusted_proxies(1)
        .with_forwarded_headers([ForwardedHeader::Forwarded])
        .with_captured_request_headers([CAPTURED])
        .with_captured_response_headers([CAPTURED])
        .with_grpc_methods(["a.B/C"]);
    let handler = async |request: axum::extract::Request| {
        let is_call = request.headers().contains_key("content-type");
        // The size of a body is only measured while the body is read.
        let _ = axum::body::to_bytes(request.into_body(), 1024).await;
        let _ = fails().await;
        let mut response = Response::new(Body::from("answer"));
        let headers = response.headers_mut();
        headers.insert(CAPTURED, "1".parse().expect("a legal value"));
        if is_call {
            headers.insert("grpc-status", "13".parse().expect("a legal value"));
        } else {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
        }
        response
    };
    let app = axum::Router::new()
        .route("/a/{id}", axum::routing::any(handler))
        .fallback(handler)
        .layer(RequestBodySizeLayer::new())
        .layer(layer);
    for (method, path, is_call) in [
        ("BREW", "/a/1?q=1", false),
        ("GET", "/a/1", false),
        ("POST", "/a.B/C", true),
        ("POST", "/a.B/Unknown", true),
    ] {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "a.example:8080")
            .header("user-agent", "test/1")
            .header("forwarded", "for=192.0.2.7;proto=https;host=b.example:8443")
            .header(CAPTURED, "1");
        if is_call {
            request = request.header("content-type", "application/grpc");
        }
        let mut request = request.body(Body::from("body")).expect("a valid request");
        let peer = SocketAddr::from(([127, 0, 0, 1], 4711));
        request.extensions_mut().insert(ConnectInfo(peer));
        let response = app
            .clone()
            .oneshot(request)
            .await
            .expect("the service cannot fail");
        let _ = axum::body::to_bytes(response.into_body(), 1024).await;
    }
}

async fn call(telemetry: &TestTelemetry) {
    let mut client =
        telemetry
            .client_layer()
            .layer(service_fn(|request: Request<Full<Bytes>>| async move {
                let mut response = Response::new(Full::<Bytes>::from("answer"));
                if request.headers().contains_key("content-type") {
                    let unavailable = "14".parse().expect("a legal value");
                    response.headers_mut().insert("grpc-status", unavailable);
                } else {
                    *response.status_mut() = StatusCode::NOT_FOUND;
                }
                Ok::<_, Infallible>(response)
            }));
    // Sends each request twice.
    let twice = service_fn(move |request: Request<Full<Bytes>>| {
        let (first, second) = (client.call(request.clone()), client.call(request));
        async move {
            let _ = first.await;
            second.await
        }
    });
    let mut service = AttemptsLayer::new().layer(twice);
    for content_type in [None, Some("application/grpc")] {
        let mut request = Request::post("http://user:secret@a.example/b?q=1");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let request = request.body(Full::default()).expect("a valid request");
        service
            .call(request)
            .await
            .expect("the service cannot fail");
    }
}

/// Exports a span, a log line and a metric, and returns the keys of the exported resource.
async fn exported() -> BTreeSet<String> {
    let receiver = Receiver::start();
    let telemetry = config(&[("ENVIRONMENT", "staging")])
        .with_endpoint(receiver.endpoint())
        .with_service_version("1.0.0")
        .build()
        .expect("the configuration is valid");
    let layer = crate::export::layer(&telemetry);
    crate::support::send_through(&layer, crate::support::get("/")).await;
    telemetry.shutdown().await;
    let received = receiver.received();
    let schemas = received.traces[0].resource_spans[0].scope_spans[0]
        .schema_url
        .clone();
    assert_eq!(
        schemas,
        format!("https://opentelemetry.io/schemas/{VERSION}")
    );
    let resource = received.traces[0].resource_spans[0].resource.clone();
    let resource = attributes_of(&resource.expect("the resource is set").attributes);
    resource.into_keys().collect()
}

#[tokio::test]
async fn every_emitted_name_is_in_the_conventions_and_not_deprecated() {
    let package = format!("@opentelemetry/semantic-conventions@{VERSION}");
    let Some(folder) = install(&package) else {
        return;
    };
    let published = published(&folder);
    assert!(published.len() > 1000, "the package was read");
    assert!(
        published["rpc.response.status_code"],
        "rpc.response.status_code is deprecated"
    );

    let telemetry = TestTelemetry::new();
    serve(&telemetry).await;
    call(&telemetry).await;
    let mut names = exported().await;
    for span in telemetry.spans() {
        names.extend(span_attributes(&span).into_keys());
        for event in &span.events.events {
            names.insert(event.name.to_string());
            names.extend(
                event
                    .attributes
                    .iter()
                    .map(|one: &KeyValue| one.key.to_string()),
            );
        }
    }
    for (name, metric) in telemetry.metrics() {
        names.insert(name);
        names.extend(
            metric
                .points
                .into_iter()
                .flat_map(|point| point.attributes.into_keys()),
        );
    }
    // These names show that the list is not empty by mistake.
    for name in [
        "client.address",
        "code.function.name",
        "exception.type",
        "http.client.request.duration",
        "http.request.method_original",
        "http.request.resend_count",
        "http.server.request.body.size",
        "rpc.client.call.duration",
        "rpc.method_original",
        "rpc.status_code",
        "service.instance.id",
        "telemetry.distro.name",
        "url.full",
        "url.query",
        "user_agent.original",
    ] {
        assert!(names.contains(name), "{name} is not emitted: {names:?}");
    }
    let is_header = |name: &&String| {
        let name = name.as_str();
        name.starts_with("http.request.header.") || name.starts_with("http.response.header.")
    };
    let unknown: Vec<_> = names
        .iter()
        .filter(|name| !OWN.contains(&name.as_str()) && !is_header(name))
        .filter(|name| published.get(*name) != Some(&false))
        .collect();
    assert_eq!(unknown, Vec::<&String>::new(), "unknown or deprecated");
    let page = include_str!("../../docs/telemetry.md");
    let is_on_page = |name: &&String| page.contains(&format!("`{name}`"));
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !is_header(name) && !is_on_page(name))
        .collect();
    assert_eq!(missing, Vec::<&String>::new(), "not in docs/telemetry.md");
}
