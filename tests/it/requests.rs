//! Tests the attributes of a request with many inputs.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::routing::{any, get as route};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use opentelemetry::KeyValue;
use opentelemetry::trace::TraceContextExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{
    TelemetryLayer, add_request_attributes, add_span_attributes, add_span_event,
    attributes as list, bind_counter, get_tracer, increment_counter, layers::ForwardedHeader,
    record_histogram_value, set_gauge, start_timer,
};

use crate::support::{
    self, Attributes, TestTelemetry, Value, attributes, eventually, get, send_through,
    span_attributes,
};

/// Sends a request through a router and reads the whole response.
async fn send(app: &Router, request: http::request::Builder) -> StatusCode {
    let request = request.body(Body::empty()).expect("a valid request");
    let response = app
        .clone()
        .oneshot(request)
        .await
        .expect("the service cannot fail");
    let status = response.status();
    response
        .into_body()
        .collect()
        .await
        .expect("the body is complete");
    status
}

#[tokio::test]
async fn in_a_nested_router_the_original_path_is_recorded() {
    type Build = fn(TelemetryLayer) -> Router;
    let builds: [(&str, Build); 4] = [
        ("a layer inside", |layer| {
            let inner = Router::new().route("/items/{id}", route(async || ""));
            Router::new().nest("/api", inner.layer(layer))
        }),
        ("a layer two levels inside", |layer| {
            let inner = Router::new().route("/{id}", route(async || ""));
            let middle = Router::new().nest("/items", inner.layer(layer));
            Router::new().nest("/api", middle)
        }),
        ("a layer of a route", |layer| {
            let inner = Router::new().route("/items/{id}", route(async || "").layer(layer));
            Router::new().nest("/api", inner)
        }),
        ("a layer outside", |layer| {
            let inner = Router::new().route("/items/{id}", route(async || ""));
            Router::new().nest("/api", inner).layer(layer)
        }),
    ];
    for (case, build) in builds {
        let telemetry = TestTelemetry::new();
        let paths = Arc::new(Mutex::new(Vec::new()));
        let see = |paths: &Arc<Mutex<Vec<String>>>| {
            let paths = paths.clone();
            move |request: &http::request::Parts| {
                let path = request.uri.path().to_owned();
                paths.lock().expect("the lock is not poisoned").push(path);
            }
        };
        let (filter, name, hook) = (see(&paths), see(&paths), see(&paths));
        let layer = telemetry
            .layer()
            .with_filter(move |request| {
                filter(request);
                true
            })
            .with_span_name(move |request| {
                name(request);
                None
            })
            .with_request_attributes(move |request, _| hook(request));
        let app = build(layer);
        let status = send(&app, get("/api/items/9?q=1")).await;
        assert_eq!(status, StatusCode::OK, "{case}: the route still matches");
        let span = telemetry.only_span().await;
        assert_eq!(span.name, "GET /api/items/{id}", "{case}");
        assert_eq!(
            span_attributes(&span),
            attributes([
                ("http.request.method", "GET"),
                ("http.response.status_code", "200"),
                ("http.route", "/api/items/{id}"),
                ("network.protocol.version", "1.1"),
                ("url.path", "/api/items/9"),
                ("url.query", "q=1"),
                ("url.scheme", "http"),
            ]),
            "{case}"
        );
        let paths = paths.lock().expect("the lock is not poisoned");
        assert_eq!(*paths, ["/api/items/9"; 3], "{case}");
    }
}

