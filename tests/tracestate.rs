//! A `tracestate` in a service: all spans of a request share its text. This test is a program of
//! its own, because it counts allocations and sets telemetry up for the process.

#![cfg(all(feature = "axum", feature = "init"))]

#[path = "../benches/support/mod.rs"]
#[allow(unused_imports, reason = "other tests use the rest of it")]
mod support;

#[path = "it/support/receiver.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod receiver;

use std::sync::{LazyLock, Mutex};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{HeaderMap, HeaderValue, Request};
use opentelemetry_proto::tonic::trace::v1::Span;
use tower::{Layer, Service, service_fn};
use tower_telemetry::{ClientTelemetryLayer, TelemetryGuard, TelemetryLayer, with_tracer};

use receiver::Receiver;

const CHILDREN: usize = 10;

static TELEMETRY: LazyLock<(TelemetryGuard, Receiver)> = LazyLock::new(|| {
    let receiver = Receiver::start();
    let telemetry = support::init("parentbased_always_on", true, receiver.address);
    (telemetry, receiver)
});

/// Returns a `tracestate` with `count` members.
fn members(count: usize) -> String {
    let members: Vec<_> = (0..count).map(|n| format!("key{n}=value{n}")).collect();
    members.join(",")
}

/// Returns a sampled request in a trace of its own.
fn request(trace: u128, path: &'static str, state: &str) -> Request<Body> {
    let mut request = support::request(support::Inbound::Nothing);
    *request.uri_mut() = path.parse().expect("a valid path");
    let traceparent = format!("00-{trace:032x}-b7ad6b7169203331-01");
    let headers = request.headers_mut();
    headers.insert("traceparent", traceparent.parse().expect("a legal value"));
    if !state.is_empty() {
        headers.insert("tracestate", state.parse().expect("a legal value"));
    }
    request
}

/// Returns the allocations of a request. The first two requests are ignored, because they create
/// metric series. The minimum excludes the growth of a queue.
fn allocations(app: &mut Router, request: impl Fn(u128) -> Request<Body>) -> u64 {
    let mut counted = u64::MAX;
    for n in 0..8 {
        let request = request(0x1000 + n);
        let info = allocation_counter::measure(|| support::send(app, request));
        if n >= 2 {
            counted = counted.min(info.count_total);
        }
    }
    counted
}

/// Returns the allocations of all child spans of a request.
fn allocations_of_children(state: &str) -> u64 {
    let app = Router::new().route("/none", get(async || ())).route(
        "/ten",
        get(async || {
            for _ in 0..CHILDREN {
                with_tracer("test", "child", || {});
            }
        }),
    );
    let mut app = app.layer(TelemetryLayer::new());
    let mut count = |path| allocations(&mut app, |n| request(n, path, state));
    count("/ten") - count("/none")
}

#[test]
fn child_spans_take_no_more_allocations_with_a_tracestate() {
    LazyLock::force(&TELEMETRY);
    let without = allocations_of_children("");
    for (case, state) in [
        ("five members", members(5)),
        ("the maximum number of members", members(32)),
        ("a key of Level 2", format!("{},x@y@z=1", members(9))),
    ] {
        let with = allocations_of_children(&state);
        assert!(with <= without + 1, "{case}: {with}, without {without}");
    }
}

