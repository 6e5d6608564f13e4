//! In-memory telemetry, and servers on loopback, for tests.

#[cfg(feature = "init")]
pub(crate) mod http_proxy;
#[cfg(all(feature = "axum", feature = "init", feature = "logs"))]
pub(crate) mod npm;
#[cfg(all(feature = "axum", feature = "init", feature = "logs"))]
pub(crate) mod process;
#[cfg(feature = "init")]
pub(crate) mod proxy;
pub(crate) mod reader;
#[cfg(feature = "init")]
pub(crate) mod receiver;
pub(crate) mod refused;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanId;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{ManualReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{
    InMemorySpanExporter, Sampler, SdkTracerProvider, SpanData, TracerProviderBuilder,
};
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::TelemetryLayer;

pub(crate) const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
pub(crate) const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

/// The longest time to wait for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) type Attributes = BTreeMap<String, String>;

/// Returns attributes as a map, to compare whole sets.
pub(crate) fn attributes<const N: usize>(attributes: [(&str, &str); N]) -> Attributes {
    attributes
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn map<'a>(attributes: impl IntoIterator<Item = &'a KeyValue>) -> Attributes {
    let mut map = Attributes::new();
    for attribute in attributes {
        let before = map.insert(attribute.key.to_string(), attribute.value.to_string());
        assert_eq!(before, None, "{} is there twice", attribute.key);
    }
    map
}

pub(crate) fn span_attributes(span: &SpanData) -> Attributes {
    map(&span.attributes)
}

/// Layers with in-memory exporters, and the telemetry they have recorded.
#[derive(Clone)]
pub(crate) struct TestTelemetry {
    exporter: InMemorySpanExporter,
    tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
    reader: Arc<ManualReader>,
}

impl TestTelemetry {
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    pub(crate) fn with_sampler(sampler: Sampler) -> Self {
        Self::with(|builder| builder.with_sampler(sampler))
    }

    pub(crate) fn with(build: impl FnOnce(TracerProviderBuilder) -> TracerProviderBuilder) -> Self {
        let exporter = InMemorySpanExporter::default();
        let tracers = build(SdkTracerProvider::builder())
            .with_simple_exporter(exporter.clone())
            .build();
        let reader = Arc::new(ManualReader::default());
        let meters = SdkMeterProvider::builder()
            .with_reader(reader::Reader(reader.clone()))
            .build();
        Self {
            exporter,
            tracers,
            meters,
            reader,
        }
    }

    pub(crate) fn layer(&self) -> TelemetryLayer {
        TelemetryLayer::new()
            .with_tracer_provider(self.tracers.clone())
            .with_meter_provider(self.meters.clone())
    }

    pub(crate) fn client_layer(&self) -> tower_telemetry::ClientTelemetryLayer {
        tower_telemetry::ClientTelemetryLayer::new()
            .with_tracer_provider(self.tracers.clone())
            .with_meter_provider(self.meters.clone())
    }

    pub(crate) fn tracer_provider(&self) -> &SdkTracerProvider {
        &self.tracers
    }

    /// Returns the spans that have ended, in the order of their ends.
    pub(crate) fn spans(&self) -> Vec<SpanData> {
        self.exporter
            .get_finished_spans()
            .expect("the lock is not poisoned")
    }

    /// Waits for the end of `count` spans, and fails if there are more.
    pub(crate) async fn wait_for_spans(&self, count: usize) -> Vec<SpanData> {
        eventually("all spans have ended", || self.spans().len() >= count).await;
        let spans = self.spans();
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans
    }

    /// Waits for the only span.
    pub(crate) async fn only_span(&self) -> SpanData {
        self.wait_for_spans(1).await.remove(0)
    }

    /// Returns the points of a metric, sorted by their attributes.
    pub(crate) fn points(&self, name: &str) -> Vec<Point> {
        let mut points = self.metrics().remove(name).unwrap_or_default().points;
        points.sort_by(|a, b| a.attributes.cmp(&b.attributes));
        points
    }

    /// Returns the only point of a metric.
    pub(crate) fn point(&self, name: &str) -> Point {
        let mut points = self.points(name);
        assert_eq!(points.len(), 1, "{name}: {points:#?}");
        points.remove(0)
    }

    /// Returns the sum of all points of an up-down counter, or 0 without points.
    pub(crate) fn sum(&self, name: &str) -> i64 {
        let values = self
            .points(name)
            .into_iter()
            .map(|point| match point.value {
                Value::Sum(value) => value,
                other => panic!("{name} is not a sum: {other:?}"),
            });
        values.sum()
    }

    /// Returns all metrics by name.
    pub(crate) fn metrics(&self) -> BTreeMap<String, Metric> {
        let metrics = self.metrics_of_all_scopes().into_iter();
        metrics.map(|one| (one.name.clone(), one)).collect()
    }

    /// Returns all metrics, including equal names in two scopes.
    pub(crate) fn metrics_of_all_scopes(&self) -> Vec<Metric> {
        let mut collected = ResourceMetrics::default();
        self.reader
            .collect(&mut collected)
            .expect("the provider is running");
        let mut metrics = Vec::new();
        for scope in collected.scope_metrics() {
            for metric in scope.metrics() {
                let metric = Metric {
                    unit: metric.unit().to_owned(),
                    scope: scope.scope().clone(),
                    points: match metric.data() {
                        AggregatedMetrics::F64(data) => points(data, |value| Value::F64(*value)),
                        AggregatedMetrics::U64(data) => points(data, |value| Value::Count(*value)),
                        AggregatedMetrics::I64(data) => points(data, |value| Value::Sum(*value)),
                    },
                    name: metric.name().to_owned(),
                };
                metrics.push(metric);
            }
        }
        metrics
    }
}

#[derive(Debug, Default)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) scope: opentelemetry::InstrumentationScope,
    pub(crate) points: Vec<Point>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) attributes: Attributes,
    pub(crate) value: Value,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Value {
    Count(u64),
    Sum(i64),
    F64(f64),
    Histogram {
        count: u64,
        sum: f64,
        bounds: Vec<f64>,
    },
}

