//! Tests the telemetry of errors: the `error.type`, the description, and the code of a gRPC call.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::trace::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_telemetry::{async_try_with_tracer, set_span_error, set_span_error_with_sources};

use crate::support::refused::refused_address;
use crate::support::{TestTelemetry, span_attributes, within_deadline};

type Erased = Box<dyn Error + Send + Sync>;

/// The telemetry of one failed client request.
struct Recorded {
    error_type: String,
    description: String,
}

/// Reads the only span, and checks that the metric has the same `error.type`.
async fn recorded(telemetry: &TestTelemetry) -> Recorded {
    let span = telemetry.only_span().await;
    let mut found = span_attributes(&span);
    let Status::Error { description } = span.status else {
        panic!("{:?}, {found:?}", span.status);
    };
    let error_type = found.remove("error.type").expect("the request failed");
    let point = telemetry.point("http.client.request.duration");
    assert_eq!(point.attributes["error.type"], error_type);
    Recorded {
        error_type,
        description: description.into_owned(),
    }
}

/// Sends a request through the client layer, and reads the response if there is one.
async fn send<S, B>(telemetry: &TestTelemetry, uri: &str, service: S) -> Recorded
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>>,
    S::Error: 'static,
    B: Body,
    B::Error: 'static,
{
    let request = Request::get(uri).body(Empty::new());
    let service = telemetry.client_layer().layer(service);
    let sent = service.oneshot(request.expect("a valid request"));
    if let Ok(response) = within_deadline("the end of the request", sent).await {
        let body = std::pin::pin!(response.into_body());
        let _ = within_deadline("the end of the body", body.collect()).await;
    }
    recorded(telemetry).await
}

fn hyper() -> Client<HttpConnector, Empty<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// The behaviour of a server on a connection after it has read something.
#[derive(Clone, Copy)]
enum Act {
    Close,
    Reset,
    Wait,
    /// Sends this text and closes.
    Answer(&'static str),
}

/// Starts a server with the same behaviour on each connection.
async fn serve(act: Act) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("loopback has free ports");
    let address = listener.local_addr().expect("the socket is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(behave(stream, act));
        }
    });
    address
}

async fn behave(mut stream: TcpStream, act: Act) {
    let _ = stream.read(&mut [0; 4096]).await;
    match act {
        Act::Close => {}
        Act::Reset => stream.set_zero_linger().expect("a TCP socket"),
        Act::Wait => std::future::pending().await,
        Act::Answer(text) => {
            let _ = stream.write_all(text.as_bytes()).await;
        }
    }
}

/// A timeout that elapses before anything else happens.
const SHORT_TIMEOUT: Duration = Duration::from_millis(20);

const SHORT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
#[cfg(feature = "tls")]
const PLAIN: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";

/// Returns each way in which a server can fail a client, with its URI and `error.type`.
async fn server_failures() -> Vec<(&'static str, String, &'static str)> {
    let uri = |address: SocketAddr| format!("http://{address}/");
    vec![
        ("refused", uri(refused_address()), "connection_refused"),
        ("reset", uri(serve(Act::Reset).await), "connection_reset"),
        ("closed", uri(serve(Act::Close).await), "connection_closed"),
        (
            "no such host",
            "http://does-not-exist.invalid/".to_owned(),
            "dns",
        ),
        (
            "a short body",
            uri(serve(Act::Answer(SHORT)).await),
            "body_incomplete",
        ),
        (
            "a chunk too few",
            uri(serve(Act::Answer(CHUNKED)).await),
            "body_incomplete",
        ),
    ]
}

#[tokio::test]
async fn failure_causes_have_short_error_types_however_the_client_wraps_them() {
    for (case, uri, expected) in server_failures().await {
        let telemetry = TestTelemetry::new();
        let found = send(&telemetry, &uri, hyper()).await;
        assert_eq!(found.error_type, expected, "{case}: {}", found.description);
        assert_ne!(found.description, "", "{case}");

        let telemetry = TestTelemetry::new();
        let boxed = hyper().map_err(Erased::from);
        let found = send(&telemetry, &uri, boxed).await;
        assert_eq!(found.error_type, expected, "boxed: {case}");

        let telemetry = TestTelemetry::new();
        let timeout = ServiceBuilder::new().timeout(Duration::from_secs(60));
        let found = send(&telemetry, &uri, timeout.service(hyper())).await;
        assert_eq!(found.error_type, expected, "below a timeout: {case}");

        let telemetry = TestTelemetry::new();
        let io = hyper().map_err(|error| Arc::new(io::Error::other(error)));
        let found = send(&telemetry, &uri, io).await;
        assert_eq!(found.error_type, expected, "in an I/O error: {case}");
    }
}

