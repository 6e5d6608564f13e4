//! Checks that a request ends exactly once, however it ends: one span, one count, none active.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use opentelemetry::trace::Status;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{TestTelemetry, Value, span_attributes};

/// A step of a body when it is polled.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Data(&'static str),
    Trailers,
    Wait,
    Fail,
    Panic,
    End,
}

/// A body that follows the given steps.
struct Script {
    steps: std::collections::VecDeque<Step>,
    /// Whether `is_end_stream` is true after the last step.
    reports_end: bool,
    /// The exact length of `size_hint`.
    length: Option<u64>,
    /// The length in the head of the response.
    announced: Option<u64>,
}

impl Script {
    fn new(steps: &[Step]) -> Self {
        Self {
            steps: steps.iter().copied().collect(),
            reports_end: false,
            length: None,
            announced: None,
        }
    }
}

#[derive(Debug)]
struct Broken;

impl Body for Script {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.steps.pop_front() {
            Some(Step::Data(text)) => Poll::Ready(Some(Ok(Frame::data(text.into())))),
            Some(Step::Trailers) => Poll::Ready(Some(Ok(Frame::trailers(Default::default())))),
            Some(Step::Wait) => Poll::Pending,
            Some(Step::Fail) => Poll::Ready(Some(Err(Broken))),
            Some(Step::Panic) => panic!("on purpose"),
            Some(Step::End) | None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reports_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The expected telemetry of a request that has ended.
struct Expected {
    status_code: Option<&'static str>,
    error: Option<&'static str>,
    status: Status,
}

const COMPLETE: Expected = Expected {
    status_code: Some("200"),
    error: None,
    status: Status::Unset,
};

fn check(case: &str, telemetry: &TestTelemetry, expected: &Expected) {
    let spans = telemetry.spans();
    assert_eq!(spans.len(), 1, "{case}: {spans:#?}");
    let found = span_attributes(&spans[0]);
    let get = |key: &str| found.get(key).map(String::as_str);
    assert_eq!(
        get("http.response.status_code"),
        expected.status_code,
        "{case}"
    );
    assert_eq!(get("error.type"), expected.error, "{case}");
    assert_eq!(spans[0].status, expected.status, "{case}");

    let point = telemetry.point("http.requests");
    let get = |key: &str| point.attributes.get(key).map(String::as_str);
    assert_eq!(point.value, Value::Count(1), "{case}");
    assert_eq!(
        get("http.response.status_code"),
        expected.status_code,
        "{case}"
    );
    assert_eq!(get("error.type"), expected.error, "{case}");

    let seconds = spans[0].end_time.duration_since(spans[0].start_time);
    let seconds = seconds.expect("time goes forward").as_secs_f64();
    let point = telemetry.point("http.server.request.duration");
    assert_eq!(point.value.histogram(), (1, seconds), "{case}");
    assert_eq!(telemetry.sum("http.server.active_requests"), 0, "{case}");
}

/// Sends one request through the layer to a service that responds with `body`, and returns the body
/// of the response.
fn respond(telemetry: &TestTelemetry, method: Method, code: u16, body: Script) -> impl Body {
    let mut body = Some(body);
    let mut service = telemetry.layer().layer(service_fn(move |_: Request<()>| {
        let body = body.take().expect("the test sends one request");
        let mut response = Response::builder().status(code);
        if let Some(length) = body.announced {
            response = response.header("content-length", length);
        }
        let response = response.body(body);
        std::future::ready(Ok::<_, Infallible>(response.expect("a valid response")))
    }));
    let request = Request::builder().method(method).body(());
    let mut future = pin!(service.call(request.expect("a valid request")));
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
        panic!("the service responds at once");
    };
    assert!(response.headers().contains_key("x-trace-id"));
    response.into_body()
}

/// Polls a body `polls` times, as a server would, and drops it.
fn poll(body: impl Body, polls: usize) {
    let mut body = pin!(body);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        let _ = body.as_mut().poll_frame(&mut cx);
    }
}

#[test]
fn a_body_that_is_delivered_completely_completes_the_request() {
    let to_the_end = [Step::Data("a"), Step::Data("b"), Step::End];
    for (case, script, polls) in [
        ("polled to its end", Script::new(&to_the_end), 3),
        ("no data", Script::new(&[Step::End]), 1),
        (
            "trailers",
            Script::new(&[Step::Data("a"), Step::Trailers]),
            2,
        ),
        (
            "not polled, because it is known to be empty",
            Script {
                reports_end: true,
                ..Script::new(&[])
            },
            0,
        ),
        (
            "not polled again, because it is known to have ended",
            Script {
                reports_end: true,
                ..Script::new(&[Step::Data("a")])
            },
            1,
        ),
        (
            "not polled again, because its whole length was delivered",
            Script {
                length: Some(3),
                ..Script::new(&[Step::Data("a"), Step::Data("bc"), Step::End])
            },
            2,
        ),
    ] {
        let telemetry = TestTelemetry::new();
        poll(respond(&telemetry, Method::GET, 200, script), polls);
        check(case, &telemetry, &COMPLETE);
    }
}

