//! The ladder in instructions and allocations: the cost of one request on each rung, and of one
//! call of each handler function.
//!
//! `cargo bench --bench instructions` runs each rung once under Valgrind. It needs Valgrind, and
//! `gungraun-runner` in the version of `gungraun` in `Cargo.lock`. Some rungs have limits. The
//! limits leave room for another compiler, and for one allocation of a block of the queue.

#![allow(
    missing_docs,
    reason = "the macros generate undocumented private modules"
)]

mod support;

use std::fmt::Debug;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use gungraun::prelude::*;
use gungraun::{Callgrind, Dhat, DhatMetric, EventKind};
use http::{HeaderValue, Request, Response};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::{ManualReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{
    InMemorySpanExporter, RandomIdGenerator, Sampler, SdkTracerProvider, Span, SpanData,
    SpanProcessor,
};
use tower::{Layer, Service};
use tower_telemetry::config::SpanExport;
use tower_telemetry::{
    ClientTelemetryLayer, Config, TelemetryGuard, TelemetryLayer, add_request_attributes,
    add_span_attributes, add_span_event, async_with_tracer, attributes, bind_counter, carriers,
    get_trace_id, get_tracer, increment_counter, record_histogram_value, start_as_current_span,
    start_timer,
};

use support::{Answer, Inbound, Method, PassThroughLayer, attach, call, outgoing, request, routes};

/// The measured service. It is built and warmed up before the measurement, and dropped after it.
type Rung = Box<dyn FnMut()>;

/// The number of warm-up requests. One request is not enough, because the first requests allocate
/// memory and create the series.
const WARM_UP: usize = 40;

/// Returns a rung that sends requests through a service.
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

/// The telemetry that is enabled.
#[derive(Clone, Copy)]
enum Recorded {
    Nothing,
    Everything,
    Traces,
    Metrics,
}

impl Recorded {
    fn init(self) -> TelemetryGuard {
        self.config().init().expect("the configuration is valid")
    }

    fn config(self) -> Config {
        let sampler = match self {
            Self::Metrics => "always_off",
            _ => "parentbased_always_on",
        };
        // Nothing listens on that port, and nothing is exported before the end.
        let no_receiver = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        support::config(sampler, !matches!(self, Self::Nothing), no_receiver)
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

/// Returns a rung of requests with an additional header.
fn server_with(name: &'static str, value: &'static str, inbound: Inbound) -> Rung {
    let app = routes().layer(Recorded::Everything.layer());
    let request = move || {
        let mut request = request(inbound);
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
        request
    };
    rung(app, request, Some(Recorded::Everything.init()))
}

/// Returns a rung of outgoing requests in the context of an incoming request with an additional
/// header.
fn client_with(name: &'static str, value: &'static str, inbound: Inbound) -> Rung {
    let telemetry = Recorded::Everything.init();
    let incoming = request(inbound);
    let pairs = incoming.headers().iter();
    let pairs = pairs.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let cx = carriers::extract(pairs.chain([(name, value.as_bytes())]));
    let mut attached = Some(cx.attach());
    let service = ClientTelemetryLayer::new().layer(Answer);
    let mut rung = rung(service, outgoing, Some(telemetry));
    Box::new(move || {
        rung();
        let _attached = &mut attached;
    })
}

/// Returns a rung of sampled requests with four headers that a layer may capture, and a query.
fn server_capturing(layer: TelemetryLayer, query: &'static str) -> Rung {
    let request = move || {
        let mut request = request(Inbound::Sampled);
        *request.uri_mut() = format!("/users/42?{query}").parse().expect("a valid path");
        for name in HEADERS {
            let value = HeaderValue::from_static("some usual value");
            request.headers_mut().insert(name, value);
        }
        request
    };
    rung(
        routes().layer(layer),
        request,
        Some(Recorded::Everything.init()),
    )
}

const HEADERS: [&str; 4] = ["accept-language", "x-request-id", "x-tenant", "x-version"];

fn capturing() -> TelemetryLayer {
    let names = HEADERS.map(http::HeaderName::from_static);
    TelemetryLayer::new().with_captured_request_headers(names)
}

#[library_benchmark]
#[bench::plain(server_capturing(TelemetryLayer::new(), "page=2&sort=name&lang=en"))]
#[bench::headers(
    args = (server_capturing(capturing(), "page=2&sort=name&lang=en")),
    config = at_most(23_180, 36)
)]
#[bench::redacted(
    args = (server_capturing(TelemetryLayer::new(), "page=2&sig=0123456789abcdef&lang=en")),
    config = at_most(19_480, 28)
)]
fn captured(rung: Rung) -> Rung {
    run(rung)
}

const TRACESTATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";
const BAGGAGE: &str = "userId=alice,serverNode=DF%2028,isProduction=false";

#[library_benchmark]
#[bench::no_context_header(server_with("x-other", TRACESTATE, Inbound::NotSampled))]
#[bench::tracestate(
    args = (server_with("tracestate", TRACESTATE, Inbound::NotSampled)),
    config = at_most(19_450, 34)
)]
#[bench::tracestate_sampled(server_with("tracestate", TRACESTATE, Inbound::Sampled))]
#[bench::baggage(
    args = (server_with("baggage", BAGGAGE, Inbound::NotSampled)),
    config = at_most(24_420, 35)
)]
#[bench::baggage_sampled(server_with("baggage", BAGGAGE, Inbound::Sampled))]
#[bench::client_no_context_header(client_with("x-other", TRACESTATE, Inbound::NotSampled))]
#[bench::client_tracestate(client_with("tracestate", TRACESTATE, Inbound::NotSampled))]
#[bench::client_baggage(client_with("baggage", BAGGAGE, Inbound::NotSampled))]
fn context_header(rung: Rung) -> Rung {
    run(rung)
}

#[library_benchmark]
#[bench::bare(rung(routes(), || request(Inbound::Sampled), None))]
#[bench::pass_through(rung(routes().layer(PassThroughLayer::default()), || request(Inbound::Sampled), None))]
#[bench::switched_off(server(Recorded::Nothing, Inbound::Sampled))]
#[bench::switched_off_no_context(server(Recorded::Nothing, Inbound::Nothing))]
#[bench::not_sampled(
    args = (server(Recorded::Everything, Inbound::NotSampled)),
    config = at_most(15_310, 25)
)]
#[bench::not_sampled_no_context(server(Recorded::Metrics, Inbound::Nothing))]
#[bench::sampled(
    args = (server(Recorded::Everything, Inbound::Sampled)),
    config = at_most(17_470, 27)
)]
#[bench::sampled_no_context(server(Recorded::Everything, Inbound::Nothing))]
#[bench::traces_only(server(Recorded::Traces, Inbound::Sampled))]
#[bench::metrics_only(server(Recorded::Metrics, Inbound::Sampled))]
fn axum_route(rung: Rung) -> Rung {
    run(rung)
}

/// The number of routes of a large application.
const ROUTES: usize = 1_100;

fn with_hook() -> Rung {
    let layer = Recorded::Everything
        .layer()
        .with_request_attributes(|_, attributes| {
            attributes.add_to_metrics(KeyValue::new("user.plan", "free"));
        });
    let app = routes().layer(layer);
    let telemetry = Recorded::Everything.init();
    rung(app, || request(Inbound::NotSampled), Some(telemetry))
}

fn with_handler() -> Rung {
    let user = axum::routing::get(async || {
        add_request_attributes(attributes! { "user.plan" => "free" });
        "Ada"
    });
    let app = axum::Router::new().route("/users/{id}", user);
    let app = app.layer(Recorded::Everything.layer());
    let telemetry = Recorded::Everything.init();
    rung(app, || request(Inbound::NotSampled), Some(telemetry))
}

fn last_of_many_routes() -> Rung {
    let mut app = axum::Router::new();
    for n in 0..ROUTES {
        app = app.route(&format!("/{n}/{{id}}"), axum::routing::get(async || "Ada"));
    }
    let mut app = app.layer(Recorded::Everything.layer());
    let telemetry = Recorded::Everything.init();
    let request = |n: usize| {
        let mut request = request(Inbound::NotSampled);
        *request.uri_mut() = format!("/{n}/42").parse().expect("a valid path");
        request
    };
    for n in 0..ROUTES {
        support::send(&mut app, request(n));
    }
    rung(app, move || request(ROUTES - 1), Some(telemetry))
}

