//! The series of request metrics: requests share the right series, and no request is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use opentelemetry::KeyValue;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider, Stream, Temporality,
};
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{TelemetryLayer, add_request_attributes, attributes, increment_counter};

use crate::support::reader::Reader;
use crate::support::{TestTelemetry, Value, block_on, get, send_through, span_attributes};

/// Sums the counts of a metric by the values of `http.route`.
fn counts(collected: &ResourceMetrics, metric: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let mut add = |attributes: Vec<&KeyValue>, count: u64| {
        let mut attributes = attributes.into_iter();
        let route = attributes.find(|one| one.key.as_str() == "http.route");
        let route = route.map_or(String::new(), |route| route.value.to_string());
        *counts.entry(route).or_default() += count;
    };
    let scopes = collected.scope_metrics();
    for metric in scopes
        .flat_map(|scope| scope.metrics())
        .filter(|one| one.name() == metric)
    {
        match metric.data() {
            AggregatedMetrics::U64(MetricData::Sum(sum)) => sum
                .data_points()
                .for_each(|point| add(point.attributes().collect(), point.value())),
            AggregatedMetrics::F64(MetricData::Histogram(histogram)) => histogram
                .data_points()
                .for_each(|point| add(point.attributes().collect(), point.count())),
            other => panic!("{other:?}"),
        }
    }
    counts
}

/// Returns a layer that uses the path as the route.
fn by_path(layer: TelemetryLayer) -> TelemetryLayer {
    layer.with_route(|request| Some(request.uri.path().to_owned().into()))
}

const METRICS: [&str; 3] = [
    "http.requests",
    "http.duration",
    "http.server.request.duration",
];

