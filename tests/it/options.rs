//! Tests the options of a layer.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use opentelemetry::KeyValue;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry_sdk::trace::Sampler;
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{
    TelemetryLayer, add_request_attributes, attributes as list, get_trace_id,
    layers::{ForwardedHeader, MetricSet, Trust},
};

use crate::support::{
    TRACE_ID, TRACEPARENT, TestTelemetry, Value, attributes, get, send_through, span_attributes,
};

#[tokio::test]
async fn a_filtered_request_is_not_recorded_and_its_context_is_passed_on() {
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
            .expect("the service cannot fail")
            .headers()
            .contains_key("x-trace-id")
    );
    assert_eq!(telemetry.spans().len(), 0);
    assert_eq!(telemetry.metrics().len(), 0);
    assert_eq!(seen.load(Ordering::Relaxed), 1);

    send_through(&layer, get("/other")).await;
    assert_eq!(telemetry.spans().len(), 1);
}

#[tokio::test]
async fn a_span_name_hook_sets_the_name_of_the_span() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .layer()
        .with_span_name(|request| (request.uri.path() == "/batch").then(|| "batch".into()));
    send_through(&layer, get("/batch")).await;
    send_through(&layer, get("/other")).await;
    let names: Vec<_> = telemetry
        .spans()
        .into_iter()
        .map(|span| span.name)
        .collect();
    assert_eq!(names, ["batch", "GET"]);
}

#[tokio::test]
async fn attributes_of_hooks_and_handlers_are_added_to_spans_or_metrics_as_requested() {
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
    service
        .oneshot(request)
        .await
        .expect("the service cannot fail");

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
async fn endless_values_from_a_hook_add_a_bounded_number_of_series() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .layer()
        .with_request_attributes(|request, attributes| {
            let path = request.uri.path().to_owned();
            attributes.add_to_metrics(KeyValue::new("id", path));
        });
    for n in 0..1000 {
        send_through(&layer, get(&format!("/{n}"))).await;
    }
    send_through(&layer, get(&format!("/{}", "x".repeat(1000)))).await;
    let points = telemetry.points("http.requests");
    assert_eq!(points.len(), 64 + 1);
    let other = points
        .iter()
        .find(|point| point.attributes["id"] == "_OTHER");
    assert_eq!(
        other.map(|point| &point.value),
        Some(&Value::Count(1001 - 64))
    );
    assert!(
        points
            .iter()
            .all(|point| point.attributes["id"].len() <= 64)
    );
}

#[derive(Debug)]
struct Panics;

impl opentelemetry::propagation::TextMapPropagator for Panics {
    fn inject_context(
        &self,
        _: &opentelemetry::Context,
        _: &mut dyn opentelemetry::propagation::Injector,
    ) {
    }

    fn extract_with_context(
        &self,
        _: &opentelemetry::Context,
        _: &dyn opentelemetry::propagation::Extractor,
    ) -> opentelemetry::Context {
        panic!("propagator")
    }

    fn fields(&self) -> opentelemetry::propagation::text_map_propagator::FieldIter<'_> {
        opentelemetry::propagation::text_map_propagator::FieldIter::new(&[])
    }
}