#[library_benchmark]
#[bench::plain(server(Recorded::Everything, Inbound::NotSampled))]
#[bench::attribute_of_hook(args = (with_hook()), config = at_most(16_740, 27))]
#[bench::attribute_of_handler(args = (with_handler()), config = at_most(16_540, 26))]
#[bench::last_of_many_routes(args = (last_of_many_routes()), config = at_most(15_730, 25))]
fn series(rung: Rung) -> Rung {
    run(rung)
}

/// A part that the application adds.
#[derive(Clone, Copy)]
enum Part {
    Exporter,
    Processor,
    ProcessorAround,
    Sampler,
    IdGenerator,
}

/// A span processor that does as little as possible.
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
    let no_receiver = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let config = support::config("parentbased_always_on", true, no_receiver);
    let config = match part {
        Part::Exporter => config.with_span_exporter(InMemorySpanExporter::default()),
        Part::Processor => config.with_span_processor(Passes(None)),
        Part::ProcessorAround => config.with_span_processor_around(|export| Passes(Some(export))),
        Part::Sampler => config.with_sampler(Sampler::parent_based(Sampler::AlwaysOn)),
        Part::IdGenerator => config.with_id_generator(RandomIdGenerator::default()),
    };
    let telemetry = config.init().expect("the configuration is valid");
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

/// The way in which a layer gets the application's providers.
#[derive(Clone, Copy)]
enum Given {
    Globally,
    ToTheLayer,
}

/// Returns a rung with providers of the SDK, without `init`.
fn with_own_pipeline(given: Given, inbound: Inbound) -> Rung {
    let traces = SdkTracerProvider::builder()
        .with_span_processor(Passes(None))
        .build();
    let metrics = SdkMeterProvider::builder()
        .with_reader(ManualReader::default())
        .build();
    let layer = TelemetryLayer::new();
    let layer = match given {
        Given::Globally => {
            opentelemetry::global::set_tracer_provider(traces);
            opentelemetry::global::set_meter_provider(metrics);
            layer
        }
        Given::ToTheLayer => layer
            .with_tracer_provider(traces)
            .with_meter_provider(metrics),
    };
    rung(routes().layer(layer), move || request(inbound), None)
}

#[library_benchmark]
#[bench::not_sampled(
    args = (with_own_pipeline(Given::Globally, Inbound::NotSampled)),
    config = at_most(17_890, 31)
)]
#[bench::sampled(
    args = (with_own_pipeline(Given::Globally, Inbound::Sampled)),
    config = at_most(19_890, 33)
)]
#[bench::given_not_sampled(with_own_pipeline(Given::ToTheLayer, Inbound::NotSampled))]
#[bench::given_sampled(with_own_pipeline(Given::ToTheLayer, Inbound::Sampled))]
fn own_pipeline(rung: Rung) -> Rung {
    run(rung)
}

/// The subscribers with which `tracing` spans are measured.
#[derive(Clone, Copy)]
enum Subscriber {
    Nobody,
    OfInit,
    /// A registry with the layer for spans.
    Bridge,
    /// A plain set-up: a layer of `tracing-opentelemetry`, with spans of the SDK.
    Plain,
}

#[derive(Clone, Copy)]
enum Handler {
    /// The usual handler.
    Bare,
    /// A handler that calls a function with `#[tracing::instrument]`.
    Instrumented,
}

fn with_tracing(subscriber: Subscriber, handler: Handler, inbound: Inbound) -> Rung {
    use opentelemetry::trace::TracerProvider;
    use tracing_subscriber::prelude::*;

    let config = Recorded::Everything.config();
    let config = match subscriber {
        Subscriber::OfInit => config,
        _ => config.without_subscriber(),
    };
    let telemetry = config.init().expect("the configuration is valid");
    let subscribed = match subscriber {
        Subscriber::Nobody | Subscriber::OfInit => Ok(()),
        Subscriber::Bridge => {
            let spans = tracing_subscriber::registry().with(telemetry.span_layer());
            tracing::subscriber::set_global_default(spans)
        }
        Subscriber::Plain => {
            let provider = telemetry.tracer_provider().expect("traces are enabled");
            let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("plain"));
            let layer = layer.with_threads(false).with_tracked_inactivity(false);
            let layer = layer.with_filter(tracing_subscriber::filter::LevelFilter::INFO);
            let spans = tracing_subscriber::registry().with(layer);
            tracing::subscriber::set_global_default(spans)
        }
    };
    subscribed.expect("each benchmark runs in its own process");
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
#[bench::request_of_init(with_tracing(Subscriber::OfInit, Handler::Bare, Inbound::Sampled))]
#[bench::request_of_init_not_sampled(with_tracing(
    Subscriber::OfInit,
    Handler::Bare,
    Inbound::NotSampled
))]
#[bench::child_without(with_tracing(Subscriber::Nobody, Handler::Instrumented, Inbound::Sampled))]
#[bench::child_without_not_sampled(with_tracing(
    Subscriber::Nobody,
    Handler::Instrumented,
    Inbound::NotSampled
))]
#[bench::child_of_init(
    args = (with_tracing(Subscriber::OfInit, Handler::Instrumented, Inbound::Sampled)),
    config = at_most(33_680, 42)
)]
#[bench::child_of_init_not_sampled(with_tracing(
    Subscriber::OfInit,
    Handler::Instrumented,
    Inbound::NotSampled
))]
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

