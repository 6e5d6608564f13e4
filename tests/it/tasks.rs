//! Tests context at the borders of tasks, and the ways to keep it.

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
async fn a_plain_spawned_task_is_in_no_trace() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let in_task = tokio::spawn(async { get_trace_id() }).await;
        assert_eq!(in_task.expect("the task does not panic"), None);
        let in_thread = tokio::task::spawn_blocking(get_trace_id).await;
        assert_eq!(in_thread.expect("the thread does not panic"), None);
    })
    .await;
}

#[tokio::test]
async fn a_traced_task_is_a_child_of_the_span_that_spawned_it() {
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
        assert_eq!(task.await.expect("the task does not panic"), 7);
        let thread = spawn_blocking_traced("test", "thread", move || {
            with_tracer("test", "in-thread", || {});
            get_trace_id()
        });
        assert_eq!(thread.await.expect("the thread does not panic"), request);
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
async fn a_linked_task_has_its_own_trace_with_a_link_to_the_spawning_span() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let task = spawn_linked("test", "task", async {
            with_tracer("test", "in-task", || {});
        });
        task.await.expect("the task does not panic");
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
async fn an_aborted_task_is_cancelled_and_a_panicking_task_is_an_error() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let task = spawn_traced("test", "aborted", std::future::pending::<()>());
        tokio::task::yield_now().await;
        task.abort();
        assert!(task.await.expect_err("the task was aborted").is_cancelled());
        let task = spawn_traced("test", "panicked", async { panic!("on purpose") });
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
async fn context_can_be_sent_through_a_channel_with_the_message() {
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
        sender.send(message).await.expect("the worker receives");
    })
    .await;
    worker.await.expect("the task does not panic");
    assert_eq!(tree(&telemetry.spans()), ["GET", "  job-1"]);
}

#[tokio::test]
async fn a_stream_has_the_context_of_its_poller_unless_it_carries_its_own() {
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
    let (request, mut without, mut with) =
        receiver.await.expect("the handler has sent the streams");
    assert!(request.is_some());
    assert_eq!(without.next().await, Some(None));
    assert_eq!(with.next().await, Some(request));
}

#[tokio::test]
async fn futures_of_one_task_are_in_the_request_span_however_they_are_polled() {
    let telemetry = TestTelemetry::new();
    let child = |name: &'static str| async move {
        tokio::task::yield_now().await;
        with_tracer("test", name, || {});
    };
    in_request(&telemetry, async {
        tokio::join!(child("joined-1"), child("joined-2"));
        tokio::select! {
            biased;
            () = child("selected") => {}
            () = std::future::pending() => {}
        }
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(child("lost"));
        tasks.spawn(child("kept").with_current_context());
        tasks.join_all().await;
    })
    .await;
    let spans = telemetry.spans();
    let request = spans.iter().find(|span| span.name == "GET");
    let request = request
        .expect("the span of the request was recorded")
        .span_context
        .span_id();
    for span in spans.iter().filter(|span| span.name != "GET") {
        assert_eq!(
            span.parent_span_id == request,
            span.name != "lost",
            "{}",
            span.name
        );
    }
}

#[tokio::test]
async fn a_future_that_loses_a_race_is_cancelled_and_dropped_in_its_own_span() {
    /// Starts a span when it is dropped.
    struct OnDrop(&'static str);

    impl Drop for OnDrop {
        fn drop(&mut self) {
            with_tracer("test", self.0, || {});
        }
    }

    let losing_branch = |name: &'static str, on_drop: &'static str| {
        tower_telemetry::async_with_tracer("test", name, async move {
            let _on_drop = OnDrop(on_drop);
            std::future::pending::<()>().await;
        })
    };
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        tokio::select! {
            biased;
            () = losing_branch("select", "in-select") => {}
            () = tokio::task::yield_now() => {}
        }
        let timeout = std::time::Duration::from_millis(1);
        let timed_out = tokio::time::timeout(timeout, losing_branch("timeout", "in-timeout")).await;
        assert!(timed_out.is_err());
    })
    .await;
    let spans = telemetry.spans();
    assert_eq!(
        tree(&spans),
        [
            "GET",
            "  select",
            "    in-select",
            "  timeout",
            "    in-timeout"
        ]
    );
    for span in spans
        .iter()
        .filter(|span| ["select", "timeout"].contains(&&*span.name))
    {
        assert_eq!(span.attributes, [KeyValue::new("error.type", "cancelled")]);
        assert_eq!(span.status, Status::Unset);
    }
}

