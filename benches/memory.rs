//! Measures memory: of a request in flight, and of the export pipeline.
//!
//! `cargo bench --bench memory` prints the live bytes of the heap, as requested from the allocator.

mod support;

use std::alloc::System;
use std::convert::Infallible;
use std::future::{Pending, pending};
use std::net::{Ipv4Addr, SocketAddr};
use std::task::{Context, Poll, Waker};

use axum::body::Body;
use cap::Cap;
use http::{Request, Response};
use tower::{Layer, Service};
use tower_telemetry::TelemetryLayer;

use support::{Inbound, PassThroughLayer, request, routes};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

const REQUESTS: usize = 1_000;

/// A service that never responds.
#[derive(Clone, Copy)]
struct Never;

impl Service<Request<Body>> for Never {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pending<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        pending()
    }
}

fn main() {
    let before = HEAP.allocated();
    // Nothing listens on that port.
    let no_receiver = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let telemetry = support::init("parentbased_always_on", true, no_receiver);
    println!(
        "the pipeline, made: {} KiB",
        (HEAP.allocated() - before) / 1024
    );

    let mut app = routes().layer(TelemetryLayer::new());
    support::send(&mut app, request(Inbound::NotSampled));
    let used = HEAP.allocated() - before;
    println!(
        "the pipeline at rest, after the first request: {} KiB",
        used / 1024
    );

    // Sampled requests come last, because their spans wait for export when they are dropped.
    let without = in_flight(PassThroughLayer::default(), Inbound::Sampled);
    for (name, inbound) in [
        ("not sampled", Inbound::NotSampled),
        ("sampled", Inbound::Sampled),
    ] {
        let with = in_flight(TelemetryLayer::new(), inbound);
        println!("a request in flight, {name}: {} bytes", with - without);
    }

    for _ in 0..20_000 {
        support::send(&mut app, request(Inbound::Sampled));
    }
    let used = HEAP.allocated() - before;
    let lost = telemetry.stats().traces;
    println!(
        "the pipeline with a full queue, after {} spans: {} KiB",
        lost.accepted,
        used / 1024
    );
}

/// Returns the memory that a request holds while it waits for its response.
fn in_flight<L>(layer: L, inbound: Inbound) -> usize
where
    L: Layer<Never>,
    L::Service: Service<Request<Body>>,
{
    let mut service = layer.layer(Never);
    let mut start = || {
        let mut future = Box::pin(service.call(request(inbound)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(future.as_mut().poll(&mut cx).is_pending());
        future
    };
    drop(start());
    let mut waiting = Vec::with_capacity(REQUESTS);
    let before = HEAP.allocated();
    waiting.extend((0..REQUESTS).map(|_| start()));
    (HEAP.allocated() - before) / REQUESTS
}
