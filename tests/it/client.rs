//! Tests outgoing requests: whole spans, exact metric points, and the context they carry, to real
//! servers and to servers that do not answer.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{any, get};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::context::FutureExt;
use opentelemetry::trace::{SpanId, SpanKind, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use tower::retry::Policy;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_telemetry::{
    AttemptsLayer, ClientTelemetryLayer, async_with_tracer,
    layers::{ClientTelemetry, MetricSet},
};

use crate::support::refused::RefusedPort;
use crate::support::{
    Attributes, Server, TestTelemetry, Value, attributes, span_attributes, tree, within_deadline,
};

type HyperClient = Client<HttpConnector, Empty<Bytes>>;

fn hyper() -> HyperClient {
    Client::builder(TokioExecutor::new()).build_http()
}

fn client(telemetry: &TestTelemetry) -> ClientTelemetry<HyperClient> {
    telemetry.client_layer().layer(hyper())
}

fn request(uri: impl AsRef<str>) -> Request<Empty<Bytes>> {
    let request = Request::get(uri.as_ref()).body(Empty::new());
    request.expect("a valid request")
}

/// Sends a request and reads its response.
async fn send<S, B>(service: S, request: Request<Empty<Bytes>>) -> Response<Bytes>
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>>,
    S::Error: std::fmt::Debug,
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let response = within_deadline("a response", service.oneshot(request)).await;
    let (head, body) = response.expect("the server responds").into_parts();
    let body = within_deadline("the body of the response", body.collect()).await;
    Response::from_parts(head, body.expect("the body is complete").to_bytes())
}

/// Returns the context headers of the request, one per line.
async fn echo(headers: HeaderMap) -> String {
    let context = ["traceparent", "tracestate", "baggage", "b3"];
    let lines = headers
        .iter()
        .filter(|(name, _)| context.contains(&name.as_str()));
    let lines = lines.map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap_or("?")));
    lines.collect()
}

fn app() -> Router {
    Router::new()
        .route("/echo", any(echo))
        .route("/status/{code}", any(status))
        .route("/large", get(async || "x".repeat(100_000)))
        .route("/never", get(async || std::future::pending::<()>().await))
        .route(
            "/moved",
            get(async || axum::response::Redirect::to("/echo")),
        )
}

async fn status(axum::extract::Path(code): axum::extract::Path<u16>) -> StatusCode {
    StatusCode::from_u16(code).expect("a legal status")
}

/// Returns the attributes of a `GET` span for a path of the server.
fn expected(server: &Server, path: &str, more: &[(&str, &str)]) -> Attributes {
    let mut all = attributes([
        ("http.request.method", "GET"),
        ("server.address", "127.0.0.1"),
        ("server.port", &server.address.port().to_string()),
        ("url.full", &format!("http://{}{path}", server.address)),
    ]);
    all.extend(
        more.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    );
    if all.contains_key("http.response.status_code") {
        all.extend(peer_of("127.0.0.1", server.address.port()));
    }
    all
}

/// Returns the attributes of the connection that a response arrived on.
fn peer_of(address: &str, port: u16) -> Attributes {
    attributes([
        ("network.peer.address", address),
        ("network.peer.port", &port.to_string()),
    ])
}

/// Returns the attributes of the metric point of such a request.
fn expected_point(server: &Server, more: &[(&str, &str)]) -> Attributes {
    let mut all = expected(server, "", more);
    all.retain(|key, _| key != "url.full" && !key.starts_with("network.peer."));
    all
}