#[tokio::test]
async fn a_reset_in_the_body_is_not_an_incomplete_body() {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("loopback has free ports");
    let address = listener.local_addr().expect("the socket is bound");
    let (read, was_read) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client connects");
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(SHORT.as_bytes()).await;
        let _ = was_read.await;
        let _ = stream.set_zero_linger();
    });
    let telemetry = TestTelemetry::new();
    let request = Request::get(format!("http://{address}/")).body(Empty::new());
    let service = telemetry.client_layer().layer(hyper());
    let sent = service.oneshot(request.expect("a valid request"));
    let response = within_deadline("a head", sent)
        .await
        .expect("the server responds");
    let mut body = response.into_body();
    let frame = within_deadline("a frame", body.frame()).await;
    assert!(matches!(frame, Some(Ok(_))));
    read.send(()).expect("the server is still waiting");
    let frame = within_deadline("an error", body.frame()).await;
    assert!(matches!(frame, Some(Err(_))));
    assert_eq!(recorded(&telemetry).await.error_type, "connection_reset");
}

/// Timeouts of `tower`, `tokio` and `std` are recognised by their types, those of
/// `tower_http` by their message.
#[tokio::test]
async fn timeouts_and_overload_have_short_error_types() {
    let address = serve(Act::Wait).await;
    let uri = format!("http://{address}/");

    let telemetry = TestTelemetry::new();
    let service = ServiceBuilder::new()
        .timeout(SHORT_TIMEOUT)
        .service(hyper());
    assert_eq!(send(&telemetry, &uri, service).await.error_type, "timeout");

    let telemetry = TestTelemetry::new();
    let service = service_fn(async |request| {
        let sent = tokio::time::timeout(SHORT_TIMEOUT, hyper().oneshot(request)).await?;
        Ok::<_, Erased>(sent?)
    });
    assert_eq!(send(&telemetry, &uri, service).await.error_type, "timeout");

    let telemetry = TestTelemetry::new();
    let service = service_fn(async |request| {
        let sent = tokio::time::timeout(SHORT_TIMEOUT, hyper().oneshot(request)).await?;
        sent.map_err(io::Error::other)
    });
    assert_eq!(send(&telemetry, &uri, service).await.error_type, "timeout");

    let telemetry = TestTelemetry::new();
    let service = ServiceBuilder::new()
        .layer(tower_http::timeout::ResponseBodyTimeoutLayer::new(
            SHORT_TIMEOUT,
        ))
        .service(service_fn(async |_| {
            let never = tokio_stream::pending::<Result<http_body::Frame<Bytes>, Infallible>>();
            Ok::<_, Infallible>(Response::new(StreamBody::new(never)))
        }));
    let found = send(&telemetry, &uri, service).await;
    assert_eq!(found.error_type, "timeout", "{}", found.description);

    let telemetry = TestTelemetry::new();
    let service = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(0)
        .service(hyper());
    let found = send(&telemetry, &uri, service).await;
    assert_eq!(found.error_type, "overloaded");
    assert_eq!(found.description, "service overloaded");
}

type H2Connection = h2::server::Connection<TcpStream, Bytes>;
type H2Response = h2::server::SendResponse<Bytes>;
type H2Act = fn(&mut H2Connection, H2Response, Arc<Notify>);

/// Serves HTTP/2 and responds to each request with `act`, which can wait until the client has read
/// a frame of the body.
async fn serve_h2(act: H2Act, read: Arc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("loopback has free ports");
    let address = listener.local_addr().expect("the socket is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let read = read.clone();
            tokio::spawn(async move {
                let handshake = h2::server::handshake(stream).await;
                let mut connection = handshake.expect("the client speaks HTTP/2");
                while let Some(Ok((_, response))) = connection.accept().await {
                    act(&mut connection, response, read.clone());
                }
            });
        }
    });
    address
}

/// Sends a head and data, and resets the stream after the client has read them.
fn reset_in_body(
    mut stream: H2Response,
    head: http::response::Builder,
    read: Arc<Notify>,
    reason: h2::Reason,
) {
    let head = head.body(()).expect("a valid response");
    let sent = stream.send_response(head, false);
    let mut body = sent.expect("the stream is open");
    body.send_data("hello".into(), false)
        .expect("the stream is open");
    tokio::spawn(async move {
        read.notified().await;
        body.send_reset(reason);
    });
}

