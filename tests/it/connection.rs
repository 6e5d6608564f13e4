//! Sends requests over real connections and checks how they end.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode, Version, header};
use axum::routing::{any, get};
use http_body_util::BodyExt;
use opentelemetry::trace::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use tower_telemetry::{RequestBodySizeLayer, layers::MetricSet};

use crate::support::{
    DEADLINE, Server, TestTelemetry, eventually, send, span_attributes, within_deadline,
};

/// Returns a body of several parts, with pauses between them.
fn parts(count: usize, pause: Duration) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(1);
    tokio::spawn(async move {
        for _ in 0..count {
            if sender.send(Ok(Bytes::from_static(b"part"))).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    });
    Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver))
}

fn stream() -> Body {
    parts(3, Duration::from_millis(1))
}

async fn upgrade(request: Request<Body>) -> Response<Body> {
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(request)
            .await
            .expect("the connection is upgraded");
        let mut io = hyper_util::rt::TokioIo::new(upgraded);
        let mut line = [0; 5];
        io.read_exact(&mut line).await.expect("the client writes");
        io.write_all(&line).await.expect("the client reads");
    });
    let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let response = response
        .header("connection", "upgrade")
        .header("upgrade", "echo");
    response.body(Body::empty()).expect("a valid response")
}

async fn panic() {
    panic!("on purpose");
}

fn app() -> Router {
    Router::new()
        .route("/empty", get(async || ()))
        .route("/text", get(async || "hello"))
        .route("/stream", get(async || stream()))
        .route(
            "/announced",
            get(async || ([("content-length", "12")], stream())),
        )
        .route(
            "/events",
            get(async || ([(header::CONTENT_TYPE, "text/event-stream")], stream())),
        )
        .route("/no-content", get(async || StatusCode::NO_CONTENT))
        .route("/not-modified", get(async || StatusCode::NOT_MODIFIED))
        .route("/echo", any(upgrade))
        .route(
            "/early",
            any(async || "a response before the request body is read"),
        )
        .route("/panic", get(panic))
        .route("/never", get(std::future::pending::<()>))
        .route(
            "/endless",
            get(async || parts(usize::MAX, Duration::from_millis(1))),
        )
}

fn request(server: &Server, method: &str, path: &str) -> Request<Body> {
    let request = Request::builder().method(method);
    let request = request.uri(format!("http://{}{path}", server.address));
    request.body(Body::empty()).expect("a valid request")
}

#[tokio::test]
async fn every_kind_of_response_ends_without_an_error() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for (method, path, code, body) in [
            ("GET", "/empty", 200, ""),
            ("GET", "/text", 200, "hello"),
            ("HEAD", "/text", 200, ""),
            ("GET", "/stream", 200, "partpartpart"),
            ("HEAD", "/stream", 200, ""),
            ("GET", "/announced", 200, "partpartpart"),
            ("GET", "/events", 200, "partpartpart"),
            ("GET", "/no-content", 204, ""),
            ("GET", "/not-modified", 304, ""),
            ("POST", "/text", 405, ""),
            ("GET", "/nowhere", 404, ""),
        ] {
            let telemetry = TestTelemetry::new();
            let server = Server::start(app().layer(telemetry.layer())).await;
            let response = send(version, request(&server, method, path)).await;
            assert_eq!(
                (response.status().as_u16(), &response.body()[..]),
                (code, body.as_bytes())
            );

            let case = format!("{version:?} {method} {path}");
            let span = telemetry.only_span().await;
            let found = span_attributes(&span);
            assert_eq!(
                found["http.response.status_code"],
                code.to_string(),
                "{case}"
            );
            assert_eq!(found.get("error.type"), None, "{case}");
            assert_eq!(span.status, Status::Unset, "{case}");
            assert_eq!(telemetry.sum("http.server.active_requests"), 0, "{case}");
        }
    }
}

#[tokio::test]
async fn request_body_size_counts_the_bytes_that_were_read() {
    let sizes = [MetricSet::BodySizes];
    for (case, path, counts, expected) in [
        ("read whole", "/read", true, Some(11.0)),
        (
            "not read, whatever length the head announces",
            "/early",
            true,
            Some(0.0),
        ),
        ("no layer that counts", "/read", false, None),
    ] {
        let telemetry = TestTelemetry::new();
        let mut app = app().route("/read", any(async |body: String| body));
        if counts {
            app = app.layer(RequestBodySizeLayer::new());
        }
        let app = app.layer(telemetry.layer().with_metrics(sizes));
        let server = Server::start(app).await;
        let mut request = request(&server, "POST", path);
        *request.body_mut() = Body::from("hello world");
        send(Version::HTTP_11, request).await;
        telemetry.only_span().await;
        let metric = telemetry.metrics().remove("http.server.request.body.size");
        let found = metric.map(|metric| {
            assert_eq!(metric.unit, "By");
            assert_eq!(metric.points[0].attributes["http.route"], path);
            metric.points[0].value.histogram()
        });
        assert_eq!(found, expected.map(|sum| (1, sum)), "{case}");
    }
}

