//! The exemplars on the layers' metrics that a receiver gets.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use opentelemetry::context::FutureExt;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::exemplar::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, HistogramDataPoint};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_sdk::metrics::InMemoryMetricExporter;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::config::{
    ExemplarFilter, Exporter, HistogramAggregation, Protocol, Sampler, Temporality,
};
use tower_telemetry::layers::MetricSet;
use tower_telemetry::{
    ClientTelemetryLayer, Config, TelemetryGuard, TelemetryLayer, add_request_attributes,
};

use crate::export::layer;
use crate::support::receiver::{Fault, Received, Receiver, attributes_of};
use crate::support::{TRACE_ID, TRACEPARENT, eventually};

const NOT_SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

const SETS: [MetricSet; 3] = [
    MetricSet::Basic,
    MetricSet::Conventions,
    MetricSet::BodySizes,
];

const REQUESTS: &str = "http.requests";
const MILLISECONDS: &str = "http.duration";
const SECONDS: &str = "http.server.request.duration";
const SIZE: &str = "http.server.response.body.size";

const FILTERS: [ExemplarFilter; 3] = [
    ExemplarFilter::TraceBased,
    ExemplarFilter::AlwaysOn,
    ExemplarFilter::AlwaysOff,
];

const TEMPORALITIES: [Temporality; 2] = [Temporality::Cumulative, Temporality::Delta];

const PROTOCOLS: &[Protocol] = &[
    Protocol::Grpc,
    Protocol::HttpProtobuf,
    #[cfg(feature = "http-json")]
    Protocol::HttpJson,
];

fn config(receiver: &Receiver) -> Config {
    Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(receiver.endpoint())
        .with_sampler(Sampler::ParentBasedAlwaysOn)
}

/// Sends a request through the layer to a handler that returns a body of this size.
async fn send(layer: &TelemetryLayer, traceparent: &str, size: usize) {
    let service = layer.layer(service_fn(move |_: Request<()>| async move {
        let body = Full::new(Bytes::from(vec![b'x'; size]));
        Ok::<_, Infallible>(Response::new(body))
    }));
    let request = Request::get("/path").header("traceparent", traceparent);
    let request = request.body(()).expect("a valid request");
    let response = service
        .oneshot(request)
        .await
        .expect("the service cannot fail");
    response
        .into_body()
        .collect()
        .await
        .expect("the body is complete");
}

/// The parts of a point that these tests check.
#[derive(Debug)]
struct Point {
    attributes: BTreeMap<String, String>,
    start: u64,
    exemplars: Vec<Exemplar>,
    histogram: Option<HistogramDataPoint>,
}