#[test]
fn a_body_completes_when_it_reaches_the_length_in_its_head() {
    let telemetry = TestTelemetry::new();
    let mut script = Some(Script::new(&[
        Step::Data("a"),
        Step::Data("bc"),
        Step::Wait,
    ]));
    let service = service_fn(move |_: Request<()>| {
        let body = script.take().expect("the test sends one request");
        let response = Response::builder().header("content-length", "3").body(body);
        std::future::ready(Ok::<_, Infallible>(response.expect("a valid response")))
    });
    let mut future = pin!(telemetry.layer().layer(service).oneshot(Request::new(())));
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
        panic!("the service responds at once");
    };
    // An HTTP/1 server drops such a body without polling for its end.
    poll(response.into_body(), 2);
    check("content-length", &telemetry, &COMPLETE);
}

#[test]
fn a_response_without_a_body_completes_with_its_head() {
    for (case, method, code) in [
        ("HEAD", Method::HEAD, 200),
        ("no content", Method::GET, 204),
        ("not modified", Method::GET, 304),
        ("an upgrade", Method::GET, 101),
        ("a tunnel", Method::CONNECT, 200),
    ] {
        let telemetry = TestTelemetry::new();
        let body = respond(&telemetry, method, code, Script::new(&[Step::Wait]));
        let code = code.to_string();
        let expected = Expected {
            status_code: Some(Box::leak(code.into_boxed_str())),
            ..COMPLETE
        };
        check(case, &telemetry, &expected);
        drop(body);
        check(case, &telemetry, &expected);
    }
}

#[test]
fn a_client_that_disconnects_during_the_body_is_not_a_server_error() {
    for (case, steps, polls) in [
        (
            "before the body is polled",
            &[Step::Data("a"), Step::End][..],
            0,
        ),
        ("after a frame", &[Step::Data("a"), Step::End], 1),
        ("while the body waits", &[Step::Data("a"), Step::Wait], 2),
    ] {
        let telemetry = TestTelemetry::new();
        poll(
            respond(&telemetry, Method::GET, 200, Script::new(steps)),
            polls,
        );
        let expected = Expected {
            error: Some("cancelled"),
            ..COMPLETE
        };
        check(case, &telemetry, &expected);
    }
}

#[test]
fn a_server_error_stays_an_error_however_its_body_ends() {
    let announced = |steps: &[Step]| Script {
        announced: Some(100),
        ..Script::new(steps)
    };
    for code in [500, 503, 599] {
        for (case, script, polls) in [
            ("not polled", Script::new(&[Step::Data("a")]), 0),
            (
                "left after a frame",
                Script::new(&[Step::Data("a"), Step::End]),
                1,
            ),
            (
                "left while it waits",
                Script::new(&[Step::Data("a"), Step::Wait]),
                2,
            ),
            ("failed", Script::new(&[Step::Data("a"), Step::Fail]), 2),
            ("too short", announced(&[Step::Data("a"), Step::End]), 2),
            ("whole", Script::new(&[Step::Data("a"), Step::End]), 2),
        ] {
            let telemetry = TestTelemetry::new();
            poll(respond(&telemetry, Method::GET, code, script), polls);
            check_server_error(case, &telemetry, code);
        }
        let telemetry = TestTelemetry::new();
        let body = respond(&telemetry, Method::GET, code, Script::new(&[Step::Panic]));
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| poll(body, 1)));
        assert!(polled.is_err());
        check_server_error("a panic", &telemetry, code);
    }
}

fn check_server_error(case: &str, telemetry: &TestTelemetry, code: u16) {
    let code: &'static str = Box::leak(code.to_string().into_boxed_str());
    let expected = Expected {
        status_code: Some(code),
        error: Some(code),
        status: Status::error(""),
    };
    check(case, telemetry, &expected);
}

const INCOMPLETE: Expected = Expected {
    status_code: Some("200"),
    error: Some("body_incomplete"),
    status: Status::Error {
        description: std::borrow::Cow::Borrowed(""),
    },
};

