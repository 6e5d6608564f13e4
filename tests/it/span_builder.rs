//! Tests the builder of spans (kind, attributes, links, parent) and the methods of the span guard.

use std::fmt;

use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::{
    SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SpanData};
use tower_telemetry::{
    add_span_attributes, attributes, get_span_id, get_trace_id, get_tracer,
    handler::{SpanBuilder, SpanKind},
    start_as_current_span, with_tracer,
};

use crate::functions::{block_on, in_request};
use crate::support::{TestTelemetry, attributes as map, span_attributes, tree};

fn remote(id: u64, is_sampled: bool) -> SpanContext {
    SpanContext::new(
        TraceId::from(u128::from(id)),
        SpanId::from(id),
        TraceFlags::default().with_sampled(is_sampled),
        true,
        TraceState::NONE,
    )
}

/// Runs code in the described span, in one of five ways.
fn run(kind: usize, span: SpanBuilder) -> Result<u32, Failed> {
    match kind {
        0 => Ok(span.run(|| 7)),
        1 => span.try_run(|| Err(Failed)),
        2 => {
            let _span = span.start();
            Ok(7)
        }
        3 => crate::support::block_on(async { Ok(span.run_future(async { 7 }).await) }),
        _ => crate::support::block_on(span.try_run_future(async { Err(Failed) })),
    }
}

#[derive(Debug, PartialEq)]
struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it failed")
    }
}

const WAYS: std::ops::Range<usize> = 0..5;

/// Returns the only span that `handler` records below a request.
fn only(telemetry: &TestTelemetry, handler: impl FnOnce()) -> SpanData {
    block_on(in_request(telemetry, async { handler() }));
    let mut spans = telemetry.spans();
    assert_eq!(spans.len(), 2, "{:?}", tree(&spans));
    spans.remove(0)
}

#[test]
fn a_span_has_everything_its_builder_was_given_however_it_is_run() {
    for way in WAYS {
        let fails = [1, 4].contains(&way);
        let telemetry = TestTelemetry::new();
        let span = only(&telemetry, || {
            let span = get_tracer("test")
                .span(format!("described-{way}"))
                .with_kind(SpanKind::Producer)
                .with_attributes(attributes! { "a" => 1, "missing" => None::<u32> })
                .with_attributes([KeyValue::new("b", "two")])
                .with_link(remote(1, true))
                .with_link(SpanContext::NONE)
                .with_link(remote(2, false));
            let found = run(way, span);
            assert_eq!(found, if fails { Err(Failed) } else { Ok(7) });
        });
        assert_eq!(span.name, format!("described-{way}"));
        assert_eq!(span.span_kind, SpanKind::Producer);
        assert_eq!(span.instrumentation_scope.name(), "test");
        let links: Vec<_> = span.links.iter().map(|link| &link.span_context).collect();
        assert_eq!(links, [&remote(1, true), &remote(2, false)]);
        let mut expected = map([("a", "1"), ("b", "two")]);
        let mut status = Status::Unset;
        if fails {
            status = Status::error("it failed");
            let failed = std::any::type_name::<Failed>();
            expected.insert("error.type".to_owned(), failed.to_owned());
        }
        assert_eq!(span.status, status);
        assert_eq!(span_attributes(&span), expected);
    }
}

#[test]
fn an_empty_builder_makes_the_same_span_as_the_functions() {
    for way in WAYS {
        let telemetry = TestTelemetry::new();
        let span = only(&telemetry, || {
            let _ = run(way, get_tracer("test").span("plain"));
        });
        assert_eq!(span.span_kind, SpanKind::Internal);
        assert!(span.links.is_empty());
        assert_eq!(span.attributes.len(), usize::from([1, 4].contains(&way)));
    }
}

#[test]
fn an_explicit_parent_replaces_the_current_span() {
    let parent = || {
        let baggage = KeyValue::new("tenant", "a");
        Context::new()
            .with_remote_span_context(remote(9, true))
            .with_baggage([baggage])
    };
    for way in WAYS {
        let telemetry = TestTelemetry::new();
        let span = only(&telemetry, || {
            let before = get_span_id();
            let span = get_tracer("test").span("child").with_parent(parent());
            let _ = run(way, span);
            assert_eq!(get_span_id(), before);
        });
        assert_eq!(span.parent_span_id, SpanId::from(9));
        assert_eq!(span.span_context.trace_id(), TraceId::from(9));
    }
    let telemetry = TestTelemetry::new();
    block_on(in_request(&telemetry, async {
        let span = get_tracer("test").span("child").with_parent(parent());
        span.run(|| {
            let tenant = Context::map_current(|cx| cx.baggage().get("tenant").cloned());
            assert_eq!(tenant.expect("the baggage has the tenant").as_str(), "a");
            with_tracer("test", "below", || {});
        });
    }));
    let spans = telemetry.spans();
    assert_eq!(tree(&spans[..2]), ["child", "  below"]);
}

#[test]
fn a_parent_without_a_span_starts_a_trace() {
    for way in WAYS {
        let telemetry = TestTelemetry::new();
        let span = only(&telemetry, || {
            let trace = get_trace_id();
            let span = get_tracer("test").span("root").with_parent(Context::new());
            let _ = run(way, span);
            assert_eq!(get_trace_id(), trace);
        });
        assert_eq!(span.parent_span_id, SpanId::INVALID);
    }
}