#[tokio::test]
async fn a_thread_has_only_the_context_that_it_carries() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let cx = Context::current();
        let thread = std::thread::spawn(move || {
            assert_eq!(get_trace_id(), None);
            let _attached = cx.attach();
            with_tracer("test", "in-thread", || {});
        });
        thread.join().expect("the thread does not panic");
    })
    .await;
    assert_eq!(tree(&telemetry.spans()), ["GET", "  in-thread"]);
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn a_response_body_is_streamed_in_the_span_of_its_request() {
    use axum::body::{Body, Bytes};
    use http_body_util::BodyExt;
    use tokio_stream::StreamExt;
    use tower::{Layer, ServiceExt, service_fn};

    let telemetry = TestTelemetry::new();
    let service = telemetry
        .layer()
        .layer(service_fn(|_: http::Request<()>| async {
            let parts = tokio_stream::iter(["part-1", "part-2"]).map(|name| {
                with_tracer("test", name, || {});
                Ok::<_, std::convert::Infallible>(Bytes::from(name))
            });
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::from_stream(parts)))
        }));
    let response = service.oneshot(http::Request::new(())).await;
    let body = response.expect("the service cannot fail").into_body();
    assert_eq!(get_trace_id(), None);
    let body = body
        .collect()
        .await
        .expect("the body is complete")
        .to_bytes();
    assert_eq!(body, "part-1part-2");
    assert_eq!(tree(&telemetry.spans()), ["GET", "  part-1", "  part-2"]);
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn web_socket_messages_are_children_of_the_upgrade_or_linked_to_it() {
    use axum::extract::ws::{WebSocket, WebSocketUpgrade};
    use opentelemetry::trace::TraceContextExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tower_telemetry::{async_with_tracer, get_tracer};

    async fn talk(mut socket: WebSocket) {
        let upgrade = Context::current().span().span_context().clone();
        while let Some(Ok(message)) = socket.recv().await {
            let Ok(text) = message.into_text() else {
                continue;
            };
            let name = text.to_string();
            if name.starts_with("linked") {
                let span = get_tracer("test").span(name).with_parent(Context::new());
                span.with_link(upgrade.clone()).run_future(async {}).await;
            } else {
                async_with_tracer("test", name, async {}).await;
            }
        }
    }

    let telemetry = TestTelemetry::new();
    let handler = async |upgrade: WebSocketUpgrade| {
        let cx = Context::current();
        upgrade.on_upgrade(|socket| {
            assert_eq!(get_trace_id(), None);
            talk(socket).with_context(cx)
        })
    };
    let app = axum::Router::new()
        .route("/chat", axum::routing::any(handler))
        .layer(telemetry.layer());
    let server = crate::support::Server::start(app).await;
    let mut client = tokio::net::TcpStream::connect(server.address)
        .await
        .expect("the server listens");
    let head = "GET /chat HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n\
                upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client
        .write_all(head.as_bytes())
        .await
        .expect("the other side is reading");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.expect("the server responds"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    for message in ["below-1", "linked-1", "below-2", "linked-2"] {
        // A text frame, masked with zeros.
        let length = 0x80 | u8::try_from(message.len()).expect("the number is small");
        let frame = [&[0x81, length, 0, 0, 0, 0], message.as_bytes()].concat();
        client
            .write_all(&frame)
            .await
            .expect("the other side is reading");
    }
    let spans = telemetry.wait_for_spans(5).await;
    let find = |name: &str| {
        let span = spans.iter().find(|span| span.name == name);
        span.unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
    };
    let upgrade = &find("GET /chat").span_context;
    for name in ["below-1", "below-2"] {
        assert_eq!(find(name).parent_span_id, upgrade.span_id());
        assert!(find(name).links.is_empty());
    }
    let traces = ["linked-1", "linked-2"].map(|name| {
        let span = find(name);
        assert_eq!(span.parent_span_id, SpanId::INVALID);
        assert_eq!(span.links.len(), 1);
        assert_eq!(span.links[0].span_context, *upgrade);
        span.span_context.trace_id()
    });
    assert_ne!(traces[0], traces[1]);
    assert!(!traces.contains(&upgrade.trace_id()));
}

#[test]
fn spawning_outside_of_a_runtime_panics_at_the_caller() {
    use std::sync::Mutex;
    use std::thread::ThreadId;
    // A short name keeps each call on one line.
    use tower_telemetry::spawn_blocking_traced as spawn_blocking;

    static PANICS: Mutex<Vec<(ThreadId, String, u32)>> = Mutex::new(Vec::new());
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let at = panic.location().expect("a panic has a location");
        let id = std::thread::current().id();
        let mut panics = PANICS.lock().expect("the lock is not poisoned");
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
    let mut found = PANICS.lock().expect("the lock is not poisoned").clone();
    // Other tests may panic at the same time.
    found.retain(|(thread, ..)| *thread == id);
    assert_eq!(found, expected);
}