#[tokio::test]
async fn http_2_resets_and_goaways_have_short_error_types() {
    let cases: [(&str, H2Act, &str); 4] = [
        (
            "a reset before the head",
            |_, mut stream, _| stream.send_reset(h2::Reason::INTERNAL_ERROR),
            "connection_reset",
        ),
        (
            "a reset in the body",
            |_, stream, read| {
                let head = Response::builder();
                reset_in_body(stream, head, read, h2::Reason::INTERNAL_ERROR);
            },
            "connection_reset",
        ),
        (
            // hyper treats this reset as the end of the body.
            "a body that ends early without an error",
            |_, stream, read| {
                let head = Response::builder().header("content-length", "100");
                reset_in_body(stream, head, read, h2::Reason::NO_ERROR);
            },
            "body_incomplete",
        ),
        (
            "the end of the connection",
            |connection, _, _| connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM),
            "connection_closed",
        ),
    ];
    for (case, act, expected) in cases {
        let read = Arc::new(Notify::new());
        let uri = format!("http://{}/", serve_h2(act, read.clone()).await);
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http::<Empty<Bytes>>();
        let telemetry = TestTelemetry::new();
        let service = telemetry.client_layer().layer(client);
        let request = Request::get(&uri).body(Empty::new());
        let sent = service.oneshot(request.expect("a valid request"));
        if let Ok(response) = within_deadline("the end of the request", sent).await {
            let mut body = response.into_body();
            let frame = within_deadline("a frame", body.frame()).await;
            assert!(matches!(frame, Some(Ok(_))), "{case}");
            read.notify_one();
            let _ = within_deadline("the end of the body", body.frame()).await;
        }
        let found = recorded(&telemetry).await;
        assert_eq!(found.error_type, expected, "{case}: {}", found.description);
    }
}

#[cfg(feature = "tls")]
fn https() -> hyper_rustls::HttpsConnector<HttpConnector> {
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("the protocol versions are supported")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    (tcp, config).into()
}

/// TLS errors of `tokio_rustls` are recognised by the kind of the `io::Error` and its message.
#[cfg(feature = "tls")]
#[tokio::test]
async fn a_failed_tls_handshake_has_a_short_error_type() {
    for (case, act, expected) in [
        ("the server does not speak TLS", Act::Answer(PLAIN), "tls"),
        ("the connection is closed", Act::Close, "tls"),
        ("the connection is reset", Act::Reset, "connection_reset"),
    ] {
        let uri = format!("https://{}/", serve(act).await);
        let client = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(https());
        let telemetry = TestTelemetry::new();
        let found = send(&telemetry, &uri, client).await;
        assert_eq!(found.error_type, expected, "{case}: {}", found.description);
    }
}

/// Errors of OpenSSL, which `native_tls` uses, are recognised by their messages. These are the
/// messages of version 3.
#[tokio::test]
async fn an_openssl_error_while_connecting_has_a_short_error_type() {
    use hyper_util::rt::TokioIo;

    const NO_TLS: &str = "error:0A00010B:SSL routines:ssl3_get_record:wrong version number:\
        ../ssl/record/ssl3_record.c:350:";
    for (message, expected) in [
        (NO_TLS, "tls"),
        ("unexpected EOF", "tls"),
        ("unexpected EOF while tunneling", HYPER_UTIL),
    ] {
        let connector = service_fn(move |_: http::Uri| {
            let error = Erased::from(message);
            std::future::ready(Err::<TokioIo<TcpStream>, _>(error))
        });
        let client = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector);
        let telemetry = TestTelemetry::new();
        let found = send(&telemetry, "https://a/", client).await;
        assert_eq!(found.error_type, expected);
        // Outside of a connect error, the same text may mean anything.
        assert_eq!(failed(message).await.0, "&str");
        assert_eq!(failed(Erased::from(message)).await.0, "_OTHER");
    }
}

const HYPER_UTIL: &str = "hyper_util::client::legacy::Error";

#[cfg(feature = "reqwest")]
mod with_reqwest {
    use super::*;