#[tokio::test]
async fn a_filtered_request_has_the_same_trust_and_providers_as_others() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .layer()
        .with_filter(|_| false)
        .with_trust(Trust::Link);
    let service = layer.layer(service_fn(|_: Request<()>| async {
        tower_telemetry::with_tracer("test", "child", || {});
        tower_telemetry::increment_counter("test.count", "Counted.", []);
        let cx = opentelemetry::Context::current();
        assert!(cx.baggage().is_empty());
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let request = get("/")
        .header("traceparent", TRACEPARENT)
        .header("baggage", "a=1");
    let request = request.body(()).expect("a valid request");
    service
        .oneshot(request)
        .await
        .expect("the service cannot fail");
    let child = telemetry.only_span().await;
    assert_ne!(child.span_context.trace_id().to_string(), TRACE_ID);
    assert_eq!(telemetry.point("test.count").value, Value::Count(1));
}

#[tokio::test]
async fn a_span_starts_before_the_hooks_for_its_attributes_name_and_trust() {
    /// Records the time of the call, and returns when the clock has advanced.
    fn record_call_time(asked: &mpsc::Sender<SystemTime>) {
        let start = SystemTime::now();
        // Wait until the clock has visibly advanced.
        while SystemTime::now() == start {}
        asked.send(start).expect("the test receives the time");
    }
    type Hook = fn(TelemetryLayer, mpsc::Sender<SystemTime>) -> TelemetryLayer;
    let hooks: [(&str, Hook); 3] = [
        ("attributes", |layer, asked| {
            layer.with_request_attributes(move |_, _| record_call_time(&asked))
        }),
        ("name", |layer, asked| {
            layer.with_span_name(move |_| {
                record_call_time(&asked);
                None
            })
        }),
        ("trust", |layer, asked| {
            layer.with_trust_by_request(move |_| {
                record_call_time(&asked);
                Trust::Continue
            })
        }),
    ];
    for (case, hook) in hooks {
        let telemetry = TestTelemetry::new();
        let (asked, times) = mpsc::channel();
        send_through(&hook(telemetry.layer(), asked), get("/")).await;
        let span = telemetry.only_span().await;
        let asked = times.recv().expect("the hook was called");
        assert!(
            span.start_time <= asked,
            "{case}: {:?} {asked:?}",
            span.start_time
        );
        assert!(span.end_time <= SystemTime::now(), "{case}");
    }
}

#[tokio::test]
async fn a_panicking_hook_does_not_affect_the_response() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .layer()
        .with_filter(|_| panic!("filter"))
        .with_span_name(|_| panic!("name"))
        .with_trust_by_request(|_| panic!("trust"))
        .with_propagator(Panics)
        .with_request_attributes(|_, attributes| {
            attributes.add_to_span(KeyValue::new("before", true));
            panic!("request")
        })
        .with_response_attributes(|_, _| panic!("response"));
    let response = send_through(&layer, get("/").header("traceparent", TRACEPARENT)).await;
    assert_eq!(response.body(), "hello");
    let span = telemetry.only_span().await;
    assert_eq!(span.name, "GET");
    assert_eq!(span.status, Status::Unset);
    assert_ne!(
        span.span_context.trace_id().to_string(),
        TRACE_ID,
        "a request is not trusted if the trust hook panics"
    );
    assert_eq!(telemetry.point("http.requests").value, Value::Count(1));
}

#[tokio::test]
async fn only_configured_headers_are_captured_and_never_credentials() {
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
    send_through(&layer, request).await;
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
async fn a_response_names_its_trace_in_the_configured_headers() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .layer()
        .with_trace_id_header(HeaderName::from_static("x-correlation-id"))
        .with_traceresponse()
        .with_server_timing();
    let request = get("/")
        .header("traceparent", TRACEPARENT)
        .header("baggage", "a=1");
    let response = send_through(&layer, request).await;
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

    let response = send_through(&telemetry.layer().without_trace_id_header(), get("/")).await;
    assert_eq!(response.headers().len(), 1);
}

#[tokio::test]
async fn only_the_configured_sets_of_metrics_are_recorded() {
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
        send_through(&layer, get("/")).await;
        let names: Vec<_> = telemetry.metrics().into_keys().collect();
        assert_eq!(names, expected);
    }
}

#[tokio::test]
async fn body_sizes_count_the_bytes_that_were_sent() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry.layer().with_metrics([MetricSet::BodySizes]);
    send_through(&layer, get("/")).await;
    let metric = telemetry.metrics().remove("http.server.response.body.size");
    let metric = metric.expect("the body size is recorded");
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
async fn queries_are_redacted_or_omitted_as_configured() {
    for (case, change, expected) in [
        (
            "the default of the conventions",
            (|layer| layer) as fn(TelemetryLayer) -> TelemetryLayer,
            Some("token=1&sig=REDACTED"),
        ),
        (
            "another list",
            |layer| layer.with_sensitive_query_parameters(["token"]),
            Some("token=REDACTED&sig=2"),
        ),
        ("no query", TelemetryLayer::without_query, None),
    ] {
        let telemetry = TestTelemetry::new();
        send_through(&change(telemetry.layer()), get("/?token=1&sig=2")).await;
        let found = span_attributes(&telemetry.only_span().await);
        assert_eq!(
            found.get("url.query").map(String::as_str),
            expected,
            "{case}"
        );
    }
}

#[tokio::test]
async fn known_methods_replace_the_default_methods() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry.layer().with_known_methods(["PURGE"]);
    for method in ["PURGE", "GET"] {
        send_through(&layer, Request::builder().method(method)).await;
    }
    let names: Vec<_> = telemetry
        .spans()
        .into_iter()
        .map(|span| span.name)
        .collect();
    assert_eq!(names, ["PURGE", "HTTP"]);
}

