//! Sends gRPC calls through the layer, with a real client and server.

use std::net::SocketAddr;

use opentelemetry::trace::{SpanKind, Status};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower_telemetry::TelemetryLayer;

use crate::support::{
    self, Point, TRACE_ID, TRACEPARENT, TestTelemetry, attributes, eventually, span_attributes,
    within_deadline,
};

async fn start(layer: TelemetryLayer) -> (SocketAddr, HealthClient<Channel>) {
    let (reporter, health) = tonic_health::server::health_reporter();
    let serving = tonic_health::ServingStatus::Serving;
    reporter.set_service_status("known", serving).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has free ports");
    let address = listener.local_addr().expect("the socket is bound");
    let server = Server::builder()
        .layer(layer)
        .add_service(health)
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    let channel = Channel::from_shared(format!("http://{address}")).expect("a valid address");
    let channel = channel.connect().await.expect("the server listens");
    (address, HealthClient::new(channel))
}

fn check(service: &str) -> tonic::Request<HealthCheckRequest> {
    let service = service.to_owned();
    let mut request = tonic::Request::new(HealthCheckRequest { service });
    let traceparent = TRACEPARENT.parse().expect("valid metadata");
    request.metadata_mut().insert("traceparent", traceparent);
    request
}

#[tokio::test]
async fn a_call_becomes_one_span_with_the_attributes_of_the_rpc_conventions() {
    let telemetry = TestTelemetry::new();
    let (address, mut client) = start(telemetry.layer()).await;
    let response = client
        .check(check("known"))
        .await
        .expect("the service is known");
    let metadata = response.metadata();
    assert_eq!(
        metadata.get("x-trace-id").map(|id| id.as_bytes()),
        Some(TRACE_ID.as_bytes())
    );

    let span = telemetry.only_span().await;
    assert_eq!(span.name, "grpc.health.v1.Health/Check");
    assert_eq!(span.span_kind, SpanKind::Server);
    assert_eq!(span.status, Status::Unset);
    assert_eq!(span.span_context.trace_id().to_string(), TRACE_ID);
    let mut found = span_attributes(&span);
    if cfg!(feature = "tonic") {
        assert_eq!(
            found.remove("network.peer.address").as_deref(),
            Some("127.0.0.1")
        );
        assert!(found.remove("network.peer.port").is_some());
    }
    assert_eq!(
        found,
        attributes([
            ("rpc.system.name", "grpc"),
            ("rpc.method", "grpc.health.v1.Health/Check"),
            ("rpc.status_code", "OK"),
            ("server.address", "127.0.0.1"),
            ("server.port", &address.port().to_string()),
        ])
    );
    let seconds = span.end_time.duration_since(span.start_time);
    let seconds = seconds.expect("time goes forward").as_secs_f64();
    let Point {
        attributes: found,
        value,
    } = telemetry.point("rpc.server.call.duration");
    assert_eq!(
        found,
        attributes([
            ("rpc.system.name", "grpc"),
            ("rpc.method", "grpc.health.v1.Health/Check"),
            ("rpc.status_code", "OK"),
        ])
    );
    assert_eq!(value.histogram(), (1, seconds));
    assert_eq!(
        telemetry.point("http.requests").attributes,
        attributes([
            ("http.request.method", "POST"),
            ("http.response.status_code", "200")
        ])
    );
    let metrics: Vec<_> = telemetry.metrics().into_keys().collect();
    assert_eq!(
        metrics,
        ["http.duration", "http.requests", "rpc.server.call.duration"]
    );
}

#[tokio::test]
async fn a_client_error_status_is_not_an_error_of_the_server() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .layer()
        .with_grpc_methods(["grpc.health.v1.Health/Check"]);
    let (_, mut client) = start(layer).await;
    let status = client
        .check(check("unknown"))
        .await
        .expect_err("the service is unknown");
    assert_eq!(status.code(), tonic::Code::NotFound);

    let span = telemetry.only_span().await;
    let found = span_attributes(&span);
    assert_eq!(span.name, "grpc.health.v1.Health/Check");
    assert_eq!(span.status, Status::Unset);
    assert_eq!(found["rpc.method"], "grpc.health.v1.Health/Check");
    assert_eq!(found["rpc.status_code"], "NOT_FOUND");
    assert!(!found.contains_key("error.type"));
}