    fn client(telemetry: &TestTelemetry) -> reqwest_middleware::ClientWithMiddleware {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_millis(300))
            .build()
            .expect("the client can be built");
        reqwest_middleware::ClientBuilder::new(client)
            .with(telemetry.client_layer())
            .build()
    }

    #[tokio::test]
    async fn failure_causes_have_short_error_types_in_reqwest_errors() {
        let wait = format!("http://{}/", serve(Act::Wait).await);
        let mut cases = server_failures().await;
        cases.push(("a timeout", wait, "timeout"));
        for (case, uri, expected) in cases {
            let telemetry = TestTelemetry::new();
            if let Ok(response) = client(&telemetry).get(&uri).send().await {
                assert!(response.bytes().await.is_err(), "{case}");
            }
            let found = recorded(&telemetry).await;
            assert_eq!(found.error_type, expected, "{case}: {}", found.description);
        }
    }

    #[tokio::test]
    async fn secrets_in_urls_do_not_appear_in_descriptions() {
        let address = refused_address();
        let url = format!("http://user:canary@{address}/a?q=1&sig=canary&token=canary2#canary");
        for (layer, query) in [
            (0, "?q=1&sig=REDACTED&token=canary2"),
            (1, "?q=1&sig=canary&token=REDACTED"),
            (2, ""),
        ] {
            let telemetry = TestTelemetry::new();
            let with = match layer {
                0 => telemetry.client_layer(),
                1 => telemetry
                    .client_layer()
                    .with_sensitive_query_parameters(["token"]),
                _ => telemetry.client_layer().without_query(),
            };
            let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
                .with(with)
                .build();
            assert!(client.get(&url).send().await.is_err());
            let found = recorded(&telemetry).await;
            let expected = format!("error sending request for url (http://{address}/a{query}): ");
            // reqwest itself removes the user and the password.
            assert!(
                found.description.starts_with(&expected),
                "{}",
                found.description
            );
        }
    }

    #[tokio::test]
    async fn an_error_of_another_middleware_is_searched_for_its_cause() {
        struct Refuses;

        #[async_trait::async_trait]
        impl reqwest_middleware::Middleware for Refuses {
            async fn handle(
                &self,
                _: reqwest::Request,
                _: &mut http::Extensions,
                _: reqwest_middleware::Next<'_>,
            ) -> reqwest_middleware::Result<reqwest::Response> {
                Err(reqwest_middleware::Error::middleware(
                    tower::load_shed::error::Overloaded::new(),
                ))
            }
        }

        let telemetry = TestTelemetry::new();
        let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
            .with(telemetry.client_layer())
            .with(Refuses)
            .build();
        assert!(
            client
                .get(format!("http://{}/", refused_address()))
                .send()
                .await
                .is_err()
        );
        assert_eq!(recorded(&telemetry).await.error_type, "overloaded");
    }
}

/// An error type of an application, unknown to the crate.
#[derive(Debug)]
enum Own {
    Full,
    Caused(Erased),
}

impl fmt::Display for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it failed")
    }
}

impl Error for Own {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Full => None,
            Self::Caused(error) => Some(&**error),
        }
    }
}

/// Sends a request to a service that returns this error.
async fn fail_with<E: 'static>(layer: &tower_telemetry::ClientTelemetryLayer, error: E) {
    let mut error = Some(error);
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let error = error.take().expect("the test sends one request");
        std::future::ready(Err::<Response<Empty<Bytes>>, E>(error))
    }));
    let request = Request::get("http://a/").body(());
    let request = request.expect("a valid request");
    assert!(service.oneshot(request).await.is_err());
}

async fn failed<E: 'static>(error: E) -> (String, String) {
    let telemetry = TestTelemetry::new();
    fail_with(&telemetry.client_layer(), error).await;
    let found = recorded(&telemetry).await;
    (found.error_type, found.description)
}

#[tokio::test]
async fn an_error_without_a_known_cause_has_the_path_of_a_type() {
    let own = std::any::type_name::<Own>();
    let text = |text: &str| text.to_owned();
    let number = || "many".parse::<u32>().expect_err("the text is not a number");
    let is_no_number = "invalid digit found in string";
    for (found, error_type, description) in [
        (failed(Own::Full).await, own, ""),
        (failed(Box::new(Own::Full)).await, own, ""),
        (failed(Arc::new(Own::Full)).await, own, ""),
        (failed(Erased::from(Own::Full)).await, "_OTHER", "it failed"),
        (
            failed(Erased::from(Own::Caused(number().into()))).await,
            "std::num::ParseIntError",
            "it failed: invalid digit found in string",
        ),
        (
            failed(Box::<dyn Error>::from(number())).await,
            "std::num::ParseIntError",
            is_no_number,
        ),
        (
            failed(io::Error::other(Own::Full)).await,
            "std::io::Error",
            "it failed",
        ),
        (
            failed(text("a text")).await,
            "std::string::String",
            "a text",
        ),
        (failed("a text").await, "&str", "a text"),
    ] {
        assert_eq!(found, (text(error_type), text(description)));
    }
}