#[tokio::test]
async fn the_scheme_is_that_of_the_connection_or_of_a_trusted_proxy() {
    let https = || Some(http::uri::Scheme::HTTPS);
    for (scheme, proxies, uri, version, forwarded, expected) in [
        (None, 0, "/", Version::HTTP_11, None, "http"),
        // A client can write any scheme into the URI.
        (None, 0, "https://a/", Version::HTTP_11, None, "http"),
        (None, 0, "https://a/", Version::HTTP_2, None, "http"),
        (None, 0, "/", Version::HTTP_11, Some("https"), "http"),
        (https(), 0, "/", Version::HTTP_11, None, "https"),
        (https(), 0, "http://a/", Version::HTTP_11, None, "https"),
        (https(), 0, "https://a/", Version::HTTP_2, None, "https"),
        (https(), 0, "/", Version::HTTP_11, Some("http"), "https"),
        (None, 1, "/", Version::HTTP_11, Some("https"), "https"),
        (None, 1, "/", Version::HTTP_11, Some("wss"), "https"),
        (https(), 1, "/", Version::HTTP_11, Some("ws"), "http"),
        (https(), 1, "/", Version::HTTP_11, Some("gopher"), "https"),
    ] {
        let case = format!("{scheme:?} {proxies} {uri} {version:?} {forwarded:?}");
        let telemetry = TestTelemetry::new();
        let mut layer = telemetry.layer().with_trusted_proxies(proxies);
        if let Some(scheme) = scheme {
            layer = layer.with_scheme(scheme);
        }
        let mut request = get(uri).version(version);
        if let Some(forwarded) = forwarded {
            request = request.header("x-forwarded-proto", forwarded);
        }
        send_through(&layer, request).await;
        let span = telemetry.only_span().await;
        assert_eq!(span_attributes(&span)["url.scheme"], expected, "{case}");
        for metric in [
            "http.server.request.duration",
            "http.server.active_requests",
        ] {
            let point = telemetry.point(metric);
            assert_eq!(point.attributes["url.scheme"], expected, "{case} {metric}");
        }
    }
}

#[tokio::test]
async fn a_scheme_other_than_http_and_https_is_ignored() {
    let telemetry = TestTelemetry::new();
    let scheme = "gopher".parse().expect("a valid scheme");
    send_through(&telemetry.layer().with_scheme(scheme), get("/")).await;
    let span = telemetry.only_span().await;
    assert_eq!(span_attributes(&span)["url.scheme"], "http");
}

#[tokio::test]
async fn only_the_configured_forwarded_headers_are_read() {
    for (headers, client, host) in [
        (None, "198.51.100.9", "inner"),
        (
            Some(vec![ForwardedHeader::Forwarded]),
            "6.6.6.6",
            "evil.example",
        ),
        (
            Some(vec![
                ForwardedHeader::XForwardedFor,
                ForwardedHeader::XForwardedHost,
            ]),
            "198.51.100.9",
            "x.example",
        ),
    ] {
        let telemetry = TestTelemetry::new();
        let mut layer = telemetry.layer().with_trusted_proxies(1);
        if let Some(headers) = headers.clone() {
            layer = layer.with_forwarded_headers(headers);
        }
        let request = get("/")
            .header("host", "inner")
            .header("forwarded", "for=6.6.6.6;host=evil.example;proto=https")
            .header("x-forwarded-host", "x.example")
            .header("x-forwarded-for", "1.2.3.4, 198.51.100.9");
        send_through(&layer, request).await;
        let span = telemetry.only_span().await;
        let found = span_attributes(&span);
        assert_eq!(found["client.address"], client, "{headers:?}");
        assert_eq!(found["server.address"], host, "{headers:?}");
    }
}

#[tokio::test]
async fn an_ipv4_mapped_ipv6_address_is_recorded_as_ipv4() {
    for (address, expected) in [
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("2001:db8::ffff:1", "2001:db8::ffff:1"),
    ] {
        let telemetry = TestTelemetry::new();
        let layer = telemetry.layer().with_trusted_proxies(1);
        send_through(&layer, get("/").header("x-forwarded-for", address)).await;
        let mut request = get("/");
        let peer = std::net::SocketAddr::new(address.parse().expect("a valid address"), 4711);
        let extensions = request.extensions_mut().expect("a valid request");
        extensions.insert(axum::extract::ConnectInfo(peer));
        send_through(&layer, request).await;
        let spans = telemetry.wait_for_spans(2).await;
        let found = [span_attributes(&spans[0]), span_attributes(&spans[1])];
        assert_eq!(found[0]["client.address"], expected);
        assert_eq!(found[1]["client.address"], expected);
        assert_eq!(found[1]["network.peer.address"], expected);
        assert_eq!(found[1]["network.peer.port"], "4711");
    }
}