#[tokio::test]
async fn methods_that_the_server_does_not_implement_share_one_name() {
    let telemetry = TestTelemetry::new();
    let (address, _client) = start(telemetry.layer()).await;
    let channel = Channel::from_shared(format!("http://{address}")).expect("a valid address");
    let channel = channel.connect().await.expect("the server listens");
    for n in 0..20 {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.expect("the channel is connected");
        let path = format!("/random.Service{n}/Method")
            .try_into()
            .expect("a valid path");
        let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
        let status = grpc
            .unary(check(""), path, codec)
            .await
            .expect_err("the service does not exist");
        assert_eq!(status.code(), tonic::Code::Unimplemented);
    }
    let spans = telemetry.wait_for_spans(20).await;
    for span in &spans {
        let found = span_attributes(span);
        assert_eq!(span.name, "grpc");
        assert_eq!(span.status, Status::error(""));
        assert_eq!(found["rpc.method"], "_OTHER");
        assert!(found["rpc.method_original"].starts_with("random.Service"));
        assert_eq!(found["error.type"], "UNIMPLEMENTED");
    }
    let point = telemetry.point("rpc.server.call.duration");
    assert_eq!(
        point.attributes,
        attributes([
            ("error.type", "UNIMPLEMENTED"),
            ("rpc.system.name", "grpc"),
            ("rpc.method", "_OTHER"),
            ("rpc.status_code", "UNIMPLEMENTED"),
        ])
    );
    assert_eq!(point.value.histogram().0, 20);
}

#[tokio::test]
async fn a_stream_that_the_client_drops_is_cancelled() {
    let telemetry = TestTelemetry::new();
    let (_, mut client) = start(telemetry.layer()).await;
    client
        .check(check("known"))
        .await
        .expect("the service is known");
    let mut stream = client
        .watch(check("known"))
        .await
        .expect("the service is known")
        .into_inner();
    let first = within_deadline("a message", stream.message()).await;
    assert!(matches!(first, Ok(Some(_))));
    assert_eq!(telemetry.spans().len(), 1, "the stream has not ended");
    drop(stream);
    drop(client);

    let spans = telemetry.wait_for_spans(2).await;
    let found = span_attributes(&spans[1]);
    assert_eq!(spans[1].status, Status::Unset);
    assert_eq!(found["rpc.status_code"], "CANCELLED");
    assert!(!found.contains_key("error.type"));
    eventually("both calls are measured", || {
        telemetry.points("rpc.server.call.duration").len() == 2
    })
    .await;
}

#[tokio::test]
async fn on_a_port_with_http_and_grpc_each_request_has_its_own_conventions() {
    let telemetry = TestTelemetry::new();
    let (reporter, health) = tonic_health::server::health_reporter();
    let serving = tonic_health::ServingStatus::Serving;
    reporter.set_service_status("known", serving).await;
    let app = tonic::service::Routes::new(health)
        .into_axum_router()
        .route("/users/{id}", axum::routing::post(async || "Ada"))
        .layer(telemetry.layer());
    let server = support::Server::start(app).await;

    let channel = Channel::from_shared(format!("http://{}", server.address));
    let channel = channel.expect("a valid address").connect().await;
    let mut client = HealthClient::new(channel.expect("the server listens"));
    client
        .check(check("known"))
        .await
        .expect("the service is known");

    // The content type does not make a gRPC call of a request that an HTTP route handles.
    let request = http::Request::post(format!("http://{}/users/1", server.address))
        .header("content-type", "application/grpc")
        .body(axum::body::Body::empty());
    support::send(http::Version::HTTP_2, request.expect("a valid request")).await;

    let spans = telemetry.wait_for_spans(2).await;
    let names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, ["grpc.health.v1.Health/Check", "POST /users/{id}"]);
    assert_eq!(
        telemetry
            .point("rpc.server.call.duration")
            .value
            .histogram()
            .0,
        1
    );
    assert_eq!(
        telemetry
            .point("http.server.request.duration")
            .value
            .histogram()
            .0,
        1
    );
}

async fn call(
    app: axum::Router,
    path: &str,
    content_type: &str,
) -> http::Response<axum::body::Bytes> {
    let server = support::Server::start(app).await;
    let request = http::Request::post(format!("http://{}{path}", server.address))
        .header("content-type", content_type)
        .body(axum::body::Body::empty());
    support::send(http::Version::HTTP_11, request.expect("a valid request")).await
}