impl Value {
    /// Returns the count and the sum of a histogram.
    pub(crate) fn histogram(&self) -> (u64, f64) {
        match self {
            Self::Histogram { count, sum, .. } => (*count, *sum),
            other => panic!("not a histogram: {other:?}"),
        }
    }
}

fn points<T: Copy + Into<Number>>(data: &MetricData<T>, value: fn(&T) -> Value) -> Vec<Point> {
    let point = |attributes, value| Point { attributes, value };
    match data {
        MetricData::Gauge(gauge) => gauge
            .data_points()
            .map(|at| point(map(at.attributes()), value(&at.value())))
            .collect(),
        MetricData::Sum(sum) => sum
            .data_points()
            .map(|at| point(map(at.attributes()), value(&at.value())))
            .collect(),
        MetricData::Histogram(histogram) => histogram
            .data_points()
            .map(|at| {
                let Number(sum) = at.sum().into();
                let value = Value::Histogram {
                    count: at.count(),
                    sum,
                    bounds: at.bounds().collect(),
                };
                point(map(at.attributes()), value)
            })
            .collect(),
        MetricData::ExponentialHistogram(_) => panic!("these tests use no exponential histogram"),
    }
}

/// A number of a histogram. Only `f64` occurs.
struct Number(f64);

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self(value)
    }
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self(value as f64)
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self(value as f64)
    }
}

/// Sends a request through the layer, to a service that responds with `hello`.
pub(crate) async fn send_through(
    layer: &TelemetryLayer,
    request: http::request::Builder,
) -> Response<Bytes> {
    let service = layer.layer(service_fn(|_: Request<()>| async {
        let response = Response::builder().header("x-served-by", "me");
        Ok::<_, Infallible>(
            response
                .body(Full::<Bytes>::from("hello"))
                .expect("a valid response"),
        )
    }));
    let request = request.body(()).expect("a valid request");
    let response = service
        .oneshot(request)
        .await
        .expect("the service cannot fail");
    let (head, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .expect("the body is complete")
        .to_bytes();
    Response::from_parts(head, body)
}

pub(crate) fn get(path: &str) -> http::request::Builder {
    Request::get(path.to_owned())
}

/// Polls until `condition` is true, or fails at the deadline.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Awaits a future, or fails at the deadline.
pub(crate) async fn within_deadline<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("timed out waiting for {what}"),
    }
}

/// An executor that is not tokio's.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = std::pin::pin!(future);
    let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        let mut cx = std::task::Context::from_waker(&waker);
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        std::thread::park();
    }
}

/// Returns the names of spans as a tree, each indented below its parent.
pub(crate) fn tree(spans: &[SpanData]) -> Vec<String> {
    fn below(parent: SpanId, depth: usize, spans: &[SpanData], lines: &mut Vec<String>) {
        let mut children: Vec<_> = spans
            .iter()
            .filter(|span| span.parent_span_id == parent)
            .collect();
        children.sort_by_key(|span| span.start_time);
        for span in children {
            lines.push(format!("{}{}", "  ".repeat(depth), span.name));
            below(span.span_context.span_id(), depth + 1, spans, lines);
        }
    }
    let mut lines = Vec::new();
    let ids: Vec<_> = spans
        .iter()
        .map(|span| span.span_context.span_id())
        .collect();
    let mut roots: Vec<_> = spans.iter().map(|span| span.parent_span_id).collect();
    roots.sort_by_key(|id| id.to_bytes());
    roots.dedup();
    for root in roots {
        if !ids.contains(&root) {
            below(root, 0, spans, &mut lines);
        }
    }
    lines
}

/// A server on loopback that ends with the test.
#[cfg(feature = "axum")]
pub(crate) struct Server {
    pub(crate) address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

#[cfg(feature = "axum")]
impl Server {
    /// Serves a router over HTTP/1 and HTTP/2.
    pub(crate) async fn start(app: axum::Router) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has free ports");
        let address = listener.local_addr().expect("the socket is bound");
        let service = app.into_make_service_with_connect_info::<std::net::SocketAddr>();
        let task = tokio::spawn(async move {
            axum::serve(listener, service)
                .await
                .expect("the server runs");
        });
        Self { address, task }
    }
}

#[cfg(feature = "axum")]
impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends a request with an HTTP/1 client, or with an HTTP/2 client with prior knowledge.
#[cfg(feature = "axum")]
pub(crate) async fn send(
    version: http::Version,
    request: http::Request<axum::body::Body>,
) -> http::Response<axum::body::Bytes> {
    use http_body_util::BodyExt;
    use hyper_util::rt::TokioExecutor;

    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .http2_only(version == http::Version::HTTP_2)
        .build_http();
    let response = within_deadline("a response", client.request(request)).await;
    let (head, body) = response.expect("the server responds").into_parts();
    let body = body
        .collect()
        .await
        .expect("the body is complete")
        .to_bytes();
    http::Response::from_parts(head, body)
}
