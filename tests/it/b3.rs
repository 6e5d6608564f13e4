//! Sends every combination of sampling decisions through both layers and real sockets, for each order
//! of propagators. Checks the headers that the next service gets and the spans that a receiver gets.

use std::collections::{BTreeMap, BTreeSet};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use http::{Request, Version};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use tokio::sync::mpsc;

use crate::support::process::Process;
use crate::support::receiver::Receiver;
use crate::support::{Server, eventually, send, within_deadline};

const SPAN: &str = "b7ad6b7169203331";
const OTHER_SPAN: &str = "00f067aa0ba902b7";

/// The sampling state of a B3 context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Deny,
    Accept,
    Debug,
}

/// The context of an incoming request.
#[derive(Clone, Copy, Debug)]
struct Inbound {
    /// The flags of a `traceparent`.
    traceparent: Option<u8>,
    /// Whether B3 uses several headers, whether it has ids, and its state.
    b3: Option<(bool, bool, State)>,
}

impl Inbound {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        let mut forms = vec![None];
        for multi in [false, true] {
            for state in [State::Open, State::Deny, State::Accept, State::Debug] {
                forms.push(Some((multi, true, state)));
                if state != State::Open {
                    forms.push(Some((multi, false, state)));
                }
            }
        }
        for traceparent in [None, Some(0), Some(1), Some(2), Some(3)] {
            for b3 in forms.clone() {
                all.push(Self { traceparent, b3 });
            }
        }
        all
    }

    /// Returns the headers of the request, with these traces.
    fn headers(self, trace: &str, b3_trace: &str) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        if let Some(flags) = self.traceparent {
            headers.push(("traceparent", format!("00-{trace}-{SPAN}-{flags:02x}")));
        }
        match self.b3 {
            Some((false, ids, state)) => {
                let state = match state {
                    State::Open => None,
                    State::Deny => Some("0"),
                    State::Accept => Some("1"),
                    State::Debug => Some("d"),
                };
                let ids = ids.then(|| format!("{b3_trace}-{OTHER_SPAN}"));
                let parts = [ids.as_deref(), state];
                let parts: Vec<_> = parts.into_iter().flatten().collect();
                headers.push(("b3", parts.join("-")));
            }
            Some((true, ids, state)) => {
                if ids {
                    headers.push(("x-b3-traceid", b3_trace.to_owned()));
                    headers.push(("x-b3-spanid", OTHER_SPAN.to_owned()));
                }
                match state {
                    State::Open => {}
                    State::Deny => headers.push(("x-b3-sampled", "0".to_owned())),
                    State::Accept => headers.push(("x-b3-sampled", "1".to_owned())),
                    State::Debug => headers.push(("x-b3-flags", "1".to_owned())),
                }
            }
            None => {}
        }
        headers
    }
}

/// The expected effect of an incoming context.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    /// The trace and the span that the request continues.
    parent: Option<(String, &'static str)>,
    /// `None` if the sampler of the service decides.
    sampled: Option<bool>,
    random: bool,
    debug: bool,
}

/// Computes the expected effect, one propagator after the other.
fn expected(order: &[&str], inbound: Inbound, trace: &str, b3_trace: &str) -> Expected {
    let mut expected = Expected {
        parent: None,
        sampled: None,
        random: true,
        debug: false,
    };
    for form in order {
        match (*form, inbound.traceparent, inbound.b3) {
            ("tracecontext", Some(flags), _) => {
                expected = Expected {
                    parent: Some((trace.to_owned(), SPAN)),
                    sampled: Some(flags & 1 != 0),
                    random: flags & 2 != 0,
                    debug: false,
                };
            }
            ("b3" | "b3multi", _, Some((_, ids, state))) => {
                if ids {
                    expected.parent = Some((b3_trace.to_owned(), OTHER_SPAN));
                    expected.random = false;
                }
                expected.debug = state == State::Debug;
                expected.sampled = match state {
                    State::Open => None,
                    State::Deny => Some(false),
                    State::Accept | State::Debug => Some(true),
                };
            }
            _ => {}
        }
    }
    expected
}

