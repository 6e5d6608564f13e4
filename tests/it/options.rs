//! What a layer can be told.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use opentelemetry::KeyValue;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry_sdk::trace::Sampler;
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{
    MetricSet, TelemetryLayer, Trust, add_request_attributes, attributes as list, get_trace_id,
};

use crate::support::{TRACE_ID, TRACEPARENT, TestTelemetry, Value, attributes, span_attributes};

/// Sends a request with these headers through the layer, to a service that answers `hello`.
async fn send(layer: &TelemetryLayer, request: http::request::Builder) -> Response<Bytes> {
    let service = layer.layer(service_fn(|_: Request<()>| async {
        let response = Response::builder().header("x-served-by", "me");
        Ok::<_, Infallible>(
            response
                .body(Full::<Bytes>::from("hello"))
                .expect("a valid response"),
        )
    }));
    let request = request.body(()).expect("a valid request");
    let response = service.oneshot(request).await.expect("it cannot fail");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("it is whole").to_bytes();
    Response::from_parts(head, body)
}

fn get(path: &str) -> http::request::Builder {
    Request::get(path.to_owned())
}

#[tokio::test]
async fn a_filtered_request_is_not_recorded_and_its_context_goes_on() {
    let telemetry = TestTelemetry::new();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let layer = telemetry.layer().with_filter(move |request| {
        count.fetch_add(1, Ordering::Relaxed);
        request.uri.path() != "/healthz"
    });
    let service = layer.layer(service_fn(|_: Request<()>| async {
        assert_eq!(
            get_trace_id().map(|id| id.to_string()),
            Some(TRACE_ID.to_owned())
        );
        let cx = opentelemetry::Context::current();
        assert_eq!(
            cx.baggage().get("user").map(|value| value.as_str()),
            Some("42")
        );
        assert_eq!(
            cx.span().span_context().span_id().to_string(),
            "b7ad6b7169203331"
        );
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let request = get("/healthz").header("traceparent", TRACEPARENT);
    let request = request.header("baggage", "user=42").body(());
    let response = service.oneshot(request.expect("a valid request")).await;
    assert!(
        !response
            .expect("it cannot fail")
            .headers()
            .contains_key("x-trace-id")
    );
    assert_eq!(telemetry.spans().len(), 0);
    assert_eq!(telemetry.metrics().len(), 0);
    assert_eq!(seen.load(Ordering::Relaxed), 1);

    send(&layer, get("/other")).await;
    assert_eq!(telemetry.spans().len(), 1);
}

#[tokio::test]
async fn a_name_that_is_given_is_that_of_the_span() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .layer()
        .with_span_name(|request| (request.uri.path() == "/batch").then(|| "batch".into()));
    send(&layer, get("/batch")).await;
    send(&layer, get("/other")).await;
    let names: Vec<_> = telemetry
        .spans()
        .into_iter()
        .map(|span| span.name)
        .collect();
    assert_eq!(names, ["batch", "GET"]);
}

#[tokio::test]
async fn attributes_of_hooks_and_handlers_land_where_they_are_told_to() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .layer()
        .with_request_attributes(|request, attributes| {
            let path = request.uri.path().to_owned();
            attributes.add_to_span(KeyValue::new("request.id", path));
            attributes.add_to_metrics(KeyValue::new("request.kind", "test"));
        })
        .with_response_attributes(|response, attributes| {
            let code = i64::from(response.status.as_u16());
            attributes.add_to_span(KeyValue::new("response.id", code));
            attributes.add_to_metrics(KeyValue::new("response.kind", "small"));
        });
    let service = layer.layer(service_fn(|_: Request<()>| async {
        add_request_attributes(list! { "user.plan" => "free" });
        tokio::task::yield_now().await;
        add_request_attributes(list! { "user.plan" => "paid" });
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let request = get("/id-1").body(()).expect("a valid request");
    service.oneshot(request).await.expect("it cannot fail");

    let span = telemetry.only_span().await;
    assert_eq!(
        span_attributes(&span),
        attributes([
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("network.protocol.version", "1.1"),
            ("request.id", "/id-1"),
            ("request.kind", "test"),
            ("response.id", "200"),
            ("response.kind", "small"),
            ("url.path", "/id-1"),
            ("url.scheme", "http"),
            ("user.plan", "paid"),
        ])
    );
    assert_eq!(
        telemetry.point("http.requests").attributes,
        attributes([
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("request.kind", "test"),
            ("response.kind", "small"),
            ("user.plan", "paid"),
        ])
    );
    assert_eq!(
        telemetry.point("http.server.active_requests").attributes,
        attributes([("http.request.method", "GET"), ("url.scheme", "http")])
    );
}

#[tokio::test]
async fn values_without_end_from_a_hook_add_a_bounded_number_of_series() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .layer()
        .with_request_attributes(|request, attributes| {
            let path = request.uri.path().to_owned();
            attributes.add_to_metrics(KeyValue::new("id", path));
        });
    for n in 0..1000 {
        send(&layer, get(&format!("/{n}"))).await;
    }
    send(&layer, get(&format!("/{}", "x".repeat(1000)))).await;
    let points = telemetry.points("http.requests");
    assert_eq!(points.len(), 512 + 1);
    let other = points
        .iter()
        .find(|point| point.attributes["id"] == "_OTHER");
    assert_eq!(
        other.map(|point| &point.value),
        Some(&Value::Count(1001 - 512))
    );
    assert!(
        points
            .iter()
            .all(|point| point.attributes["id"].len() <= 64)
    );
}

#[tokio::test]
async fn a_hook_that_panics_does_not_harm_the_request() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .layer()
        .with_filter(|_| panic!("filter"))
        .with_span_name(|_| panic!("name"))
        .with_trust_by_request(|_| panic!("trust"))
        .with_request_attributes(|_, attributes| {
            attributes.add_to_span(KeyValue::new("before", true));
            panic!("request")
        })
        .with_response_attributes(|_, _| panic!("response"));
    let response = send(&layer, get("/").header("traceparent", TRACEPARENT)).await;
    assert_eq!(response.body(), "hello");
    let span = telemetry.only_span().await;
    assert_eq!(span.name, "GET");
    assert_eq!(span.status, Status::Unset);
    assert_ne!(
        span.span_context.trace_id().to_string(),
        TRACE_ID,
        "it is not trusted"
    );
    assert_eq!(telemetry.point("http.requests").value, Value::Count(1));
}

#[tokio::test]
async fn captured_headers_are_those_that_were_asked_for_but_no_credentials() {
    const ID: HeaderName = HeaderName::from_static("x-request-id");
    const SERVED: HeaderName = HeaderName::from_static("x-served-by");
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .layer()
        .with_captured_request_headers([ID, header::ACCEPT, header::AUTHORIZATION, header::COOKIE])
        .with_captured_response_headers([SERVED, header::SET_COOKIE]);
    let mut secret = HeaderValue::from_static("canary");
    secret.set_sensitive(true);
    let request = get("/")
        .header("x-request-id", "1")
        .header("x-request-id", "2".repeat(1000))
        .header("authorization", "Bearer canary")
        .header("cookie", "session=canary")
        .header("x-other", "canary")
        .header("accept", secret);
    send(&layer, request).await;
    let span = telemetry.only_span().await;
    assert!(!format!("{span:?}").contains("canary"), "{span:#?}");
    let found = span_attributes(&span);
    let long = format!("{}…", "2".repeat(253));
    assert_eq!(
        found["http.request.header.x-request-id"],
        format!("[\"1\",\"{long}\"]")
    );
    assert_eq!(found["http.response.header.x-served-by"], "[\"me\"]");
    assert!(!found.contains_key("http.request.header.accept"));
}

#[tokio::test]
async fn a_response_says_its_trace_as_the_layer_is_told() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .layer()
        .with_trace_id_header(HeaderName::from_static("x-correlation-id"))
        .with_traceresponse()
        .with_server_timing();
    let request = get("/")
        .header("traceparent", TRACEPARENT)
        .header("baggage", "a=1");
    let response = send(&layer, request).await;
    let span = telemetry.only_span().await;
    let context = format!("00-{TRACE_ID}-{}-01", span.span_context.span_id());
    let headers = response.headers();
    assert!(!headers.contains_key("x-trace-id"));
    assert_eq!(headers["x-correlation-id"], TRACE_ID);
    assert_eq!(headers["traceresponse"], context);
    assert_eq!(
        headers["server-timing"],
        format!("traceparent;desc=\"{context}\"")
    );
    assert!(!headers.contains_key("baggage"));

    let response = send(&telemetry.layer().without_trace_id_header(), get("/")).await;
    assert_eq!(response.headers().len(), 1);
}

#[tokio::test]
async fn only_the_sets_of_metrics_that_are_wanted_are_recorded() {
    for (sets, expected) in [
        (&[][..], &[][..]),
        (&[MetricSet::Basic], &["http.duration", "http.requests"]),
        (
            &[MetricSet::Conventions],
            &[
                "http.server.active_requests",
                "http.server.request.duration",
            ],
        ),
        (&[MetricSet::BodySizes], &["http.server.response.body.size"]),
    ] {
        let telemetry = TestTelemetry::new();
        let layer = telemetry.layer().with_metrics(sets.iter().copied());
        send(&layer, get("/")).await;
        let names: Vec<_> = telemetry.metrics().into_keys().collect();
        assert_eq!(names, expected);
    }
}

#[tokio::test]
async fn body_sizes_are_bytes_that_were_sent() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry.layer().with_metrics([MetricSet::BodySizes]);
    send(&layer, get("/")).await;
    let metric = telemetry.metrics().remove("http.server.response.body.size");
    let metric = metric.expect("it was recorded");
    assert_eq!(metric.unit, "By");
    assert_eq!(metric.points[0].value.histogram(), (1, 5.0));
    assert_eq!(
        metric.points[0].attributes,
        attributes([
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("network.protocol.version", "1.1"),
            ("url.scheme", "http"),
        ])
    );
}

