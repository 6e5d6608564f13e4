//! What becomes of context at the borders of tasks, and how to keep it.

use opentelemetry::context::FutureExt;
use opentelemetry::trace::{SpanId, Status};
use opentelemetry::{Context, KeyValue};
use tower_telemetry::{
    attributes, get_trace_id, increment_counter, spawn_blocking_traced, spawn_linked, spawn_traced,
    with_tracer,
};

use crate::functions::in_request;
use crate::support::{TestTelemetry, Value, tree};

#[tokio::test]
async fn a_task_that_is_spawned_as_usual_is_in_no_trace() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let in_task = tokio::spawn(async { get_trace_id() }).await;
        assert_eq!(in_task.expect("it does not panic"), None);
        let in_thread = tokio::task::spawn_blocking(get_trace_id).await;
        assert_eq!(in_thread.expect("it does not panic"), None);
    })
    .await;
}

#[tokio::test]
async fn a_traced_task_is_below_the_span_that_spawned_it() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let request = get_trace_id();
        let task = with_tracer("test", "handler", || {
            spawn_traced("test", "task", async move {
                tokio::task::yield_now().await;
                with_tracer("test", "in-task", || {});
                increment_counter("test.count", "Counted.", attributes! {});
                assert_eq!(get_trace_id(), request);
                7
            })
        });
        assert_eq!(task.await.expect("it does not panic"), 7);
        let thread = spawn_blocking_traced("test", "thread", move || {
            with_tracer("test", "in-thread", || {});
            get_trace_id()
        });
        assert_eq!(thread.await.expect("it does not panic"), request);
    })
    .await;
    assert_eq!(
        tree(&telemetry.spans()),
        [
            "GET",
            "  handler",
            "    task",
            "      in-task",
            "  thread",
            "    in-thread"
        ]
    );
    assert_eq!(telemetry.point("test.count").value, Value::Count(1));
}

#[tokio::test]
async fn a_linked_task_has_a_trace_of_its_own_that_tells_where_it_came_from() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let task = spawn_linked("test", "task", async {
            with_tracer("test", "in-task", || {});
        });
        task.await.expect("it does not panic");
    })
    .await;
    let spans = telemetry.spans();
    let [child, task, request] = &spans[..] else {
        panic!("{:?}", tree(&spans));
    };
    assert_eq!(
        (&*child.name, &*task.name, &*request.name),
        ("in-task", "task", "GET")
    );
    assert_eq!(task.parent_span_id, SpanId::INVALID);
    assert_ne!(
        task.span_context.trace_id(),
        request.span_context.trace_id()
    );
    assert_eq!(task.links.len(), 1);
    assert_eq!(task.links[0].span_context, request.span_context);
    assert_eq!(child.parent_span_id, task.span_context.span_id());
    assert!(request.links.is_empty());
}

#[tokio::test]
async fn a_task_that_is_aborted_was_cancelled_and_one_that_panics_has_failed() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let task = spawn_traced("test", "aborted", std::future::pending::<()>());
        tokio::task::yield_now().await;
        task.abort();
        assert!(task.await.expect_err("it has no end").is_cancelled());
        let task = spawn_traced("test", "panicked", async { panic!("as it should") });
        assert!(task.await.is_err());
    })
    .await;
    let spans = telemetry.spans();
    let error = |error: &'static str| [KeyValue::new("error.type", error)];
    assert_eq!(spans[0].attributes, error("cancelled"));
    assert_eq!(spans[0].status, Status::Unset);
    assert_eq!(spans[1].attributes, error("panic"));
    assert_eq!(spans[1].status, Status::error(""));
}

#[tokio::test]
async fn context_goes_through_a_channel_with_the_message() {
    let telemetry = TestTelemetry::new();
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<(Context, u32)>(1);
    let worker = tokio::spawn(async move {
        while let Some((cx, job)) = receiver.recv().await {
            assert_eq!(get_trace_id(), None);
            let work = async { with_tracer("test", format!("job-{job}"), || {}) };
            work.with_context(cx).await;
        }
    });
    in_request(&telemetry, async move {
        let message = (Context::current(), 1);
        sender.send(message).await.expect("somebody receives");
    })
    .await;
    worker.await.expect("it does not panic");
    assert_eq!(tree(&telemetry.spans()), ["GET", "  job-1"]);
}

#[tokio::test]
async fn a_stream_has_the_context_of_who_polls_it_unless_it_brings_its_own() {
    use tokio_stream::StreamExt;

    let telemetry = TestTelemetry::new();
    let ids = || tokio_stream::once(()).map(|()| get_trace_id());
    let (sender, receiver) = tokio::sync::oneshot::channel();
    in_request(&telemetry, async move {
        let request = get_trace_id();
        assert_eq!(ids().next().await, Some(request));
        let streams = (request, ids(), ids().with_current_context());
        assert!(sender.send(streams).is_ok());
    })
    .await;
    let (request, mut without, mut with) = receiver.await.expect("it was sent");
    assert!(request.is_some());
    assert_eq!(without.next().await, Some(None));
    assert_eq!(with.next().await, Some(request));
}

#[test]
fn a_task_that_is_spawned_outside_of_a_runtime_panics_at_its_caller() {
    use std::sync::Mutex;
    use std::thread::ThreadId;
    // A short name keeps each call on one line.
    use tower_telemetry::spawn_blocking_traced as spawn_blocking;

    static PANICS: Mutex<Vec<(ThreadId, String, u32)>> = Mutex::new(Vec::new());
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let at = panic.location().expect("it is known");
        let id = std::thread::current().id();
        let mut panics = PANICS.lock().expect("not poisoned");
        panics.push((id, at.file().to_owned(), at.line()));
        before(panic);
    }));
    let mut expected = Vec::new();
    let id = std::thread::current().id();
    let mut panics_at = |line: u32, spawn: fn()| {
        assert!(std::panic::catch_unwind(spawn).is_err());
        expected.push((id, file!().to_owned(), line));
    };
    panics_at(line!(), || drop(spawn_traced("a", "b", async {})));
    panics_at(line!(), || drop(spawn_linked("a", "b", async {})));
    panics_at(line!(), || drop(spawn_blocking("a", "b", || {})));
    let mut found = PANICS.lock().expect("not poisoned").clone();
    // Other tests panic meanwhile.
    found.retain(|(thread, ..)| *thread == id);
    assert_eq!(found, expected);
}
