//! Tests metric readers, views and buckets of an application.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::{
    Aggregation, InMemoryMetricExporter, Instrument, PeriodicReader, Stream,
};
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::config::HistogramAggregation;
use tower_telemetry::layers::MetricSet;
use tower_telemetry::stats::PartKind;
use tower_telemetry::{Config, TelemetryGuard, record_histogram_value};

use crate::export::layer;
use crate::parts::{part, to, to_none, work};
use crate::support::receiver::Receiver;

const LIBRARY: &str = "library.duration";
const OWN: &str = "own.duration";
const LAYER: &str = "http.server.request.duration";
const BASIC: &str = "http.duration";
const NAMES: [&str; 4] = [LIBRARY, OWN, LAYER, BASIC];

/// Records to histograms of the layer, of handler code and of a library.
async fn record(telemetry: &TelemetryGuard) {
    let meter = telemetry
        .meter_provider()
        .expect("metrics are enabled")
        .meter("library");
    let histogram = meter.f64_histogram(LIBRARY).with_boundaries(vec![7.0]);
    histogram.build().record(1.5, &[]);
    let layer = layer(telemetry).with_metrics([MetricSet::Basic, MetricSet::Conventions]);
    let service = layer.layer(service_fn(|_: Request<()>| async {
        record_histogram_value(OWN, "Values of a handler.", 1.5, []);
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    // The first request creates the series, and the second one records through bound instruments.
    for _ in 0..2 {
        let response = service.clone().oneshot(Request::new(())).await;
        drop(response.expect("the service cannot fail"));
    }
}

#[derive(Debug, PartialEq)]
enum Kept {
    Bounds(Vec<f64>),
    Exponential,
}

/// Returns the kind of a histogram, or `None` if it does not exist.
fn kept(metrics: &[ResourceMetrics], name: &str) -> Option<Kept> {
    let scopes = metrics.iter().flat_map(|metrics| metrics.scope_metrics());
    let mut metrics = scopes.flat_map(|scope| scope.metrics());
    let metric = metrics.find(|metric| metric.name() == name)?;
    match metric.data() {
        AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
            let point = histogram
                .data_points()
                .next()
                .expect("the histogram has a point");
            Some(Kept::Bounds(point.bounds().collect()))
        }
        AggregatedMetrics::F64(MetricData::ExponentialHistogram(_)) => Some(Kept::Exponential),
        other => panic!("{name}: {other:?}"),
    }
}

async fn collect(config: Config) -> Vec<ResourceMetrics> {
    let exporter = InMemoryMetricExporter::default();
    let telemetry = config
        .with_metric_exporter(exporter.clone())
        .build()
        .expect("the configuration is valid");
    record(&telemetry).await;
    assert_eq!(telemetry.force_flush().await.lost(), 0);
    exporter
        .get_finished_metrics()
        .expect("the lock is not poisoned")
}

#[tokio::test]
async fn the_buckets_of_any_histogram_can_be_set() {
    for name in NAMES {
        for aggregation in [
            HistogramAggregation::ExplicitBuckets,
            HistogramAggregation::ExponentialBuckets,
        ] {
            for bounds in [vec![], vec![1.0], vec![-1.0, 0.5, 2.0, 1e6]] {
                let config = to_none()
                    .with_histogram_aggregation(aggregation)
                    .with_histogram_buckets(name, [3.0, 4.0])
                    .with_histogram_buckets(&name.to_uppercase(), bounds.clone());
                let metrics = collect(config).await;
                let case = format!("{name} {aggregation:?} {bounds:?}");
                assert_eq!(kept(&metrics, name), Some(Kept::Bounds(bounds)), "{case}");
                for other in NAMES.into_iter().filter(|other| *other != name) {
                    let is_exponential = kept(&metrics, other) == Some(Kept::Exponential);
                    let expected = aggregation == HistogramAggregation::ExponentialBuckets;
                    assert_eq!(is_exponential, expected, "{other} beside {case}");
                }
            }
        }
    }
}

#[tokio::test]
async fn invalid_bucket_bounds_are_ignored_and_warned_about() {
    for bounds in [
        vec![1.0, 1.0],
        vec![2.0, 1.0],
        vec![f64::NAN],
        vec![1.0, f64::NAN],
        vec![f64::NEG_INFINITY, 0.0],
        vec![0.0, f64::INFINITY],
    ] {
        let config = to_none().with_histogram_buckets(OWN, bounds.clone());
        let warning = config.warnings()[0].to_string();
        let start = "Config::with_histogram_buckets=\"own.duration: [";
        assert!(warning.starts_with(start), "{warning}");
        let end = "are not finite bounds in ascending order; they have no effect";
        assert!(warning.ends_with(end), "{warning}");
        let metrics = collect(config).await;
        let expected = kept(&collect(to_none()).await, OWN);
        assert_eq!(kept(&metrics, OWN), expected, "{bounds:?}");
    }
}

#[tokio::test]
async fn a_view_has_priority_over_configured_buckets_and_affects_only_its_instrument() {
    let view = |name: &'static str, aggregation: Aggregation| {
        move |instrument: &Instrument| {
            let stream = Stream::builder().with_aggregation(aggregation.clone());
            (instrument.name() == name).then(|| stream.build().ok())?
        }
    };
    for name in NAMES {
        let buckets = Aggregation::ExplicitBucketHistogram {
            boundaries: vec![0.25],
            record_min_max: true,
        };
        let config = to_none()
            .with_histogram_buckets(name, [3.0])
            .with_view(view(name, buckets));
        let metrics = collect(config).await;
        assert_eq!(kept(&metrics, name), Some(Kept::Bounds(vec![0.25])));
        let scopes = metrics.iter().flat_map(|metrics| metrics.scope_metrics());
        let all = scopes.flat_map(|scope| scope.metrics());
        assert_eq!(all.filter(|metric| metric.name() == name).count(), 1);

        let dropped = collect(to_none().with_view(view(name, Aggregation::Drop))).await;
        assert_eq!(kept(&dropped, name), None);
        for other in NAMES.into_iter().filter(|other| *other != name) {
            assert!(kept(&dropped, other).is_some(), "{other}");
        }
    }
}

#[tokio::test]
async fn a_prometheus_reader_serves_request_metrics_with_configured_buckets() {
    let receiver = Receiver::start();
    let registry = prometheus::Registry::new();
    let reader = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .build()
        .expect("the exporter can be built");
    let telemetry = to(&receiver)
        .with_metric_reader(reader)
        .with_histogram_buckets(LAYER, [0.5, 20.0])
        .build()
        .expect("the configuration is valid");
    work(&telemetry, 3).await;
    let scrape = || {
        let encoder = prometheus::TextEncoder::new();
        encoder
            .encode_to_string(&registry.gather())
            .expect("the text is UTF-8")
    };
    let text = scrape();
    let buckets: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("http_server_request_duration_seconds_bucket"))
        .map(|line| {
            let (_, rest) = line.split_once("le=\"").expect("the bucket has a bound");
            let (bound, _) = rest.split_once('"').expect("the text is closed");
            (bound.to_owned(), line.rsplit(' ').next().map(str::to_owned))
        })
        .collect();
    let three = Some("3".to_owned());
    let expected = ["0.5", "20", "+Inf"].map(|bound| (bound.to_owned(), three.clone()));
    assert_eq!(buckets, expected, "{text}");
    let report = telemetry.shutdown().await;
    assert_eq!((report.lost(), report.timed_out), (0, false), "{report}");
    assert_eq!(part(&report.stats, PartKind::MetricReader).counts, None);
    let named = "metric reader \"PrometheusExporter\": not counted";
    assert!(report.to_string().contains(named), "{report}");
    assert!(receiver.received().metric(LAYER).is_some());
}

#[tokio::test]
async fn a_periodic_reader_exports_on_flush_and_on_shutdown() {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).build();
    let telemetry = to_none()
        .with_metric_reader(reader)
        .build()
        .expect("the configuration is valid");
    record(&telemetry).await;
    let exports = || {
        exporter
            .get_finished_metrics()
            .expect("the lock is not poisoned")
            .len()
    };
    telemetry.force_flush().await;
    assert_eq!(exports(), 1);
    let provider = telemetry
        .meter_provider()
        .expect("metrics are enabled")
        .clone();
    let flush = tokio::task::spawn_blocking(move || provider.force_flush());
    flush
        .await
        .expect("the task does not panic")
        .expect("the flush succeeds");
    assert_eq!(exports(), 2);
    let provider = Arc::new(
        telemetry
            .meter_provider()
            .expect("metrics are enabled")
            .clone(),
    );
    let report = telemetry.shutdown().await;
    assert!(!report.timed_out, "{report}");
    assert!(provider.force_flush().is_err());
}