#[tokio::test]
async fn queries_are_redacted_or_left_out_as_the_layer_is_told() {
    for (case, change, expected) in [
        (
            "as the conventions have it",
            (|layer| layer) as fn(TelemetryLayer) -> TelemetryLayer,
            Some("token=1&sig=REDACTED"),
        ),
        (
            "another list",
            |layer| layer.with_sensitive_query_parameters(["token"]),
            Some("token=REDACTED&sig=2"),
        ),
        ("none", TelemetryLayer::without_query, None),
    ] {
        let telemetry = TestTelemetry::new();
        send(&change(telemetry.layer()), get("/?token=1&sig=2")).await;
        let found = span_attributes(&telemetry.only_span().await);
        assert_eq!(
            found.get("url.query").map(String::as_str),
            expected,
            "{case}"
        );
    }
}

#[tokio::test]
async fn known_methods_replace_those_of_the_conventions() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry.layer().with_known_methods(["PURGE"]);
    for method in ["PURGE", "GET"] {
        send(&layer, Request::builder().method(method)).await;
    }
    let names: Vec<_> = telemetry
        .spans()
        .into_iter()
        .map(|span| span.name)
        .collect();
    assert_eq!(names, ["PURGE", "HTTP"]);
}

#[tokio::test]
async fn proxies_are_believed_as_far_as_they_are_trusted() {
    let forwarded = || {
        get("/")
            .header("host", "inner:8080")
            .header("forwarded", "for=6.6.6.6;host=evil")
            .header(
                "forwarded",
                "for=\"[2001:db8::1]:1234\";host=example.com;proto=https",
            )
    };
    let telemetry = TestTelemetry::new();
    send(&telemetry.layer(), forwarded()).await;
    send(&telemetry.layer().with_trusted_proxies(1), forwarded()).await;
    let spans = telemetry.spans();
    let found = spans.iter().map(|span| {
        let mut found = span_attributes(span);
        found.retain(|key, _| {
            ["client", "server", "url.sc"]
                .iter()
                .any(|one| key.starts_with(one))
        });
        found
    });
    assert_eq!(
        found.collect::<Vec<_>>(),
        [
            attributes([
                ("server.address", "inner"),
                ("server.port", "8080"),
                ("url.scheme", "http"),
            ]),
            attributes([
                ("client.address", "2001:db8::1"),
                ("server.address", "example.com"),
                ("url.scheme", "https"),
            ]),
        ]
    );
}