#[tokio::test]
async fn attributes_of_hooks_and_handlers_in_any_order_are_one_series() {
    const ORDERS: [[usize; 3]; 6] = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    let attribute = |n: usize| match n {
        0 => KeyValue::new("app.a", "x"),
        1 => KeyValue::new("app.b", 7),
        _ => KeyValue::new("app.c", true),
    };
    let telemetry = TestTelemetry::new();
    let service = service_fn(move |request: Request<()>| async move {
        let order = request.extensions().get::<Vec<usize>>().cloned();
        for n in order.into_iter().flatten() {
            add_request_attributes([attribute(n)]);
        }
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let layer = telemetry
        .layer()
        .with_request_attributes(move |request, attributes| {
            let order = request.extensions.get::<[usize; 2]>();
            for n in order.into_iter().flatten() {
                attributes.add_to_metrics(attribute(*n));
            }
        });
    let service = layer.layer(service);
    for order in ORDERS {
        // The handler adds all attributes; or the hook adds two and the handler adds one.
        for of_hook in [None, Some([order[0], order[1]])] {
            let mut request = get("/a").body(()).expect("a valid request");
            let of_handler = match of_hook {
                Some(of_hook) => {
                    request.extensions_mut().insert(of_hook);
                    vec![order[2]]
                }
                None => order.to_vec(),
            };
            request.extensions_mut().insert(of_handler);
            let response = service.clone().oneshot(request).await;
            drop(response.expect("the service cannot fail"));
        }
    }
    assert_eq!(telemetry.point("http.requests").value, Value::Count(12));
    for metric in ["http.duration", "http.server.request.duration"] {
        let point = telemetry.point(metric);
        assert_eq!(point.value.histogram().0, 12, "{metric}");
        let extra: Vec<_> = ["app.a", "app.b", "app.c"]
            .map(|key| point.attributes[key].clone())
            .into();
        assert_eq!(extra, ["x", "7", "true"], "{metric}");
    }
}

/// Returns a provider with a limit of `series` per instrument, and its two readers.
fn readers(series: usize) -> (SdkMeterProvider, [Reader; 2]) {
    let readers = [Temporality::Cumulative, Temporality::Delta].map(Reader::new);
    let view = move |_: &_| {
        Stream::builder()
            .with_cardinality_limit(series)
            .build()
            .ok()
    };
    let [cumulative, delta] = readers.clone();
    let provider = SdkMeterProvider::builder()
        .with_reader(cumulative)
        .with_reader(delta)
        .with_view(view);
    (provider.build(), readers)
}

#[tokio::test]
async fn each_of_many_routes_has_its_name_and_all_requests_are_counted() {
    const ROUTES: usize = 3_000;
    for limit in [2_000, 10_000] {
        let telemetry = TestTelemetry::new();
        let (meters, readers) = readers(limit);
        let layer = by_path(telemetry.layer().with_meter_provider(meters));
        for n in (0..ROUTES).chain(0..ROUTES) {
            send_through(&layer, get(&format!("/{n}"))).await;
        }
        let routes: BTreeSet<_> = telemetry
            .spans()
            .iter()
            .map(|span| {
                let route = span_attributes(span)
                    .remove("http.route")
                    .expect("the span has a route");
                assert_eq!(span.name, format!("GET {route}"));
                route
            })
            .collect();
        assert_eq!(routes.len(), ROUTES);
        for reader in &readers {
            let collected = reader.collected();
            for metric in METRICS {
                let counts = counts(&collected, metric);
                let sum: u64 = counts.values().sum();
                assert_eq!(sum, 2 * ROUTES as u64, "{metric}, {limit}");
                if limit > ROUTES {
                    assert!(counts.values().all(|count| *count == 2), "{metric}");
                    assert_eq!(counts.len(), ROUTES, "{metric}");
                }
            }
        }
    }
}

#[tokio::test]
async fn requests_of_routes_beyond_the_limit_are_counted_together() {
    const MAX_KEPT: usize = 16_384;
    const ROUTES: usize = MAX_KEPT + 500;
    let (meters, [reader, _]) = readers(10_000);
    let layer = by_path(TelemetryLayer::new().with_meter_provider(meters));
    for n in 0..ROUTES {
        send_through(&layer, get(&format!("/{n}"))).await;
    }
    let collected = reader.collected();
    for metric in METRICS {
        let counts = counts(&collected, metric);
        assert_eq!(counts.values().sum::<u64>(), ROUTES as u64, "{metric}");
        // All routes without room share one more series.
        assert!(counts.len() <= 10_000 + 1, "{metric}");
        assert!(counts[""] >= 500, "{metric}");
    }
}

#[tokio::test]
async fn a_request_of_a_new_series_is_in_the_next_collection() {
    let (meters, readers) = readers(2_000);
    let layer = by_path(TelemetryLayer::new().with_meter_provider(meters.clone()));
    for n in 0..20 {
        // The series of the first request is new. Except for `n` = 0, a collection has just ended.
        send_through(&layer, get(&format!("/{n}"))).await;
        send_through(&layer, get(&format!("/{n}"))).await;
        send_through(&layer, get("/0")).await;
        for reader in &readers {
            let counts = counts(&reader.collected(), "http.requests");
            let expected = if n == 0 { 3 } else { 2 };
            assert_eq!(counts[&format!("/{n}")], expected);
        }
    }
    // The layer is dropped before the collection.
    send_through(&layer, get("/last")).await;
    drop(layer);
    for reader in &readers {
        let collected = reader.collected();
        assert_eq!(
            METRICS.map(|metric| counts(&collected, metric)["/last"]),
            [1; 3]
        );
    }
}

#[tokio::test]
async fn a_counter_of_handler_code_has_a_point_only_if_it_has_changed() {
    let reader = Reader::new(Temporality::Delta);
    let meters = SdkMeterProvider::builder().with_reader(reader.clone());
    let layer = TelemetryLayer::new().with_meter_provider(meters.build());
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        for _ in 0..3 {
            let path = request.uri().path().to_owned();
            increment_counter("app.calls", "", attributes! { "http.route" => path });
        }
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    for paths in [&["/a"][..], &["/a", "/b"], &[], &["/b", "/b"], &[]] {
        let mut expected = BTreeMap::new();
        for path in paths {
            let request = get(path).body(()).expect("a valid request");
            let response = service.clone().oneshot(request).await;
            assert!(response.is_ok_and(|response| response.status().is_success()));
            *expected.entry((*path).to_owned()).or_default() += 3;
        }
        assert_eq!(counts(&reader.collected(), "app.calls"), expected);
    }
}

#[tokio::test]
async fn a_flush_and_a_shutdown_export_requests_of_new_series() {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).with_interval(Duration::from_secs(3600));
    let meters = SdkMeterProvider::builder()
        .with_reader(reader.build())
        .build();
    let layer = by_path(TelemetryLayer::new().with_meter_provider(meters.clone()));
    let exported = |route: &str| {
        let all = exporter
            .get_finished_metrics()
            .expect("the lock is not poisoned");
        let last = all.last().expect("there was an export");
        METRICS.map(|metric| counts(last, metric).get(route).copied())
    };
    for flush in ["/1", "/2", "/3"] {
        send_through(&layer, get(flush)).await;
        meters.force_flush().expect("the meter provider is running");
        assert_eq!(exported(flush), [Some(1); 3]);
    }
    send_through(&layer, get("/last")).await;
    meters.shutdown().expect("the meter provider is running");
    assert_eq!(exported("/last"), [Some(1); 3]);
}

#[test]
fn every_first_request_is_counted_once_while_two_readers_collect() {
    const THREADS: usize = 4;
    const ROUTES: usize = 300;
    let (meters, [cumulative, delta]) = readers(10_000);
    let layer = by_path(TelemetryLayer::new().with_meter_provider(meters));
    let ended = AtomicBool::new(false);
    let mut of_delta = BTreeMap::<String, u64>::new();
    std::thread::scope(|scope| {
        let readers = [
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    cumulative.collected();
                }
                BTreeMap::new()
            }),
            scope.spawn(|| {
                let mut sums = BTreeMap::<String, u64>::new();
                while !ended.load(Ordering::Relaxed) {
                    for (route, count) in counts(&delta.collected(), METRICS[0]) {
                        *sums.entry(route).or_default() += count;
                    }
                }
                sums
            }),
        ];
        let requests: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    for n in 0..ROUTES {
                        block_on(send_through(&layer, get(&format!("/{n}"))));
                    }
                })
            })
            .collect();
        for thread in requests {
            thread.join().expect("the thread does not panic");
        }
        ended.store(true, Ordering::Relaxed);
        for reader in readers {
            of_delta.extend(reader.join().expect("the thread does not panic"));
        }
    });
    for (route, count) in counts(&delta.collected(), METRICS[0]) {
        *of_delta.entry(route).or_default() += count;
    }
    let expected = BTreeMap::from_iter((0..ROUTES).map(|n| (format!("/{n}"), THREADS as u64)));
    assert_eq!(of_delta, expected);
    let collected = cumulative.collected();
    for metric in METRICS {
        assert_eq!(counts(&collected, metric), expected, "{metric}");
    }
}