#[tokio::test]
async fn a_request_is_a_client_span_below_the_current_one_and_the_server_gets_its_context() {
    let telemetry = TestTelemetry::new();
    let server = Server::start(app()).await;
    let uri = format!("http://{}/echo?q=1&sig=secret", server.address);
    // Context headers copied from another request must not be sent.
    let mut copied = request(&uri);
    for (name, value) in [
        (
            "traceparent",
            "00-11111111111111111111111111111111-2222222222222222-01",
        ),
        ("tracestate", "stale=1"),
        ("baggage", "stale=1"),
    ] {
        let value = value.parse().expect("a legal value");
        copied.headers_mut().insert(name, value);
    }
    let cx = Context::new().with_baggage([KeyValue::new("secret", "canary")]);
    let handler = async {
        let client = client(&telemetry);
        async_with_tracer("test", "handler", send(client, copied)).await
    };
    // The span around sets the providers of the test, as in a request.
    let response = handler.with_context(cx).await;

    let span = telemetry.only_span().await;
    assert_eq!((&*span.name, &span.span_kind), ("GET", &SpanKind::Client));
    assert_eq!(span.status, Status::Unset);
    let more = [
        ("http.response.status_code", "200"),
        ("network.protocol.version", "1.1"),
    ];
    let path = "/echo?q=1&sig=REDACTED";
    assert_eq!(span_attributes(&span), expected(&server, path, &more));
    assert_eq!(
        response.body(),
        &format!(
            "traceparent: 00-{}-{}-01\n",
            span.span_context.trace_id(),
            span.span_context.span_id()
        )
    );

    let seconds = span.end_time.duration_since(span.start_time);
    let seconds = seconds.expect("time goes forward").as_secs_f64();
    let point = telemetry.point("http.client.request.duration");
    assert_eq!(point.attributes, expected_point(&server, &more));
    let Value::Histogram { count, sum, bounds } = point.value else {
        panic!("the duration is a histogram");
    };
    assert_eq!((count, bounds[0]), (1, 0.005));
    assert!((sum - seconds).abs() < 1e-6);
    let active = telemetry.point("http.client.active_requests");
    assert_eq!(active.attributes, expected_point(&server, &[]));
    assert_eq!(active.value, Value::Sum(0));
    let names: Vec<_> = telemetry.metrics().into_keys().collect();
    assert_eq!(
        names,
        [
            "http.client.active_requests",
            "http.client.request.duration"
        ]
    );
}

#[tokio::test]
async fn a_request_of_a_handler_is_a_child_of_the_incoming_request() {
    let telemetry = TestTelemetry::new();
    let inner = Server::start(app().layer(telemetry.layer())).await;
    let uri = format!("http://{}/echo", inner.address);
    let client = client(&telemetry);
    let outer = Router::new().route(
        "/proxy",
        get(async move || send(client, request(uri)).await.into_body()),
    );
    let outer = Server::start(outer.layer(telemetry.layer())).await;
    let uri = format!("http://{}/proxy", outer.address);
    send(hyper(), request(uri)).await;
    let spans = telemetry.wait_for_spans(3).await;
    assert_eq!(tree(&spans), ["GET /proxy", "  GET", "    GET /echo"]);
    let kinds: Vec<_> = spans.iter().map(|span| span.span_kind.clone()).collect();
    assert_eq!(
        kinds,
        [SpanKind::Server, SpanKind::Client, SpanKind::Server]
    );
}

#[tokio::test]
async fn a_status_of_400_or_more_is_a_client_error() {
    for (code, error) in [(304, None), (404, Some("404")), (503, Some("503"))] {
        let telemetry = TestTelemetry::new();
        let server = Server::start(app()).await;
        let path = format!("/status/{code}");
        let uri = format!("http://{}{path}", server.address);
        send(client(&telemetry), request(uri)).await;
        let span = telemetry.only_span().await;
        let code = code.to_string();
        let mut more = vec![
            ("http.response.status_code", &*code),
            ("network.protocol.version", "1.1"),
        ];
        more.extend(error.map(|error| ("error.type", error)));
        assert_eq!(span_attributes(&span), expected(&server, &path, &more));
        let status = error.map_or(Status::Unset, |_| Status::error(""));
        assert_eq!(span.status, status);
        let point = telemetry.point("http.client.request.duration");
        assert_eq!(point.attributes, expected_point(&server, &more));
    }
}

/// Checks all telemetry of a request that gets no response.
async fn failed(telemetry: &TestTelemetry, uri: &str, error_type: &str, message: &str) {
    let span = telemetry.only_span().await;
    let Status::Error { description } = &span.status else {
        panic!("{:?}", span.status);
    };
    assert!(description.starts_with(message), "{description}");
    let more = [("error.type", error_type)];
    ended(telemetry, uri, span.status.clone(), &more).await;
}

