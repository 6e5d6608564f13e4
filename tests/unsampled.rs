//! Runs handler code in a request that is not sampled, with the sampler of `init`. `init` applies
//! to the whole process, so this test is a process of its own.

#![cfg(all(feature = "init", feature = "macros"))]

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "it/support/receiver.rs"]
mod receiver;

use opentelemetry::Context;
use opentelemetry::context::FutureExt;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId};
use receiver::Receiver;
use tower_telemetry::{
    Config, async_with_tracer, config::Exporter, get_span_id, get_trace_id, get_tracer,
    spawn_traced, with_tracer,
};

/// Fails if it is called for an attribute of a span that is dropped.
fn expensive() -> u32 {
    assert!(
        Context::current().span().span_context().is_sampled(),
        "no attribute is built for a span that is dropped"
    );
    1
}

/// Fails if it is formatted for a span that is dropped.
struct Expensive;

impl std::fmt::Display for Expensive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", expensive())
    }
}

impl std::fmt::Debug for Expensive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", expensive())
    }
}

#[with_tracer("test", record(cost = expensive(), %text, debug = ?text), metrics)]
fn function(text: &Expensive) -> Option<SpanId> {
    let _ = text;
    get_span_id()
}

async fn handler() -> Vec<Option<SpanId>> {
    vec![
        function(&Expensive),
        with_tracer("test", "closure", get_span_id),
        async_with_tracer("test", "future", async { get_span_id() }).await,
        spawn_traced("test", "task", async { get_span_id() })
            .await
            .expect("the task does not panic"),
    ]
}

#[tokio::test]
async fn below_an_unsampled_span_no_span_is_started_and_the_trace_is_kept() {
    let receiver = Receiver::start();
    let telemetry = Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(receiver.endpoint())
        .init()
        .expect("no other telemetry is initialized");
    let request = |flags| {
        Context::new().with_remote_span_context(SpanContext::new(
            TraceId::from_bytes([1; 16]),
            SpanId::from_bytes([2; 8]),
            flags,
            true,
            Default::default(),
        ))
    };
    let dropped = async {
        assert_eq!(get_trace_id(), Some(TraceId::from_bytes([1; 16])));
        handler().await
    };
    let dropped = dropped.with_context(request(TraceFlags::default())).await;
    assert_eq!(dropped, [Some(SpanId::from_bytes([2; 8])); 4]);
    let sampled = handler().with_context(request(TraceFlags::SAMPLED)).await;
    assert!(
        sampled
            .iter()
            .all(|id| *id != Some(SpanId::from_bytes([2; 8])))
    );
    // An explicit parent becomes current even where no span is started below it.
    let below = async_with_tracer("test", "outer", async {
        let parent = request(TraceFlags::default());
        let span = get_tracer("test").span("dropped").with_parent(parent);
        span.run(|| [get_span_id(), with_tracer("test", "below", get_span_id)])
    });
    let below = below.with_context(request(TraceFlags::SAMPLED)).await;
    assert_eq!(below, [Some(SpanId::from_bytes([2; 8])); 2]);

    telemetry.shutdown().await;
    let received = receiver.received();
    let mut names: Vec<_> = received.spans().into_iter().map(|span| span.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["closure", "function", "future", "outer", "task"]);
    // Metrics do not depend on sampling.
    let Some(metric) = received.metric("function.duration") else {
        panic!("function.duration is recorded");
    };
    assert!(format!("{metric:?}").contains("count: 2"), "{metric:?}");
}
