//! The ladder in instructions and allocations: what one request costs, rung by rung, and one call
//! of each handler function.
//!
//! `cargo bench --bench instructions` runs each rung once under Valgrind. It needs that, and
//! `gungraun-runner` in the version that `Cargo.lock` has of `gungraun`. Two rungs have limits, with
//! room for another compiler, and for a block of the queue among the allocations.

#![allow(missing_docs, reason = "the macros make modules that nobody sees")]

mod support;

use std::fmt::Debug;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use gungraun::prelude::*;
use gungraun::{Callgrind, Dhat, DhatMetric, EventKind};
use http::{Request, Response};
use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    InMemorySpanExporter, RandomIdGenerator, Sampler, Span, SpanData, SpanProcessor,
};
use tower::{Layer, Service};
use tower_telemetry::config::SpanExport;
use tower_telemetry::{
    ClientTelemetryLayer, TelemetryGuard, TelemetryLayer, add_span_attributes, add_span_event,
    async_with_tracer, attributes, bind_counter, get_trace_id, get_tracer, increment_counter,
    record_histogram_value, start_as_current_span, start_timer,
};

use support::{Answer, Inbound, Method, PassThroughLayer, attach, call, outgoing, request, routes};

/// The measured service: made and warmed up before, and dropped after.
type Rung = Box<dyn FnMut()>;

/// Once is nothing yet: memory is new, and series have to be found.
const WARM_UP: usize = 40;

/// Sends requests through a service.
fn rung<S, B>(
    mut service: S,
    request: impl Fn() -> Request<Body>,
    telemetry: Option<TelemetryGuard>,
) -> Rung
where
    S: Service<Request<Body>, Response = Response<B>> + 'static,
    S::Error: Debug,
    B: http_body::Body,
{
    for _ in 0..WARM_UP {
        support::send(&mut service, request());
    }
    let mut next = Some(request());
    Box::new(move || {
        let _telemetry = &telemetry;
        if let Some(request) = next.take() {
            support::send(black_box(&mut service), request);
        }
    })
}

/// The telemetry that is recorded.
#[derive(Clone, Copy)]
enum Recorded {
    Nothing,
    Everything,
    Traces,
    Metrics,
}

impl Recorded {
    fn init(self) -> TelemetryGuard {
        let sampler = match self {
            Self::Metrics => "always_off",
            _ => "parentbased_always_on",
        };
        // Nobody listens there, and nothing is sent before all is over.
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        support::init(sampler, !matches!(self, Self::Nothing), nobody)
    }

    fn layer(self) -> TelemetryLayer {
        let layer = TelemetryLayer::new();
        match self {
            Self::Traces => layer.with_metrics([]),
            Self::Nothing | Self::Everything | Self::Metrics => layer,
        }
    }
}

fn server(recorded: Recorded, inbound: Inbound) -> Rung {
    let app = routes().layer(recorded.layer());
    rung(app, move || request(inbound), Some(recorded.init()))
}

#[library_benchmark]
#[bench::bare(rung(routes(), || request(Inbound::Sampled), None))]
#[bench::pass_through(rung(routes().layer(PassThroughLayer::default()), || request(Inbound::Sampled), None))]
#[bench::switched_off(server(Recorded::Nothing, Inbound::Sampled))]
#[bench::switched_off_no_context(server(Recorded::Nothing, Inbound::Nothing))]
#[bench::not_sampled(
    args = (server(Recorded::Everything, Inbound::NotSampled)),
    config = at_most(14_700, 22)
)]
#[bench::not_sampled_no_context(server(Recorded::Metrics, Inbound::Nothing))]
#[bench::sampled(
    args = (server(Recorded::Everything, Inbound::Sampled)),
    config = at_most(16_930, 24)
)]
#[bench::sampled_no_context(server(Recorded::Everything, Inbound::Nothing))]
#[bench::traces_only(server(Recorded::Traces, Inbound::Sampled))]
#[bench::metrics_only(server(Recorded::Metrics, Inbound::Sampled))]
fn axum_route(rung: Rung) -> Rung {
    run(rung)
}