/// Checks all telemetry of one request.
async fn ended(telemetry: &TestTelemetry, uri: &str, status: Status, more: &[(&str, &str)]) {
    let parts: http::Uri = uri.parse().expect("a valid URI");
    let port = match parts.scheme_str() {
        Some("https") => 443,
        _ => 80,
    };
    let mut expected = attributes([
        ("http.request.method", "GET"),
        ("server.address", parts.host().expect("the URI has a host")),
        ("server.port", &parts.port_u16().unwrap_or(port).to_string()),
        ("url.full", uri),
    ]);
    let more = more.iter();
    expected.extend(more.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    if let (Some(_), Some(port)) = (expected.get("http.response.status_code"), parts.port_u16()) {
        expected.extend(peer_of("127.0.0.1", port));
    }
    let span = telemetry.only_span().await;
    assert_eq!((&*span.name, &span.span_kind), ("GET", &SpanKind::Client));
    assert_eq!(span_attributes(&span), expected);
    assert_eq!(span.status, status);
    expected.retain(|key, _| key != "url.full" && !key.starts_with("network.peer."));
    let point = telemetry.point("http.client.request.duration");
    assert_eq!(point.attributes, expected);
    assert_eq!(point.value.histogram().0, 1);
    assert_eq!(telemetry.sum("http.client.active_requests"), 0);
}

#[tokio::test]
async fn an_unreachable_server_is_a_client_error() {
    let port = RefusedPort::reserve();
    let refused = port.address();
    for (uri, error, message) in [
        (
            format!("http://{refused}/"),
            "connection_refused",
            "client error (Connect): tcp connect error: ",
        ),
        // A name this long is invalid, so no DNS server is asked.
        (
            format!("http://{}/", "a".repeat(64)),
            "dns",
            "client error (Connect): dns error: ",
        ),
    ] {
        let telemetry = TestTelemetry::new();
        let result = client(&telemetry).oneshot(request(&uri)).await;
        assert!(result.is_err());
        failed(&telemetry, &uri, error, message).await;
    }
}

#[tokio::test]
async fn a_connection_reset_is_an_error_before_the_head_and_in_the_body() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    for (answer, status) in [
        ("", None),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello",
            Some("200"),
        ),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback has free ports");
        let address = listener.local_addr().expect("the socket is bound");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client connects");
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.set_zero_linger();
        });
        let telemetry = TestTelemetry::new();
        let uri = format!("http://{address}/");
        let result = client(&telemetry).oneshot(request(&uri)).await;
        match (result, status) {
            (Err(_), None) => {
                let message = "client error (SendRequest): connection error: ";
                failed(&telemetry, &uri, "connection_reset", message).await;
            }
            (Ok(response), Some(code)) => {
                assert!(response.into_body().collect().await.is_err());
                let more = [
                    ("error.type", "connection_reset"),
                    ("http.response.status_code", code),
                    ("network.protocol.version", "1.1"),
                ];
                let status = telemetry.only_span().await.status;
                let Status::Error { description } = &status else {
                    panic!("{status:?}");
                };
                let message = "error reading a body from connection: ";
                assert!(description.starts_with(message), "{description}");
                ended(&telemetry, &uri, status, &more).await;
            }
            (result, _) => panic!("{result:?}"),
        }
    }
}

#[tokio::test]
async fn a_request_that_the_caller_drops_is_not_an_error() {
    let server = Server::start(app()).await;
    // Dropped before the head.
    let telemetry = TestTelemetry::new();
    let uri = format!("http://{}/never", server.address);
    let sent = client(&telemetry).oneshot(request(&uri));
    let timeout = tokio::time::timeout(Duration::from_millis(50), sent);
    assert!(timeout.await.is_err());
    ended(&telemetry, &uri, Status::Unset, &[]).await;

    // Dropped while the body is read. A failed status stays an error.
    for (path, code, error) in [("/large", "200", None), ("/status/500", "500", Some("500"))] {
        let telemetry = TestTelemetry::new();
        let uri = format!("http://{}{path}", server.address);
        let response = client(&telemetry).oneshot(request(&uri)).await;
        drop(response.expect("the server responds"));
        let mut more = vec![
            ("http.response.status_code", code),
            ("network.protocol.version", "1.1"),
        ];
        more.extend(error.map(|error| ("error.type", error)));
        let status = error.map_or(Status::Unset, |_| Status::error(""));
        ended(&telemetry, &uri, status, &more).await;
    }
}