#[tokio::test]
async fn a_trace_is_continued_linked_or_ignored_as_it_is_trusted() {
    let root = || Sampler::parent_based(Sampler::AlwaysOff);
    for (trust, continues, link, sampled) in [
        (Trust::Continue, true, false, true),
        (Trust::Link, false, true, false),
        (Trust::Ignore, false, false, false),
    ] {
        // With a sampler that only a parent can sway.
        let telemetry = TestTelemetry::with(|builder| builder.with_sampler(root()));
        let layer = telemetry.layer().with_trust(trust);
        let request = get("/").header("traceparent", TRACEPARENT);
        let response = send(&layer, request).await;
        assert_eq!(telemetry.spans().len(), usize::from(sampled), "{trust:?}");
        let continued = response.headers()["x-trace-id"] == TRACE_ID;
        assert_eq!(continued, continues, "{trust:?}");

        let telemetry = TestTelemetry::new();
        let by_request = telemetry.layer().with_trust_by_request(move |_| trust);
        let service = by_request.layer(service_fn(|_: Request<()>| async {
            let cx = opentelemetry::Context::current();
            let response = Response::builder().header("x-baggage", cx.baggage().len());
            let response = response.body(Full::<Bytes>::default());
            Ok::<_, Infallible>(response.expect("a valid response"))
        }));
        let request = get("/")
            .header("traceparent", TRACEPARENT)
            .header("baggage", "a=1");
        let request = request.body(()).expect("a valid request");
        let response = service.oneshot(request).await.expect("it cannot fail");
        assert_eq!(
            response.headers()["x-baggage"],
            if continues { "1" } else { "0" }
        );
        let span = telemetry.only_span().await;
        assert_eq!(span.parent_span_is_remote, continues);
        let links: Vec<_> = span.links.iter().collect();
        assert_eq!(links.len(), usize::from(link), "{trust:?}");
        if link {
            assert_eq!(links[0].span_context.trace_id().to_string(), TRACE_ID);
            assert_eq!(
                links[0].span_context.span_id().to_string(),
                "b7ad6b7169203331"
            );
        }
    }
}

