//! The kinds of telemetry that are compared, each set up as its README shows.

use std::thread;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum_otel_metrics::HttpMetricsLayerBuilder;
use axum_tracing_opentelemetry::middleware::{OtelAxumLayer, OtelInResponseLayer};
use opentelemetry::global;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::HeaderExtractor;
use opentelemetry_otlp::{MetricExporter, SpanExporter};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tower_http::trace::TraceLayer;
use tower_telemetry::{TelemetryLayer, layers::MetricSet};
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::pass_through::PassThroughLayer;

/// An axum application with one kind of telemetry around it.
pub struct Stack {
    pub name: &'static str,
    /// Whether the stack makes spans.
    pub traces: bool,
    /// Whether the stack records metrics.
    pub metrics: bool,
    /// Adds the telemetry to the application and sets up its export. It is called once per process,
    /// inside of a tokio runtime.
    pub start: fn(Router) -> Started,
}

pub struct Started {
    pub router: Router,
    /// Exports the telemetry that is still in memory, and shuts down.
    pub stop: Box<dyn FnOnce()>,
}

pub const STACKS: &[Stack] = &[
    Stack {
        name: "bare",
        traces: false,
        metrics: false,
        start: bare,
    },
    Stack {
        name: "pass-through",
        traces: false,
        metrics: false,
        start: pass_through,
    },
    Stack {
        name: "tower-telemetry",
        traces: true,
        metrics: true,
        start: telemetry,
    },
    Stack {
        name: "tower-telemetry, conventions alone",
        traces: true,
        metrics: true,
        start: conventions_alone,
    },
    Stack {
        name: "tower-telemetry, switched off",
        traces: false,
        metrics: false,
        start: telemetry,
    },
    Stack {
        name: "opentelemetry-instrumentation-tower",
        traces: true,
        metrics: true,
        start: instrumentation_tower,
    },
    Stack {
        name: "tower-otel",
        traces: true,
        metrics: true,
        start: tower_otel,
    },
    Stack {
        name: "axum-tracing-opentelemetry + axum-otel-metrics",
        traces: true,
        metrics: true,
        start: axum_both,
    },
    Stack {
        name: "axum-tracing-opentelemetry",
        traces: true,
        metrics: false,
        start: axum_traces,
    },
    Stack {
        name: "axum-otel-metrics",
        traces: false,
        metrics: true,
        start: axum_metrics,
    },
    Stack {
        name: "TraceLayer + tracing-opentelemetry",
        traces: true,
        metrics: false,
        start: trace_layer,
    },
];

/// Returns the stack with a name.
pub fn named(name: &str) -> &'static Stack {
    let stack = STACKS.iter().find(|stack| stack.name == name);
    stack.expect("a known stack")
}

impl Started {
    fn new(router: Router, stop: impl FnOnce() + Send + 'static) -> Self {
        // `stop` blocks, so it must not run on a thread of a runtime, where the caller may be.
        let stop = || {
            thread::spawn(stop)
                .join()
                .expect("all telemetry is exported")
        };
        Self {
            router,
            stop: Box::new(stop),
        }
    }
}

fn bare(router: Router) -> Started {
    Started::new(router, || ())
}

fn pass_through(router: Router) -> Started {
    Started::new(router.layer(PassThroughLayer::default()), || ())
}

fn telemetry(router: Router) -> Started {
    with_layer(router, TelemetryLayer::new())
}

/// Leaves out the parts that opentelemetry-instrumentation-tower does not have: metrics beyond the
/// conventions, and a response header.
fn conventions_alone(router: Router) -> Started {
    let layer = TelemetryLayer::new()
        .with_metrics([MetricSet::Conventions])
        .without_trace_id_header();
    with_layer(router, layer)
}

fn with_layer(router: Router, layer: TelemetryLayer) -> Started {
    let telemetry = tower_telemetry::init().expect("the environment is valid");
    Started::new(router.layer(layer), || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("the runtime can be built");
        runtime.block_on(telemetry.shutdown());
    })
}

fn instrumentation_tower(router: Router) -> Started {
    let (traces, metrics) = providers();
    let layer = opentelemetry_instrumentation_tower::http::server::Layer::new();
    Started::new(router.layer(layer), move || {
        traces.shutdown().expect("spans are exported");
        metrics.shutdown().expect("metrics are exported");
    })
}