#[tokio::test]
async fn a_timeout_below_the_layer_is_a_client_error() {
    let telemetry = TestTelemetry::new();
    let server = Server::start(app()).await;
    let service = ServiceBuilder::new()
        .layer(telemetry.client_layer())
        .timeout(Duration::from_millis(50))
        .service(hyper());
    let uri = format!("http://{}/never", server.address);
    let result = service.oneshot(request(&uri)).await;
    assert!(result.is_err());
    failed(&telemetry, &uri, "timeout", "request timed out").await;
}

/// Sends a failed request up to three times.
#[derive(Clone)]
struct ThreeTimes(u32);

impl<B, E> Policy<Request<Empty<Bytes>>, Response<B>, E> for ThreeTimes {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Empty<Bytes>>,
        result: &mut Result<Response<B>, E>,
    ) -> Option<Self::Future> {
        self.0 += 1;
        let failed = result
            .as_ref()
            .is_ok_and(|one| one.status().is_server_error());
        (failed && self.0 < 3).then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<Empty<Bytes>>) -> Option<Request<Empty<Bytes>>> {
        Some(request.clone())
    }
}

#[tokio::test]
async fn each_attempt_is_a_span_and_resends_are_counted() {
    let telemetry = TestTelemetry::new();
    let server = Server::start(app()).await;
    let mut service = ServiceBuilder::new()
        .layer(AttemptsLayer::new())
        .retry(ThreeTimes(0))
        .layer(telemetry.client_layer())
        .service(hyper());
    let uri = format!("http://{}/status/503", server.address);
    for _ in 0..2 {
        let response = service.ready().await.expect("the service is ready");
        response
            .call(request(&uri))
            .await
            .expect("the server responds");
    }
    let spans = telemetry.wait_for_spans(6).await;
    let counts: Vec<_> = spans
        .iter()
        .map(|span| span_attributes(span).remove("http.request.resend_count"))
        .collect();
    let one_request = [None, Some("1".to_owned()), Some("2".to_owned())];
    assert_eq!(counts, [one_request.clone(), one_request].concat());
    let point = telemetry.point("http.client.request.duration");
    assert_eq!(point.value.histogram().0, 6);
}

#[tokio::test]
async fn each_redirect_hop_is_a_span_and_only_trace_targets_get_context() {
    let telemetry = TestTelemetry::new();
    let elsewhere = Server::start(app()).await;
    // The same machine by another name, which is not a trace target.
    let target = format!("http://127.0.0.1:{}/echo", elsewhere.address.port());
    let (sender, mut traceparents) = tokio::sync::mpsc::unbounded_channel();
    let moved = get(async move |headers: HeaderMap| {
        let _ = sender.send(headers.get("traceparent").cloned());
        axum::response::Redirect::temporary(&target)
    });
    let server = Server::start(Router::new().route("/away", moved)).await;
    let layer = telemetry.client_layer().with_trace_targets(["localhost"]);
    let client = layer.layer(hyper());
    let uri = format!("http://localhost:{}/away", server.address.port());
    let mut away = request(uri);
    let stale = "00-11111111111111111111111111111111-2222222222222222-01";
    let stale = stale.parse().expect("a legal value");
    away.headers_mut().insert("traceparent", stale);
    // As clients do, the next hop has all headers of the first.
    let (next_client, headers) = (client.clone(), away.headers().clone());
    let follow = client.and_then(async move |response: Response<_>| {
        let location = response.headers()["location"].to_str();
        let mut next = request(location.expect("a legal URL"));
        *next.headers_mut() = headers;
        next_client.oneshot(next).await
    });
    let response = send(follow, away).await;
    assert_eq!(response.body(), "");
    let spans = telemetry.wait_for_spans(2).await;
    let first = traceparents
        .recv()
        .await
        .flatten()
        .expect("the first server is a trace target");
    let first = first.to_str().expect("the text is UTF-8");
    assert_eq!(&first[36..52], spans[0].span_context.span_id().to_string());
    let hosts: Vec<_> = spans
        .iter()
        .map(|span| span_attributes(span).remove("server.address"))
        .collect();
    assert_eq!(
        hosts,
        [Some("localhost".to_owned()), Some("127.0.0.1".to_owned())]
    );
}