#[test]
fn a_body_shorter_than_its_announced_length_is_an_error() {
    let steps = [Step::Data("a"), Step::Data("bc"), Step::End];
    let script = |announced| Script {
        announced: Some(announced),
        ..Script::new(&steps)
    };
    let hinted = |announced| Script {
        length: Some(3),
        ..script(announced)
    };
    let reporting_end = |script| Script {
        reports_end: true,
        ..script
    };
    for (case, script, polls, expected) in [
        ("polled to its end", script(4), 3, &INCOMPLETE),
        (
            "the size hint is smaller than the length",
            hinted(4),
            3,
            &INCOMPLETE,
        ),
        (
            "the body reports its end",
            reporting_end(Script {
                announced: Some(4),
                ..Script::new(&steps[..2])
            }),
            2,
            &INCOMPLETE,
        ),
        (
            "the body is empty",
            reporting_end(Script {
                announced: Some(1),
                ..Script::new(&[])
            }),
            0,
            &INCOMPLETE,
        ),
        (
            "trailers",
            Script {
                announced: Some(4),
                ..Script::new(&[Step::Data("a"), Step::Trailers])
            },
            2,
            &INCOMPLETE,
        ),
        ("whole", script(3), 2, &COMPLETE),
        // The server sends no more than the announced length.
        ("longer", script(2), 2, &COMPLETE),
        ("longer, with a larger size hint", hinted(2), 2, &COMPLETE),
        (
            "no body, as announced",
            reporting_end(Script {
                announced: Some(0),
                ..Script::new(&[])
            }),
            0,
            &COMPLETE,
        ),
        (
            "dropped early",
            script(4),
            2,
            &Expected {
                error: Some("cancelled"),
                ..COMPLETE
            },
        ),
    ] {
        let telemetry = TestTelemetry::new();
        poll(respond(&telemetry, Method::GET, 200, script), polls);
        check(case, &telemetry, expected);
    }
}

#[test]
fn a_response_without_a_body_may_announce_a_length() {
    for (case, method, code) in [
        ("HEAD", Method::HEAD, 200),
        ("no content", Method::GET, 204),
        ("not modified", Method::GET, 304),
        ("early hints", Method::GET, 103),
        ("an upgrade", Method::GET, 101),
        ("a tunnel", Method::CONNECT, 200),
    ] {
        for reports_end in [false, true] {
            let telemetry = TestTelemetry::new();
            let script = Script {
                announced: Some(100),
                reports_end,
                ..Script::new(&[])
            };
            poll(respond(&telemetry, method.clone(), code, script), 1);
            let code = code.to_string();
            let expected = Expected {
                status_code: Some(Box::leak(code.into_boxed_str())),
                ..COMPLETE
            };
            check(case, &telemetry, &expected);
        }
    }
}

#[test]
fn a_failing_body_is_an_error_and_keeps_the_status_that_was_sent() {
    let telemetry = TestTelemetry::new();
    let script = Script::new(&[Step::Data("a"), Step::Fail]);
    poll(respond(&telemetry, Method::GET, 200, script), 2);
    let expected = Expected {
        error: Some(std::any::type_name::<Broken>()),
        status: Status::error(""),
        ..COMPLETE
    };
    check("a body error", &telemetry, &expected);
}

#[test]
fn a_panic_in_the_body_is_an_error_and_propagates() {
    let telemetry = TestTelemetry::new();
    let script = Script::new(&[Step::Data("a"), Step::Panic]);
    let mut body = Box::pin(respond(&telemetry, Method::GET, 200, script));
    let polled = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = body.as_mut().poll_frame(&mut cx);
        let _ = body.as_mut().poll_frame(&mut cx);
    }));
    assert!(polled.is_err(), "the panic propagates");
    let expected = Expected {
        error: Some("panic"),
        status: Status::error(""),
        ..COMPLETE
    };
    check("a panic in the body", &telemetry, &expected);
    drop(body);
    check("the body dropped later", &telemetry, &expected);
}

const NO_RESPONSE: Expected = Expected {
    status_code: None,
    error: Some("cancelled"),
    status: Status::Unset,
};

#[test]
fn a_request_dropped_before_its_response_is_cancelled() {
    for (case, polls) in [("never polled", 0), ("polled once", 1)] {
        let telemetry = TestTelemetry::new();
        let mut service = telemetry.layer().layer(service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        }));
        let mut future = Box::pin(service.call(Request::new(())));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..polls {
            assert!(future.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(telemetry.sum("http.server.active_requests"), 1, "{case}");
        assert_eq!(telemetry.spans().len(), 0, "{case}");
        drop(future);
        check(case, &telemetry, &NO_RESPONSE);
    }
}

#[tokio::test]
async fn an_error_of_the_inner_service_is_returned_and_named_by_its_type() {
    let telemetry = TestTelemetry::new();
    let service = telemetry.layer().layer(service_fn(|_: Request<()>| async {
        Err::<Response<Empty<Bytes>>, _>(Broken)
    }));
    let result = service.oneshot(Request::new(())).await;
    assert!(matches!(result, Err(Broken)));
    let expected = Expected {
        error: Some(std::any::type_name::<Broken>()),
        status: Status::error(""),
        ..NO_RESPONSE
    };
    check("an inner error", &telemetry, &expected);
}