/// Returns the headers that these propagators write for a span.
fn written(order: &[&str], trace: &str, span: &str, expected: &Expected) -> Vec<(String, String)> {
    let sampled = expected.sampled == Some(true);
    let mut written = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        written.insert(name.to_owned(), value);
    };
    for form in order {
        match *form {
            "tracecontext" => {
                let flags = u8::from(sampled) | if expected.random { 2 } else { 0 };
                set("traceparent", format!("00-{trace}-{span}-{flags:02x}"));
            }
            "b3" => {
                let state = match (expected.debug, sampled) {
                    (true, _) => "d",
                    (false, true) => "1",
                    (false, false) => "0",
                };
                set("b3", format!("{trace}-{span}-{state}"));
            }
            "b3multi" => {
                set("x-b3-traceid", trace.to_owned());
                set("x-b3-spanid", span.to_owned());
                if expected.debug {
                    set("x-b3-flags", "1".to_owned());
                } else {
                    set("x-b3-sampled", u8::from(sampled).to_string());
                }
            }
            _ => {}
        }
    }
    written.into_iter().collect()
}

/// Returns the headers that carry trace context.
fn context_of(headers: &HeaderMap) -> Vec<(String, String)> {
    let is_context = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with("trace") || name == "b3" || name.starts_with("x-b3-")
    };
    let mut found: Vec<_> = headers
        .keys()
        .filter(is_context)
        .flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)))
        .map(|(name, value)| {
            let value = value.to_str().expect("the text is UTF-8");
            (name.as_str().to_owned(), value.to_owned())
        })
        .collect();
    found.sort();
    found
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sends every incoming context through a service with these propagators and this sampler.
async fn check(order: &[&str], sampler: &str, samples_new: bool) {
    let receiver = Receiver::start();
    let (sender, mut arrived) = mpsc::unbounded_channel();
    let callback = post(async move |headers: HeaderMap| {
        sender
            .send(headers)
            .expect("the receiver of the headers exists");
    });
    let callback = Server::start(Router::new().route("/callback", callback)).await;
    let service = Process::example(
        "w3c",
        &[
            ("OTEL_PROPAGATORS", &*order.join(",")),
            ("OTEL_TRACES_SAMPLER", sampler),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.endpoint()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_LOGS_EXPORTER", "none"),
            ("OTEL_BSP_SCHEDULE_DELAY", "10"),
        ],
    );
    let url = service.url();
    let orders = serde_json::json!([
        { "url": format!("http://{}/callback", callback.address), "arguments": [] }
    ]);
    let mut sampled = BTreeMap::new();
    for (n, inbound) in Inbound::all().into_iter().enumerate() {
        let (trace, b3_trace) = (format!("{:032x}", n + 1), format!("{:032x}", n + 0x1000));
        let case = format!("{order:?} {sampler} {inbound:?}");
        let mut expected = expected(order, inbound, &trace, &b3_trace);
        expected.sampled = expected.sampled.or(Some(samples_new));
        let mut request = Request::post(format!("{url}/test"))
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(orders.to_string()))
            .expect("a valid request");
        for (name, value) in inbound.headers(&trace, &b3_trace) {
            let value = value.parse().expect("a legal value");
            request.headers_mut().insert(name, value);
        }
        let response = send(Version::HTTP_11, request).await;
        assert_eq!(response.status(), 200, "{case}");
        let found = response.headers()["x-trace-id"]
            .to_str()
            .expect("the text is UTF-8");
        match &expected.parent {
            Some((trace, _)) => assert_eq!(found, trace, "{case}"),
            None => assert!(found != trace && found != b3_trace, "{case}"),
        }
        let sent = within_deadline("a call", arrived.recv()).await;
        let sent = context_of(&sent.expect("a call was made"));
        let span = sent.iter().find_map(|(name, value)| match &**name {
            "traceparent" => Some(value[36..52].to_owned()),
            "b3" => Some(value[33..49].to_owned()),
            "x-b3-spanid" => Some(value.clone()),
            _ => None,
        });
        let span = span.expect("the call carries a span id");
        assert_eq!(sent, written(order, found, &span, &expected), "{case}");
        if expected.sampled == Some(true) {
            sampled.insert(found.to_owned(), (case, expected));
        }
    }
    eventually("all sampled spans are exported", || {
        receiver.received().spans().len() >= 2 * sampled.len()
    })
    .await;
    let spans = receiver.received().spans();
    let is_server = |span: &&Span| span.kind == SpanKind::Server as i32;
    let traces: BTreeSet<_> = spans.iter().map(|span| hex(&span.trace_id)).collect();
    assert!(traces.iter().eq(sampled.keys()), "{order:?} {sampler}");
    for span in spans.iter().filter(is_server) {
        let (case, expected) = &sampled[&hex(&span.trace_id)];
        let parent = expected.parent.as_ref().map_or("", |(_, parent)| parent);
        assert_eq!(hex(&span.parent_span_id), parent, "{case}");
        let remote = if parent.is_empty() { 0x100 } else { 0x300 };
        let random = if expected.random { 2 } else { 0 };
        assert_eq!(span.flags, remote | random | 1, "{case}");
    }
}