#[tokio::test]
async fn a_user_agent_of_any_encoding_is_recorded() {
    let long = format!("{}é/1", "a".repeat(252));
    let longer = "é".repeat(300);
    for (agent, expected) in [
        (&b"curl/8.5.0"[..], "curl/8.5.0".to_owned()),
        ("café-client/1".as_bytes(), "café-client/1".to_owned()),
        (b"caf\xe9/1", "caf\u{fffd}/1".to_owned()),
        (b"\xff\xfe", "\u{fffd}\u{fffd}".to_owned()),
        (long.as_bytes(), long.clone()),
        (longer.as_bytes(), format!("{}…", "é".repeat(126))),
    ] {
        let telemetry = TestTelemetry::new();
        let agent = HeaderValue::from_bytes(agent).expect("a legal value");
        send_through(&telemetry.layer(), get("/").header("user-agent", agent)).await;
        let span = telemetry.only_span().await;
        assert_eq!(span_attributes(&span)["user_agent.original"], expected);
    }
    let telemetry = TestTelemetry::new();
    send_through(&telemetry.layer(), get("/").header("user-agent", "")).await;
    let span = telemetry.only_span().await;
    assert!(!span_attributes(&span).contains_key("user_agent.original"));
}

/// Returns the telemetry of one request, without the values that differ between runs.
async fn recorded(app: Router, telemetry: &TestTelemetry, request: Request<Body>) -> Recorded {
    let version = request.version();
    let server = support::Server::start(app).await;
    let (mut head, body) = request.into_parts();
    let path = head
        .uri
        .path_and_query()
        .expect("the URI has a path")
        .clone();
    let uri = format!("http://{}{path}", server.address);
    head.uri = uri.parse().expect("a valid URI");
    support::send(version, Request::from_parts(head, body)).await;
    let span = telemetry.only_span().await;
    let mut span_attributes = span_attributes(&span);
    for key in ["server.port", "network.peer.port"] {
        assert!(span_attributes.remove(key).is_some());
    }
    let metrics = telemetry.metrics().into_iter().map(|(name, metric)| {
        let points = metric.points.into_iter().map(|point| {
            let count = match point.value {
                Value::Histogram { count, .. } => {
                    i64::try_from(count).expect("the number is small")
                }
                Value::Count(count) => i64::try_from(count).expect("the number is small"),
                Value::Sum(sum) => sum,
                Value::F64(_) => panic!("no metric of a layer is a gauge"),
            };
            (point.attributes, count)
        });
        (name, points.collect())
    });
    Recorded {
        name: span.name.into_owned(),
        status: span.status,
        attributes: span_attributes,
        metrics: metrics.collect(),
    }
}

#[derive(Debug, PartialEq)]
struct Recorded {
    name: String,
    status: opentelemetry::trace::Status,
    attributes: Attributes,
    metrics: Vec<(String, Vec<(Attributes, i64)>)>,
}