#[tokio::test]
async fn baggage_is_sent_only_to_baggage_targets() {
    let server = Server::start(app()).await;
    let uri = format!("http://{}/echo", server.address);
    for (targets, expected) in [
        (&[][..], false),
        (&["example.com"], false),
        (&["127.0.0.1"], true),
    ] {
        let telemetry = TestTelemetry::new();
        let layer = telemetry
            .client_layer()
            .with_baggage_targets(targets.iter().copied());
        let cx = Context::new().with_baggage([KeyValue::new("key", "a value, 100%")]);
        let service = layer.layer(hyper());
        let response = send(service, request(&uri)).with_context(cx).await;
        let text = String::from_utf8(response.into_body().into()).expect("the output is UTF-8");
        let found = text.contains("baggage: key=a%20value%2C%20100%25\n");
        assert_eq!(found, expected, "{text}");
        assert!(text.contains("traceparent: "));
    }
}

#[tokio::test]
async fn suppressed_or_filtered_requests_record_nothing() {
    let telemetry = TestTelemetry::new();
    let server = Server::start(app()).await;
    let uri = format!("http://{}/echo", server.address);
    let parent = Context::new().with_remote_span_context(opentelemetry::trace::SpanContext::new(
        opentelemetry::trace::TraceId::from_bytes([1; 16]),
        SpanId::from_bytes([2; 8]),
        opentelemetry::trace::TraceFlags::SAMPLED,
        true,
        Default::default(),
    ));
    let suppressed = parent.with_telemetry_suppressed();
    let response = send(client(&telemetry), request(&uri))
        .with_context(suppressed)
        .await;
    assert_eq!(response.body(), "", "a suppressed request sends no context");

    let layer = telemetry.client_layer().with_filter(|_| false);
    // Context headers of a copied request are not sent to a server that is not a trace target.
    let mut copied = request(&uri);
    for (name, value) in [("baggage", "a=1"), ("b3", "0"), ("tracestate", "a=1")] {
        let value = value.parse().expect("a legal value");
        copied.headers_mut().insert(name, value);
    }
    let targets = layer.clone().with_trace_targets(["example.com"]);
    let response = send(targets.layer(hyper()), copied).await;
    assert_eq!(response.body(), "");

    let service = layer.layer(hyper());
    let response = send(service, request(&uri)).with_context(parent).await;
    let passed_on = format!(
        "traceparent: 00-{}-{}-01\n",
        "01".repeat(16),
        "02".repeat(8)
    );
    assert_eq!(response.body(), &passed_on);
    assert!(telemetry.spans().is_empty());
    assert!(telemetry.metrics().is_empty());
}

#[tokio::test]
async fn a_panic_of_the_caller_is_not_an_error_of_the_request() {
    let telemetry = TestTelemetry::new();
    let server = Server::start(app()).await;
    let uri = format!("http://{}/large", server.address);
    let client = client(&telemetry);
    let sent = request(&uri);
    let task = tokio::spawn(async move {
        let _response = client.oneshot(sent).await.expect("the server responds");
        panic!("on purpose");
    });
    assert!(task.await.is_err());
    let more = [
        ("http.response.status_code", "200"),
        ("network.protocol.version", "1.1"),
    ];
    ended(&telemetry, &uri, Status::Unset, &more).await;
}

#[tokio::test]
async fn server_names_are_lowercased_and_the_version_is_taken_from_the_response() {
    let telemetry = TestTelemetry::new();
    let server = Server::start(app()).await;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    for host in ["localhost", "LocalHost"] {
        let uri = format!("http://{host}:{}/echo", server.address.port());
        let service = telemetry.client_layer().layer(client.clone());
        send(service, request(uri)).await;
    }
    let point = telemetry.point("http.client.request.duration");
    assert_eq!(point.value.histogram().0, 2);
    assert_eq!(point.attributes["server.address"], "localhost");
    assert_eq!(point.attributes["network.protocol.version"], "2");
}