#[tokio::test]
async fn an_upgrade_ends_the_request_but_not_the_connection() {
    let telemetry = TestTelemetry::new();
    let server = Server::start(app().layer(telemetry.layer())).await;
    let mut client = TcpStream::connect(server.address)
        .await
        .expect("the server listens");
    let head = "GET /echo HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    client
        .write_all(head.as_bytes())
        .await
        .expect("the server listens");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.expect("the server responds"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    let span = telemetry.only_span().await;
    assert_eq!(span_attributes(&span)["http.response.status_code"], "101");
    assert_eq!(telemetry.sum("http.server.active_requests"), 0);

    client
        .write_all(b"hello")
        .await
        .expect("the server listens");
    let mut echo = [0; 5];
    client
        .read_exact(&mut echo)
        .await
        .expect("the server responds");
    assert_eq!(&echo, b"hello");
}

#[tokio::test]
async fn unusual_requests_cause_no_error() {
    for (case, head, code) in [
        ("HTTP/1.0 without Host", "GET /text HTTP/1.0\r\n\r\n", "200"),
        (
            "absolute form",
            "GET http://user:pw@a:1/text HTTP/1.1\r\nhost: b\r\n\r\n",
            "200",
        ),
        (
            "another scheme",
            "GET zz1://a/text HTTP/1.1\r\nhost: b\r\n\r\n",
            "200",
        ),
        ("no path", "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", "404"),
        (
            "a tunnel",
            "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n",
            "404",
        ),
        (
            "the largest possible length",
            "POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551613\r\n\r\n",
            "200",
        ),
        (
            "a client that waits for 100",
            "POST /early HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
            "200",
        ),
        (
            "an invalid host",
            "GET /text HTTP/1.1\r\nhost: [::1\r\n\r\n",
            "200",
        ),
    ] {
        let telemetry = TestTelemetry::new();
        let server = Server::start(app().layer(telemetry.layer())).await;
        let mut client = TcpStream::connect(server.address)
            .await
            .expect("the server listens");
        client
            .write_all(head.as_bytes())
            .await
            .expect("the server listens");
        let span = telemetry.only_span().await;
        let found = span_attributes(&span);
        assert_eq!(found["http.response.status_code"], code, "{case}");
        assert_eq!(found.get("error.type"), None, "{case}");
        assert!(!format!("{found:?}").contains("pw"), "{case}");
        assert_eq!(telemetry.sum("http.server.active_requests"), 0, "{case}");
    }
}

#[tokio::test]
async fn a_client_that_disconnects_at_any_moment_ends_its_request_exactly_once() {
    let telemetry = TestTelemetry::new();
    let server = Server::start(app().layer(telemetry.layer())).await;
    let mut requests = 0;
    for moment in 0..20 {
        for path in ["/never", "/endless"] {
            let mut client = TcpStream::connect(server.address)
                .await
                .expect("the server listens");
            let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
            client
                .write_all(head.as_bytes())
                .await
                .expect("the server listens");
            requests += 1;
            eventually("the request arrives", || {
                let active = telemetry.sum("http.server.active_requests");
                active + telemetry.spans().len() as i64 == requests
            })
            .await;
            if path == "/endless" {
                // Read up to this point of the body, starting with the head only.
                let mut some = vec![0; 40 + 13 * moment];
                client
                    .read_exact(&mut some)
                    .await
                    .expect("the server responds");
            }
            if moment % 2 == 0 {
                // Every second client resets the connection instead of closing it.
                client.set_zero_linger().expect("the option can be set");
            }
        }
    }
    eventually("all requests have ended", || {
        telemetry.sum("http.server.active_requests") == 0
    })
    .await;
    let spans = telemetry.spans();
    assert_eq!(spans.len() as i64, requests);
    for span in &spans {
        let found = span_attributes(span);
        assert_eq!(found["error.type"], "cancelled");
        assert_eq!(
            found.contains_key("http.response.status_code"),
            span.name == "GET /endless"
        );
        assert_eq!(span.status, Status::Unset);
    }
    let counts = telemetry.points("http.requests");
    assert_eq!(counts.len(), 2, "{counts:#?}");
}

#[tokio::test]
async fn an_http_2_stream_that_the_client_resets_is_cancelled() {
    let telemetry = TestTelemetry::new();
    let server = Server::start(app().layer(telemetry.layer())).await;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(true)
        .build_http::<Body>();
    for _ in 0..5 {
        let response = client.request(request(&server, "GET", "/endless"));
        let mut body = within_deadline("a response", response)
            .await
            .expect("the server responds")
            .into_body();
        within_deadline("a frame", body.frame())
            .await
            .expect("the body has a frame")
            .expect("the body is complete");
        let pending = client.request(request(&server, "GET", "/never"));
        let _ = tokio::time::timeout(Duration::from_millis(5), pending).await;
    }
    eventually("all requests have ended", || {
        telemetry.spans().len() == 10 && telemetry.sum("http.server.active_requests") == 0
    })
    .await;
    let spans = telemetry.spans();
    assert!(
        spans
            .iter()
            .all(|span| span_attributes(span)["error.type"] == "cancelled")
    );
}

#[tokio::test]
async fn a_panic_is_counted_once_wherever_it_is_caught() {
    for (case, inside, status, error) in [
        ("caught inside", true, Some("500"), "500"),
        ("caught outside", false, None, "panic"),
    ] {
        let telemetry = TestTelemetry::new();
        let app = if inside {
            app().layer(CatchPanicLayer::new()).layer(telemetry.layer())
        } else {
            app().layer(telemetry.layer()).layer(CatchPanicLayer::new())
        };
        let server = Server::start(app).await;
        let response = send(Version::HTTP_11, request(&server, "GET", "/panic")).await;
        assert_eq!(response.status(), 500, "{case}");
        assert_eq!(
            response.headers().contains_key("x-trace-id"),
            inside,
            "{case}"
        );
        let span = telemetry.only_span().await;
        let found = span_attributes(&span);
        assert_eq!(
            found.get("http.response.status_code").map(String::as_str),
            status,
            "{case}"
        );
        assert_eq!(found["error.type"], error, "{case}");
        assert_eq!(span.status, Status::error(""), "{case}");
        assert_eq!(telemetry.sum("http.server.active_requests"), 0, "{case}");
    }

    // Only the task of the connection catches this panic.
    let telemetry = TestTelemetry::new();
    let server = Server::start(app().layer(telemetry.layer())).await;
    let mut client = TcpStream::connect(server.address)
        .await
        .expect("the server listens");
    client
        .write_all(b"GET /panic HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("the server listens");
    assert_eq!(
        span_attributes(&telemetry.only_span().await)["error.type"],
        "panic"
    );
}

#[tokio::test]
async fn a_timeout_ends_the_request_inside_and_outside_of_the_layer() {
    let short =
        || TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_millis(20));
    for (case, inside, status, error, end) in [
        ("inside", true, Some("504"), "504", Status::error("")),
        ("outside", false, None, "cancelled", Status::Unset),
    ] {
        let telemetry = TestTelemetry::new();
        let app = if inside {
            app().layer(short()).layer(telemetry.layer())
        } else {
            app().layer(telemetry.layer()).layer(short())
        };
        let server = Server::start(app).await;
        let response = send(Version::HTTP_11, request(&server, "GET", "/never")).await;
        assert_eq!(response.status(), 504, "{case}");
        let span = telemetry.only_span().await;
        let found = span_attributes(&span);
        assert_eq!(
            found.get("http.response.status_code").map(String::as_str),
            status,
            "{case}"
        );
        assert_eq!(found["error.type"], error, "{case}");
        assert_eq!(span.status, end, "{case}");
        assert_eq!(telemetry.sum("http.server.active_requests"), 0, "{case}");
    }
}

#[tokio::test]
async fn a_request_rejected_by_load_shedding_is_an_error_of_the_service() {
    use tower::{Service, ServiceExt};

    let telemetry = TestTelemetry::new();
    let mut service = ServiceBuilder::new()
        .layer(telemetry.layer())
        .load_shed()
        .concurrency_limit(1)
        .service_fn(|_: Request<()>| std::future::pending::<Result<Response<Body>, Infallible>>());
    let first = service
        .ready()
        .await
        .expect("the service is ready")
        .call(Request::new(()));
    let second = service
        .ready()
        .await
        .expect("the service is ready")
        .call(Request::new(()));
    assert!(
        tokio::time::timeout(DEADLINE, second)
            .await
            .expect("the rejected request fails immediately")
            .is_err()
    );
    let span = telemetry.only_span().await;
    let found = span_attributes(&span);
    assert_eq!(found["error.type"], "overloaded");
    assert_eq!(span.status, Status::error(""));
    assert_eq!(telemetry.sum("http.server.active_requests"), 1);
    drop(first);
    assert_eq!(telemetry.sum("http.server.active_requests"), 0);
}