/// A part of the application's.
#[derive(Clone, Copy)]
enum Part {
    Exporter,
    Processor,
    ProcessorAround,
    Sampler,
    IdGenerator,
}

/// Does as little as a processor can.
#[derive(Debug)]
struct Passes(Option<SpanExport>);

impl SpanProcessor for Passes {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if let Some(export) = &self.0 {
            export.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

fn with_part(part: Part, inbound: Inbound) -> Rung {
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let config = support::config("parentbased_always_on", true, nobody);
    let config = match part {
        Part::Exporter => config.with_span_exporter(InMemorySpanExporter::default()),
        Part::Processor => config.with_span_processor(Passes(None)),
        Part::ProcessorAround => config.with_span_processor_around(|export| Passes(Some(export))),
        Part::Sampler => config.with_sampler(Sampler::parent_based(Sampler::AlwaysOn)),
        Part::IdGenerator => config.with_id_generator(RandomIdGenerator::default()),
    };
    let telemetry = config.init().expect("it is valid");
    let app = routes().layer(TelemetryLayer::new());
    rung(app, move || request(inbound), Some(telemetry))
}

#[library_benchmark]
#[bench::none(server(Recorded::Everything, Inbound::Sampled))]
#[bench::none_not_sampled(server(Recorded::Everything, Inbound::NotSampled))]
#[bench::exporter(with_part(Part::Exporter, Inbound::Sampled))]
#[bench::processor(with_part(Part::Processor, Inbound::Sampled))]
#[bench::processor_not_sampled(with_part(Part::Processor, Inbound::NotSampled))]
#[bench::processor_around(with_part(Part::ProcessorAround, Inbound::Sampled))]
#[bench::sampler(with_part(Part::Sampler, Inbound::Sampled))]
#[bench::id_generator(with_part(Part::IdGenerator, Inbound::Sampled))]
fn part(rung: Rung) -> Rung {
    run(rung)
}

/// The subscribers beside which spans of `tracing` are measured.
#[derive(Clone, Copy)]
enum Subscriber {
    Nobody,
    Bridge,
    /// A plain set-up: a layer of `tracing-opentelemetry`, and the SDK's spans.
    Plain,
}

#[derive(Clone, Copy)]
enum Handler {
    /// The usual one.
    Bare,
    /// One with a function of `#[tracing::instrument]`.
    Instrumented,
}

fn with_tracing(subscriber: Subscriber, handler: Handler, inbound: Inbound) -> Rung {
    use opentelemetry::trace::TracerProvider;
    use tracing_subscriber::prelude::*;

    let telemetry = Recorded::Everything.init();
    let subscribed = match subscriber {
        Subscriber::Nobody => Ok(()),
        Subscriber::Bridge => {
            let spans = tracing_subscriber::registry().with(telemetry.span_layer());
            tracing::subscriber::set_global_default(spans)
        }
        Subscriber::Plain => {
            let provider = telemetry.tracer_provider().expect("it is on");
            let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("plain"));
            let layer = layer.with_threads(false).with_tracked_inactivity(false);
            let layer = layer.with_filter(tracing_subscriber::filter::LevelFilter::INFO);
            let spans = tracing_subscriber::registry().with(layer);
            tracing::subscriber::set_global_default(spans)
        }
    };
    subscribed.expect("each rung is a process");
    let layer = TelemetryLayer::new();
    match handler {
        Handler::Bare => rung(
            routes().layer(layer),
            move || request(inbound),
            Some(telemetry),
        ),
        Handler::Instrumented => {
            let user =
                axum::routing::get(async |axum::extract::Path(id): axum::extract::Path<u32>| {
                    instrumented(id).await
                });
            let routes = axum::Router::new().route("/users/{id}", user);
            rung(
                routes.layer(layer),
                move || request(inbound),
                Some(telemetry),
            )
        }
    }
}

#[tracing::instrument]
async fn instrumented(id: u32) -> &'static str {
    black_box(id);
    "ok"
}

