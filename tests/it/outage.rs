//! Tests outages of the receiver: nothing is lost while the queue has room, and losses are counted.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use opentelemetry::trace::{Tracer, TracerProvider};
use tower_telemetry::{
    Config, TelemetryGuard,
    config::{Batch, Exporter, Protocol, Temporality},
    stats::Failure,
};

use crate::support::proxy::{Mode, Proxy};
use crate::support::receiver::{Fault, Receiver, attributes_of};
use crate::support::{DEADLINE, eventually};

const PROTOCOLS: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];

fn config(endpoint: String, protocol: Protocol) -> Config {
    Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(endpoint)
        .with_protocol(protocol)
        .with_shutdown_timeout(DEADLINE)
}

fn batch() -> Batch {
    Batch::default()
        .with_schedule_delay(Duration::from_millis(5))
        .with_max_queue_size(64)
        .with_max_export_batch_size(16)
}

/// Records spans that are named by their numbers.
fn record(telemetry: &TelemetryGuard, numbers: impl IntoIterator<Item = usize>) {
    let provider = telemetry.tracer_provider().expect("traces are enabled");
    let tracer = provider.tracer("test");
    for number in numbers {
        drop(tracer.start(number.to_string()));
    }
}

fn numbers(receiver: &Receiver) -> HashSet<usize> {
    let spans = receiver.received().spans();
    spans
        .iter()
        .map(|span| span.name.parse().expect("the text is a number"))
        .collect()
}

#[tokio::test]
async fn a_receiver_that_restarts_repeatedly_loses_nothing() {
    const RESTARTS: usize = 5;

    for (protocol, pause) in [
        (Protocol::Grpc, Duration::from_millis(60)),
        (Protocol::Grpc, Duration::from_millis(3)),
        (Protocol::HttpProtobuf, Duration::from_millis(60)),
        (Protocol::HttpProtobuf, Duration::from_millis(3)),
    ] {
        let receiver = Receiver::start();
        let proxy = Proxy::start(receiver.address, Mode::Pass);
        let delay = Duration::from_millis(20);
        let telemetry = config(format!("http://{}", proxy.address), protocol)
            .with_span_batch(Batch::default().with_schedule_delay(delay))
            .build()
            .expect("the configuration is valid");
        let mut recorded = 0;
        for mode in [Mode::Refuse, Mode::Pass].repeat(RESTARTS) {
            proxy.set(mode);
            let until = tokio::time::Instant::now() + Duration::from_millis(300);
            while tokio::time::Instant::now() < until {
                record(&telemetry, [recorded]);
                recorded += 1;
                tokio::time::sleep(pause).await;
            }
            let stats = telemetry.stats().traces;
            assert_eq!((stats.failed, stats.dropped), (0, 0), "{stats:?}");
        }
        let report = telemetry.shutdown().await;
        assert_eq!(report.lost(), 0, "{report:?}");
        assert_eq!(report.stats.traces.exported, recorded as u64);
        assert_eq!(numbers(&receiver), (0..recorded).collect());
    }
}

#[tokio::test]
async fn an_outage_that_fills_the_queue_drops_the_oldest_spans_counts_each_and_recovers() {
    const COUNT: usize = 1000;

    for protocol in PROTOCOLS {
        let receiver = Receiver::start();
        let proxy = Proxy::start(receiver.address, Mode::Refuse);
        let telemetry = config(format!("http://{}", proxy.address), protocol)
            .with_span_batch(batch())
            .build()
            .expect("the configuration is valid");
        for number in 0..COUNT {
            record(&telemetry, [number]);
            let stats = telemetry.stats().traces;
            // A batch that was dropped still counts as waiting until its attempt ends.
            assert!(stats.waiting <= 64 + 16, "{stats:?}");
            if number % 16 == 0 {
                // The pause puts the oldest batch into its backoff before its place is needed.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        eventually("the last dropped batch is counted", || {
            telemetry.stats().traces.waiting <= 64
        })
        .await;
        let stats = telemetry.stats().traces;
        assert_eq!((stats.accepted, stats.failed), (COUNT as u64, 0));
        assert_eq!(stats.dropped + stats.waiting, stats.accepted);
        assert_eq!(stats.last_failure, Some(Failure::Refused));
        assert!(stats.waiting > 64 / 2, "{stats:?}");
        proxy.set(Mode::Pass);
        eventually("export recovers", || telemetry.stats().traces.waiting == 0).await;
        let after = telemetry.stats().traces;
        assert_eq!((after.exported, after.failed), (stats.waiting, 0));
        let numbers = numbers(&receiver);
        assert_eq!(numbers.len() as u64, after.exported);
        // A span that arrives during an attempt is dropped itself, even if it is new.
        let newest = numbers.iter().max();
        assert!(
            newest >= Some(&(COUNT - 64)),
            "the newest spans are kept: {newest:?}"
        );
        assert!(!numbers.contains(&0), "the oldest spans are dropped");
    }
}

