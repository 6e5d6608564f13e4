//! Checks that the context of a request is current in its own code, and nowhere else.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_telemetry::{get_span_id, get_trace_id, layers::Trust};

use crate::support::{TRACE_ID, TRACEPARENT, TestTelemetry, within_deadline};

fn traceparent(trace: u8) -> String {
    format!(
        "00-{}-b7ad6b7169203331-01",
        format!("{trace:02x}").repeat(16)
    )
}

#[tokio::test(flavor = "current_thread")]
async fn concurrent_requests_on_one_thread_never_see_the_context_of_each_other() {
    const REQUESTS: u8 = 20;
    let telemetry = TestTelemetry::new();
    let service = telemetry
        .layer()
        .layer(service_fn(|request: Request<u8>| async move {
            let expected = format!("{:02x}", request.body()).repeat(16);
            let own = get_span_id();
            for _ in 0..50 {
                assert_eq!(
                    get_trace_id().map(|id| id.to_string()),
                    Some(expected.clone())
                );
                assert_eq!(get_span_id(), own);
                tokio::task::yield_now().await;
            }
            tower_telemetry::async_with_tracer("test", "child", async {
                for _ in 0..50 {
                    assert_eq!(
                        get_trace_id().map(|id| id.to_string()),
                        Some(expected.clone())
                    );
                    assert_ne!(get_span_id(), own);
                    tokio::task::yield_now().await;
                }
            })
            .await;
            assert_eq!(get_span_id(), own);
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
    let tasks: Vec<_> = (1..=REQUESTS)
        .map(|trace| {
            let request = Request::builder().header("traceparent", traceparent(trace));
            let request = request.body(trace).expect("a valid request");
            tokio::spawn(service.clone().oneshot(request))
        })
        .collect();
    for task in tasks {
        let response = within_deadline("a response", task).await;
        response
            .expect("no assertion fails")
            .expect("the service cannot fail");
        assert!(!Context::current().has_active_span());
    }
    let spans = telemetry.spans();
    assert_eq!(spans.len(), 2 * usize::from(REQUESTS));
    for server in spans.iter().filter(|span| span.name != "child") {
        let child = spans
            .iter()
            .find(|span| span.parent_span_id == server.span_context.span_id());
        let child = child.expect("each request has a child span");
        assert_eq!(
            child.span_context.trace_id(),
            server.span_context.trace_id()
        );
    }
}

/// Records whether a span is current: in `call`, in polls and on drop.
#[derive(Clone, Default)]
struct Records(Arc<Mutex<Vec<(&'static str, bool)>>>);

impl Records {
    fn note(&self, place: &'static str) {
        let mut notes = self.0.lock().expect("the lock is not poisoned");
        notes.push((place, get_trace_id().is_some()));
    }
}

struct RecordingFuture(Records);

impl Future for RecordingFuture {
    type Output = Result<Response<RecordingBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Self::Output> {
        self.0.note("future polled");
        Poll::Ready(Ok(Response::new(RecordingBody(self.0.clone()))))
    }
}

impl Drop for RecordingFuture {
    fn drop(&mut self) {
        self.0.note("future dropped");
    }
}

struct RecordingBody(Records);

impl Body for RecordingBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.note("body polled");
        Poll::Ready(None)
    }
}

impl Drop for RecordingBody {
    fn drop(&mut self) {
        self.0.note("body dropped");
    }
}

#[tokio::test]
async fn the_request_span_is_current_wherever_code_of_the_service_runs() {
    let telemetry = TestTelemetry::new();
    let notes = Records::default();
    let inner = notes.clone();
    let mut service = telemetry.layer().layer(service_fn(move |_: Request<()>| {
        inner.note("called");
        RecordingFuture(inner.clone())
    }));
    notes.note("outside");
    let response = service
        .call(Request::new(()))
        .await
        .expect("the service cannot fail");
    response
        .into_body()
        .collect()
        .await
        .expect("the body cannot fail");
    drop(service.call(Request::new(())));
    notes.note("outside");
    assert_eq!(
        *notes.0.lock().expect("the lock is not poisoned"),
        [
            ("outside", false),
            ("called", true),
            ("future polled", true),
            ("future dropped", true),
            ("body polled", true),
            ("body dropped", true),
            ("called", true),
            ("future dropped", true),
            ("outside", false),
        ]
    );
}

#[tokio::test]
async fn the_span_of_an_outer_layer_is_the_parent_unless_the_request_names_another_trace() {
    let telemetry = TestTelemetry::new();
    let mut service = telemetry.layer().layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let outer = Context::new().with_remote_span_context(opentelemetry::trace::SpanContext::new(
        opentelemetry::trace::TraceId::from_bytes([1; 16]),
        opentelemetry::trace::SpanId::from_bytes([1; 8]),
        opentelemetry::trace::TraceFlags::SAMPLED,
        false,
        Default::default(),
    ));
    let same = "00-01010101010101010101010101010101-b7ad6b7169203331-01";
    for (traceparent, trace_id, parent) in [
        (None, "01010101010101010101010101010101", "0101010101010101"),
        (
            Some("not valid"),
            "01010101010101010101010101010101",
            "0101010101010101",
        ),
        (
            Some(same),
            "01010101010101010101010101010101",
            "0101010101010101",
        ),
        (Some(TRACEPARENT), TRACE_ID, "b7ad6b7169203331"),
    ] {
        let mut request = Request::new(());
        if let Some(traceparent) = traceparent {
            let value = traceparent.parse().expect("a legal value");
            request.headers_mut().insert("traceparent", value);
        }
        let future = {
            let _attached = outer.clone().attach();
            tower::Service::call(&mut service, request)
        };
        future.await.expect("the service cannot fail");
        let spans = telemetry.spans();
        let span = spans.last().expect("the span has ended");
        assert_eq!(span.span_context.trace_id().to_string(), trace_id);
        assert_eq!(span.parent_span_id.to_string(), parent);
        let is_remote = traceparent == Some(TRACEPARENT);
        assert_eq!(span.parent_span_is_remote, is_remote);
    }

    // An untrusted caller stays untrusted if an outer layer has continued its trace.
    let none = "0000000000000000";
    for (layer, traceparent, parent) in [
        (telemetry.layer().with_trust(Trust::Ignore), same, none),
        (telemetry.layer().with_trust(Trust::Link), same, none),
        (
            telemetry.layer().with_trust(Trust::Ignore),
            TRACEPARENT,
            "0101010101010101",
        ),
        (
            telemetry.layer().without_outer_span(),
            same,
            "b7ad6b7169203331",
        ),
        (telemetry.layer().without_outer_span(), "not valid", none),
    ] {
        let mut service = layer.layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
        let mut request = Request::new(());
        let value = traceparent.parse().expect("a legal value");
        request.headers_mut().insert("traceparent", value);
        let future = {
            let _attached = outer.clone().attach();
            tower::Service::call(&mut service, request)
        };
        future.await.expect("the service cannot fail");
        let spans = telemetry.spans();
        let span = spans.last().expect("the span has ended");
        assert_eq!(span.parent_span_id.to_string(), parent, "{traceparent}");
    }
    // The limit on forced traces also applies to traces that an outer layer has continued.
    let mut service = telemetry
        .layer()
        .with_forced_trace_limit(0)
        .layer(service_fn(|_: Request<()>| async {
            let cx = Context::current();
            assert!(!cx.span().span_context().is_sampled());
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
    let count = telemetry.spans().len();
    let mut request = Request::new(());
    let value = same.parse().expect("a legal value");
    request.headers_mut().insert("traceparent", value);
    let future = {
        let _attached = outer.attach();
        tower::Service::call(&mut service, request)
    };
    future.await.expect("the service cannot fail");
    assert_eq!(telemetry.spans().len(), count);
}

#[test]
fn the_types_are_send_sync_and_clone_like_their_inner_types() {
    fn send_sync<T: Send + Sync>() {}
    fn send<T: Send>() {}
    fn clone<T: Clone>() {}
    send_sync::<tower_telemetry::TelemetryLayer>();
    clone::<tower_telemetry::TelemetryLayer>();
    send_sync::<tower_telemetry::layers::Telemetry<()>>();
    clone::<tower_telemetry::layers::Telemetry<()>>();
    send::<tower_telemetry::layers::ResponseFuture<std::future::Ready<()>>>();
    send::<tower_telemetry::layers::ResponseBody<Empty<Bytes>>>();
    send::<tower_telemetry::handler::SpanFuture<std::future::Ready<()>>>();
    send_sync::<tower_telemetry::handler::Tracer>();

    // A service with a future that is not `Send` can be wrapped as well.
    let service = TestTelemetry::new()
        .layer()
        .layer(service_fn(|_: Request<()>| async {
            let local = std::rc::Rc::new(RefCell::new(()));
            tokio::task::yield_now().await;
            drop(local);
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
    drop(service);
}