fn tower_otel(router: Router) -> Started {
    let (traces, metrics) = providers();
    subscribe(&traces, LevelFilter::INFO);
    let meter = global::meter("peers");
    let router = router
        .layer(tower_otel::metrics::HttpLayer::server(&meter))
        .layer(tower_otel::trace::HttpLayer::server(Level::INFO));
    Started::new(router, move || {
        traces.shutdown().expect("spans are exported");
        metrics.shutdown().expect("metrics are exported");
    })
}

fn axum_both(router: Router) -> Started {
    let traces = axum_tracer_provider();
    let metrics = meter_provider_032();
    let router = with_axum_traces(router).layer(HttpMetricsLayerBuilder::new().build());
    Started::new(router, move || {
        traces.shutdown().expect("spans are exported");
        metrics.shutdown().expect("metrics are exported");
    })
}

fn axum_traces(router: Router) -> Started {
    let traces = axum_tracer_provider();
    Started::new(with_axum_traces(router), move || {
        traces.shutdown().expect("spans are exported");
    })
}

fn axum_metrics(router: Router) -> Started {
    let metrics = meter_provider_032();
    let layer = HttpMetricsLayerBuilder::new().build();
    Started::new(router.layer(layer), move || {
        metrics.shutdown().expect("metrics are exported");
    })
}

fn trace_layer(router: Router) -> Started {
    let traces = tracer_provider();
    subscribe(&traces, LevelFilter::INFO);
    let layer = TraceLayer::new_for_http().make_span_with(request_span);
    Started::new(router.layer(layer), move || {
        traces.shutdown().expect("spans are exported");
    })
}

/// Creates the span that axum's examples create, as a child of the caller's span.
fn request_span(request: &Request) -> Span {
    let route = request.extensions().get::<MatchedPath>();
    let span = tracing::info_span!(
        "request",
        otel.kind = "server",
        method = %request.method(),
        route = route.map(MatchedPath::as_str),
    );
    let parent = global::get_text_map_propagator(|propagator| {
        propagator.extract(&HeaderExtractor(request.headers()))
    });
    // This fails if the span is filtered out, and then there is no span to have a parent.
    let _ = span.set_parent(parent);
    span
}

fn with_axum_traces(router: Router) -> Router {
    router
        .layer(OtelInResponseLayer)
        .layer(OtelAxumLayer::default())
}

fn axum_tracer_provider() -> SdkTracerProvider {
    let traces = tracer_provider();
    // The spans of `OtelAxumLayer` have the level TRACE.
    subscribe(&traces, EnvFilter::new("info,otel::tracing=trace"));
    traces
}

/// Exports the spans of `tracing`, and writes no log lines.
fn subscribe(
    traces: &SdkTracerProvider,
    filter: impl tracing_subscriber::Layer<Registry> + Send + Sync,
) {
    let spans = tracing_opentelemetry::layer().with_tracer(traces.tracer("peers"));
    tracing_subscriber::registry()
        .with(filter)
        .with(spans)
        .init();
}

fn providers() -> (SdkTracerProvider, SdkMeterProvider) {
    // The order matters. With the feature `experimental_metrics_bound_instruments`, which
    // tower-telemetry enables here, the SDK would count spans in a meter provider that is set earlier.
    let traces = tracer_provider();
    (traces, meter_provider())
}

fn tracer_provider() -> SdkTracerProvider {
    let exporter = SpanExporter::builder().with_http().build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter.expect("the environment is valid"))
        .build();
    global::set_text_map_propagator(TraceContextPropagator::new());
    global::set_tracer_provider(provider.clone());
    provider
}

fn meter_provider() -> SdkMeterProvider {
    let exporter = MetricExporter::builder().with_http().build();
    let provider = SdkMeterProvider::builder()
        .with_periodic_exporter(exporter.expect("the environment is valid"))
        .build();
    global::set_meter_provider(provider.clone());
    provider
}

/// Like [`meter_provider`], with the version of OpenTelemetry that axum-otel-metrics uses.
fn meter_provider_032() -> opentelemetry_sdk_032::metrics::SdkMeterProvider {
    let exporter = opentelemetry_otlp_032::MetricExporter::builder()
        .with_http()
        .build();
    let provider = opentelemetry_sdk_032::metrics::SdkMeterProvider::builder()
        .with_periodic_exporter(exporter.expect("the environment is valid"))
        .build();
    opentelemetry_032::global::set_meter_provider(provider.clone());
    provider
}