#[tokio::test]
async fn requests_force_no_more_traces_than_they_are_allowed_to() {
    let root = Sampler::parent_based(Sampler::AlwaysOff);
    let telemetry = TestTelemetry::with(|builder| builder.with_sampler(root));
    let layer = telemetry.layer().with_forced_trace_limit(3);
    for _ in 0..1000 {
        let response = send(&layer, get("/").header("traceparent", TRACEPARENT)).await;
        assert_eq!(
            response.headers()["x-trace-id"],
            TRACE_ID,
            "the trace goes on"
        );
    }
    // As many for each second that this has taken.
    let sampled = telemetry.spans().len();
    assert!(
        (3..1000).contains(&sampled) && sampled.is_multiple_of(3),
        "{sampled}"
    );
    assert_eq!(telemetry.point("http.requests").value, Value::Count(1000));
}

#[tokio::test]
async fn of_two_layers_the_inner_one_does_nothing() {
    let telemetry = TestTelemetry::new();
    let (inner, outer) = (telemetry.layer(), telemetry.layer());
    let service = inner.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
    }));
    let request = get("/").header("traceparent", TRACEPARENT).body(());
    let service = outer.layer(service);
    let response = service.oneshot(request.expect("a valid request")).await;
    let response = response.expect("it cannot fail");
    assert_eq!(response.headers().get_all("x-trace-id").iter().count(), 1);
    let body = response
        .into_body()
        .collect()
        .await
        .expect("it is whole")
        .to_bytes();
    assert_eq!(body, "hello");
    telemetry.only_span().await;
    assert_eq!(telemetry.point("http.requests").value, Value::Count(1));
    assert_eq!(telemetry.sum("http.server.active_requests"), 0);
}