#[tokio::test]
async fn a_message_past_its_maximum_age_is_dropped() {
    let proxy = Proxy::start(
        "127.0.0.1:1".parse().expect("a valid address"),
        Mode::Refuse,
    );
    let telemetry = config(format!("http://{}", proxy.address), Protocol::Grpc)
        .with_span_batch(batch())
        .with_max_retry_age(Duration::from_millis(100))
        .build()
        .expect("the configuration is valid");
    record(&telemetry, 0..5);
    eventually("the message is dropped", || {
        let stats = telemetry.stats().traces;
        (stats.dropped, stats.waiting) == (5, 0)
    })
    .await;
    assert_eq!(
        telemetry.stats().traces.last_failure,
        Some(Failure::Refused)
    );
}

#[tokio::test]
async fn a_flush_ends_at_its_deadline_and_keeps_unsent_spans() {
    let receiver = Receiver::start_with(Fault::Status(503, None));
    let telemetry = config(receiver.endpoint(), Protocol::HttpProtobuf)
        .with_shutdown_timeout(Duration::from_millis(200))
        .build()
        .expect("the configuration is valid");
    record(&telemetry, 0..5);
    let report = telemetry.force_flush().await;
    assert!(report.timed_out);
    assert_eq!((report.stats.traces.waiting, report.lost()), (5, 0));
    receiver.set_fault(Fault::None);
    eventually("the spans are sent again", || {
        telemetry.stats().traces.exported == 5
    })
    .await;
}

/// Returns the sum of all points of a counter.
fn sum(receiver: &Receiver, name: &str) -> i64 {
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;

    let received = receiver.received();
    let resources = received
        .metrics
        .iter()
        .flat_map(|one| &one.resource_metrics);
    let scopes = resources.flat_map(|resource| &resource.scope_metrics);
    let metrics = scopes.flat_map(|scope| &scope.metrics);
    let sums = metrics.filter(|metric| metric.name == name).map(|metric| {
        let Some(Data::Sum(sum)) = &metric.data else {
            panic!("the metric is a counter");
        };
        let points = sum.data_points.iter();
        let values = points.map(|point| match point.value {
            Some(Value::AsInt(value)) => value,
            other => panic!("{other:?}"),
        });
        values.sum::<i64>()
    });
    sums.sum()
}

#[tokio::test]
async fn delta_windows_are_resent_only_if_the_receiver_certainly_did_not_accept_them() {
    use opentelemetry::metrics::MeterProvider;

    for (fault, lost) in [
        (Fault::Status(503, None), false),
        (Fault::Status(429, None), false),
        // The receiver behind a gateway may have accepted the message.
        (Fault::Status(504, None), true),
        (Fault::Endless, true),
    ] {
        let receiver = Receiver::start();
        let telemetry = config(receiver.endpoint(), Protocol::HttpProtobuf)
            .with_temporality(Temporality::Delta)
            .with_metric_interval(Duration::from_millis(20))
            .build()
            .expect("the configuration is valid");
        let provider = telemetry.meter_provider().expect("metrics are enabled");
        let counter = provider.meter("test").u64_counter("count").build();
        counter.add(1, &[]);
        eventually("the first window arrives", || sum(&receiver, "count") == 1).await;
        receiver.set_fault(fault.clone());
        counter.add(10, &[]);
        eventually("an export fails", || {
            telemetry.stats().metrics.last_failure.is_some()
        })
        .await;
        receiver.set_fault(Fault::None);
        counter.add(100, &[]);
        let report = telemetry.shutdown().await;
        assert_eq!(report.lost() > 0, lost, "{fault:?}: {report:?}");
        let expected = if lost { 101 } else { 111 };
        assert_eq!(sum(&receiver, "count"), expected, "{fault:?}");
    }
}

#[tokio::test]
async fn cumulative_totals_that_failed_to_export_are_replaced_by_newer_ones() {
    use opentelemetry::metrics::MeterProvider;

    let receiver = Receiver::start_with(Fault::Status(503, None));
    let telemetry = config(receiver.endpoint(), Protocol::HttpProtobuf)
        .with_metric_interval(Duration::from_millis(20))
        .build()
        .expect("the configuration is valid");
    let provider = telemetry.meter_provider().expect("metrics are enabled");
    let counter = provider.meter("test").u64_counter("count").build();
    counter.add(1, &[]);
    eventually("the export is retried", || receiver.arrivals().len() > 2).await;
    counter.add(10, &[]);
    receiver.set_fault(Fault::None);
    let report = telemetry.shutdown().await;
    assert_eq!(report.lost(), 0, "{report:?}");
    let metric = receiver
        .received()
        .metric("count")
        .expect("the counter was sent");
    assert!(format!("{metric:?}").contains("AsInt(11)"), "{metric:?}");
}