#[test]
fn a_request_takes_few_allocations_for_the_context_that_it_carries() {
    LazyLock::force(&TELEMETRY);
    let app = Router::new().route("/", get(async || ()));
    let mut app = app.layer(TelemetryLayer::new());
    let mut more = |name: &'static str, value: &str, sampled: bool| {
        let mut count = |name: &'static str| {
            allocations(&mut app, |n| {
                let mut request = request(n, "/", "");
                let traceparent = format!("00-{n:032x}-b7ad6b7169203331-0{}", u8::from(sampled));
                let headers = request.headers_mut();
                headers.insert("traceparent", traceparent.parse().expect("a legal value"));
                headers.insert(name, value.parse().expect("a legal value"));
                request
            })
        };
        count(name) - count("x-other")
    };
    for count in 1..=3 {
        let members = members(usize::try_from(count).expect("the number is small"));
        // The allocations are the keys, the values, and the list or table that holds them.
        let held = 2 * count + 1;
        let (text, context) = (1, 3);
        for sampled in [false, true] {
            let found = more("baggage", &members, sampled);
            assert_eq!(found, held + context, "{members} {sampled}");
            // OpenTelemetry copies the state of a recorded span into its context.
            let copies = 1 + u64::from(sampled);
            let found = more("tracestate", &members, sampled);
            assert_eq!(found, copies * held + text + context, "{members} {sampled}");
        }
    }
}

#[test]
fn a_tracestate_reaches_every_span_and_every_outgoing_call_of_a_request() {
    let (telemetry, receiver) = &*TELEMETRY;
    let sent: &Mutex<Vec<HeaderMap>> = Box::leak(Box::default());
    let call = async move || {
        let send = service_fn(async move |request: Request<Body>| {
            let headers = request.headers().clone();
            sent.lock().expect("the lock is not poisoned").push(headers);
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty()))
        });
        let mut client = ClientTelemetryLayer::new().layer(send);
        let response = client.call(support::outgoing()).await;
        drop(response.expect("the call cannot fail"));
    };
    let handler = async move || {
        for n in 0..CHILDREN {
            tower_telemetry::async_with_tracer("test", "child", async {
                with_tracer("test", "grandchild", || {});
                if n == 0 {
                    call().await;
                }
            })
            .await;
        }
        call().await;
        // The linked span is in a trace of its own.
        with_tracer("test", "child", || {
            tower_telemetry::spawn_linked("test", "linked", async {});
        });
    };
    let mut app = Router::new()
        .route("/", get(handler))
        .layer(TelemetryLayer::new());
    let cases = [
        String::new(),
        members(1),
        members(4),
        members(5),
        members(32),
        "x@y@z=1".to_owned(),
        format!("{},tenant@@system=1", members(8)),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the runtime can be built");
    let entered = runtime.enter();
    for (n, state) in cases.iter().enumerate() {
        support::send(&mut app, request(n as u128 + 1, "/", state));
        let sent = std::mem::take(&mut *sent.lock().expect("the lock is not poisoned"));
        assert_eq!(sent.len(), 2);
        let expected = Some(HeaderValue::from_str(state).expect("a legal value"));
        let expected = expected.filter(|value| !value.is_empty());
        for headers in sent {
            assert_eq!(headers.get("tracestate"), expected.as_ref(), "{state}");
        }
    }
    drop(entered);
    // Yielding also runs the spawned tasks.
    runtime.block_on(tokio::task::yield_now());
    assert!(!runtime.block_on(telemetry.force_flush()).timed_out);
    let spans = receiver.received().spans();
    for (n, state) in cases.iter().enumerate() {
        let trace = (n as u128 + 1).to_be_bytes();
        let is_here = |span: &&Span| span.trace_id == trace;
        let found: Vec<_> = spans.iter().filter(is_here).collect();
        assert_eq!(found.len(), 1 + 2 * CHILDREN + 2 + 1, "{state}");
        for span in found {
            assert_eq!(span.trace_state, *state, "{}", span.name);
        }
        let is_linked = |span: &&Span| span.links.iter().any(|link| link.trace_id == trace);
        let linked: Vec<_> = spans.iter().filter(is_linked).collect();
        assert_eq!(linked.len(), 1);
        assert_eq!(linked[0].trace_state, "", "{state}");
        // A link holds a span context, which cannot represent a key of Level 2.
        let expected = if state.contains('@') { "" } else { state };
        assert_eq!(linked[0].links[0].trace_state, expected);
    }
}