#[tokio::test]
async fn a_request_that_only_claims_to_be_grpc_is_an_http_request() {
    let telemetry = TestTelemetry::new();
    let app = axum::Router::new()
        .fallback(async || http::StatusCode::NOT_FOUND)
        .layer(telemetry.layer());
    call(app, "/any/path", "application/grpc").await;

    let span = telemetry.only_span().await;
    assert_eq!(span.name, "POST");
    assert_eq!(span.status, Status::Unset);
    let mut found = span_attributes(&span);
    found.retain(|key, _| !key.starts_with("server.") && !key.starts_with("network.peer."));
    assert_eq!(
        found,
        attributes([
            ("client.address", "127.0.0.1"),
            ("http.request.method", "POST"),
            ("http.response.status_code", "404"),
            ("network.protocol.version", "1.1"),
            ("url.path", "/any/path"),
            ("url.scheme", "http"),
        ])
    );
    assert_eq!(telemetry.points("rpc.server.call.duration"), []);
    assert_eq!(
        telemetry
            .point("http.server.request.duration")
            .value
            .histogram()
            .0,
        1
    );
    assert_eq!(telemetry.sum("http.server.active_requests"), 0);
}

#[tokio::test]
async fn the_status_of_grpc_web_is_read_from_the_last_frame_of_the_body() {
    let telemetry = TestTelemetry::new();
    let handler = async || {
        let message = tokio_stream::iter([
            Ok::<_, std::convert::Infallible>(&b"\0\0\0\0\x02hi"[..]),
            Ok(&b"\x80\0\0\0\x0fgrpc-status:13\r\n"[..]),
        ]);
        let content_type = [("content-type", "application/grpc-web+proto")];
        (content_type, axum::body::Body::from_stream(message))
    };
    let app = axum::Router::new()
        .fallback(handler)
        .layer(telemetry.layer());
    call(app, "/a.B/C", "application/grpc-web+proto").await;
    let span = telemetry.only_span().await;
    let found = span_attributes(&span);
    assert_eq!(found["rpc.status_code"], "INTERNAL");
    assert_eq!(found["error.type"], "INTERNAL");
    assert_eq!(span.status, Status::error(""));
    assert_eq!(span.name, "a.B/C");
}

#[tokio::test]
async fn calls_that_a_layer_rejects_do_not_add_method_names() {
    let telemetry = TestTelemetry::new();
    let app = axum::Router::new()
        .fallback(async || {
            let headers = [("content-type", "application/grpc"), ("grpc-status", "16")];
            (headers, "")
        })
        .layer(telemetry.layer());
    let server = support::Server::start(app).await;
    for n in 0..300 {
        let request = http::Request::post(format!("http://{}/a.B/M{n}", server.address))
            .header("content-type", "application/grpc")
            .body(axum::body::Body::empty());
        support::send(http::Version::HTTP_11, request.expect("a valid request")).await;
    }
    telemetry.wait_for_spans(300).await;
    assert_eq!(
        telemetry.point("rpc.server.call.duration").attributes,
        attributes([
            ("rpc.system.name", "grpc"),
            ("rpc.method", "_OTHER"),
            ("rpc.status_code", "UNAUTHENTICATED"),
        ])
    );
}

#[tokio::test]
async fn a_known_call_with_a_response_that_is_not_grpc_fails_like_for_its_client() {
    let telemetry = TestTelemetry::new();
    let app = axum::Router::new()
        .fallback(async || http::StatusCode::SERVICE_UNAVAILABLE)
        .layer(telemetry.layer().with_grpc_methods(["a.B/C"]));
    call(app, "/a.B/C", "application/grpc").await;
    let span = telemetry.only_span().await;
    let found = span_attributes(&span);
    assert_eq!(span.name, "a.B/C");
    assert_eq!(found["rpc.status_code"], "UNAVAILABLE");
    assert_eq!(found["error.type"], "UNAVAILABLE");
}

#[tokio::test]
async fn a_deadline_enforced_by_the_server_is_a_server_error() {
    let telemetry = TestTelemetry::new();
    let app = axum::Router::new()
        .fallback(async || {
            let headers = [("content-type", "application/grpc"), ("grpc-status", "4")];
            (headers, "")
        })
        .layer(telemetry.layer().with_grpc_methods(["a.B/C"]));
    call(app, "/a.B/C", "application/grpc").await;
    let span = telemetry.only_span().await;
    assert_eq!(span_attributes(&span)["error.type"], "DEADLINE_EXCEEDED");
    assert_eq!(span.status, Status::error(""));
}
