//! Checks which span `Span::current()` returns in a request, under the subscriber of `init`. `init`
//! applies to the whole process, so this test is a process of its own.

#![cfg(all(
    feature = "axum",
    feature = "init",
    feature = "logs",
    feature = "tracing"
))]

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Waker};
use std::{cell::RefCell, thread};

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "it/support/receiver.rs"]
mod receiver;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use opentelemetry::Context;
use opentelemetry::trace::{SpanId, TraceContextExt};
use receiver::Receiver;
use tokio_stream::StreamExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::tracing_opentelemetry::OpenTelemetrySpanExt;
use tower_telemetry::{
    ClientTelemetryLayer, Config, TelemetryLayer, config::Exporter, get_span_id, with_tracer,
};
use tracing::{Instrument, Span, debug_span, info, info_span};

/// Returns the name of the current span and its id in OpenTelemetry.
fn current() -> (Option<&'static str>, SpanId) {
    let span = Span::current();
    let name = span.metadata().map(|metadata| metadata.name());
    (name, span.context().span().span_context().span_id())
}

/// Returns the id of the current OpenTelemetry span.
fn id() -> SpanId {
    get_span_id().expect("a span is current")
}

fn is_sampled() -> bool {
    Context::map_current(|cx| cx.span().span_context().is_sampled())
}

fn is_request(request: SpanId) {
    assert_eq!(current(), (Some("request"), request));
}

#[tracing::instrument]
async fn function() {
    assert_eq!(current(), (Some("function"), id()));
    tokio::task::yield_now().await;
    assert_eq!(current(), (Some("function"), id()));
}

async fn asks_before_and_after_a_function() {
    let request = id();
    function().await;
    is_request(request);
    let _entered = info_span!("entered").entered();
    assert_eq!(current(), (Some("entered"), id()));
    drop(_entered);
    is_request(request);
}

async fn asks_across_polls() {
    let request = id();
    let first = Span::current();
    tokio::task::yield_now().await;
    is_request(request);
    assert_eq!(Span::current().id(), first.id());
}

async fn asks_in_a_span_of_handler_code() {
    let request = id();
    with_tracer("test", "step", || {
        // A span that is not sampled has no id of its own.
        assert_eq!(id() == request, !is_sampled());
        is_request(request);
    });
    is_request(request);
}

async fn calls_another_service() {
    let request = id();
    let client = ClientTelemetryLayer::new().layer(service_fn(|_: Request<Empty<Bytes>>| async {
        assert_eq!(current(), (Some("client_request"), id()));
        function().await;
        assert_eq!(current(), (Some("client_request"), id()));
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let outgoing = Request::new(Empty::new());
    let response = client.oneshot(outgoing).await.expect("an answer");
    drop(response);
    is_request(request);
}

async fn asks_in_a_task() {
    let request = id();
    let task = async move {
        is_request(request);
        function().await;
    };
    let task = tokio::spawn(task.in_current_span());
    task.await.expect("the task does not panic");
}

/// Logs and asks for the current span when it is formatted.
struct Noisy;

impl fmt::Debug for Noisy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        info!("formatted");
        write!(f, "in {:?}", Span::current().id())
    }
}

async fn asks_in_the_parent_of_an_event() {
    info!(parent: &Span::current(), "of the request");
}

async fn asks_in_a_field_of_an_event() {
    let outer = Span::current();
    info!(value = ?Noisy, "noisy");
    info!(parent: &outer, value = ?Noisy, "noisy");
}

async fn asks_in_a_field_of_a_hidden_span() {
    let _hidden = debug_span!("hidden", id = ?Span::current().id()).entered();
}

async fn asks_in_a_field_of_a_span() {
    let request = id();
    let _entered = info_span!("noisy", value = ?Noisy).entered();
    assert_eq!(current(), (Some("noisy"), id()));
    drop(_entered);
    // A span that only the layer for spans sees.
    drop(info_span!(target: "other", "noisy", value = ?Noisy));
    is_request(request);
}

/// Asks for the current span when it is dropped.
struct AsksInDrop;

impl Drop for AsksInDrop {
    fn drop(&mut self) {
        let _ = Span::current();
    }
}

/// Drops a request after the registry's data of the thread is destroyed.
fn asks_while_the_thread_ends() {
    type Response = Pin<Box<dyn Future<Output = ()>>>;

    thread_local! {
        static REQUEST: RefCell<Option<Response>> = const { RefCell::new(None) };
    }

    let service = TelemetryLayer::new().layer(service_fn(|_: Request<Body>| async {
        let _asks = AsksInDrop;
        std::future::pending::<Result<http::Response<Body>, Infallible>>().await
    }));
    let mut request: Response = Box::pin(async {
        let _ = service.oneshot(Request::new(Body::empty())).await;
    });
    let mut cx = TaskContext::from_waker(Waker::noop());
    assert_eq!(request.as_mut().poll(&mut cx), Poll::Pending);
    REQUEST.set(Some(request));
    drop(info_span!("registers this thread"));
}

fn router(kept: &Arc<Mutex<Option<Span>>>) -> Router {
    /// A handler that also asks while the body is sent.
    fn handler<F: Future<Output = ()> + Send + 'static>(
        work: fn() -> F,
    ) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = Body> + Send>> + Clone + Send + Sync + 'static
    {
        move || {
            Box::pin(async move {
                work().await;
                let request = id();
                let parts = tokio_stream::iter(["a", "b"]).map(move |part| {
                    is_request(request);
                    Ok::<_, Infallible>(part)
                });
                Body::from_stream(parts)
            })
        }
    }

    let kept = kept.clone();
    let followed = kept.clone();
    Router::new()
        .route("/parent", get(handler(asks_in_the_parent_of_an_event)))
        .route("/event", get(handler(asks_in_a_field_of_an_event)))
        .route("/hidden", get(handler(asks_in_a_field_of_a_hidden_span)))
        .route("/noisy", get(handler(asks_in_a_field_of_a_span)))
        .route(
            "/follows",
            get(move || async move {
                let followed = followed.lock().expect("the lock is not poisoned");
                Span::current().follows_from(followed.as_ref().expect("a span was kept"));
            }),
        )
        .route("/function", get(handler(asks_before_and_after_a_function)))
        .route("/polls", get(handler(asks_across_polls)))
        .route(
            "/handler-code",
            get(handler(asks_in_a_span_of_handler_code)),
        )
        .route("/client", get(handler(calls_another_service)))
        .route("/task", get(handler(asks_in_a_task)))
        .route(
            "/kept",
            get(move || async move {
                *kept.lock().expect("the lock is not poisoned") = Some(Span::current());
            }),
        )
}