#[tokio::test]
async fn a_relative_request_gets_the_server_that_is_configured_on_the_layer() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .client_layer()
        .with_server(http::Uri::from_static("https://users.internal:8443"))
        .with_trace_targets(["users.internal"]);
    let service = layer.layer(tower::service_fn(async |request: Request<Empty<Bytes>>| {
        assert!(request.headers().contains_key("traceparent"));
        Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let mut request = request("/users/42?q=1");
    // The `host` header may have been copied from an untrusted request.
    let host = "stranger.example".parse().expect("a legal value");
    request.headers_mut().insert("host", host);
    send(service, request).await;
    let found = span_attributes(&telemetry.only_span().await);
    assert_eq!(
        found["url.full"],
        "https://users.internal:8443/users/42?q=1"
    );
    assert_eq!(found["server.address"], "users.internal");
    assert_eq!(found["server.port"], "8443");
}

#[tokio::test]
async fn a_response_of_a_gateway_without_grpc_is_an_error_of_the_call() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    let telemetry = TestTelemetry::new();
    let gateway = Router::new().fallback(async || {
        let page = axum::response::Html("<html>Bad gateway</html>");
        (StatusCode::BAD_GATEWAY, page)
    });
    let server = Server::start(gateway).await;
    let uri: http::Uri = format!("http://{}", server.address)
        .parse()
        .expect("a valid URI");
    let channel = tonic::transport::Channel::builder(uri.clone()).connect_lazy();
    let layer = telemetry.client_layer().with_server(uri);
    // Generated clients name the method if the `tonic` feature is on. Otherwise it has to be configured.
    let layer = if cfg!(feature = "tonic") {
        layer
    } else {
        layer.with_grpc_methods(["grpc.health.v1.Health/Check"])
    };
    let mut client = HealthClient::new(layer.layer(channel));
    assert!(client.check(HealthCheckRequest::default()).await.is_err());
    let span = telemetry.only_span().await;
    assert_eq!(span.name, "grpc.health.v1.Health/Check");
    assert_eq!(span.status, Status::error(""));
    let found = span_attributes(&span);
    assert_eq!(found["rpc.status_code"], "UNAVAILABLE");
    assert_eq!(found["error.type"], "UNAVAILABLE");
}

#[tokio::test]
async fn hooks_and_captured_headers_add_attributes_and_handler_attributes_stay_on_the_server_span()
{
    let telemetry = TestTelemetry::new();
    let server = Server::start(app()).await;
    let uri = format!("http://{}/echo", server.address);
    let layer = telemetry
        .client_layer()
        .with_span_name(|request| Some(format!("call {}", request.uri.path()).into()))
        .with_captured_response_headers([http::header::CONTENT_TYPE])
        .with_request_attributes(|_, attributes| {
            attributes.add_to_metrics(KeyValue::new("upstream", "users"));
            attributes.add_to_span(KeyValue::new("attempt.id", "7"));
        })
        .with_response_attributes(|response, attributes| {
            let length = !response.headers.is_empty();
            attributes.add_to_metrics(KeyValue::new("has.headers", length));
        });
    let client = layer.layer(hyper());
    let handler = Router::new().route(
        "/handler",
        get(async move || {
            tower_telemetry::add_request_attributes([KeyValue::new("user.plan", "free")]);
            send(client, request(uri)).await.into_body()
        }),
    );
    let outer = Server::start(handler.layer(telemetry.layer())).await;
    let uri = format!("http://{}/handler", outer.address);
    send(hyper(), request(uri)).await;
    let spans = telemetry.wait_for_spans(2).await;
    let found = span_attributes(&spans[0]);
    assert_eq!(spans[0].name, "call /echo");
    assert_eq!((&*found["upstream"], &*found["attempt.id"]), ("users", "7"));
    assert!(found["http.response.header.content-type"].contains("text/plain"));
    assert!(!found.contains_key("user.plan"));
    let point = telemetry.point("http.client.request.duration");
    assert_eq!(point.attributes["upstream"], "users");
    assert_eq!(point.attributes["has.headers"], "true");
    assert!(!point.attributes.contains_key("attempt.id"));
    let point = telemetry.point("http.server.request.duration");
    assert_eq!(point.attributes["user.plan"], "free");
    assert!(!point.attributes.contains_key("upstream"));
}

#[tokio::test]
async fn attempts_are_counted_whether_sampled_or_not() {
    let telemetry = TestTelemetry::with_sampler(opentelemetry_sdk::trace::Sampler::AlwaysOff);
    let sampled = TestTelemetry::new();
    let server = Server::start(app()).await;
    let (first, second) = (client(&telemetry), client(&sampled));
    let uri = format!("http://{}/echo", server.address);
    // The second attempt has another sampling decision. Attempts without a parent are decided on separately.
    let both = tower::service_fn(move |request: Request<Empty<Bytes>>| {
        let (first, second, again) = (first.clone(), second.clone(), request.clone());
        async move {
            first.oneshot(request).await?;
            second.oneshot(again).await
        }
    });
    send(AttemptsLayer::new().layer(both), request(uri)).await;
    let span = sampled.only_span().await;
    assert_eq!(span_attributes(&span)["http.request.resend_count"], "1");
}

#[tokio::test]
async fn body_sizes_are_measured_and_metric_sets_can_be_chosen() {
    use http_body_util::Full;

    let telemetry = TestTelemetry::new();
    let app = Router::new().route("/count", any(async |body: Bytes| body.len().to_string()));
    let server = Server::start(app).await;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let service = ServiceBuilder::new()
        .layer(
            telemetry
                .client_layer()
                .with_metrics([MetricSet::BodySizes]),
        )
        .layer(tower_telemetry::RequestBodySizeLayer::new())
        .service(client);
    let request = Request::post(format!("http://{}/count", server.address))
        .body(Full::new(Bytes::from(vec![0; 1234])));
    let request = request.expect("a valid request");
    let response = service.oneshot(request).await.expect("the server responds");
    let body = response
        .into_body()
        .collect()
        .await
        .expect("the body is complete");
    assert_eq!(body.to_bytes(), "1234");
    for (name, size) in [("request", 1234.0), ("response", 4.0)] {
        let point = telemetry.point(&format!("http.client.{name}.body.size"));
        assert_eq!(point.value.histogram(), (1, size));
    }
    assert_eq!(telemetry.metrics().len(), 2);
}

#[tokio::test]
async fn a_call_through_a_tonic_channel_and_its_server_share_a_trace() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    let telemetry = TestTelemetry::new();
    let (reporter, health) = tonic_health::server::health_reporter();
    let serving = tonic_health::ServingStatus::Serving;
    reporter.set_service_status("known", serving).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("loopback has free ports");
    let address = listener.local_addr().expect("the socket is bound");
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder()
        .layer(telemetry.layer())
        .add_service(health)
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    let uri: http::Uri = format!("http://{address}").parse().expect("a valid URI");
    let channel = tonic::transport::Channel::builder(uri.clone()).connect_lazy();
    let layer = telemetry.client_layer().with_server(uri);
    let mut client = HealthClient::new(layer.layer(channel));
    let port = address.port().to_string();
    for (service, code) in [("known", "OK"), ("unknown", "NOT_FOUND")] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        assert_eq!(client.check(request).await.is_ok(), code == "OK");
        let method = "grpc.health.v1.Health/Check";
        crate::support::eventually("both spans have ended", || {
            telemetry.spans().len().is_multiple_of(2)
        })
        .await;
        let mut spans = telemetry.spans();
        let (last, before) = (
            spans.pop().expect("there are two spans"),
            spans.pop().expect("there are two spans"),
        );
        let (server, client) = if last.span_kind == SpanKind::Client {
            (before, last)
        } else {
            (last, before)
        };
        assert_eq!(
            (&*client.name, &client.span_kind),
            (method, &SpanKind::Client)
        );
        assert_eq!(server.parent_span_id, client.span_context.span_id());
        assert_eq!(
            server.span_context.trace_id(),
            client.span_context.trace_id()
        );
        let mut expected = attributes([
            ("rpc.system.name", "grpc"),
            ("rpc.method", method),
            ("rpc.status_code", code),
            ("server.address", "127.0.0.1"),
            ("server.port", &port),
        ]);
        if code != "OK" {
            // NOT_FOUND is no error of the server.
            assert_eq!(server.status, Status::Unset);
            assert_eq!(client.status, Status::error("service not registered"));
            expected.insert("error.type".to_owned(), code.to_owned());
        }
        assert_eq!(span_attributes(&client), expected);
        let points = telemetry.points("rpc.client.call.duration");
        assert!(points.iter().any(|point| point.attributes == expected));
    }
    let metrics = telemetry.metrics();
    let client_metrics = metrics.keys().filter(|name| name.contains(".client."));
    assert_eq!(
        client_metrics.collect::<Vec<_>>(),
        ["rpc.client.call.duration"]
    );
}