/// Returns a rung that calls a function as a handler does.
fn function(recorded: Recorded, inbound: Inbound, function: fn()) -> Rung {
    let telemetry = recorded.init();
    let attached = attach(inbound);
    // The span accepts attributes if it is sampled.
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
#[bench::increment_counter(args = (function(Recorded::Everything, Inbound::Sampled, || {
    increment_counter("bench.counter", "Counted.", attributes! { "kind" => "a" });
})), config = at_most(560, 0))]
#[bench::increment_counter_with_four_attributes(args = (function(
    Recorded::Everything,
    Inbound::Sampled,
    || {
        increment_counter(
            "bench.counter",
            "Counted.",
            attributes! { "kind" => "a", "region" => "eu-west-1", "tier" => 2, "cached" => true },
        );
    }
)), config = at_most(1_290, 0))]
#[bench::record_histogram_value(args = (function(Recorded::Everything, Inbound::Sampled, || {
    record_histogram_value("bench.histogram", "Recorded.", 1.5, attributes! { "kind" => "a" });
})), config = at_most(770, 0))]
#[bench::start_timer(args = (function(Recorded::Everything, Inbound::Sampled, || {
    drop(start_timer("bench.timer", "Timed.", attributes! { "kind" => "a" }));
})), config = at_most(1_290, 1))]
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

#[derive(Clone, Copy)]
enum Line {
    Text,
    Json,
}

/// Returns a rung that writes a log line inside a span, in a format of `tracing-subscriber`,
/// without or with the ids.
fn line(line: Line, has_ids: bool) -> Rung {
    use tower_telemetry::logs::LogFormat;
    use tracing_subscriber::fmt::format::JsonFields;
    use tracing_subscriber::fmt::{format, layer};
    use tracing_subscriber::prelude::*;

    let layer = layer().with_ansi(false).with_writer(std::io::sink);
    let layer: Box<dyn tracing_subscriber::Layer<_> + Send + Sync> = match (line, has_ids) {
        (Line::Text, false) => layer.boxed(),
        (Line::Text, true) => layer.event_format(LogFormat::default()).boxed(),
        (Line::Json, false) => layer.json().boxed(),
        (Line::Json, true) => layer
            .fmt_fields(JsonFields::new())
            .event_format(LogFormat::json(format().json()))
            .boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::set_global_default(subscriber)
        .expect("each benchmark runs in its own process");
    function(Recorded::Everything, Inbound::Sampled, || {
        tracing::info!(user = 42, "user loaded");
    })
}

#[library_benchmark]
#[bench::text_without_ids(line(Line::Text, false))]
#[bench::text(line(Line::Text, true))]
#[bench::json_without_ids(line(Line::Json, false))]
#[bench::json(line(Line::Json, true))]
fn log_line(rung: Rung) -> Rung {
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
        series,
        context_header,
        captured,
        grpc_call,
        client_request,
        handler_function,
        bound_instrument,
        log_line,
        part,
        own_pipeline,
        tracing_span
    ]
);

main!(
    config = LibraryBenchmarkConfig::default()
        .tool(Callgrind::default().format([EventKind::Ir]))
        .tool(
            Dhat::with_args(["--num-callers=200"])
                .format([DhatMetric::TotalBlocks, DhatMetric::TotalBytes]),
        ),
    library_benchmark_groups = ladder
);
