//! Carries context in messages, in metadata, and in the environment of child processes.

use std::collections::HashMap;
use std::process::Command;

use http::{HeaderMap, HeaderValue};
use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, KeyValue};
use tower_telemetry::{carriers, get_span_id, get_trace_id, get_tracer, with_tracer};

use crate::functions::in_request;
use crate::support::{TRACE_ID, TRACEPARENT, TestTelemetry, tree};

/// Writes the current context into a map.
fn injected() -> HashMap<String, String> {
    let mut map = HashMap::new();
    carriers::inject(|name, value| {
        let before = map.insert(name.to_owned(), value.to_owned());
        assert_eq!(before, None);
    });
    map
}

/// Returns the `traceparent` of the current span.
fn current() -> String {
    let id = |id: Option<String>| id.expect("a span is current");
    let trace = id(get_trace_id().map(|id| id.to_string()));
    let span = id(get_span_id().map(|id| id.to_string()));
    format!("00-{trace}-{span}-01")
}

#[tokio::test]
async fn a_trace_continues_through_every_carrier() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let sent = with_tracer("test", "send", || {
            let map = injected();
            let expected = HashMap::from([("traceparent".to_owned(), current())]);
            let flags = &map["traceparent"][53..];
            // The SDK does not set the random flag.
            assert_eq!(flags, "01");
            assert_eq!(map, expected);
            map
        });
        let bytes = sent.iter().map(|(name, value)| (name, value.as_bytes()));
        let bytes: Vec<(&String, &[u8])> = bytes.collect();
        let mut headers = HeaderMap::new();
        let cx = carriers::extract(&sent);
        {
            let _attached = cx.clone().attach();
            carriers::inject_into_headers(&mut headers);
        }
        let parents = [cx, carriers::extract(bytes), carriers::extract(&headers)];
        for (n, parent) in parents.into_iter().enumerate() {
            let span = get_tracer("test").span(format!("receive-{n}"));
            span.with_parent(parent).run(|| {});
        }
    })
    .await;
    let expected = [
        "GET",
        "  send",
        "    receive-0",
        "    receive-1",
        "    receive-2",
    ];
    assert_eq!(tree(&telemetry.spans()), expected);
}

#[test]
fn without_a_span_nothing_is_injected_and_extraction_ignores_the_current_context() {
    assert_eq!(injected(), HashMap::new());
    let outer = carriers::extract([("traceparent", TRACEPARENT), ("baggage", "a=1")]);
    let _attached = outer.attach();
    for pairs in [
        &[][..],
        &[("traceparent", "nonsense")],
        &[("traceparent", TRACEPARENT), ("Traceparent", TRACEPARENT)],
        &[("authorization", "Bearer canary"), ("tracestate", "a=1")],
    ] {
        let cx = carriers::extract(pairs.iter().copied());
        assert!(!cx.has_active_span(), "{pairs:?}");
        assert!(cx.baggage().is_empty(), "{pairs:?}");
    }
    assert_eq!(
        get_trace_id().map(|id| id.to_string()).as_deref(),
        Some(TRACE_ID)
    );
}

#[test]
fn stale_context_is_removed_from_headers_and_commands() {
    let stale = [
        "traceparent",
        "tracestate",
        "baggage",
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-sampled",
        "x-b3-flags",
        "x-b3-parentspanid",
    ];
    let with_context = |cx: Context| {
        let _attached = cx.attach();
        let mut headers = HeaderMap::new();
        headers.insert("x-other", HeaderValue::from_static("stays"));
        let mut command = Command::new("nothing");
        command.env("OTHER", "stays");
        for name in stale {
            headers.insert(name, HeaderValue::from_static("stale"));
            command.env(name.to_uppercase().replace('-', "_"), "stale");
        }
        carriers::inject_into_headers(&mut headers);
        carriers::inject_into_command(&mut command);
        let headers: HashMap<_, _> = headers
            .into_iter()
            .map(|(name, value)| {
                let name = name.expect("each header has one value").to_string();
                (name, value.to_str().expect("the value is ASCII").to_owned())
            })
            .collect();
        let variables: HashMap<_, _> = command
            .get_envs()
            .map(|(name, value)| {
                let text =
                    |text: &std::ffi::OsStr| text.to_str().expect("the value is ASCII").to_owned();
                (text(name), value.map(text))
            })
            .collect();
        // A variable that is not removed would be inherited by the child process.
        assert_eq!(variables.len(), stale.len() + 1);
        let set: HashMap<_, _> = variables
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        let mut upper = HashMap::from([("OTHER".to_owned(), "stays".to_owned())]);
        for (name, value) in &headers {
            if name != "x-other" {
                upper.insert(name.to_uppercase().replace('-', "_"), value.clone());
            }
        }
        assert_eq!(set, upper);
        headers
    };
    let other = ("x-other".to_owned(), "stays".to_owned());
    assert_eq!(with_context(Context::new()), HashMap::from([other.clone()]));
    let cx = carriers::extract([("traceparent", TRACEPARENT)]);
    let cx = cx.with_baggage([KeyValue::new("user", "ä 1")]);
    let expected = HashMap::from([
        other,
        ("traceparent".to_owned(), TRACEPARENT.to_owned()),
        ("baggage".to_owned(), "user=%C3%A4%201".to_owned()),
    ]);
    assert_eq!(with_context(cx), expected);
}