async fn send(app: impl Fn() -> Router, path: &str, flags: &str) {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = Request::get(path)
        .header(
            "traceparent",
            format!("00-{trace}-b7ad6b7169203331-{flags}"),
        )
        .body(Body::empty())
        .expect("a valid request");
    let response = app().oneshot(request).await.expect("a response");
    assert_eq!(response.status(), 200, "{path}");
    let body = response.into_body().collect().await;
    body.expect("the body is complete");
}

#[tokio::test]
async fn the_current_span_in_a_request_is_the_span_of_the_request_unless_another_was_entered() {
    let receiver = Receiver::start();
    let telemetry = Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(receiver.endpoint())
        // A span at this level has log lines, but is not exported.
        .with_log_filter("request_span=debug")
        .init()
        .expect("no other telemetry is initialized");
    let kept = Arc::new(Mutex::new(None));
    let routes = router(&kept);
    let app = || routes.clone().layer(TelemetryLayer::new());

    assert_eq!(current().0, None, "no request is current");
    for flags in ["00", "01"] {
        for path in [
            "/function",
            "/polls",
            "/handler-code",
            "/client",
            "/task",
            "/parent",
            "/event",
            "/hidden",
            "/noisy",
        ] {
            send(app, path, flags).await;
        }
    }
    // Two requests that run in turns on one thread.
    tokio::join!(send(app, "/polls", "01"), send(app, "/task", "01"));
    assert_eq!(current().0, None, "no request is current");

    // A guard that is held while the request is not polled.
    let service = TelemetryLayer::new().layer(service_fn(|_: Request<Body>| async {
        let request = id();
        let guard = info_span!("entered").entered();
        assert_eq!(current().0, Some("entered"));
        tokio::task::yield_now().await;
        is_request(request);
        info_span!("inner").in_scope(|| assert_eq!(current().0, Some("inner")));
        drop(guard);
        is_request(request);
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    let response = service.oneshot(Request::new(Body::empty())).await;
    drop(response);
    assert_eq!(current().0, None, "no request is current");

    let ended = thread::spawn(asks_while_the_thread_ends).join();
    ended.expect("the thread does not panic");

    // Code may keep the span after the end of the request.
    send(app, "/kept", "01").await;
    send(app, "/follows", "01").await;
    let span = kept.lock().expect("the lock is not poisoned").take();
    let late = async {
        info_span!("late").in_scope(|| ());
    };
    late.instrument(span.expect("the handler kept a span"))
        .await;

    // Without the span of `tracing`, only the OpenTelemetry span is current.
    let without = Router::new()
        .route(
            "/without",
            get(|| async { assert_eq!(current().0, None, "{}", id()) }),
        )
        .layer(TelemetryLayer::new().without_tracing_span());
    send(|| without.clone(), "/without", "01").await;

    telemetry.shutdown().await;
    let spans = receiver.received();
    let spans = spans.spans();
    let named = |name: &str| {
        spans
            .iter()
            .filter(|span| span.name == name)
            .collect::<Vec<_>>()
    };
    let [late] = &named("late")[..] else {
        panic!("{spans:#?}")
    };
    let [request] = &named("GET /kept")[..] else {
        panic!("{spans:#?}")
    };
    assert_eq!(late.parent_span_id, request.span_id);
    let [follows] = &named("GET /follows")[..] else {
        panic!("{spans:#?}")
    };
    assert_eq!(follows.links.len(), 1);
    assert!(
        spans.iter().all(|span| span.events.is_empty()),
        "{spans:#?}"
    );
    assert_eq!(named("hidden").len(), 0);
    assert_eq!(named("noisy").len(), 2);
    // Of the sampled requests: once in `/function`, in the call of `/client` and in each `/task`.
    assert_eq!(named("function").len(), 4);
}