#[tokio::test]
async fn an_error_type_hook_names_errors_of_its_type_wherever_they_are_wrapped() {
    let name = |error: &Own| match error {
        Own::Full => Some("store_full"),
        Own::Caused(_) => None,
    };
    let timeout = || Own::Caused(tower::timeout::error::Elapsed::new().into());
    let within = || Own::Caused(Own::Full.into());
    let layer = |telemetry: &TestTelemetry| {
        telemetry
            .client_layer()
            .with_error_type(|_: &fmt::Error| -> Option<&'static str> { panic!("on purpose") })
            .with_error_type(name)
            .with_error_type(|error: &io::Error| {
                (error.kind() == io::ErrorKind::TimedOut).then_some("slow_disk")
            })
    };
    let found = async |fail: &dyn Fn(tower_telemetry::ClientTelemetryLayer) -> Sent| {
        let telemetry = TestTelemetry::new();
        fail(layer(&telemetry)).await;
        recorded(&telemetry).await.error_type
    };
    type Sent = std::pin::Pin<Box<dyn Future<Output = ()>>>;
    macro_rules! with {
        ($error:expr) => {
            found(&|layer| Box::pin(async move { fail_with(&layer, $error).await })).await
        };
    }
    assert_eq!(with!(Own::Full), "store_full");
    assert_eq!(with!(Box::new(Own::Full)), "store_full");
    assert_eq!(with!(Arc::new(Own::Full)), "store_full");
    assert_eq!(with!(Erased::from(Own::Full)), "store_full");
    assert_eq!(with!(io::Error::other(Own::Full)), "store_full");
    assert_eq!(with!(within()), "store_full");
    // The hook has priority over a known cause.
    assert_eq!(with!(io::Error::from(io::ErrorKind::TimedOut)), "slow_disk");
    // The hook returns `None` for this value, so the known cause is used.
    assert_eq!(with!(timeout()), "timeout");
    assert_eq!(with!(fmt::Error), "std::fmt::Error");
}

#[tokio::test]
async fn an_error_that_panics_in_display_or_source_breaks_nothing() {
    #[derive(Debug)]
    struct Panics;

    impl fmt::Display for Panics {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("on purpose")
        }
    }

    impl Error for Panics {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            panic!("on purpose")
        }
    }

    let found = failed(Erased::from(Panics)).await;
    assert_eq!(found, ("_OTHER".to_owned(), String::new()));
}

#[tokio::test]
async fn a_server_error_has_no_description_and_the_same_error_types() {
    let telemetry = TestTelemetry::new();
    let service = ServiceBuilder::new()
        .layer(telemetry.layer())
        .timeout(SHORT_TIMEOUT)
        .service_fn(async |_: Request<()>| {
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
        });
    assert!(service.oneshot(Request::new(())).await.is_err());
    let span = telemetry.only_span().await;
    assert_eq!(span_attributes(&span)["error.type"], "timeout");
    assert_eq!(span.status, Status::error(""));
    let point = telemetry.point("http.server.request.duration");
    assert_eq!(point.attributes["error.type"], "timeout");
}

#[tokio::test]
async fn secrets_in_urls_do_not_appear_on_spans_of_functions() {
    let text = "cannot load https://user:canary@a/b?sig=canary&c=d";
    let expected = "cannot load https://REDACTED:REDACTED@a/b?sig=REDACTED&c=d";
    let error = || io::Error::other(text);
    let telemetry = TestTelemetry::new();
    let service = telemetry.layer().layer(service_fn(async |_: Request<()>| {
        let failed = async_try_with_tracer("test", "failed", async { Err::<(), _>(error()) });
        assert!(failed.await.is_err());
        let set = async { set_span_error(&error()) };
        tower_telemetry::async_with_tracer("test", "set", set).await;
        let set = async { set_span_error_with_sources(&Own::Caused(error().into())) };
        tower_telemetry::async_with_tracer("test", "set with sources", set).await;
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("a")))
    }));
    let _ = service.oneshot(Request::new(())).await;
    let spans = telemetry.wait_for_spans(4).await;
    let with_sources = format!("it failed: {expected}");
    let expected = [expected, expected, &with_sources];
    for (span, expected) in spans.iter().zip(expected) {
        assert_eq!(span.status, Status::error(expected.to_owned()));
    }
    let all = format!("{spans:?}");
    assert!(!all.contains("canary"), "{all}");
}

#[tokio::test]
async fn a_layer_can_omit_the_error_type_of_cancelled_requests() {
    for (leaves_out, status, expected) in [
        (false, 200, Some("cancelled")),
        (true, 200, None),
        // A server error keeps its `error.type`.
        (true, 500, Some("500")),
    ] {
        let telemetry = TestTelemetry::new();
        let layer = if leaves_out {
            telemetry.layer().without_cancelled_error_type()
        } else {
            telemetry.layer()
        };
        let service = layer.layer(service_fn(async |_: Request<()>| {
            let response = Response::builder().status(status);
            let body = Full::<Bytes>::from("hello");
            Ok::<_, Infallible>(response.body(body).expect("a valid response"))
        }));
        drop(service.oneshot(Request::new(())).await);
        let span = telemetry.only_span().await;
        let found = span_attributes(&span);
        let point = telemetry.point("http.server.request.duration");
        let types: BTreeSet<_> = [&found, &point.attributes]
            .map(|found| found.get("error.type").map(String::as_str))
            .into();
        assert_eq!(types, BTreeSet::from([expected]));
        let is_error = matches!(span.status, Status::Error { .. });
        assert_eq!(is_error, status == 500);
    }
}

/// gRPC calls have the code that the caller gets.
mod with_grpc {
    use tonic::transport::{Channel, Endpoint};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;
    use crate::support::Attributes;