#[tokio::test]
async fn a_request_that_a_handler_makes_in_the_same_process_is_one_of_its_own() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry.layer();
    let inner = layer.clone();
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let inner = inner.clone();
        async move {
            add_request_attributes(list! { "of" => "outer" });
            send(&inner, get("/inner")).await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    }));
    let request = get("/outer").body(()).expect("a valid request");
    service.oneshot(request).await.expect("it cannot fail");
    let found: Vec<_> = telemetry.spans().iter().map(span_attributes).collect();
    let path = |n: usize| found[n].get("url.path").map(String::as_str);
    assert_eq!((path(0), path(1)), (Some("/inner"), Some("/outer")));
    assert_eq!(found[0].get("of"), None);
    assert_eq!(found[1]["of"], "outer");
}

#[tokio::test]
async fn hostile_requests_add_no_series_and_bounded_spans() {
    const REQUESTS: u64 = 100_000;
    let hostile = |n: u64| {
        Request::builder()
            .method(format!("M{n}").as_str())
            .uri(format!("zz{}://host{n}/path/{n}?q={n}", n % 100))
            .header("host", format!("h{n}"))
            .header("forwarded", format!("for=1.2.3.{};host=h{n}", n % 256))
    };
    let telemetry = TestTelemetry::with_sampler(Sampler::AlwaysOff);
    let layer = telemetry.layer();
    for n in 0..REQUESTS {
        send(&layer, hostile(n)).await;
        let call = Request::post(format!("/random.Service{n}/Method"));
        send(&layer, call.header("content-type", "application/grpc")).await;
    }
    let series = |method| {
        attributes([
            ("http.request.method", method),
            ("http.response.status_code", "200"),
            ("network.protocol.version", "1.1"),
            ("url.scheme", "http"),
        ])
    };
    let points = telemetry.points("http.server.request.duration");
    let found: Vec<_> = points
        .into_iter()
        .map(|point| (point.attributes, point.value.histogram().0))
        .collect();
    let expected = [(series("POST"), REQUESTS), (series("_OTHER"), REQUESTS)];
    assert_eq!(found, expected);
    assert_eq!(telemetry.sum("http.server.active_requests"), 0);

    let telemetry = TestTelemetry::new();
    for n in 0..1000 {
        send(&telemetry.layer(), hostile(n)).await;
    }
    assert!(telemetry.spans().iter().all(|span| span.name == "HTTP"));

    // What fills a span to its bounds.
    let telemetry = TestTelemetry::new();
    let long = "ä".repeat(100_000);
    let request = Request::builder()
        .method("X".repeat(1000).as_str())
        .uri(format!("/{0}?{0}", "p".repeat(30_000)))
        .header("host", "h".repeat(100_000))
        .header("user-agent", "u".repeat(400_000))
        .header("traceparent", "-".repeat(400_000))
        .header("tracestate", "t".repeat(400_000))
        .header("baggage", "b=".repeat(200_000))
        .header(
            "x-long",
            HeaderValue::from_bytes(long.as_bytes()).expect("opaque"),
        );
    let captured = [HeaderName::from_static("x-long")];
    send(
        &telemetry.layer().with_captured_request_headers(captured),
        request,
    )
    .await;
    let found = span_attributes(&telemetry.only_span().await);
    let size: usize = found
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    assert!(size < 6 * 1024, "{size}");
    assert_eq!(found["user_agent.original"].len(), 256);
    assert_eq!(found["url.path"].len(), 1024);
    assert_eq!(found["url.query"].len(), 1024);
    assert_eq!(found["http.request.method_original"].len(), 32);
}