#[tokio::test]
async fn sampling_decisions_are_followed_and_forwarded_for_every_order_of_propagators() {
    for order in [
        &["b3"][..],
        &["b3multi"],
        &["b3", "b3multi"],
        &["tracecontext", "b3"],
        &["b3", "tracecontext"],
        &["tracecontext", "baggage", "b3multi"],
        &["b3multi", "baggage", "tracecontext"],
        &["b3", "tracecontext", "b3multi"],
        &["tracecontext", "baggage"],
    ] {
        check(order, "parentbased_always_on", true).await;
    }
}

#[tokio::test]
async fn the_sampler_decides_where_a_context_leaves_sampling_open() {
    for order in [&["b3"][..], &["tracecontext", "b3multi"]] {
        check(order, "parentbased_always_off", false).await;
    }
}

#[tokio::test]
async fn disabled_telemetry_forwards_a_context_unchanged() {
    let (sender, mut arrived) = mpsc::unbounded_channel();
    let callback = post(async move |headers: HeaderMap| {
        sender
            .send(headers)
            .expect("the receiver of the headers exists");
    });
    let callback = Server::start(Router::new().route("/callback", callback)).await;
    for (form, multi) in [("b3", false), ("b3multi", true)] {
        let service = Process::example(
            "w3c",
            &[("OTEL_PROPAGATORS", form), ("ENABLE_TELEMETRY", "false")],
        );
        let url = format!("{}/test", service.url());
        let orders = serde_json::json!([
            { "url": format!("http://{}/callback", callback.address), "arguments": [] }
        ]);
        let is_of_form = |inbound: &Inbound| {
            inbound.traceparent.is_none() && inbound.b3.is_none_or(|(one, ..)| one == multi)
        };
        for inbound in Inbound::all().into_iter().filter(is_of_form) {
            let mut request = Request::post(&url)
                .header(CONTENT_TYPE, "application/json")
                .body(Body::from(orders.to_string()))
                .expect("a valid request");
            for (name, value) in inbound.headers("", &"1a".repeat(16)) {
                let value = value.parse().expect("a legal value");
                request.headers_mut().insert(name, value);
            }
            let came = context_of(request.headers());
            send(Version::HTTP_11, request).await;
            let sent = within_deadline("a call", arrived.recv()).await;
            assert_eq!(
                context_of(&sent.expect("a call was made")),
                came,
                "{inbound:?}"
            );
        }
    }
}