#[test]
fn the_service_is_send_sync_and_clone_like_its_inner_service() {
    fn is_free<T: Send + Sync + Clone>() {}
    is_free::<ClientTelemetryLayer>();
    is_free::<ClientTelemetry<HyperClient>>();
    let _ = Body::empty();
}

#[cfg(feature = "reqwest")]
#[tokio::test]
async fn a_reqwest_client_is_traced_with_one_more_line() {
    let telemetry = TestTelemetry::new();
    let server = Server::start(app()).await;
    let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
        .with(telemetry.client_layer())
        .build();
    let url = |path: &str| format!("http://{}{path}", server.address);
    let response = client
        .get(url("/echo"))
        .send()
        .await
        .expect("the server responds");
    assert_eq!(response.remote_addr(), Some(server.address));
    let body = response.text().await.expect("the text is UTF-8");
    let span = telemetry.only_span().await;
    let more = [
        ("http.response.status_code", "200"),
        ("network.protocol.version", "1.1"),
    ];
    assert_eq!(span_attributes(&span), expected(&server, "/echo", &more));
    assert_eq!(
        body,
        format!(
            "traceparent: 00-{}-{}-01\n",
            span.span_context.trace_id(),
            span.span_context.span_id()
        )
    );
    assert_eq!(
        telemetry.point("http.client.request.duration").attributes,
        expected_point(&server, &more)
    );

    // All hops of a redirect are one span, and the response keeps its URL.
    let response = client
        .get(url("/moved"))
        .send()
        .await
        .expect("the server responds");
    assert_eq!(response.url().as_str(), url("/echo"));
    drop(response);
    let spans = telemetry.wait_for_spans(2).await;
    assert_eq!(span_attributes(&spans[1])["url.full"], url("/moved"));

    let port = RefusedPort::reserve();
    let refused = client
        .get(format!("http://{}/", port.address()))
        .send()
        .await;
    assert!(refused.is_err());
    let spans = telemetry.wait_for_spans(3).await;
    let error = "connection_refused";
    assert_eq!(span_attributes(&spans[2])["error.type"], error);
    let Status::Error { description } = &spans[2].status else {
        panic!("{:?}", spans[2].status);
    };
    let url = format!("http://{}", port.address());
    let message = format!("error sending request for url ({url}/): client error (Connect): ");
    assert!(description.starts_with(&message), "{description}");
}