#[test]
fn a_panic_of_the_inner_service_is_an_error_and_propagates() {
    let expected = Expected {
        error: Some("panic"),
        status: Status::error(""),
        ..NO_RESPONSE
    };

    let telemetry = TestTelemetry::new();
    let service =
        |_: Request<()>| -> std::future::Ready<Result<Response<Empty<Bytes>>, Infallible>> {
            panic!("in call")
        };
    let mut service = telemetry.layer().layer(service_fn(service));
    let called = AssertUnwindSafe(|| service.call(Request::new(())));
    assert!(std::panic::catch_unwind(called).is_err());
    check("a panic in call", &telemetry, &expected);

    let telemetry = TestTelemetry::new();
    let mut service = telemetry.layer().layer(service_fn(|_: Request<()>| async {
        if true {
            panic!("in the future");
        }
        Ok::<Response<Empty<Bytes>>, Infallible>(Response::default())
    }));
    let mut future = Box::pin(service.call(Request::new(())));
    let polled = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let _ = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
    }));
    assert!(polled.is_err());
    check("a panic in the future", &telemetry, &expected);
    drop(future);
    check("the future dropped later", &telemetry, &expected);
}

/// One of two requests in the same task panics.
#[test]
fn a_request_in_the_same_task_as_a_panicking_one_is_cancelled() {
    let telemetry = TestTelemetry::new();
    let unaffected = TestTelemetry::new();
    let panicking = telemetry.layer().layer(service_fn(async |_: Request<()>| {
        if true {
            panic!("on purpose");
        }
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let waiting = unaffected.layer().layer(service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    }));
    let polled = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let first = waiting.clone().oneshot(Request::new(()));
        let second = panicking.oneshot(Request::new(()));
        let both = async { tokio::join!(first, second) };
        let mut both = pin!(both);
        let _ = both.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }));
    assert!(polled.is_err());
    let expected = Expected {
        error: Some("panic"),
        status: Status::error(""),
        ..NO_RESPONSE
    };
    check("the one that panics", &telemetry, &expected);
    check("the other one", &unaffected, &NO_RESPONSE);
}

/// Code outside of the request panics and drops the requests in flight.
#[test]
fn a_request_dropped_by_a_panic_elsewhere_is_cancelled() {
    let response = TestTelemetry::new();
    let waiting = response.layer().layer(service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    }));
    let body = TestTelemetry::new();
    let script = Script::new(&[Step::Data("a"), Step::Wait]);
    let mut sent = Box::pin(respond(&body, Method::GET, 200, script));
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("the runtime can be built");
        runtime.block_on(async {
            tokio::spawn(waiting.oneshot(Request::new(())));
            let mut cx = Context::from_waker(Waker::noop());
            let _ = sent.as_mut().poll_frame(&mut cx);
            let _in_body = sent;
            tokio::task::yield_now().await;
            panic!("on purpose");
        });
    }));
    assert!(panicked.is_err());
    check("before the head", &response, &NO_RESPONSE);
    let expected = Expected {
        error: Some("cancelled"),
        ..COMPLETE
    };
    check("in the body", &body, &expected);
}

#[tokio::test]
async fn a_server_error_has_its_status_as_error_type() {
    let telemetry = TestTelemetry::new();
    let service = telemetry.layer().layer(service_fn(|_: Request<()>| async {
        let mut response = Response::new(Full::<Bytes>::from("sorry"));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        Ok::<_, Infallible>(response)
    }));
    let response = service.oneshot(Request::new(())).await;
    let body = response.expect("the service cannot fail").into_body();
    let body = body
        .collect()
        .await
        .expect("the body is complete")
        .to_bytes();
    assert_eq!(body, "sorry");
    let expected = Expected {
        status_code: Some("503"),
        error: Some("503"),
        status: Status::error(""),
    };
    check("503", &telemetry, &expected);
}

#[test]
fn a_wrapped_body_reports_the_size_and_end_of_the_inner_body() {
    let telemetry = TestTelemetry::new();
    let script = Script {
        reports_end: true,
        length: Some(7),
        ..Script::new(&[Step::Data("a")])
    };
    let body = respond(&telemetry, Method::GET, 200, script);
    assert_eq!(body.size_hint().exact(), Some(7));
    assert!(!body.is_end_stream());
    let mut body = pin!(body);
    let _ = body
        .as_mut()
        .poll_frame(&mut Context::from_waker(Waker::noop()));
    assert!(body.is_end_stream());
}
