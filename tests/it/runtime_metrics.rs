//! Tests metrics about the process and tokio's runtimes.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use tower_telemetry::{Config, config::Exporter};

use crate::export::config;
use crate::support::receiver::{Received, Receiver, attributes_of};

/// Returns the points of a metric: the attributes as text, and the value.
fn points(received: &Received, name: &str) -> Vec<(String, f64)> {
    let metric = received
        .metric(name)
        .unwrap_or_else(|| panic!("{name} is missing"));
    let points = match metric.data.expect("the metric has data") {
        Data::Sum(sum) => sum.data_points,
        Data::Gauge(gauge) => gauge.data_points,
        other => panic!("{other:?}"),
    };
    let text = |point: &opentelemetry_proto::tonic::metrics::v1::NumberDataPoint| {
        let attributes = attributes_of(&point.attributes);
        let words: Vec<_> = attributes
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        words.join(" ")
    };
    let mut points: Vec<_> = points
        .iter()
        .map(|point| match point.value.expect("the point has a value") {
            Value::AsInt(value) => (text(point), value as f64),
            Value::AsDouble(value) => (text(point), value),
        })
        .collect();
    points.sort_by(|one, other| one.0.cmp(&other.0));
    points
}

async fn received(with: impl FnOnce(Config) -> Config, variables: &[(&str, &str)]) -> Received {
    let receiver = Receiver::start();
    let config = config(variables)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(receiver.endpoint());
    let telemetry = with(config).build().expect("the configuration is valid");
    telemetry.force_flush().await;
    telemetry.shutdown().await;
    receiver.received()
}

fn names(points: &[(String, f64)]) -> Vec<&str> {
    points.iter().map(|(attributes, _)| &**attributes).collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn process_metrics_follow_the_conventions() {
    let _file = std::fs::File::open("/proc/self/stat").expect("the file is readable");
    let received = received(|config| config, &[("TELEMETRY_RUNTIME_METRICS", "true")]).await;
    for (name, unit, attributes, at_least) in [
        (
            "process.cpu.time",
            "s",
            &["cpu.mode=system", "cpu.mode=user"][..],
            0.0,
        ),
        ("process.memory.usage", "By", &[""], 1e6),
        ("process.memory.virtual", "By", &[""], 1e6),
        ("process.thread.count", "{thread}", &[""], 2.0),
        (
            "process.unix.file_descriptor.count",
            "{file_descriptor}",
            &[""],
            4.0,
        ),
        (
            "process.context_switches",
            "{context_switch}",
            &[
                "process.context_switch.type=involuntary",
                "process.context_switch.type=voluntary",
            ],
            0.0,
        ),
        (
            "process.disk.io",
            "By",
            &["disk.io.direction=read", "disk.io.direction=write"],
            0.0,
        ),
        ("process.uptime", "s", &[""], 0.0),
    ] {
        let metric = received.metric(name).expect("the metric was exported");
        assert_eq!(metric.unit, unit, "{name}");
        let points = points(&received, name);
        assert_eq!(names(&points), attributes, "{name}");
        for (attributes, value) in &points {
            assert!(*value >= at_least, "{name} {attributes}: {value}");
        }
    }
    let uptime = points(&received, "process.uptime")[0].1;
    assert!(uptime < 86_400.0, "{uptime}");
    let resident = points(&received, "process.memory.usage")[0].1;
    assert!(resident <= points(&received, "process.memory.virtual")[0].1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_current_runtime_is_measured_unless_others_are_named() {
    let tasks: Vec<_> = (0..5)
        .map(|_| tokio::spawn(std::future::pending::<()>()))
        .collect();
    let current = received(|config| config.with_runtime_metrics(true), &[]).await;
    assert_eq!(points(&current, "tokio.workers"), [(String::new(), 3.0)]);
    assert!(points(&current, "tokio.alive_tasks")[0].1 >= 5.0);
    assert_eq!(names(&points(&current, "tokio.global_queue_depth")), [""]);
    let workers = [
        "tokio.worker.index=0",
        "tokio.worker.index=1",
        "tokio.worker.index=2",
    ];
    for name in ["tokio.worker.busy_duration", "tokio.worker.park_count"] {
        assert_eq!(names(&points(&current, name)), workers, "{name}");
    }
    tasks.iter().for_each(tokio::task::JoinHandle::abort);

    let runtime = |threads| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder
            .worker_threads(threads)
            .build()
            .expect("the runtime can be built")
    };
    let (api, jobs) = (runtime(1), runtime(2));
    let with = |config: Config| {
        config
            .with_runtime("api", api.handle())
            .with_runtime("jobs", jobs.handle())
    };
    let named = received(with, &[]).await;
    let expected = [
        ("tokio.runtime.name=api".to_owned(), 1.0),
        ("tokio.runtime.name=jobs".to_owned(), 2.0),
    ];
    assert_eq!(points(&named, "tokio.workers"), expected);
    api.shutdown_background();
    jobs.shutdown_background();
}

#[tokio::test]
async fn runtime_metrics_are_recorded_only_if_enabled() {
    let received = received(|config| config.with_self_metrics(true), &[]).await;
    let scopes = received
        .metrics
        .iter()
        .flat_map(|one| &one.resource_metrics);
    let metrics = scopes
        .flat_map(|one| &one.scope_metrics)
        .flat_map(|one| &one.metrics);
    let names: BTreeSet<_> = metrics.map(|metric| &*metric.name).collect();
    assert!(
        names.iter().any(|name| name.starts_with("otel.sdk.")),
        "{names:?}"
    );
    let of_runtime = |name: &&&str| name.starts_with("process.") || name.starts_with("tokio.");
    assert_eq!(names.iter().find(of_runtime), None);
}
