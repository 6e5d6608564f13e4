//! Tests when the span of a future starts, and which span is its parent.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context as TaskContext, Poll, Waker};

use opentelemetry::Context;
use opentelemetry::context::FutureExt;
use opentelemetry::trace::Status;
use tower_telemetry::{
    async_try_with_tracer, async_with_tracer, get_span_id, get_trace_id, get_tracer, with_tracer,
};

use crate::functions::in_request;
use crate::support::{Attributes, TestTelemetry, attributes as map, span_attributes, tree};

type BoxFuture<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Puts a future into a span that starts with it, in one of four ways.
fn in_span<'a>(kind: usize, future: impl Future<Output = ()> + Send + 'a) -> BoxFuture<'a> {
    async fn ok(future: impl Future<Output = ()>) -> Result<(), String> {
        future.await;
        Ok(())
    }
    match kind {
        0 => Box::pin(async_with_tracer("test", "work", future)),
        1 => Box::pin(async move {
            let result = async_try_with_tracer("test", "work", ok(future)).await;
            assert_eq!(result, Ok(()));
        }),
        2 => Box::pin(get_tracer("test").span("work").run_future(future)),
        _ => Box::pin(async move {
            let work = get_tracer("test").span("work").try_run_future(ok(future));
            assert_eq!(work.await, Ok(()));
        }),
    }
}

const KINDS: std::ops::Range<usize> = 0..4;

fn poll_once(future: Pin<&mut (impl Future<Output = ()> + ?Sized)>) -> Poll<()> {
    future.poll(&mut TaskContext::from_waker(Waker::noop()))
}

#[tokio::test]
async fn work_from_a_channel_is_a_child_of_the_span_that_sent_it() {
    for kind in KINDS {
        let telemetry = TestTelemetry::new();
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<Context>(1);
        let worker = tokio::spawn(async move {
            while let Some(cx) = receiver.recv().await {
                let work = async { with_tracer("test", "inner", || {}) };
                in_span(kind, work).with_context(cx).await;
                assert_eq!(get_trace_id(), None);
            }
        });
        in_request(&telemetry, async move {
            let sent = with_tracer("test", "sender", Context::current);
            sender.send(sent).await.expect("the worker receives");
        })
        .await;
        worker.await.expect("the task does not panic");
        assert_eq!(
            tree(&telemetry.spans()),
            ["GET", "  sender", "    work", "      inner"]
        );
    }
}

#[tokio::test]
async fn a_future_made_outside_of_a_request_is_a_child_of_the_request_that_polls_it() {
    for kind in KINDS {
        let telemetry = TestTelemetry::new();
        let work = in_span(kind, async {});
        in_request(&telemetry, work).await;
        assert_eq!(tree(&telemetry.spans()), ["GET", "  work"]);
    }
}

#[tokio::test]
async fn a_span_starts_when_its_future_is_first_polled() {
    for kind in KINDS {
        let telemetry = TestTelemetry::new();
        in_request(&telemetry, async {
            let mut work = in_span(kind, async {});
            with_tracer("test", "before", || {});
            with_tracer("test", "outer", || {
                assert!(poll_once(work.as_mut()).is_ready());
            });
        })
        .await;
        let spans = telemetry.spans();
        assert_eq!(
            tree(&spans),
            ["GET", "  before", "  outer", "    work"],
            "{kind}"
        );
        let start = |name: &str| {
            let span = spans.iter().find(|span| span.name == name);
            span.expect("the span was recorded").start_time
        };
        assert!(start("work") >= start("outer"));
    }
}

#[tokio::test]
async fn the_first_poll_fixes_the_parent() {
    for kind in KINDS {
        let telemetry = TestTelemetry::new();
        in_request(&telemetry, async {
            let mut ids = Vec::new();
            let mut work = in_span(kind, async {
                ids.push(get_span_id());
                tokio::task::yield_now().await;
                ids.push(get_span_id());
            });
            with_tracer("test", "first", || {
                assert!(poll_once(work.as_mut()).is_pending());
            });
            with_tracer("test", "second", || {
                assert!(poll_once(work.as_mut()).is_ready());
            });
            drop(work);
            assert!(ids[0].is_some());
            assert_eq!(ids[0], ids[1]);
        })
        .await;
        let spans = telemetry.spans();
        assert_eq!(
            tree(&spans),
            ["GET", "  first", "    work", "  second"],
            "{kind}"
        );
    }
}

#[tokio::test]
async fn joined_futures_are_siblings() {
    for kind in KINDS {
        let telemetry = TestTelemetry::new();
        in_request(&telemetry, async {
            let work = || {
                in_span(kind, async {
                    tokio::task::yield_now().await;
                    with_tracer("test", "inner", || {});
                })
            };
            tokio::join!(work(), work());
        })
        .await;
        assert_eq!(
            tree(&telemetry.spans()),
            ["GET", "  work", "    inner", "  work", "    inner"]
        );
    }
}

#[tokio::test]
async fn a_future_that_is_never_polled_has_no_span() {
    for kind in KINDS {
        let telemetry = TestTelemetry::new();
        in_request(&telemetry, async {
            drop(in_span(kind, async {}));
            let future = in_span(kind, async {
                panic!("a future that is never polled must not run")
            });
            drop(future.with_context(Context::current()));
        })
        .await;
        assert_eq!(tree(&telemetry.spans()), ["GET"], "{kind}");
    }
}

#[tokio::test]
async fn a_future_dropped_midway_is_cancelled_and_its_span_is_current_during_the_drop() {
    struct SpanOnDrop;
    impl Drop for SpanOnDrop {
        fn drop(&mut self) {
            with_tracer("test", "clean-up", || {});
        }
    }
    for kind in KINDS {
        let telemetry = TestTelemetry::new();
        in_request(&telemetry, async {
            let mut future = in_span(kind, async {
                let _span_on_drop = SpanOnDrop;
                std::future::pending::<()>().await;
            });
            assert!(poll_once(future.as_mut()).is_pending());
        })
        .await;
        let spans = telemetry.spans();
        assert_eq!(tree(&spans), ["GET", "  work", "    clean-up"], "{kind}");
        let work = &spans[1];
        assert_eq!(work.status, Status::Unset);
        assert_eq!(span_attributes(work), map([("error.type", "cancelled")]));
    }
}

#[tokio::test]
async fn a_completed_future_may_be_polled_and_dropped_without_another_span() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let mut future = pin!(async_with_tracer("test", "work", async {}));
        assert!(poll_once(future.as_mut()).is_ready());
        assert!(poll_once(future.as_mut()).is_pending());
    })
    .await;
    let spans = telemetry.spans();
    assert_eq!(tree(&spans), ["GET", "  work"]);
    assert_eq!(span_attributes(&spans[0]), Attributes::new());
}

#[tokio::test]
async fn a_spawned_future_is_in_the_trace_only_with_the_context_it_carries() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let id = || async_with_tracer("test", "work", async { get_trace_id() });
        // The task has neither the context of the request nor the providers of its layer.
        let task = tokio::spawn(id());
        assert_eq!(task.await.expect("the task does not panic"), None);
        let task = tokio::spawn(id().with_current_context());
        assert_eq!(task.await.expect("the task does not panic"), get_trace_id());
    })
    .await;
    assert_eq!(tree(&telemetry.spans()), ["GET", "  work"]);
}