    const METHODS: [&str; 2] = ["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"];

    /// Returns `rpc.status_code`, or the attribute with its former name.
    fn code(found: &Attributes) -> &str {
        let code = found.get("rpc.status_code");
        code.or_else(|| found.get("rpc.response.status_code"))
            .expect("the call has a code")
    }

    /// Returns the name of a code as the conventions write it.
    fn name(code: tonic::Code) -> String {
        let mut name = String::new();
        for letter in format!("{code:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_uppercase());
        }
        name
    }

    /// The telemetry of one failed call.
    struct RecordedCall {
        code: String,
        error_type: String,
        description: String,
    }

    async fn recorded_call(telemetry: &TestTelemetry, side: &str) -> RecordedCall {
        let span = telemetry.only_span().await;
        let found = span_attributes(&span);
        let Status::Error { description } = span.status else {
            panic!("{:?}, {found:?}", span.status);
        };
        let point = telemetry.point(&format!("rpc.{side}.call.duration"));
        for name in ["error.type", "rpc.method"] {
            assert_eq!(point.attributes[name], found[name]);
        }
        assert_eq!(code(&point.attributes), code(&found));
        RecordedCall {
            code: code(&found).to_owned(),
            error_type: found["error.type"].clone(),
            description: description.into_owned(),
        }
    }

    fn client<S>(
        telemetry: &TestTelemetry,
        service: S,
    ) -> HealthClient<tower_telemetry::layers::ClientTelemetry<S>>
    where
        S: Service<Request<tonic::body::Body>, Response = Response<tonic::body::Body>>,
        S::Error: Into<Erased> + 'static,
        S::Future: Send,
    {
        let layer = telemetry.client_layer().with_grpc_methods(METHODS);
        HealthClient::new(layer.layer(service))
    }

    fn endpoint(address: SocketAddr) -> Endpoint {
        Channel::from_shared(format!("http://{address}")).expect("a valid address")
    }

    fn check(service: &str) -> HealthCheckRequest {
        HealthCheckRequest {
            service: service.to_owned(),
        }
    }

    /// Serves the health of one service, named `known`.
    async fn serve_health(layer: tower_telemetry::TelemetryLayer) -> SocketAddr {
        let (reporter, health) = tonic_health::server::health_reporter();
        let serving = tonic_health::ServingStatus::Serving;
        reporter.set_service_status("known", serving).await;
        serve_tonic(layer, health).await
    }

