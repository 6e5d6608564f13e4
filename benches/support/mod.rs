//! The requests and services of the benchmarks. Requests go through layers, without a network.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each benchmark is a program of its own that uses a part of this module"
)]

mod pass_through;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use opentelemetry::ContextGuard;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId};
use tower::Service;
use tower_telemetry::{Config, TelemetryGuard};

pub use pass_through::PassThroughLayer;

/// The context of an incoming request.
#[derive(Clone, Copy, Debug)]
pub enum Inbound {
    Sampled,
    NotSampled,
    /// No context.
    Nothing,
}

impl Inbound {
    fn traceparent(self) -> Option<HeaderValue> {
        let text = match self {
            Self::Sampled => "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            Self::NotSampled => "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            Self::Nothing => return None,
        };
        Some(HeaderValue::from_static(text))
    }
}

/// Sets telemetry up as a service in production does. `sampler` is the sampler, with a ratio of 0.1
/// if it takes one.
pub fn init(sampler: &str, enabled: bool, receiver: SocketAddr) -> TelemetryGuard {
    let config = config(sampler, enabled, receiver);
    config.init().expect("the configuration is valid")
}

/// Returns the configuration for `init`.
pub fn config(sampler: &str, enabled: bool, receiver: SocketAddr) -> Config {
    Config::from_vars(|name| {
        let value = match name {
            "ENVIRONMENT" => "production",
            "ENABLE_TELEMETRY" if !enabled => "false",
            "OTEL_EXPORTER_OTLP_ENDPOINT" => return Some(format!("http://{receiver}")),
            "OTEL_EXPORTER_OTLP_PROTOCOL" => "http/protobuf",
            "OTEL_TRACES_SAMPLER" => sampler,
            "OTEL_TRACES_SAMPLER_ARG" if sampler.ends_with("ratio") => "0.1",
            // Only full batches are exported.
            "OTEL_BSP_SCHEDULE_DELAY" | "OTEL_METRIC_EXPORT_INTERVAL" => "3600000",
            _ => return None,
        };
        Some(value.to_owned())
    })
}

/// Makes a span of the caller current, as in a handler.
pub fn attach(inbound: Inbound) -> Option<ContextGuard> {
    let flags = match inbound {
        Inbound::Sampled => TraceFlags::SAMPLED,
        Inbound::NotSampled => TraceFlags::NOT_SAMPLED,
        Inbound::Nothing => return None,
    };
    let (trace_id, span_id) = (TraceId::from(0x0af7), SpanId::from(0xb7ad));
    let span = SpanContext::new(trace_id, span_id, flags, false, Default::default());
    Some(
        opentelemetry::Context::new()
            .with_remote_span_context(span)
            .attach(),
    )
}

/// Returns an axum application with one route.
pub fn routes() -> Router {
    Router::new().route("/users/{id}", get(async || "Ada"))
}

/// Returns a request as `curl` sends it.
pub fn request(inbound: Inbound) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = "/users/42".parse().expect("a valid path");
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_static("localhost:3000"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("curl/8.5.0"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    if let Some(traceparent) = inbound.traceparent() {
        headers.insert("traceparent", traceparent);
    }
    request
}

/// Returns an outgoing request of a client.
pub fn outgoing() -> Request<Body> {
    let request = Request::get("http://localhost:3000/users/42").body(Body::empty());
    request.expect("a valid request")
}

/// Returns a gRPC call.
pub fn call(inbound: Inbound) -> Request<Body> {
    let mut request = request(inbound);
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = "http://localhost:3000/shop.Cart/Get"
        .parse()
        .expect("a valid URI");
    *request.version_mut() = http::Version::HTTP_2;
    let grpc = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert(header::CONTENT_TYPE, grpc);
    request
}

/// A service that responds at once.
#[derive(Clone, Copy)]
pub struct Answer;

impl Service<Request<Body>> for Answer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        std::future::ready(Ok(Response::new(Body::from("Ada"))))
    }
}

/// A gRPC service that responds to each call with one message and its status.
#[derive(Clone, Copy)]
pub struct Method;

impl Service<Request<Body>> for Method {
    type Response = Response<Message>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Message>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let mut response = Response::new(Message { next: 0 });
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(header::CONTENT_TYPE, grpc);
        std::future::ready(Ok(response))
    }
}

/// A body of one message and the trailers.
pub struct Message {
    next: u8,
}

impl http_body::Body for Message {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.next += 1;
        Poll::Ready(match self.next {
            1 => Some(Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\0")))),
            2 => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Some(Ok(Frame::trailers(trailers)))
            }
            _ => None,
        })
    }
}

/// Sends a request through a service that is always ready, and reads the response to its end.
pub fn send<S, B>(service: &mut S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: std::fmt::Debug,
    B: http_body::Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(response) = pin!(service.call(request)).poll(&mut cx) else {
        panic!("the service responds at once");
    };
    let mut body = pin!(response.expect("the service cannot fail").into_body());
    while let Poll::Ready(Some(_)) = body.as_mut().poll_frame(&mut cx) {
        if body.is_end_stream() {
            break;
        }
    }
}