#[test]
fn a_parent_decides_whether_its_child_is_sampled() {
    let sampler = || Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
    for (is_sampled, names) in [(true, vec!["child", "GET"]), (false, vec!["GET"])] {
        let telemetry = TestTelemetry::with_sampler(sampler());
        block_on(in_request(&telemetry, async {
            let parent = Context::new().with_remote_span_context(remote(9, is_sampled));
            let span = get_tracer("test").span("child").with_parent(parent).start();
            assert_eq!(span.span_context().trace_id(), TraceId::from(9));
            assert_eq!(span.span_context().is_sampled(), is_sampled);
            span.set_attribute("a", 1);
            span.set_error("none");
        }));
        let found: Vec<_> = telemetry
            .spans()
            .into_iter()
            .map(|span| span.name)
            .collect();
        assert_eq!(found, names);
        let request = telemetry
            .spans()
            .pop()
            .expect("the span of the request was recorded");
        assert_eq!(request.status, Status::Unset);
        assert!(request.events.is_empty());
    }
}

#[test]
fn a_parent_of_another_request_keeps_its_providers() {
    let (first, second) = (TestTelemetry::new(), TestTelemetry::new());
    let mut taken = None;
    block_on(in_request(&first, async {
        taken = Some(Context::current());
    }));
    block_on(in_request(&second, async {
        let parent = taken.take().expect("the first request set the parent");
        let child = get_tracer("test").span("child").with_parent(parent);
        child.run(|| {});
    }));
    assert_eq!(tree(&first.spans()), ["GET", "  child"]);
    assert_eq!(tree(&second.spans()), ["GET"]);
}

#[test]
fn with_suppressed_telemetry_an_explicit_parent_starts_no_span() {
    let telemetry = TestTelemetry::new();
    block_on(in_request(&telemetry, async {
        let parent = Context::current();
        let _suppressed = Context::enter_telemetry_suppressed_scope();
        get_tracer("test")
            .span("child")
            .with_parent(parent)
            .run(|| {});
    }));
    assert_eq!(tree(&telemetry.spans()), ["GET"]);
}

#[test]
fn a_guard_changes_its_own_span_even_while_another_is_current() {
    let telemetry = TestTelemetry::new();
    block_on(in_request(&telemetry, async {
        let outer = start_as_current_span(&get_tracer("test"), "outer");
        let inner = start_as_current_span(&get_tracer("test"), "inner");
        outer.set_attribute("user.id", "42");
        outer.set_attribute(String::from("missing"), None::<&str>);
        outer.set_attribute("present", Some(7_u64));
        outer.set_attributes(attributes! { "a" => 1, "b" => None::<bool> });
        outer.add_event("cache-miss", attributes! { "cache.key" => "user:42" });
        outer.add_link(remote(3, true));
        outer.add_link(SpanContext::NONE);
        outer.set_error(&Failed);
        outer.update_name("renamed");
        assert_eq!(get_span_id(), Some(inner.span_context().span_id()));
        add_span_attributes(attributes! { "inner" => true });
    }));
    let spans = telemetry.spans();
    assert_eq!(tree(&spans), ["GET", "  renamed", "    inner"]);
    let [inner, outer, request] = &spans[..] else {
        panic!("{:?}", tree(&spans));
    };
    assert_eq!(
        span_attributes(outer),
        map([("user.id", "42"), ("present", "7"), ("a", "1")])
    );
    let events: Vec<_> = outer.events.iter().map(|event| &*event.name).collect();
    assert_eq!(events, ["cache-miss", "exception"]);
    assert_eq!(outer.links.len(), 1);
    assert_eq!(outer.links[0].span_context, remote(3, true));
    assert_eq!(outer.status, Status::error("it failed"));
    assert_eq!(span_attributes(inner), map([("inner", "true")]));
    for other in [inner, request] {
        assert_eq!(other.status, Status::Unset);
        assert!(other.events.is_empty());
        assert!(other.links.is_empty());
    }
}

#[test]
fn an_iterator_of_attributes_may_use_the_guard_itself() {
    let telemetry = TestTelemetry::new();
    let span = only(&telemetry, || {
        let span = start_as_current_span(&get_tracer("test"), "span");
        span.set_attributes(["a", "b"].into_iter().map(|key| {
            span.add_event("seen", []);
            KeyValue::new(key, 1)
        }));
        span.add_event(
            "last",
            ["c"].into_iter().map(|key| {
                span.add_event("seen", []);
                KeyValue::new(key, 1)
            }),
        );
    });
    assert_eq!(span.events.len(), 4);
    assert_eq!(span_attributes(&span), map([("a", "1"), ("b", "1")]));
}

#[test]
fn without_telemetry_a_builder_and_a_guard_do_nothing() {
    let span = get_tracer("test")
        .span("unseen")
        .with_kind(SpanKind::Client)
        .with_parent(Context::new())
        .with_link(remote(1, true))
        .start();
    span.set_attribute("a", 1);
    span.set_error(&Failed);
    assert_eq!(span.span_context(), SpanContext::NONE);
    for way in WAYS {
        let _ = run(way, get_tracer("test").span("unseen"));
    }
}