#[library_benchmark]
#[bench::request_without(with_tracing(Subscriber::Nobody, Handler::Bare, Inbound::Sampled))]
#[bench::request_not_sampled_without(with_tracing(
    Subscriber::Nobody,
    Handler::Bare,
    Inbound::NotSampled
))]
#[bench::request(with_tracing(Subscriber::Bridge, Handler::Bare, Inbound::Sampled))]
#[bench::request_not_sampled(with_tracing(Subscriber::Bridge, Handler::Bare, Inbound::NotSampled))]
#[bench::child_without(with_tracing(Subscriber::Nobody, Handler::Instrumented, Inbound::Sampled))]
#[bench::child(with_tracing(Subscriber::Bridge, Handler::Instrumented, Inbound::Sampled))]
#[bench::child_not_sampled(with_tracing(
    Subscriber::Bridge,
    Handler::Instrumented,
    Inbound::NotSampled
))]
#[bench::child_of_plain(with_tracing(Subscriber::Plain, Handler::Instrumented, Inbound::Sampled))]
#[bench::child_of_plain_not_sampled(with_tracing(
    Subscriber::Plain,
    Handler::Instrumented,
    Inbound::NotSampled
))]
fn tracing_span(rung: Rung) -> Rung {
    run(rung)
}

fn at_most(instructions: u64, allocations: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::default().hard_limits([(EventKind::Ir, instructions)]));
    config.tool(Dhat::default().hard_limits([(DhatMetric::TotalBlocks, allocations)]));
    config
}

fn grpc(recorded: Recorded, inbound: Inbound) -> Rung {
    let service = recorded.layer().layer(Method);
    rung(service, move || call(inbound), Some(recorded.init()))
}

#[library_benchmark]
#[bench::bare(rung(Method, || call(Inbound::Sampled), None))]
#[bench::pass_through(rung(PassThroughLayer::default().layer(Method), || call(Inbound::Sampled), None))]
#[bench::switched_off(grpc(Recorded::Nothing, Inbound::Sampled))]
#[bench::not_sampled(grpc(Recorded::Everything, Inbound::NotSampled))]
#[bench::sampled(grpc(Recorded::Everything, Inbound::Sampled))]
fn grpc_call(rung: Rung) -> Rung {
    run(rung)
}

fn client(recorded: Recorded, inbound: Inbound) -> Rung {
    let telemetry = recorded.init();
    let mut attached = attach(inbound);
    let service = ClientTelemetryLayer::new().layer(Answer);
    let mut rung = rung(service, outgoing, Some(telemetry));
    Box::new(move || {
        rung();
        let _attached = &mut attached;
    })
}

#[library_benchmark]
#[bench::bare(rung(Answer, outgoing, None))]
#[bench::pass_through(rung(PassThroughLayer::default().layer(Answer), outgoing, None))]
#[bench::switched_off(client(Recorded::Nothing, Inbound::Sampled))]
#[bench::not_sampled(client(Recorded::Everything, Inbound::NotSampled))]
#[bench::sampled(client(Recorded::Everything, Inbound::Sampled))]
fn client_request(rung: Rung) -> Rung {
    run(rung)
}

/// Calls a function as a handler does.
fn function(recorded: Recorded, inbound: Inbound, function: fn()) -> Rung {
    let telemetry = recorded.init();
    let attached = attach(inbound);
    // A span that takes attributes, where there is one.
    let span = start_as_current_span(&get_tracer("bench"), "handler");
    for _ in 0..WARM_UP {
        function();
    }
    Box::new(move || {
        function();
        let _in_this_order = (&span, &attached, &telemetry);
    })
}

#[inline(never)]
fn plain() {
    black_box(0);
}

