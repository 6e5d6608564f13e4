//! Polls a wrapped body and the bare body in lock-step.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use proptest::prelude::*;
use tower::{Layer, Service, service_fn};

use crate::support::TestTelemetry;

#[derive(Clone, Debug)]
enum Step {
    Data(Vec<u8>),
    Trailers(u8),
    Wait,
    Fail(u8),
    End,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..20).prop_map(Step::Data),
        1 => (0..20_u8).prop_map(Step::Trailers),
        1 => Just(Step::Wait),
        1 => any::<u8>().prop_map(Step::Fail),
        1 => Just(Step::End),
    ]
}

/// Whether a body reports its end, and the length that it reports. The length may be wrong.
#[derive(Clone, Debug)]
struct Reported {
    end: bool,
    length: Option<u64>,
}

fn reported() -> impl Strategy<Value = Reported> {
    (any::<bool>(), proptest::option::of(0..60_u64))
        .prop_map(|(end, length)| Reported { end, length })
}

struct Script {
    steps: VecDeque<Step>,
    reported: Reported,
}

impl Body for Script {
    type Data = Bytes;
    type Error = u8;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, u8>>> {
        let step = self.steps.pop_front();
        if let (Some(Step::Data(data)), Some(length)) = (&step, &mut self.reported.length) {
            *length = length.saturating_sub(data.len() as u64);
        }
        match step {
            Some(Step::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data.into())))),
            Some(Step::Trailers(status)) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", u16::from(status).into());
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Some(Step::Wait) => Poll::Pending,
            Some(Step::Fail(error)) => Poll::Ready(Some(Err(error))),
            Some(Step::End) | None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reported.end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.reported.length;
        length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Formats a frame for comparison.
fn shown(frame: Poll<Option<Result<Frame<Bytes>, u8>>>) -> String {
    match frame {
        Poll::Ready(Some(Ok(frame))) => {
            format!("{:?} {:?}", frame.data_ref(), frame.trailers_ref())
        }
        other => format!("{other:?}"),
    }
}

fn wrap(
    telemetry: &TestTelemetry,
    method: Method,
    grpc: bool,
    body: Script,
) -> impl Body<Data = Bytes, Error = u8> {
    let mut body = Some(body);
    let mut service = telemetry.layer().layer(service_fn(move |_: Request<()>| {
        let mut response = Response::new(body.take().expect("the test sends one request"));
        if grpc {
            let value = http::HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", value);
        }
        std::future::ready(Ok::<_, Infallible>(response))
    }));
    let mut request = Request::builder().method(method);
    if grpc {
        request = request.header("content-type", "application/grpc");
    }
    let mut future = Box::pin(service.call(request.body(()).expect("a valid request")));
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(Ok(response)) => response.into_body(),
        _ => panic!("the service responds at once"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_wrapped_body_equals_the_inner_body_at_every_step(
        steps in proptest::collection::vec(step(), 0..12),
        reported in reported(),
        method in prop_oneof![Just(Method::GET), Just(Method::HEAD), Just(Method::POST)],
        grpc in any::<bool>(),
        polls in 0..15_usize,
    ) {
        let script = || Script { steps: steps.clone().into(), reported: reported.clone() };
        let telemetry = TestTelemetry::new();
        let mut bare = Box::pin(script());
        let mut wrapped = Box::pin(wrap(&telemetry, method, grpc, script()));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..polls {
            prop_assert_eq!(wrapped.is_end_stream(), bare.is_end_stream());
            let hints = (wrapped.size_hint(), bare.size_hint());
            prop_assert_eq!(hints.0.lower(), hints.1.lower());
            prop_assert_eq!(hints.0.upper(), hints.1.upper());
            let frame = shown(wrapped.as_mut().poll_frame(&mut cx));
            prop_assert_eq!(frame, shown(bare.as_mut().poll_frame(&mut cx)));
        }
        drop(wrapped);
        prop_assert_eq!(telemetry.spans().len(), 1);
        prop_assert_eq!(telemetry.sum("http.server.active_requests"), 0);
    }
}