#[tokio::test]
async fn forwarded_headers_are_used_only_from_trusted_proxies() {
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
    send_through(&telemetry.layer(), forwarded()).await;
    let layer = telemetry
        .layer()
        .with_trusted_proxies(1)
        .with_forwarded_headers([ForwardedHeader::Forwarded]);
    send_through(&layer, forwarded()).await;
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
async fn a_trace_is_continued_linked_or_ignored_depending_on_trust() {
    let root = || Sampler::parent_based(Sampler::AlwaysOff);
    for (trust, continues, link, sampled) in [
        (Trust::Continue, true, false, true),
        (Trust::Link, false, true, false),
        (Trust::Ignore, false, false, false),
    ] {
        // With this sampler, only a sampled parent causes a span.
        let telemetry = TestTelemetry::with(|builder| builder.with_sampler(root()));
        let layer = telemetry.layer().with_trust(trust);
        let request = get("/").header("traceparent", TRACEPARENT);
        let response = send_through(&layer, request).await;
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
        let response = service
            .oneshot(request)
            .await
            .expect("the service cannot fail");
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
async fn incoming_requests_force_at_most_the_configured_number_of_traces_per_second() {
    let root = Sampler::parent_based(Sampler::AlwaysOff);
    let telemetry = TestTelemetry::with(|builder| builder.with_sampler(root));
    let layer = telemetry.layer().with_forced_trace_limit(3);
    for _ in 0..1000 {
        let response = send_through(&layer, get("/").header("traceparent", TRACEPARENT)).await;
        assert_eq!(
            response.headers()["x-trace-id"],
            TRACE_ID,
            "the trace is continued"
        );
    }
    // The limit applies to each second that the requests took.
    let sampled = telemetry.spans().len();
    assert!(
        (3..1000).contains(&sampled) && sampled.is_multiple_of(3),
        "{sampled}"
    );
    assert_eq!(telemetry.point("http.requests").value, Value::Count(1000));
}

#[tokio::test]
async fn with_two_layers_the_inner_one_does_nothing() {
    let telemetry = TestTelemetry::new();
    let (inner, outer) = (telemetry.layer(), telemetry.layer());
    let service = inner.layer(service_fn(|_: Request<()>| async {
        add_request_attributes(list! { "user.plan" => "free" });
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
    }));
    let request = get("/").header("traceparent", TRACEPARENT).body(());
    let service = outer.layer(service);
    let response = service.oneshot(request.expect("a valid request")).await;
    let response = response.expect("the service cannot fail");
    assert_eq!(response.headers().get_all("x-trace-id").iter().count(), 1);
    let body = response
        .into_body()
        .collect()
        .await
        .expect("the body is complete")
        .to_bytes();
    assert_eq!(body, "hello");
    telemetry.only_span().await;
    let point = telemetry.point("http.requests");
    assert_eq!(point.value, Value::Count(1));
    assert_eq!(point.attributes["user.plan"], "free");
    assert_eq!(telemetry.sum("http.server.active_requests"), 0);
}

#[tokio::test]
async fn a_request_that_a_handler_makes_in_process_is_recorded_separately() {
    let telemetry = TestTelemetry::new();
    let layer = telemetry.layer();
    let inner = layer.clone();
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let inner = inner.clone();
        async move {
            add_request_attributes(list! { "of" => "outer" });
            send_through(&inner, get("/inner")).await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    }));
    let request = get("/outer").body(()).expect("a valid request");
    service
        .oneshot(request)
        .await
        .expect("the service cannot fail");
    let found: Vec<_> = telemetry.spans().iter().map(span_attributes).collect();
    let path = |n: usize| found[n].get("url.path").map(String::as_str);
    assert_eq!((path(0), path(1)), (Some("/inner"), Some("/outer")));
    assert_eq!(found[0].get("of"), None);
    assert_eq!(found[1]["of"], "outer");
}

#[tokio::test]
async fn hostile_requests_add_no_series_and_their_spans_are_bounded() {
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
        send_through(&layer, hostile(n)).await;
        let call = Request::post(format!("/random.Service{n}/Method"));
        send_through(&layer, call.header("content-type", "application/grpc")).await;
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
        send_through(&telemetry.layer(), hostile(n)).await;
    }
    assert!(telemetry.spans().iter().all(|span| span.name == "HTTP"));

    // This request has a long value in every recorded field.
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
            HeaderValue::from_bytes(long.as_bytes()).expect("opaque bytes are a legal value"),
        );
    let captured = [HeaderName::from_static("x-long")];
    send_through(
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
async fn unusual_statuses_share_one_series() {
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
            .expect("the service cannot fail");
    }
    let points = telemetry.points("http.requests");
    assert_eq!(points.len(), 500 + 1);
    let other = points
        .iter()
        .find(|point| point.attributes.get("error.type").map(String::as_str) == Some("_OTHER"));
    assert_eq!(other.map(|point| &point.value), Some(&Value::Count(400)));
}