#[tokio::test]
async fn thousands_of_concurrent_flushes_need_no_threads_of_their_own() {
    const COUNT: usize = 3000;

    let proxy = Proxy::start("127.0.0.1:1".parse().expect("a valid address"), Mode::Mute);
    let telemetry = config(format!("http://{}", proxy.address), Protocol::Grpc)
        .with_shutdown_timeout(Duration::from_millis(500))
        .build()
        .expect("the configuration is valid");
    record(&telemetry, 0..1);
    let telemetry = std::sync::Arc::new(telemetry);
    let mut flushes = tokio::task::JoinSet::new();
    for _ in 0..COUNT {
        let telemetry = telemetry.clone();
        flushes.spawn(async move { telemetry.force_flush().await });
    }
    // This lets each flush be polled once.
    tokio::task::yield_now().await;
    #[cfg(target_os = "linux")]
    {
        let threads = std::fs::read_dir("/proc/self/task").expect("/proc is readable");
        assert!(threads.count() < COUNT / 2);
    }
    for report in flushes.join_all().await {
        assert!(report.timed_out);
    }
}

/// Returns the points of all metrics about the export, by name and `error.type`.
fn self_metrics(receiver: &Receiver) -> BTreeMap<(String, String), i64> {
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;

    let received = receiver.received();
    let last = received.metrics.last().expect("metrics were exported");
    let scopes = last
        .resource_metrics
        .iter()
        .flat_map(|one| &one.scope_metrics);
    let metrics = scopes.flat_map(|scope| &scope.metrics);
    let metrics = metrics.filter(|metric| metric.name.starts_with("otel.sdk."));
    let points = metrics.flat_map(|metric| {
        let Some(Data::Sum(sum)) = &metric.data else {
            panic!("the metric is a sum");
        };
        sum.data_points.iter().map(|point| {
            let mut found = attributes_of(&point.attributes);
            let is_of_component = metric.name != "otel.sdk.span.live";
            assert_eq!(found.contains_key("otel.component.name"), is_of_component);
            let error = found.remove("error.type").unwrap_or_default();
            let Some(Value::AsInt(value)) = point.value else {
                panic!("{point:?}");
            };
            ((metric.name.clone(), error), value)
        })
    });
    points.collect()
}

#[tokio::test]
async fn export_metrics_equal_the_counts_and_are_recorded_only_if_enabled() {
    let receiver = Receiver::start();
    let telemetry = config(receiver.endpoint(), Protocol::HttpProtobuf)
        .with_span_batch(batch())
        .with_self_metrics(true)
        .build()
        .expect("the configuration is valid");
    record(&telemetry, 0..5);
    let tracer = telemetry
        .tracer_provider()
        .expect("traces are enabled")
        .tracer("test");
    let open = [tracer.start("open"), tracer.start("open")];
    telemetry.force_flush().await;
    let live = ("otel.sdk.span.live".to_owned(), String::new());
    assert_eq!(self_metrics(&receiver)[&live], 2);
    for mut span in open {
        opentelemetry::trace::Span::end(&mut span);
    }
    telemetry.force_flush().await;
    assert_eq!(self_metrics(&receiver)[&live], 0);
    receiver.set_fault(Fault::On("traces", Box::new(Fault::Status(400, None))));
    record(&telemetry, 5..8);
    telemetry.force_flush().await;
    receiver.set_fault(Fault::None);
    telemetry.force_flush().await;
    let found = self_metrics(&receiver);
    let stats = telemetry.stats();
    let get = |name: &str, error: &str| {
        let value = found.get(&(format!("otel.sdk.{name}"), error.to_owned()));
        *value.unwrap_or_else(|| panic!("{name} {error}: {found:#?}")) as u64
    };
    assert_eq!(get("exporter.span.exported", ""), stats.traces.exported);
    assert_eq!(get("exporter.span.exported", "400"), stats.traces.failed);
    assert_eq!((stats.traces.exported, stats.traces.failed), (7, 3));
    assert_eq!(get("exporter.span.inflight", ""), 0);
    assert_eq!(get("processor.span.queue.size", ""), 0);
    assert_eq!(get("processor.span.queue.capacity", ""), 64);
    assert_eq!(get("processor.span.processed", ""), 10);
    assert_eq!(get("processor.span.processed", "queue_full"), 0);
    // Metrics are collected before their own export, so they do not include it.
    let points = get("exporter.metric_data_point.exported", "");
    assert!(points > 0 && points < stats.metrics.exported);
    #[cfg(feature = "logs")]
    assert_eq!(get("exporter.log.exported", ""), 0);

    let receiver = Receiver::start();
    let telemetry = config(receiver.endpoint(), Protocol::HttpProtobuf);
    let telemetry = telemetry.build().expect("the configuration is valid");
    let meters = telemetry.meter_provider().expect("metrics are enabled");
    let meter = opentelemetry::metrics::MeterProvider::meter(meters, "test");
    meter.u64_counter("count").build().add(1, &[]);
    telemetry.shutdown().await;
    assert!(self_metrics(&receiver).is_empty());
}