#[tokio::test]
async fn a_request_with_an_http_response_is_recorded_as_http_whatever_its_content_type() {
    type Build = fn() -> Router;
    let builds: [(&str, Build); 3] = [
        ("a fallback", || {
            Router::new().fallback(async || StatusCode::NOT_FOUND)
        }),
        ("a route", || {
            Router::new().route("/a.B/C", any(async || "no gRPC"))
        }),
        ("a server error", || {
            Router::new().fallback(async || StatusCode::BAD_GATEWAY)
        }),
    ];
    for (case, build) in builds {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            for header in [None, Some("te"), Some("x-grpc-web")] {
                let request = |content_type: Option<&str>| {
                    let mut request = Request::post("/a.B/C?q=1&sig=secret").version(version);
                    request = request.header("user-agent", "test/1");
                    if let Some(name) = header {
                        request = request.header(name, "trailers");
                    }
                    if let Some(content_type) = content_type {
                        request = request.header("content-type", content_type);
                    }
                    request.body(Body::empty()).expect("a valid request")
                };
                let record = async |content_type| {
                    let telemetry = TestTelemetry::new();
                    let app = build().layer(telemetry.layer());
                    recorded(app, &telemetry, request(content_type)).await
                };
                let expected = record(None).await;
                assert_eq!(expected.attributes["url.query"], "q=1&sig=REDACTED");
                for content_type in [
                    "application/grpc",
                    "application/grpc+proto",
                    "application/grpc-web",
                    "application/grpc-web-text",
                ] {
                    let found = record(Some(content_type)).await;
                    assert_eq!(
                        found, expected,
                        "{case} {version:?} {header:?} {content_type}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_claims_to_be_grpc_is_counted_as_active_while_it_is_served() {
    let telemetry = TestTelemetry::new();
    let (answer, answered) = tokio::sync::watch::channel(false);
    let handler = move || {
        let mut answered = answered.clone();
        async move {
            answered
                .wait_for(|answered| *answered)
                .await
                .expect("the signal is sent");
            "no gRPC"
        }
    };
    let app = Router::new().fallback(handler).layer(telemetry.layer());
    let request = Request::post("/a.B/C").header("content-type", "application/grpc");
    let task = tokio::spawn(async move { send(&app, request).await });
    eventually("the request is active", || {
        telemetry.sum("http.server.active_requests") == 1
    })
    .await;
    answer.send(true).expect("the handler waits");
    task.await.expect("the task does not panic");
    assert_eq!(telemetry.sum("http.server.active_requests"), 0);
    assert_eq!(telemetry.only_span().await.name, "POST");
}

/// Returns a body of these chunks.
fn chunks(chunks: Vec<Vec<u8>>) -> Body {
    let chunks = chunks
        .into_iter()
        .map(|one| Ok::<_, Infallible>(Bytes::from(one)));
    Body::from_stream(tokio_stream::iter(chunks))
}

#[tokio::test]
async fn the_status_of_grpc_web_is_read_however_its_frames_are_split() {
    let trailers = b"grpc-status:9\r\ngrpc-message:no\r\n";
    let length = u8::try_from(trailers.len()).expect("the number is small");
    let body = [
        &b"\0\0\0\0\x11\x80\0\0\0\x07grpc-status:"[..],
        &[0x80, 0, 0, 0, length],
        trailers,
    ]
    .concat();
    for cut in 0..=body.len() {
        let telemetry = TestTelemetry::new();
        let body = body.clone();
        let handler = move || {
            let (first, rest) = body.split_at(cut);
            let body = chunks(vec![first.to_vec(), rest.to_vec()]);
            async { ([("content-type", "application/grpc-web+proto")], body) }
        };
        let app = Router::new().fallback(handler).layer(telemetry.layer());
        let request = Request::post("/a.B/C").header("content-type", "application/grpc-web+proto");
        send(&app, request).await;
        let span = telemetry.only_span().await;
        let found = span_attributes(&span);
        assert_eq!(found["rpc.status_code"], "FAILED_PRECONDITION", "{cut}");
        assert_eq!(found["rpc.method"], "a.B/C", "{cut}");
    }
}

#[tokio::test]
async fn the_payload_of_a_grpc_message_is_not_read_as_a_status() {
    for payload in [
        &b"\x80\0\0\0\x0fgrpc-status:7\r\n"[..],
        b"\x80grpc-status:7",
        b"\0\0\0\0\x0fgrpc-status:7\r\n",
    ] {
        let telemetry = TestTelemetry::new();
        let payload = payload.to_vec();
        let handler = move || {
            let payload = payload.clone();
            async move {
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let trailers = std::future::ready(Some(Ok(trailers)));
                let body = Full::new(Bytes::from(payload)).with_trailers(trailers);
                ([("content-type", "application/grpc")], Body::new(body))
            }
        };
        let app = Router::new().fallback(handler).layer(telemetry.layer());
        let request = Request::post("/a.B/C").header("content-type", "application/grpc");
        send(&app, request).await;
        let span = telemetry.only_span().await;
        assert_eq!(span_attributes(&span)["rpc.status_code"], "OK");
    }
}

#[tokio::test]
async fn an_inner_layer_records_requests_that_the_outer_one_filtered() {
    for (outer_wants, inner_wants, expected) in [
        (true, true, Some("outer")),
        (true, false, Some("outer")),
        (false, true, Some("inner")),
        (false, false, None),
    ] {
        let telemetry = TestTelemetry::new();
        let layer = |name: &'static str, wants: bool| {
            telemetry
                .layer()
                .with_filter(move |_| wants)
                .with_span_name(move |_| Some(name.into()))
        };
        let handler = async move || {
            let cx = opentelemetry::Context::current();
            let is_recording = cx.span().is_recording();
            assert_eq!(is_recording, outer_wants || inner_wants);
        };
        let inner = Router::new().route("/b", route(handler));
        let app = Router::new()
            .nest("/a", inner.layer(layer("inner", inner_wants)))
            .layer(layer("outer", outer_wants));
        assert_eq!(send(&app, get("/a/b")).await, StatusCode::OK);
        let names: Vec<_> = telemetry
            .spans()
            .into_iter()
            .map(|span| span.name)
            .collect();
        assert_eq!(names, Vec::from_iter(expected));
        let requests = telemetry.points("http.requests").len();
        assert_eq!(requests, usize::from(expected.is_some()));
    }
}

#[tokio::test]
async fn each_route_has_its_own_limit_of_series_that_clients_cannot_exhaust_for_others() {
    let telemetry = TestTelemetry::new();
    let status = async |uri: http::Uri| {
        let status = uri.query().and_then(|status| status.parse().ok());
        StatusCode::from_u16(status.unwrap_or(200)).expect("a legal status")
    };
    let mut app = Router::new();
    for n in 0..99 {
        app = app.route(&format!("/{n}/{{id}}"), any(status));
    }
    let app = app.layer(telemetry.layer());
    // A client tries all values that it can choose, on all routes but one.
    for n in 0..98 {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
                for status in [200, 404] {
                    let uri = format!("https://a/{n}/x?{status}");
                    send(
                        &app,
                        Request::builder().method(method).version(version).uri(uri),
                    )
                    .await;
                }
            }
        }
    }
    for status in [200, 500] {
        send(&app, get(&format!("/98/1?{status}"))).await;
    }
    let sent = 98 * 5 * 3 * 2 + 2;
    for metric in ["http.requests", "http.server.request.duration"] {
        let points = telemetry.points(metric);
        let overflow = |attributes: &Attributes| attributes.contains_key("otel.metric.overflow");
        assert!(points.len() < 2000, "{metric}: {}", points.len());
        // No point is in the overflow series of the SDK, which has no route.
        assert!(
            points
                .iter()
                .all(|point| point.attributes.contains_key("http.route")),
            "{metric}"
        );
        let of_new: Vec<_> = points
            .iter()
            .filter(|point| point.attributes["http.route"] == "/98/{id}")
            .collect();
        assert_eq!(of_new.len(), 2, "{metric}");
        assert!(of_new.iter().all(|point| !overflow(&point.attributes)));
        let count: u64 = points
            .iter()
            .map(|point| match point.value {
                Value::Count(count) => count,
                _ => point.value.histogram().0,
            })
            .sum();
        assert_eq!(count, sent, "{metric}: no request is missing");
        assert!(
            points.iter().any(|point| overflow(&point.attributes)),
            "{metric}"
        );
    }
}

/// Sends a request whose handler sets attributes, and returns the attributes of the span and of the metric.
async fn written(
    layer: impl FnOnce(TelemetryLayer) -> TelemetryLayer,
    handler: fn(),
) -> (Vec<KeyValue>, Attributes) {
    let telemetry = TestTelemetry::new();
    let layer = layer(telemetry.layer());
    let service = layer.layer(service_fn(move |_: Request<()>| async move {
        handler();
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let request = get("/a").body(()).expect("a valid request");
    let response = service
        .oneshot(request)
        .await
        .expect("the service cannot fail");
    response
        .into_body()
        .collect()
        .await
        .expect("the body is complete");
    let mut spans = telemetry.spans();
    let span = spans.pop().expect("the request span ends last");
    if let Some(child) = spans.pop() {
        assert_eq!(child.attributes, [KeyValue::new("a", 2)]);
    }
    // Fails if a key is there twice.
    span_attributes(&span);
    (span.attributes, telemetry.point("http.requests").attributes)
}

fn value(attributes: &[KeyValue], key: &str) -> Option<String> {
    let mut found = attributes.iter().filter(|one| one.key.as_str() == key);
    let value = found.next().map(|one| one.value.to_string());
    assert!(found.next().is_none(), "{key} is there twice");
    value
}

#[tokio::test]
async fn the_last_value_set_for_a_span_attribute_wins() {
    let (span, _) = written(
        |layer| layer,
        || {
            add_span_attributes(list! { "app.x" => 1, "app.y" => 1, "app.x" => 2 });
            add_span_attributes(list! { "app.x" => 3 });
            opentelemetry::Context::map_current(|cx| {
                cx.span().set_attribute(KeyValue::new("app.y", 4));
            });
        },
    )
    .await;
    assert_eq!(value(&span, "app.x").as_deref(), Some("3"));
    assert_eq!(value(&span, "app.y").as_deref(), Some("4"));

    let (span, _) = written(
        |layer| {
            layer.with_request_attributes(|_, attributes| {
                attributes.add_to_span(KeyValue::new("app.x", 1));
                attributes.add_to_span(KeyValue::new("url.path", "/hidden"));
                attributes.add_to_span(KeyValue::new("app.x", 2));
            })
        },
        || {},
    )
    .await;
    assert_eq!(value(&span, "app.x").as_deref(), Some("2"));
    assert_eq!(value(&span, "url.path").as_deref(), Some("/hidden"));
}

#[tokio::test]
async fn a_value_of_the_application_wins_over_the_value_of_the_layer_on_spans() {
    let (span, metric) = written(
        |layer| layer,
        || {
            add_span_attributes(list! { "http.response.status_code" => 299 });
            add_request_attributes(list! {
                "error.type" => "mine", "http.route" => "/mine", "app.plan" => "free",
            });
        },
    )
    .await;
    assert_eq!(
        value(&span, "http.response.status_code").as_deref(),
        Some("299")
    );
    assert_eq!(value(&span, "error.type").as_deref(), Some("mine"));
    assert_eq!(value(&span, "http.route").as_deref(), Some("/mine"));
    // On metrics, the value of the layer wins.
    assert_eq!(
        metric,
        attributes([
            ("app.plan", "free"),
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
        ])
    );
}

#[tokio::test]
async fn the_last_value_of_a_span_attribute_wins_whichever_function_sets_it() {
    fn request(value: i64) {
        add_request_attributes([KeyValue::new("app.x", value)]);
    }
    fn span(value: i64) {
        add_span_attributes([KeyValue::new("app.x", value)]);
    }
    type Handler = fn();
    let handlers: [(&str, Handler); 4] = [
        ("request, span", || {
            request(1);
            span(9);
        }),
        ("span, request", || {
            span(1);
            request(9);
        }),
        ("request, span, request", || {
            request(1);
            span(2);
            request(9);
        }),
        ("nothing", || {}),
    ];
    for (case, handler) in handlers {
        let (span, metric) = written(
            |layer| {
                layer.with_request_attributes(|_, attributes| {
                    attributes.add_to_metrics(KeyValue::new("app.x", 0));
                    attributes.add_to_metrics(KeyValue::new("hook.y", 1));
                    attributes.add_to_span(KeyValue::new("hook.y", 2));
                    attributes.add_to_span(KeyValue::new("hook.z", 3));
                    attributes.add_to_metrics(KeyValue::new("hook.z", 4));
                })
            },
            handler,
        )
        .await;
        let expected = if case == "nothing" { "0" } else { "9" };
        assert_eq!(value(&span, "app.x").as_deref(), Some(expected), "{case}");
        assert_eq!(value(&span, "hook.y").as_deref(), Some("2"), "{case}");
        assert_eq!(value(&span, "hook.z").as_deref(), Some("4"), "{case}");
        assert_eq!((&*metric["hook.y"], &*metric["hook.z"]), ("1", "4"));
    }
    let (span, _) = written(
        |layer| {
            layer
                .with_request_attributes(|_, attributes| {
                    attributes.add_to_metrics(KeyValue::new("hook.y", 1));
                })
                .with_response_attributes(|_, attributes| {
                    attributes.add_to_span(KeyValue::new("hook.y", 3));
                })
        },
        || {
            let span = get_tracer("test")
                .span("child")
                .with_attributes(list! { "a" => 1 });
            span.run(|| {
                add_span_attributes(list! { "a" => 2 });
                // The attribute is added to the span of the request, not to the current span.
                request(5);
            });
        },
    )
    .await;
    assert_eq!(value(&span, "hook.y").as_deref(), Some("3"));
    assert_eq!(value(&span, "app.x").as_deref(), Some("5"));
}

#[tokio::test]
async fn attributes_of_events_have_unique_keys() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry.layer();
    let service = layer.layer(service_fn(async |_: Request<()>| {
        add_span_event("event", list! { "a" => 1, "b" => 2, "a" => 3 });
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let request = get("/a").body(()).expect("a valid request");
    service
        .oneshot(request)
        .await
        .expect("the service cannot fail");
    let span = telemetry.only_span().await;
    let expected = [KeyValue::new("a", 3), KeyValue::new("b", 2)];
    assert_eq!(span.events.events[0].attributes, expected);
}

#[tokio::test]
async fn a_duplicate_key_of_a_metric_call_is_one_attribute_of_one_series() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry.layer();
    let service = layer.layer(service_fn(async |_: Request<()>| {
        for _ in 0..30 {
            increment_counter("c", "Counted.", list! { "a" => 1, "b" => 2, "a" => 3 });
            increment_counter("c", "Counted.", list! { "a" => 3, "b" => 2 });
        }
        record_histogram_value("h", "Values.", 1.0, list! { "a" => 1, "a" => 3, "b" => 2 });
        set_gauge("g", "Level.", 1.0, list! { "b" => 2, "a" => 1, "a" => 3 });
        let mut timer = start_timer("t", "Time.", list! { "a" => 1, "b" => 1, "b" => 2 });
        timer.add_attribute(KeyValue::new("a", 3));
        drop(timer);
        bind_counter("d", "Counted.", list! { "a" => 1, "b" => 2, "a" => 3 }).add(1);
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let request = get("/a").body(()).expect("a valid request");
    service
        .oneshot(request)
        .await
        .expect("the service cannot fail");
    for metric in ["c", "d", "g", "h", "t"] {
        let point = telemetry.point(metric);
        assert_eq!(
            point.attributes,
            attributes([("a", "3"), ("b", "2")]),
            "{metric}"
        );
    }
    assert_eq!(telemetry.point("c").value, Value::Count(60));
}

#[tokio::test]
async fn a_header_that_is_configured_twice_is_captured_once() {
    const ID: HeaderName = HeaderName::from_static("x-request-id");
    let telemetry = TestTelemetry::new();
    let layer = telemetry.layer().with_captured_request_headers([ID, ID]);
    send_through(&layer, get("/").header(ID, "1")).await;
    let span = telemetry.only_span().await;
    assert_eq!(
        value(&span.attributes, "http.request.header.x-request-id").as_deref(),
        Some("[\"1\"]")
    );
}