/// Sends each `reqwest` request twice.
#[cfg(feature = "reqwest")]
struct Twice;

#[cfg(feature = "reqwest")]
#[async_trait::async_trait]
impl reqwest_middleware::Middleware for Twice {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut http::Extensions,
        next: reqwest_middleware::Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let again = request
            .try_clone()
            .expect("a request without a body can be cloned");
        next.clone().run(request, extensions).await?;
        next.run(again, extensions).await
    }
}

#[cfg(feature = "reqwest")]
#[tokio::test]
async fn attempts_of_a_reqwest_retry_middleware_are_counted() {
    let telemetry = TestTelemetry::new();
    let server = Server::start(app()).await;
    let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
        .with(Twice)
        .with(telemetry.client_layer())
        .build();
    let url = format!("http://{}/echo", server.address);
    client.get(url).send().await.expect("the server responds");
    let spans = telemetry.wait_for_spans(2).await;
    let count = |span| span_attributes(span).remove("http.request.resend_count");
    assert_eq!(count(&spans[0]), None);
    assert_eq!(count(&spans[1]).as_deref(), Some("1"));
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_a_client_error() {
    let server = Server::start(app()).await;
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("the protocol versions are supported")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let connector = hyper_rustls::HttpsConnector::from((tcp, config));
    let telemetry = TestTelemetry::new();
    let https = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector);
    let service = telemetry.client_layer().layer(https);
    let uri = format!("https://{}/echo", server.address);
    assert!(service.oneshot(request(&uri)).await.is_err());
    let message = "client error (Connect): ";
    failed(&telemetry, &uri, "tls", message).await;
}