    async fn serve_tonic<S>(layer: tower_telemetry::TelemetryLayer, service: S) -> SocketAddr
    where
        S: Service<
                Request<tonic::body::Body>,
                Response = Response<tonic::body::Body>,
                Error = Infallible,
            > + tonic::server::NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback has free ports");
        let address = listener.local_addr().expect("the socket is bound");
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder()
            .layer(layer)
            .add_service(service)
            .serve_with_incoming(incoming);
        tokio::spawn(server);
        address
    }

    /// Fails each call with a code and a message.
    #[derive(Clone)]
    struct Fails {
        code: i32,
        message: &'static str,
        in_trailers: bool,
    }

    impl tonic::server::NamedService for Fails {
        const NAME: &'static str = "grpc.health.v1.Health";
    }

    impl Service<Request<tonic::body::Body>> for Fails {
        type Response = Response<tonic::body::Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Infallible>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<tonic::body::Body>) -> Self::Future {
            let mut status = http::HeaderMap::new();
            let message = self.message.parse().expect("a legal value");
            status.insert("grpc-status", self.code.into());
            status.insert("grpc-message", message);
            let mut response = Response::builder().header("content-type", "application/grpc");
            let body = if self.in_trailers {
                let trailers = http_body::Frame::trailers(status);
                let frames = tokio_stream::iter([Ok::<_, Infallible>(trailers)]);
                tonic::body::Body::new(StreamBody::new(frames))
            } else {
                response
                    .headers_mut()
                    .expect("the head is valid")
                    .extend(status);
                tonic::body::Body::empty()
            };
            let response: http::Response<_> = response.body(body).expect("a valid response");
            std::future::ready(Ok(response))
        }
    }

    #[tokio::test]
    async fn a_failed_call_has_its_message_as_description() {
        let secret = "no%20way%3A%20https://u:canary@a/?sig=canary%20caf%C3%A9";
        let redacted = "no way: https://REDACTED:REDACTED@a/?sig=REDACTED café";
        for in_trailers in [false, true] {
            for code in 1..=16 {
                let fails = Fails {
                    code,
                    message: secret,
                    in_trailers,
                };
                let server = TestTelemetry::new();
                let layer = server.layer().with_grpc_methods(METHODS);
                let address = serve_tonic(layer, fails).await;
                let telemetry = TestTelemetry::new();
                let mut client = client(&telemetry, endpoint(address).connect_lazy());
                let status = client.check(check("known")).await;
                let status = status.expect_err("the call fails").code();
                assert_eq!(status as i32, code);

                let call = recorded_call(&telemetry, "client").await;
                assert_eq!((call.code, &call.error_type), (name(status), &name(status)));
                assert_eq!(call.description, redacted);

                let span = server.only_span().await;
                let status = if [2, 4, 12, 13, 14, 15].contains(&code) {
                    Status::error(redacted)
                } else {
                    Status::Unset
                };
                assert_eq!(span.status, status, "{code}, {in_trailers}");
            }
        }
    }

    #[tokio::test]
    async fn a_successful_call_has_no_description() {
        let fails = Fails {
            code: 0,
            message: "fine",
            in_trailers: false,
        };
        let server = TestTelemetry::new();
        let address = serve_tonic(server.layer(), fails).await;
        let telemetry = TestTelemetry::new();
        let mut client = client(&telemetry, endpoint(address).connect_lazy());
        let _ = client.check(check("known")).await;
        assert_eq!(telemetry.only_span().await.status, Status::Unset);
        assert_eq!(server.only_span().await.status, Status::Unset);
    }

    /// Never responds.
    #[cfg(feature = "tonic")]
    fn wait(_: &mut H2Connection, response: H2Response, _: Arc<Notify>) {
        tokio::spawn(async move {
            let _response = response;
            std::future::pending::<()>().await;
        });
    }

    /// A length-prefixed message that a server sends for [`METHODS`]: the service is serving.
    #[cfg(feature = "tonic")]
    const MESSAGE: &[u8] = b"\0\0\0\0\x02\x08\x01";

    #[cfg(feature = "tonic")]
    #[tokio::test]
    async fn a_call_past_its_deadline_has_the_code_that_the_caller_gets() {
        let address = serve_h2(wait, Arc::default()).await;
        for of_request in [true, false] {
            let endpoint = endpoint(address);
            let endpoint = if of_request {
                endpoint
            } else {
                endpoint.timeout(SHORT_TIMEOUT)
            };
            let telemetry = TestTelemetry::new();
            let mut client = client(&telemetry, endpoint.connect_lazy());
            let mut request = tonic::Request::new(check("known"));
            if of_request {
                request.set_timeout(SHORT_TIMEOUT);
            }
            let called = within_deadline("the end of the request", client.check(request)).await;
            let status = called.expect_err("the server does not respond");
            let call = recorded_call(&telemetry, "client").await;
            assert_eq!(call.code, name(status.code()));
            assert_eq!(call.error_type, "timeout");
            assert!(call.description.contains("Timeout expired"));
        }
    }

    #[cfg(feature = "tonic")]
    #[tokio::test]
    async fn a_call_to_an_unreachable_server_has_the_code_that_the_caller_gets() {
        let goes: H2Act = |connection, _, _| connection.abrupt_shutdown(h2::Reason::NO_ERROR);
        for (case, address, error_type) in [
            ("refused", refused_address(), "connection_refused"),
            // hyper does not distinguish a reset from a closed connection in HTTP/2.
            ("reset", serve(Act::Reset).await, "connection_closed"),
            ("closed", serve(Act::Close).await, "connection_closed"),
            (
                "goes away",
                serve_h2(goes, Arc::default()).await,
                "connection_closed",
            ),
        ] {
            let telemetry = TestTelemetry::new();
            let mut client = client(&telemetry, endpoint(address).connect_lazy());
            let called =
                within_deadline("the end of the request", client.check(check("known"))).await;
            let status = called.expect_err("the server does not respond");
            let call = recorded_call(&telemetry, "client").await;
            assert_eq!(call.code, name(status.code()), "{case}: {status:?}");
            assert_eq!(call.error_type, error_type, "{case}: {status:?}");
            assert_ne!(call.description, "", "{case}");
        }
    }

    #[cfg(feature = "tonic")]
    #[tokio::test]
    async fn a_call_rejected_by_load_shedding_has_the_code_that_the_caller_gets() {
        let telemetry = TestTelemetry::new();
        let service = ServiceBuilder::new()
            .load_shed()
            .concurrency_limit(0)
            .service(endpoint(refused_address()).connect_lazy());
        let status = client(&telemetry, service).check(check("known")).await;
        let status = status.expect_err("the call is rejected");
        let call = recorded_call(&telemetry, "client").await;
        assert_eq!(call.code, name(status.code()));
        assert_eq!(call.error_type, "overloaded");
    }

    #[cfg(feature = "tonic")]
    #[tokio::test]
    async fn a_reset_call_has_the_code_that_the_caller_gets_before_and_after_the_head() {
        for reason in 0..14 {
            let read = Arc::new(Notify::new());
            let before_head: H2Act = |_, mut stream, _| stream.send_reset(REASON.get());
            let in_body: H2Act = |_, mut stream, read| {
                let head = Response::builder().header("content-type", "application/grpc");
                let head = head.body(()).expect("a valid response");
                let sent = stream.send_response(head, false);
                let mut body = sent.expect("the stream is open");
                body.send_data(MESSAGE.into(), false)
                    .expect("the stream is open");
                let reason = REASON.get();
                tokio::spawn(async move {
                    read.notified().await;
                    body.send_reset(reason);
                });
            };
            for act in [before_head, in_body] {
                REASON.set(reason.into());
                let address = serve_h2(act, read.clone()).await;
                let telemetry = TestTelemetry::new();
                let mut client = client(&telemetry, endpoint(address).connect_lazy());
                let called =
                    within_deadline("the end of the request", client.watch(check("known"))).await;
                let status = match called {
                    Err(status) => status,
                    Ok(stream) => {
                        let mut stream = stream.into_inner();
                        let first = within_deadline("a message", stream.message()).await;
                        assert!(matches!(first, Ok(Some(_))));
                        read.notify_one();
                        let next =
                            within_deadline("the end of the request", stream.message()).await;
                        next.expect_err("the stream is reset")
                    }
                };
                let call = recorded_call(&telemetry, "client").await;
                assert_eq!(call.code, name(status.code()), "{reason}: {status:?}");
                // hyper treats a reset with `NO_ERROR` as the end of the body, so the call ends
                // without a code.
                let error_type = match (reason, call.code.as_str()) {
                    (0, "UNKNOWN") => "UNKNOWN",
                    _ => "connection_reset",
                };
                assert_eq!(call.error_type, error_type, "{reason}: {status:?}");
            }
        }
    }

    #[cfg(feature = "tonic")]
    thread_local! {
        /// The reason of the current case. The test runs on one thread.
        static REASON: std::cell::Cell<h2::Reason> =
            const { std::cell::Cell::new(h2::Reason::NO_ERROR) };
    }

    #[cfg(feature = "tonic")]
    #[tokio::test]
    async fn a_tonic_status_as_error_keeps_its_own_code_as_error_type() {
        let telemetry = TestTelemetry::new();
        let service = service_fn(async |_: Request<tonic::body::Body>| {
            Err::<Response<tonic::body::Body>, _>(tonic::Status::resource_exhausted("too much"))
        });
        let status = client(&telemetry, service).check(check("known")).await;
        let status = status.expect_err("the call fails");
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let call = recorded_call(&telemetry, "client").await;
        assert_eq!(call.code, "RESOURCE_EXHAUSTED");
        assert_eq!(call.error_type, "RESOURCE_EXHAUSTED");
        assert!(call.description.contains("too much"));
    }

    /// The codes do not need the feature `tonic`.
    #[tokio::test]
    async fn errors_of_hyper_and_h2_have_grpc_codes() {
        let enhance_your_calm: H2Act =
            |_, mut stream, _| stream.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
        let with_tonic = cfg!(feature = "tonic");
        for (address, code, error_type) in [
            (
                serve_h2(enhance_your_calm, Arc::default()).await,
                "RESOURCE_EXHAUSTED",
                "connection_reset",
            ),
            (
                refused_address(),
                if with_tonic { "UNKNOWN" } else { "UNAVAILABLE" },
                "connection_refused",
            ),
        ] {
            let telemetry = TestTelemetry::new();
            let client = Client::builder(TokioExecutor::new())
                .http2_only(true)
                .build_http::<Empty<Bytes>>();
            let layer = telemetry.client_layer().with_grpc_methods(METHODS);
            let request = Request::post(format!("http://{address}/{}", METHODS[0]))
                .header("content-type", "application/grpc")
                .body(Empty::new());
            let sent = layer
                .layer(client)
                .oneshot(request.expect("a valid request"));
            assert!(
                within_deadline("the end of the request", sent)
                    .await
                    .is_err()
            );
            let call = recorded_call(&telemetry, "client").await;
            assert_eq!((&*call.code, &*call.error_type), (code, error_type));
        }
    }

    #[tokio::test]
    async fn a_call_for_an_unknown_service_has_the_message_as_description() {
        let server = TestTelemetry::new();
        let address = serve_health(server.layer()).await;
        let telemetry = TestTelemetry::new();
        let mut client = client(&telemetry, endpoint(address).connect_lazy());
        let status = client.check(check("unknown")).await;
        let status = status.expect_err("the service is unknown");
        let call = recorded_call(&telemetry, "client").await;
        assert_eq!(call.description, status.message());
        assert_eq!(server.only_span().await.status, Status::Unset);
    }
}