#[tokio::test]
async fn statuses_without_end_add_few_series() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry.layer();
    for code in 100..=999 {
        let service = layer.layer(service_fn(move |_: Request<()>| async move {
            let mut response = Response::new(Full::<Bytes>::default());
            *response.status_mut() = StatusCode::from_u16(code).expect("a legal code");
            Ok::<_, Infallible>(response)
        }));
        service
            .oneshot(Request::new(()))
            .await
            .expect("it cannot fail");
    }
    let points = telemetry.points("http.requests");
    assert_eq!(points.len(), 500 + 1);
    let other = points
        .iter()
        .find(|point| point.attributes.get("error.type").map(String::as_str) == Some("_OTHER"));
    assert_eq!(other.map(|point| &point.value), Some(&Value::Count(400)));
}

/// What a server makes of trace headers, case by case as the W3C's test suite for Trace Context
/// has them. `true` where the trace is to be continued, with the `tracestate` to be passed on.
#[tokio::test]
async fn trace_context_cases_of_the_w3c() {
    const ID: &str = "12345678901234567890123456789012";
    const PARENT: &str = "1234567890123456";
    let valid = format!("00-{ID}-{PARENT}-01");
    let with = |text: &str| text.replace("ID", ID).replace("PARENT", PARENT);
    let keys = |count: usize| {
        (1..=count)
            .map(|n| format!("bar{n}=1"))
            .collect::<Vec<_>>()
            .join(",")
    };
    let key = |length: usize| format!("{}=1", "z".repeat(length));
    let allowed: String = ('a'..='z').chain('0'..='9').chain("_-*/".chars()).collect();
    let values: String = (' '..='~').filter(|c| !",= ".contains(*c)).collect();
    let all_allowed = format!("{allowed}={values}");

    type Headers = Vec<(&'static str, String)>;
    let traceparent_cases: Vec<(&str, Headers, bool)> = vec![
        ("both_traceparent_and_tracestate_missing", vec![], false),
        (
            "traceparent_included_tracestate_missing",
            vec![("traceparent", valid.clone())],
            true,
        ),
        (
            "traceparent_duplicated",
            vec![
                ("traceparent", valid.clone()),
                ("traceparent", with("00-ID-PARENT-00")),
            ],
            false,
        ),
        (
            "traceparent_header_name: trace-parent",
            vec![("trace-parent", valid.clone())],
            false,
        ),
        (
            "traceparent_header_name: trace.parent",
            vec![("trace.parent", valid.clone())],
            false,
        ),
        (
            "traceparent_header_name_valid_casing",
            vec![("TraceParent", valid.clone())],
            true,
        ),
        (
            "traceparent_version_0x00: .",
            vec![("traceparent", with("00-ID-PARENT-01."))],
            false,
        ),
        (
            "traceparent_version_0x00: -what",
            vec![("traceparent", with("00-ID-PARENT-01-what-the-future"))],
            false,
        ),
        (
            "traceparent_version_0xcc",
            vec![("traceparent", with("cc-ID-PARENT-01"))],
            true,
        ),
        (
            "traceparent_version_0xcc: -what",
            vec![("traceparent", with("cc-ID-PARENT-01-what-the-future"))],
            true,
        ),
        (
            "traceparent_version_0xcc: .what",
            vec![("traceparent", with("cc-ID-PARENT-01.what-the-future"))],
            false,
        ),
        (
            "traceparent_version_0xff",
            vec![("traceparent", with("ff-ID-PARENT-01"))],
            false,
        ),
        (
            "traceparent_version_illegal_characters: .0",
            vec![("traceparent", with(".0-ID-PARENT-01"))],
            false,
        ),
        (
            "traceparent_version_illegal_characters: 0.",
            vec![("traceparent", with("0.-ID-PARENT-01"))],
            false,
        ),
        (
            "traceparent_version_too_long: 000",
            vec![("traceparent", with("000-ID-PARENT-01"))],
            false,
        ),
        (
            "traceparent_version_too_long: 0000",
            vec![("traceparent", with("0000-ID-PARENT-01"))],
            false,
        ),
        (
            "traceparent_version_too_short",
            vec![("traceparent", with("0-ID-PARENT-01"))],
            false,
        ),
        (
            "traceparent_trace_id_all_zero",
            vec![("traceparent", format!("00-{}-{PARENT}-01", "0".repeat(32)))],
            false,
        ),
        (
            "traceparent_trace_id_illegal_characters",
            vec![(
                "traceparent",
                with("00-.ID-PARENT-01").replacen("12", "1", 1),
            )],
            false,
        ),
        (
            "traceparent_trace_id_too_long",
            vec![("traceparent", with("00-ID3-PARENT-01"))],
            false,
        ),
        (
            "traceparent_trace_id_too_short",
            vec![("traceparent", format!("00-{}-{PARENT}-01", &ID[1..]))],
            false,
        ),
        (
            "traceparent_parent_id_all_zero",
            vec![("traceparent", format!("00-{ID}-{}-01", "0".repeat(16)))],
            false,
        ),
        (
            "traceparent_parent_id_illegal_characters",
            vec![("traceparent", format!("00-{ID}-.{}-01", &PARENT[1..]))],
            false,
        ),
        (
            "traceparent_parent_id_too_long",
            vec![("traceparent", with("00-ID-PARENT7-01"))],
            false,
        ),
        (
            "traceparent_parent_id_too_short",
            vec![("traceparent", format!("00-{ID}-{}-01", &PARENT[1..]))],
            false,
        ),
        (
            "traceparent_trace_flags_illegal_characters: .0",
            vec![("traceparent", with("00-ID-PARENT-.0"))],
            false,
        ),
        (
            "traceparent_trace_flags_illegal_characters: 0.",
            vec![("traceparent", with("00-ID-PARENT-0."))],
            false,
        ),
        (
            "traceparent_trace_flags_too_long",
            vec![("traceparent", with("00-ID-PARENT-001"))],
            false,
        ),
        (
            "traceparent_trace_flags_too_short",
            vec![("traceparent", with("00-ID-PARENT-1"))],
            false,
        ),
        (
            "traceparent_ows_handling: space before",
            vec![("traceparent", format!(" {valid}"))],
            true,
        ),
        (
            "traceparent_ows_handling: tab before",
            vec![("traceparent", format!("\t{valid}"))],
            true,
        ),
        (
            "traceparent_ows_handling: both",
            vec![("traceparent", format!("\t {valid} \t"))],
            true,
        ),
        (
            "tracestate_included_traceparent_missing",
            vec![("tracestate", "foo=1".into())],
            false,
        ),
    ];
    for (case, headers, continues) in traceparent_cases {
        let (found, tracestate) = received(&headers).await;
        assert_eq!(found == ID, continues, "{case}");
        assert_eq!(tracestate, "", "{case}");
    }

    let tracestate_cases: Vec<(&str, Vec<String>, String)> = vec![
        (
            "tracestate_included_traceparent_included",
            vec!["foo=1,bar=2".into()],
            "foo=1,bar=2".into(),
        ),
        (
            "tracestate_empty_header: first",
            vec!["foo=1".into(), String::new()],
            "foo=1".into(),
        ),
        (
            "tracestate_empty_header: second",
            vec![String::new(), "foo=1".into()],
            "foo=1".into(),
        ),
        (
            "tracestate_multiple_headers_different_keys",
            vec![
                "foo=1,".into(),
                "bar=2".into(),
                "rojo=1,congo=2".into(),
                "baz=3".into(),
            ],
            "foo=1,bar=2,rojo=1,congo=2,baz=3".into(),
        ),
        (
            "tracestate_duplicated_keys",
            vec!["foo=1,foo=2".into()],
            "foo=1,foo=2".into(),
        ),
        (
            "tracestate_all_allowed_characters",
            vec![all_allowed.clone()],
            all_allowed,
        ),
        (
            "tracestate_ows_handling",
            vec!["foo=1 \t , \t bar=2, \t baz=3 ".into()],
            "foo=1,bar=2,baz=3".into(),
        ),
        (
            "tracestate_key_illegal_characters: space",
            vec!["foo =1".into()],
            String::new(),
        ),
        (
            "tracestate_key_illegal_characters: case",
            vec!["FOO=1".into()],
            String::new(),
        ),
        (
            "tracestate_key_illegal_characters: dot",
            vec!["foo.bar=1".into()],
            String::new(),
        ),
        (
            "tracestate_key_illegal_vendor_format",
            vec!["@foo=1,bar=2".into()],
            String::new(),
        ),
        (
            "tracestate_member_count_limit: 32",
            vec![keys(32)],
            keys(32),
        ),
        (
            "tracestate_member_count_limit: 33",
            vec![keys(33)],
            String::new(),
        ),
        ("tracestate_key_length_limit: 256", vec![key(256)], key(256)),
        (
            "tracestate_key_length_limit: 257",
            vec![key(257)],
            String::new(),
        ),
        (
            "tracestate_value_illegal_characters: two equals",
            vec!["foo=bar=baz".into()],
            String::new(),
        ),
        (
            "tracestate_value_illegal_characters: none",
            vec!["foo=,bar=3".into()],
            String::new(),
        ),
    ];
    for (case, values, expected) in tracestate_cases {
        let mut headers = vec![("TraceParent", valid.clone())];
        headers.extend(values.into_iter().map(|value| ("TraceState", value)));
        let (found, tracestate) = received(&headers).await;
        assert_eq!(found, ID, "{case}");
        assert_eq!(tracestate, expected, "{case}");
    }
}

/// The trace id and the `tracestate` of the span of a request with these headers.
async fn received(headers: &[(&str, String)]) -> (String, String) {
    let telemetry = TestTelemetry::new();
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a legal name");
        map.append(name, value.parse().expect("a legal value"));
    }
    let mut request = get("/");
    if let Some(headers) = request.headers_mut() {
        *headers = map;
    }
    send(&telemetry.layer(), request).await;
    let span = telemetry.only_span().await;
    let context = span.span_context;
    (
        context.trace_id().to_string(),
        context.trace_state().header(),
    )
}