#[tower_telemetry::with_tracer("bench")]
fn with_attribute() {
    black_box(0);
}

#[tower_telemetry::with_tracer("bench", metrics)]
fn with_attribute_and_metrics() {
    black_box(0);
}

fn with_closure() {
    tower_telemetry::with_tracer("bench", "closure", plain);
}

fn with_future() {
    let mut future = std::pin::pin!(async_with_tracer("bench", "future", async { plain() }));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let _ = black_box(future.as_mut().poll(&mut cx));
}

#[library_benchmark]
#[bench::plain_function(function(Recorded::Nothing, Inbound::Nothing, plain))]
#[bench::attribute_switched_off(function(Recorded::Nothing, Inbound::Nothing, with_attribute))]
#[bench::attribute_not_sampled(function(
    Recorded::Everything,
    Inbound::NotSampled,
    with_attribute
))]
#[bench::attribute_sampled(function(Recorded::Everything, Inbound::Sampled, with_attribute))]
#[bench::attribute_with_metrics_not_sampled(function(
    Recorded::Everything,
    Inbound::NotSampled,
    with_attribute_and_metrics
))]
#[bench::attribute_with_metrics_sampled(function(
    Recorded::Everything,
    Inbound::Sampled,
    with_attribute_and_metrics
))]
#[bench::with_tracer_not_sampled(function(
    Recorded::Everything,
    Inbound::NotSampled,
    with_closure
))]
#[bench::with_tracer_sampled(function(Recorded::Everything, Inbound::Sampled, with_closure))]
#[bench::async_with_tracer_not_sampled(function(
    Recorded::Everything,
    Inbound::NotSampled,
    with_future
))]
#[bench::async_with_tracer_sampled(function(Recorded::Everything, Inbound::Sampled, with_future))]
#[bench::get_trace_id(function(Recorded::Everything, Inbound::Sampled, || {
    black_box(get_trace_id());
}))]
#[bench::add_span_attributes(function(Recorded::Everything, Inbound::Sampled, || {
    add_span_attributes(attributes! { "cart.items" => 42 });
}))]
#[bench::add_span_event(function(Recorded::Everything, Inbound::Sampled, || {
    add_span_event("cache-miss", attributes! { "cache.name" => "users" });
}))]
#[bench::increment_counter(function(Recorded::Everything, Inbound::Sampled, || {
    increment_counter("bench.counter", "Counted.", attributes! { "kind" => "a" });
}))]
#[bench::record_histogram_value(function(Recorded::Everything, Inbound::Sampled, || {
    record_histogram_value("bench.histogram", "Recorded.", 1.5, attributes! { "kind" => "a" });
}))]
#[bench::start_timer(function(Recorded::Everything, Inbound::Sampled, || {
    drop(start_timer("bench.timer", "Timed.", attributes! { "kind" => "a" }));
}))]
fn handler_function(rung: Rung) -> Rung {
    run(rung)
}

fn bound() -> Rung {
    let telemetry = Recorded::Everything.init();
    let counter = bind_counter("bench.counter", "Counted.", attributes! { "kind" => "a" });
    counter.add(1);
    Box::new(move || {
        counter.add(1);
        let _telemetry = &telemetry;
    })
}

#[library_benchmark]
#[bench::counter(bound())]
fn bound_instrument(rung: Rung) -> Rung {
    run(rung)
}

fn run(mut rung: Rung) -> Rung {
    black_box(&mut rung)();
    rung
}

library_benchmark_group!(
    name = ladder,
    benchmarks = [
        axum_route,
        grpc_call,
        client_request,
        handler_function,
        bound_instrument,
        part,
        tracing_span
    ]
);

main!(
    config = LibraryBenchmarkConfig::default()
        .tool(Callgrind::default().format([EventKind::Ir]))
        .tool(Dhat::default().format([DhatMetric::TotalBlocks, DhatMetric::TotalBytes])),
    library_benchmark_groups = ladder
);
