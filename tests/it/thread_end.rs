//! Drops futures, bodies and guards while a thread destroys its thread-locals.

use std::any::Any;
use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use opentelemetry::trace::{FutureExt, Status};
use tower::{Layer, Service, service_fn};
use tower_telemetry::{async_with_tracer, get_tracer, start_as_current_span};

use crate::support::{TestTelemetry, get, span_attributes};

thread_local! {
    /// Is destroyed when the thread ends, before or after the thread-local of OpenTelemetry.
    static KEPT: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

fn keep(value: impl Any) {
    KEPT.with_borrow_mut(|kept| kept.push(Box::new(value)));
}

/// Initializes the thread-local of the test first, or the one of OpenTelemetry.
fn begin(test_first: bool) {
    if test_first {
        KEPT.with_borrow(|_| ());
    } else {
        opentelemetry::Context::map_current(|_| ());
    }
}

/// Runs `make` on a thread. The thread then ends and drops the values that `make` has kept.
fn in_thread(test_first: bool, make: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        begin(test_first);
        make();
    });
    thread.join().expect("the thread does not panic");
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"more")))))
    }
}

#[test]
fn a_request_dropped_at_the_end_of_a_thread_ends() {
    for test_first in [true, false] {
        for polled in [false, true] {
            let telemetry = TestTelemetry::new();
            let layer = telemetry.layer();
            in_thread(test_first, move || {
                let mut service = layer.layer(service_fn(|_: Request<()>| async {
                    std::future::pending::<()>().await;
                    Ok::<_, Infallible>(Response::new(Endless))
                }));
                let request = get("/").body(()).expect("a valid request");
                let mut future = Box::pin(service.call(request));
                if polled {
                    assert!(poll_once(future.as_mut()).is_pending());
                }
                keep(future);
            });
            let spans = telemetry.spans();
            assert_eq!(spans.len(), 1, "{test_first} {polled}");
            assert_eq!(span_attributes(&spans[0])["error.type"], "cancelled");
            assert_eq!(telemetry.sum("http.server.active_requests"), 0);
        }
    }
}

#[test]
fn a_body_dropped_at_the_end_of_a_thread_ends() {
    for test_first in [true, false] {
        let telemetry = TestTelemetry::new();
        let layer = telemetry.layer();
        in_thread(test_first, move || {
            let mut service = layer.layer(service_fn(|_: Request<()>| async {
                Ok::<_, Infallible>(Response::new(Endless))
            }));
            let request = get("/").body(()).expect("a valid request");
            let mut future = Box::pin(service.call(request));
            let Poll::Ready(Ok(response)) = poll_once(future.as_mut()) else {
                panic!("the service responds at once");
            };
            let mut body = Box::pin(response.into_body());
            let frame = body
                .as_mut()
                .poll_frame(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(frame, Poll::Ready(Some(Ok(_)))));
            keep(body);
        });
        let spans = telemetry.spans();
        assert_eq!(spans.len(), 1, "{test_first}");
        assert_eq!(span_attributes(&spans[0])["error.type"], "cancelled");
        assert_eq!(spans[0].status, Status::Unset);
    }
}

#[test]
fn a_request_of_another_thread_dropped_at_the_end_of_a_thread_ends() {
    let telemetry = TestTelemetry::new();
    let mut service = telemetry.layer().layer(service_fn(|_: Request<()>| async {
        std::future::pending::<()>().await;
        Ok::<_, Infallible>(Response::new(Endless))
    }));
    let request = get("/").body(()).expect("a valid request");
    let mut future = Box::pin(service.call(request));
    assert!(poll_once(future.as_mut()).is_pending());
    in_thread(true, move || keep(future));
    assert_eq!(telemetry.spans().len(), 1);
}

#[test]
fn spans_of_handler_code_dropped_at_the_end_of_a_thread_do_not_panic() {
    for test_first in [true, false] {
        in_thread(test_first, || {
            let mut future = Box::pin(async_with_tracer("test", "future", async {
                std::future::pending::<()>().await;
            }));
            assert!(poll_once(future.as_mut()).is_pending());
            keep(future);
            let parent = start_as_current_span(&get_tracer("test"), "guard");
            let child = start_as_current_span(&get_tracer("test"), "guard below it");
            keep(child);
            keep(parent);
            let with_context = async { std::future::pending::<()>().await }.with_current_context();
            keep(Box::pin(with_context));
        });
    }
}