/// Returns the points of a metric in the messages from number `first` on.
fn points(received: &Received, first: usize, name: &str) -> Vec<Point> {
    let messages = received.metrics.iter().skip(first);
    let resources = messages.flat_map(|message| &message.resource_metrics);
    let scopes = resources.flat_map(|resource| &resource.scope_metrics);
    let metrics = scopes.flat_map(|scope| &scope.metrics);
    let mut points = Vec::new();
    for metric in metrics.filter(|metric| metric.name == name) {
        match metric.data.as_ref().expect("the metric has data") {
            Data::Sum(data) => points.extend(data.data_points.iter().map(|point| Point {
                attributes: attributes_of(&point.attributes),
                start: point.start_time_unix_nano,
                exemplars: point.exemplars.clone(),
                histogram: None,
            })),
            Data::Histogram(data) => points.extend(data.data_points.iter().map(|point| Point {
                attributes: attributes_of(&point.attributes),
                start: point.start_time_unix_nano,
                exemplars: point.exemplars.clone(),
                histogram: Some(point.clone()),
            })),
            Data::ExponentialHistogram(data) => {
                points.extend(data.data_points.iter().map(|point| Point {
                    attributes: attributes_of(&point.attributes),
                    start: point.start_time_unix_nano,
                    exemplars: point.exemplars.clone(),
                    histogram: None,
                }));
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    points
}

fn exemplars(received: &Received, first: usize, name: &str) -> Vec<Exemplar> {
    let points = points(received, first, name);
    points.into_iter().flat_map(|one| one.exemplars).collect()
}

fn duration(span: &Span) -> Duration {
    Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano)
}

/// Returns the expected exemplar for a value that was measured for the request of `span`.
fn exemplar_of(span: &Span, value: Value) -> Exemplar {
    Exemplar {
        filtered_attributes: Vec::new(),
        time_unix_nano: span.end_time_unix_nano,
        span_id: span.span_id.clone(),
        trace_id: span.trace_id.clone(),
        value: Some(value),
    }
}

/// Rounds the values, because the last digit may change when JSON is read.
fn rounded(mut exemplars: Vec<Exemplar>) -> Vec<Exemplar> {
    for exemplar in &mut exemplars {
        if let Some(Value::AsDouble(value)) = &mut exemplar.value {
            *value = f64::from(*value as f32);
        }
    }
    exemplars
}

fn number(exemplar: &Exemplar) -> f64 {
    match exemplar.value.expect("the exemplar has a value") {
        Value::AsDouble(value) => value,
        Value::AsInt(value) => value as f64,
    }
}

async fn flush(telemetry: &TelemetryGuard) {
    let report = telemetry.force_flush().await;
    assert!(!report.timed_out && report.lost() == 0, "{report:?}");
}

#[tokio::test]
async fn the_filter_chooses_the_requests_that_are_exemplars_of_a_layer() {
    for filter in FILTERS {
        for temporality in TEMPORALITIES {
            for protocol in PROTOCOLS {
                let case = format!("{filter:?} {temporality:?} {protocol:?}");
                let receiver = Receiver::start();
                let config = config(&receiver).with_protocol(*protocol);
                let config = config.with_temporality(temporality);
                // `TraceBased` is the default.
                let config = match filter {
                    ExemplarFilter::TraceBased => config,
                    filter => config.with_exemplar_filter(filter),
                };
                let telemetry = config.build().expect("the configuration is valid");
                let layer = layer(&telemetry).with_metrics(SETS);

                send(&layer, TRACEPARENT, 7).await;
                flush(&telemetry).await;
                let received = receiver.received();
                let spans = received.spans();
                let [span] = &spans[..] else {
                    panic!("{case}: {spans:?}");
                };
                let seconds = duration(span).as_secs_f64();
                for (name, value) in [
                    (REQUESTS, Value::AsInt(1)),
                    (MILLISECONDS, Value::AsDouble(seconds * 1000.0)),
                    (SECONDS, Value::AsDouble(seconds)),
                    (SIZE, Value::AsInt(7)),
                ] {
                    let expected = match filter {
                        ExemplarFilter::AlwaysOff => Vec::new(),
                        _ => vec![exemplar_of(span, value)],
                    };
                    let found = exemplars(&received, 0, name);
                    assert_eq!(rounded(found), rounded(expected), "{case} {name}");
                }

                let before = received.metrics.len();
                send(&layer, NOT_SAMPLED, 7).await;
                flush(&telemetry).await;
                let received = receiver.received();
                assert_eq!(received.spans().len(), 1, "{case}");
                for name in [REQUESTS, MILLISECONDS, SECONDS, SIZE] {
                    let points = points(&received, before, name);
                    let [point] = &points[..] else {
                        panic!("{case} {name}: {points:?}");
                    };
                    let ids = point.exemplars.iter().map(|one| {
                        assert_eq!(one.span_id.len(), 8);
                        hex(&one.trace_id)
                    });
                    let expected: &[&str] = match filter {
                        ExemplarFilter::AlwaysOn => &[TRACE_ID],
                        _ => &[],
                    };
                    assert_eq!(ids.collect::<Vec<_>>(), expected, "{case} {name}");
                }

                // Each exemplar is exported once.
                let before = received.metrics.len();
                telemetry.shutdown().await;
                let received = receiver.received();
                for name in [REQUESTS, MILLISECONDS, SECONDS, SIZE] {
                    assert_eq!(exemplars(&received, before, name), [], "{case} {name}");
                }
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_histogram_has_the_latest_exemplar_of_each_bucket() {
    let sizes = [
        0, 1, 5, 6, 10, 11, 75, 76, 100, 250, 251, 1000, 7500, 10_000, 10_001, 50_000, 3, 0, 11_000,
    ];
    for temporality in TEMPORALITIES {
        for bounds in [
            None,
            Some(vec![]),
            Some(vec![5.0]),
            Some(vec![0.5, 10.0, 10_000.5]),
            Some((1..200).map(|n| f64::from(n) * 100.0).collect()),
        ] {
            let receiver = Receiver::start();
            let mut config = config(&receiver).with_temporality(temporality);
            if let Some(bounds) = &bounds {
                config = config.with_histogram_buckets(SIZE, bounds.clone());
            }
            let telemetry = config.build().expect("the configuration is valid");
            let layer = layer(&telemetry).with_metrics(SETS);
            for size in sizes {
                send(&layer, TRACEPARENT, size).await;
            }
            telemetry.shutdown().await;
            let received = receiver.received();
            let points = points(&received, 0, SIZE);
            let [point] = &points[..] else {
                panic!("{points:?}");
            };
            let histogram = point.histogram.as_ref().expect("the point is a histogram");
            let bucket_of = |value: f64| {
                let bounds = histogram.explicit_bounds.iter();
                // The 64th and all further buckets share one exemplar.
                bounds.filter(|bound| **bound < value).count().min(63)
            };
            let mut latest = BTreeMap::new();
            for size in sizes {
                latest.insert(bucket_of(size as f64), size);
            }
            let found = point.exemplars.iter().map(number);
            let found: BTreeMap<_, _> = found
                .map(|value| (bucket_of(value), value as usize))
                .collect();
            assert_eq!(found, latest, "{bounds:?}");
            assert_eq!(point.exemplars.len(), latest.len());
        }
    }
}

/// Checks the exemplars against the spans of their requests, and returns the number of exemplars.
fn check(received: &Received, buckets: bool) -> usize {
    let spans: BTreeMap<_, _> = received
        .spans()
        .into_iter()
        .map(|span| (span.span_id.clone(), span))
        .collect();
    let mut seen = BTreeSet::new();
    for (name, scale) in [(MILLISECONDS, 1000.0), (SECONDS, 1.0), (REQUESTS, 0.0)] {
        for point in points(received, 0, name) {
            let mut taken = BTreeSet::new();
            for exemplar in &point.exemplars {
                let span = spans.get(&exemplar.span_id).expect("the span was exported");
                let value = match scale {
                    0.0 => Value::AsInt(1),
                    scale => Value::AsDouble(duration(span).as_secs_f64() * scale),
                };
                assert_eq!(*exemplar, exemplar_of(span, value));
                assert!(exemplar.time_unix_nano >= point.start);
                assert!(
                    seen.insert((name, exemplar.span_id.clone())),
                    "a span has two exemplars on a metric"
                );
                let Some(histogram) = point.histogram.as_ref().filter(|_| buckets) else {
                    continue;
                };
                let bounds = histogram.explicit_bounds.iter();
                let bucket = bounds.filter(|bound| **bound < number(exemplar)).count();
                assert!(histogram.bucket_counts[bucket] > 0);
                assert!(taken.insert(bucket), "a bucket has two exemplars");
            }
        }
    }
    seen.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exemplars_match_their_spans_while_many_threads_record_and_a_reader_collects() {
    for temporality in TEMPORALITIES {
        for aggregation in [
            HistogramAggregation::ExplicitBuckets,
            HistogramAggregation::ExponentialBuckets,
        ] {
            let receiver = Receiver::start();
            let mut config = config(&receiver)
                .with_temporality(temporality)
                .with_histogram_aggregation(aggregation);
            let is_explicit = aggregation == HistogramAggregation::ExplicitBuckets;
            if is_explicit {
                // These buckets are short enough for requests that do little.
                let seconds = (0..20).map(|n| 1e-6 * f64::from(1 << n));
                config = config.with_histogram_buckets(SECONDS, seconds);
                let milliseconds = (0..20).map(|n| 1e-3 * f64::from(1 << n));
                config = config.with_histogram_buckets(MILLISECONDS, milliseconds);
            }
            let telemetry = config.build().expect("the configuration is valid");
            let layer = layer(&telemetry);
            let tasks: Vec<_> = (0..4)
                .map(|task| {
                    let layer = layer.clone();
                    tokio::spawn(async move {
                        for n in 0..150_u64 {
                            let service = layer.layer(service_fn(move |_: Request<()>| {
                                let start = Instant::now();
                                let work = Duration::from_nanos(997 * (n + task));
                                while start.elapsed() < work {
                                    std::hint::spin_loop();
                                }
                                let body = Response::new(Empty::<Bytes>::new());
                                async move { Ok::<_, Infallible>(body) }
                            }));
                            drop(service.oneshot(Request::new(())).await);
                        }
                    })
                })
                .collect();
            while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
                flush(&telemetry).await;
            }
            for task in tasks {
                task.await.expect("the task does not panic");
            }
            let report = telemetry.shutdown().await;
            assert_eq!(report.lost(), 0, "{report:?}");
            let received = receiver.received();
            assert_eq!(received.spans().len(), 600);
            let found = check(&received, is_explicit);
            assert!(found >= 6, "{temporality:?} {aggregation:?}: {found}");
        }
    }
}

#[tokio::test]
async fn client_requests_and_grpc_calls_are_exemplars_of_their_metrics() {
    for (flags, is_sampled) in [(1, true), (0, false)] {
        let receiver = Receiver::start();
        let telemetry = config(&receiver)
            .build()
            .expect("the configuration is valid");
        let meters = telemetry
            .meter_provider()
            .expect("metrics are enabled")
            .clone();
        let client = ClientTelemetryLayer::new()
            .with_tracer_provider(
                telemetry
                    .tracer_provider()
                    .expect("traces are enabled")
                    .clone(),
            )
            .with_meter_provider(meters)
            .with_metrics(SETS);
        let server = layer(&telemetry);
        let answer = || {
            service_fn(|_: Request<()>| async {
                let response = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "0");
                let response = response.body(Empty::<Bytes>::new());
                Ok::<_, Infallible>(response.expect("a valid response"))
            })
        };
        let current = SpanContext::new(
            TraceId::from(7),
            SpanId::from(8),
            TraceFlags::new(flags),
            true,
            TraceState::NONE,
        );
        let cx = Context::new().with_remote_span_context(current);
        for content_type in ["text/plain", "application/grpc"] {
            let request = || {
                Request::post("http://example.com/a.B/C")
                    .version(http::Version::HTTP_2)
                    .header("content-type", content_type)
                    .header("te", "trailers")
                    .header(
                        "traceparent",
                        format!("00-{TRACE_ID}-b7ad6b7169203331-0{flags}"),
                    )
                    .body(())
                    .expect("a valid request")
            };
            let sent = client.layer(answer()).oneshot(request());
            drop(
                sent.with_context(cx.clone())
                    .await
                    .expect("the service cannot fail"),
            );
            drop(server.layer(answer()).oneshot(request()).await);
        }
        telemetry.shutdown().await;
        let received = receiver.received();
        let spans = received.spans();
        assert_eq!(spans.len(), if is_sampled { 4 } else { 0 }, "{spans:?}");
        for (name, place) in [
            ("http.client.request.duration", 0),
            (SECONDS, 1),
            ("rpc.client.call.duration", 2),
            ("rpc.server.call.duration", 3),
        ] {
            let found = exemplars(&received, 0, name);
            let expected = spans.get(place).map(|span| {
                let seconds = duration(span).as_secs_f64();
                exemplar_of(span, Value::AsDouble(seconds))
            });
            assert_eq!(found, Vec::from_iter(expected), "{name}");
        }
        let sizes = exemplars(&received, 0, "http.client.response.body.size");
        assert_eq!(sizes.len(), usize::from(is_sampled));
    }
}

#[tokio::test]
async fn each_series_and_the_overflow_series_have_their_own_exemplars() {
    let receiver = Receiver::start();
    let telemetry = config(&receiver)
        .build()
        .expect("the configuration is valid");
    let service = layer(&telemetry).layer(service_fn(|request: Request<()>| async move {
        let number: i64 = request.uri().path()[1..]
            .parse()
            .expect("the path is a number");
        let attributes = [number / 32, number % 32].map(|part| part.to_string());
        let [high, low] = attributes;
        add_request_attributes([KeyValue::new("high", high), KeyValue::new("low", low)]);
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    // The path is no route, so all requests share one route.
    for number in 0..600 {
        let request = Request::get(format!("/{number}")).body(());
        let request = request.expect("a valid request");
        drop(
            service
                .clone()
                .oneshot(request)
                .await
                .expect("the service cannot fail"),
        );
    }
    telemetry.shutdown().await;
    let received = receiver.received();
    let path_of = |span: &Span| {
        let attributes = attributes_of(&span.attributes);
        attributes["url.path"].clone()
    };
    let spans = received.spans();
    let paths: BTreeMap<_, _> = spans
        .iter()
        .map(|span| (span.span_id.clone(), path_of(span)))
        .collect();
    let mut overflows = 0;
    for point in points(&received, 0, REQUESTS) {
        let [exemplar] = &point.exemplars[..] else {
            panic!("{point:?}");
        };
        let path = &paths[&exemplar.span_id];
        let part = |key| {
            point
                .attributes
                .get(key)
                .and_then(|text| text.parse::<i64>().ok())
        };
        match (part("high"), part("low")) {
            (Some(high), Some(low)) => assert_eq!(*path, format!("/{}", high * 32 + low)),
            _ => {
                assert!(point.attributes.contains_key("otel.metric.overflow"));
                // The exemplar is the latest request without room.
                assert_eq!(path, "/599");
                overflows += 1;
            }
        }
    }
    assert_eq!(overflows, 1);
}

#[tokio::test]
async fn an_exemplar_that_the_receiver_did_not_accept_is_sent_again() {
    let fault = Fault::Status(503, Some("0"));
    let receiver = Receiver::start_with(Fault::On("Metrics", Box::new(fault)));
    let telemetry = config(&receiver)
        .with_traces_exporters([])
        .with_logs_exporters([])
        .build()
        .expect("the configuration is valid");
    send(&layer(&telemetry), TRACEPARENT, 7).await;
    let repair = async {
        eventually("an attempt fails", || !receiver.arrivals().is_empty()).await;
        receiver.set_fault(Fault::None);
    };
    tokio::join!(telemetry.force_flush(), repair);
    telemetry.shutdown().await;
    let received = receiver.received();
    for name in [REQUESTS, MILLISECONDS, SECONDS] {
        assert_eq!(exemplars(&received, 0, name).len(), 1, "{name}");
    }
}

#[tokio::test]
async fn exporters_of_the_application_get_no_exemplars() {
    let receiver = Receiver::start();
    let exporter = InMemoryMetricExporter::default();
    let telemetry = config(&receiver)
        .with_metric_exporter(exporter.clone())
        .build()
        .expect("the configuration is valid");
    send(&layer(&telemetry), TRACEPARENT, 7).await;
    flush(&telemetry).await;
    let metrics = exporter
        .get_finished_metrics()
        .expect("the lock is not poisoned");
    let scopes = metrics.iter().flat_map(|metrics| metrics.scope_metrics());
    let mut points = 0;
    for metric in scopes.flat_map(|scope| scope.metrics()) {
        if let AggregatedMetrics::F64(MetricData::Histogram(data)) = metric.data() {
            for point in data.data_points() {
                points += 1;
                assert_eq!(point.exemplars().count(), 0);
            }
        }
    }
    assert_eq!(points, 2);
    assert_eq!(exemplars(&receiver.received(), 0, SECONDS).len(), 1);
}

#[cfg(feature = "opentelemetry-otlp")]
#[tokio::test]
async fn the_reference_exporter_sends_no_exemplars() {
    let receiver = Receiver::start();
    let config = config(&receiver).with_reference_exporter();
    let telemetry = config
        .with_exemplar_filter(ExemplarFilter::AlwaysOn)
        .build()
        .expect("the configuration is valid");
    send(&layer(&telemetry), TRACEPARENT, 7).await;
    telemetry.shutdown().await;
    let received = receiver.received();
    assert_eq!(points(&received, 0, REQUESTS).len(), 1);
    assert_eq!(exemplars(&received, 0, REQUESTS), []);
}