#[tokio::test]
async fn the_random_flag_is_passed_on() {
    use opentelemetry_sdk::trace::Sampler;

    for sampler in [Sampler::AlwaysOn, Sampler::AlwaysOff] {
        let telemetry = TestTelemetry::with_sampler(sampler);
        let layer = telemetry.layer().with_traceresponse();
        for (flags, random) in [("03", true), ("01", false), ("02", true), ("00", false)] {
            let traceparent = TRACEPARENT.replace("-01", &format!("-{flags}"));
            let response = send(&layer, get("/").header("traceparent", traceparent)).await;
            let answer = response.headers()["traceresponse"]
                .to_str()
                .expect("it is text");
            let found = u8::from_str_radix(&answer[53..], 16).expect("they are flags");
            assert_eq!(found & 0x02 != 0, random, "{flags}: {answer}");
        }
    }
}

#[tokio::test]
async fn another_propagator_takes_the_place_of_those_of_the_w3c() {
    let telemetry = TestTelemetry::new();
    let propagator = opentelemetry::propagation::TextMapCompositePropagator::new(vec![]);
    let layer = telemetry.layer().with_propagator(propagator);
    send(&layer, get("/").header("traceparent", TRACEPARENT)).await;
    let propagator = opentelemetry_sdk::propagation::TraceContextPropagator::new();
    let layer = telemetry.layer().with_propagator(propagator);
    send(&layer, get("/").header("traceparent", TRACEPARENT)).await;
    let spans = telemetry.spans();
    let continued = spans.iter().map(|span| span.parent_span_is_remote);
    assert_eq!(continued.collect::<Vec<_>>(), [false, true]);
}
