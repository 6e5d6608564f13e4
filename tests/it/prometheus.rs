//! Scrapes metrics as Prometheus does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;
use tower_telemetry::config::Exporter;
use tower_telemetry::prometheus::PrometheusService;
use tower_telemetry::{Config, TelemetryGuard, TelemetryLayer};

use crate::export::{config, layer, request};
use crate::support::receiver::{Received, Receiver, attributes_of};
use crate::support::{TRACEPARENT, eventually};

const ANY_PORT: &str = "127.0.0.1:0";
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";

fn any_port() -> SocketAddr {
    ANY_PORT.parse().expect("a valid address")
}

fn guard(with: impl FnOnce(Config) -> Config) -> TelemetryGuard {
    let config = config(&[("SERVICE_NAME", "shop")])
        .with_exporters([Exporter::Prometheus])
        .with_prometheus_server(any_port());
    with(config).build().expect("the configuration is valid")
}

fn service(telemetry: &TelemetryGuard) -> PrometheusService {
    telemetry.prometheus().expect("the exporter is enabled")
}

async fn send_request(
    service: PrometheusService,
    method: Method,
    accept: &str,
) -> (Response<()>, String) {
    let request = Request::builder().method(method).header("accept", accept);
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
    let body = String::from_utf8(body.into()).expect("the output is UTF-8");
    (Response::from_parts(head, ()), body)
}

pub(crate) async fn scraped(telemetry: &TelemetryGuard) -> String {
    let (response, text) = send_request(service(telemetry), Method::GET, "*/*").await;
    assert_eq!(response.status(), StatusCode::OK);
    text
}

/// Sends a request over a real connection, and returns the whole response.
pub(crate) async fn over_tcp(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Returns the samples of a text, by name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("the sample has a value");
            (sorted(name), value.parse().expect("the text is a number"))
        })
        .collect()
}

/// Sorts the labels of a sample. No value in these tests has a comma.
fn sorted(sample: &str) -> String {
    let Some((name, labels)) = sample.split_once('{') else {
        return sample.to_owned();
    };
    let mut labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

/// Converts OTLP points to samples, by the rules of the specification
/// ("Prometheus and OpenMetrics Compatibility").
fn expected(received: &Received) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    let last = received.metrics.last().expect("a message was sent");
    let scopes = last
        .resource_metrics
        .iter()
        .flat_map(|one| &one.scope_metrics);
    for scope_metrics in scopes {
        let scope = scope_metrics.scope.clone().unwrap_or_default();
        for metric in &scope_metrics.metrics {
            let unit = match &*metric.unit {
                "s" => "_seconds",
                "ms" => "_milliseconds",
                "By" => "_bytes",
                "1" => "_ratio",
                _ => "",
            };
            let name = format!("{}{unit}", metric.name.replace('.', "_"));
            let mut add = |suffix: &str, labels: String, value| {
                all.insert(sorted(&format!("{name}{suffix}{labels}")), value);
            };
            match metric.data.as_ref().expect("the metric has data") {
                Data::Sum(sum) => {
                    for point in &sum.data_points {
                        let suffix = if sum.is_monotonic { "_total" } else { "" };
                        add(
                            suffix,
                            labels(&scope, &scope_metrics.schema_url, &point.attributes, None),
                            number(point.value),
                        );
                    }
                }
                Data::Gauge(gauge) => {
                    for point in &gauge.data_points {
                        add(
                            "",
                            labels(&scope, &scope_metrics.schema_url, &point.attributes, None),
                            number(point.value),
                        );
                    }
                }
                Data::Histogram(histogram) => {
                    for point in &histogram.data_points {
                        let labels = |le: Option<&str>| {
                            labels(&scope, &scope_metrics.schema_url, &point.attributes, le)
                        };
                        let mut count = 0;
                        let bounds = point.explicit_bounds.iter().map(f64::to_string);
                        for (bound, of_bucket) in
                            bounds.chain(["+Inf".to_owned()]).zip(&point.bucket_counts)
                        {
                            count += of_bucket;
                            add("_bucket", labels(Some(&bound)), count as f64);
                        }
                        add(
                            "_sum",
                            labels(None),
                            point.sum.expect("the point has a sum"),
                        );
                        add("_count", labels(None), point.count as f64);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
    all
}

fn number(value: Option<Value>) -> f64 {
    match value.expect("the point has a value") {
        Value::AsInt(value) => value as f64,
        Value::AsDouble(value) => value,
    }
}

fn labels(
    scope: &InstrumentationScope,
    schema_url: &str,
    attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue],
    le: Option<&str>,
) -> String {
    let mut labels: Vec<_> = attributes_of(attributes)
        .into_iter()
        .map(|(key, value)| (key.replace('.', "_"), value))
        .collect();
    labels.push(("otel_scope_name".to_owned(), scope.name.clone()));
    if !scope.version.is_empty() {
        labels.push(("otel_scope_version".to_owned(), scope.version.clone()));
    }
    if !schema_url.is_empty() {
        labels.push(("otel_scope_schema_url".to_owned(), schema_url.to_owned()));
    }
    labels.extend(le.map(|le| ("le".to_owned(), le.to_owned())));
    let labels: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}=\"{value}\""))
        .collect();
    format!("{{{}}}", labels.join(","))
}

/// Records with all kinds of instruments, and sends some requests.
async fn record(telemetry: &TelemetryGuard) {
    let meter = telemetry
        .meter_provider()
        .expect("metrics are enabled")
        .meter("shop");
    let attributes = [KeyValue::new("tenant.id", "acme")];
    meter
        .u64_counter("shop.sent")
        .with_unit("By")
        .build()
        .add(7, &attributes);
    meter.f64_counter("shop.paid").build().add(1.5, &attributes);
    meter
        .i64_up_down_counter("shop.open")
        .with_unit("{cart}")
        .build()
        .add(-2, &[]);
    meter
        .f64_gauge("shop.load")
        .with_unit("1")
        .build()
        .record(0.25, &[]);
    meter
        .u64_histogram("shop.items")
        .with_description("Items\nin a cart")
        .build()
        .record(3, &attributes);
    for _ in 0..3 {
        request(layer(telemetry), Some(TRACEPARENT)).await;
    }
}

#[tokio::test]
async fn scraped_values_equal_the_values_sent_over_otlp() {
    for temporality in ["cumulative", "delta"] {
        let receiver = Receiver::start();
        let variables = [
            ("SERVICE_NAME", "shop"),
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
            ("OTEL_EXPORTER_PROMETHEUS_HOST", "127.0.0.1"),
            ("OTEL_EXPORTER_PROMETHEUS_PORT", "0"),
            (
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
                temporality,
            ),
        ];
        let config = config(&variables).with_endpoint(receiver.endpoint());
        assert_eq!(config.warnings().len(), 0, "{:?}", config.warnings());
        let summary = config.to_string();
        assert!(summary.contains(",prometheus(127.0.0.1:0) "), "{summary}");
        let telemetry = config.build().expect("the configuration is valid");
        record(&telemetry).await;
        telemetry.force_flush().await;
        let expected = expected(&receiver.received());
        assert!(expected.len() > 40, "{expected:?}");
        for _ in 0..2 {
            let address = service(&telemetry)
                .local_addr()
                .expect("the server listens");
            let answer = over_tcp(address, "/metrics")
                .await
                .expect("the server responds");
            let (head, text) = answer
                .split_once("\r\n\r\n")
                .expect("the response has a head");
            assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
            let mut scraped = samples(text);
            let info = scraped.keys().find(|name| name.starts_with("target_info{"));
            let info = info.expect("target_info is scraped").clone();
            assert!(info.contains("service_name=\"shop\""), "{info}");
            scraped.remove(&info);
            assert_eq!(scraped, expected);
        }
        telemetry.shutdown().await;
    }
}

#[tokio::test]
async fn open_metrics_has_the_same_samples_and_its_own_family_names() {
    let telemetry = guard(|config| config);
    record(&telemetry).await;
    let plain = scraped(&telemetry).await;
    let (response, text) = send_request(service(&telemetry), Method::GET, OPEN_METRICS).await;
    let content_type = &response.headers()["content-type"];
    assert_eq!(
        content_type,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert_eq!(samples(&text), samples(&plain));
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in [
        "# TYPE http_requests counter",
        "# TYPE shop_sent_bytes counter",
        "# TYPE shop_open gauge",
        "# TYPE http_server_request_duration_seconds histogram",
        "# TYPE target info",
        "# HELP shop_items Items\\nin a cart",
    ] {
        assert!(
            text.lines().any(|one| one == line),
            "{line} is not in {text}"
        );
    }
    assert!(
        plain
            .lines()
            .any(|one| one == "# TYPE http_requests_total counter")
    );
    telemetry.shutdown().await;
}

#[tokio::test]
async fn other_methods_and_paths_are_rejected_and_head_has_the_content_length() {
    let telemetry = guard(|config| config);
    record(&telemetry).await;
    let (response, text) = send_request(service(&telemetry), Method::HEAD, "*/*").await;
    assert_eq!((response.status(), &*text), (StatusCode::OK, ""));
    let length = scraped(&telemetry).await.len().to_string();
    assert_eq!(response.headers()["content-length"], length);
    let (response, _) = send_request(service(&telemetry), Method::POST, "*/*").await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()["allow"], "GET, HEAD");
    let address = service(&telemetry)
        .local_addr()
        .expect("the server listens");
    let answer = over_tcp(address, "/").await.expect("the server responds");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    telemetry.shutdown().await;
}

#[tokio::test]
async fn after_the_shutdown_the_port_is_closed_and_the_service_returns_503() {
    let telemetry = guard(|config| config);
    let mounted = service(&telemetry);
    let address = mounted.local_addr().expect("the server listens");
    telemetry.shutdown().await;
    let (response, _) = send_request(mounted, Method::GET, "*/*").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let deadline = Instant::now() + crate::support::DEADLINE;
    while TcpStream::connect(address).await.is_ok() {
        assert!(Instant::now() < deadline, "the port is still open");
    }
}

#[tokio::test]
async fn a_port_in_use_is_served_as_soon_as_it_is_free() {
    let other = TcpListener::bind(ANY_PORT)
        .await
        .expect("loopback has free ports");
    let address = other.local_addr().expect("the socket is bound");
    let telemetry = guard(|config| config.with_prometheus_server(address));
    record(&telemetry).await;
    assert_eq!(service(&telemetry).local_addr(), None);
    // The service works without the port.
    assert!(scraped(&telemetry).await.contains("http_requests_total{"));
    drop(other);
    eventually("the port is served", || {
        service(&telemetry).local_addr() == Some(address)
    })
    .await;
    let answer = over_tcp(address, "/metrics")
        .await
        .expect("the server responds");
    assert!(answer.contains("http_requests_total{"), "{answer}");
    telemetry.shutdown().await;
}

#[tokio::test]
async fn the_service_works_without_the_server_and_is_absent_without_the_exporter() {
    let telemetry = guard(Config::without_prometheus_server);
    record(&telemetry).await;
    assert_eq!(service(&telemetry).local_addr(), None);
    assert!(scraped(&telemetry).await.contains("http_requests_total{"));
    telemetry.shutdown().await;
    let telemetry = guard(|config| config.with_exporters([]));
    assert!(telemetry.prometheus().is_none());
    telemetry.shutdown().await;
}

#[tokio::test]
async fn a_panicking_observable_callback_makes_the_scrape_return_503() {
    let telemetry = guard(|config| config);
    let meter = telemetry
        .meter_provider()
        .expect("metrics are enabled")
        .meter("shop");
    let gauge = meter.u64_observable_gauge("shop.broken");
    let _gauge = gauge.with_callback(|_| panic!("on purpose")).build();
    for _ in 0..2 {
        let (response, _) = send_request(service(&telemetry), Method::GET, "*/*").await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    request(layer(&telemetry), None).await;
    telemetry.shutdown().await;
}

#[tokio::test]
async fn idle_connections_do_not_block_other_scrapes() {
    let telemetry = guard(|config| config);
    record(&telemetry).await;
    let address = service(&telemetry)
        .local_addr()
        .expect("the server listens");
    let mut mute = Vec::new();
    for _ in 0..40 {
        mute.push(
            TcpStream::connect(address)
                .await
                .expect("the server listens"),
        );
    }
    // Idle connections are closed after a while. The mounted service does not depend on them.
    assert!(scraped(&telemetry).await.contains("http_requests_total{"));
    let answer = tokio::time::timeout(crate::support::DEADLINE, over_tcp(address, "/metrics"));
    let answer = answer
        .await
        .expect("the scrape ends within the deadline")
        .expect("the server responds");
    assert!(answer.contains("http_requests_total{"), "{answer}");
    telemetry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_scrape_of_ten_thousand_series_runs_on_another_thread() {
    let telemetry = guard(Config::without_prometheus_server);
    let meter = telemetry
        .meter_provider()
        .expect("metrics are enabled")
        .meter("shop");
    for instrument in 0..7 {
        let counter = meter
            .u64_counter(format!("shop.visits.{instrument}"))
            .build();
        (0..1_500).for_each(|number| counter.add(1, &[KeyValue::new("visitor", number)]));
    }
    let layer = layer(&telemetry);
    request(layer.clone(), None).await;
    let begin = Instant::now();
    let scrape = tokio::spawn(send_request(service(&telemetry), Method::GET, "*/*"));
    let (mut longest, mut requests) = (Duration::ZERO, 0);
    while !scrape.is_finished() {
        let begin = Instant::now();
        request(layer.clone(), None).await;
        longest = longest.max(begin.elapsed());
        requests += 1;
        tokio::task::yield_now().await;
    }
    let (_, text) = scrape.await.expect("the task does not panic");
    println!(
        "{} samples in {:?}; {requests} requests meanwhile, the longest in {longest:?}",
        samples(&text).len(),
        begin.elapsed()
    );
    assert!(samples(&text).len() > 10_000);
    // The only worker served requests, so another thread collected.
    assert!(requests > 1);
    telemetry.shutdown().await;
}

/// The Prometheus that is installed, scraping one address.
pub(crate) struct Prometheus {
    process: std::process::Child,
    folder: std::path::PathBuf,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts Prometheus. Returns `None` if it is not installed.
    pub(crate) async fn start(target: SocketAddr) -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("prometheus-{}", target.port()));
        std::fs::create_dir_all(&folder).expect("the folder can be created");
        let settings = format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs: [{{job_name: shop, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, settings).expect("the file can be created");
        let lines = std::fs::File::create(folder.join("log")).expect("the file can be created");
        let mut command = std::process::Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg("--web.listen-address=127.0.0.1:0")
            .stderr(lines);
        let Ok(process) = command.spawn() else {
            println!("skipped: `prometheus` is not installed");
            return None;
        };
        let mut address = None;
        eventually("Prometheus listens", || {
            let lines = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            let rest = lines.split("msg=\"Listening on\" address=").nth(1);
            let word = rest.and_then(|rest| rest.split_whitespace().next());
            address = word.and_then(|word| word.parse().ok());
            address.is_some()
        })
        .await;
        let address = address.expect("Prometheus listens");
        Some(Self {
            process,
            folder,
            address,
        })
    }

    /// Returns the value of an expression, or `None` while there is none.
    pub(crate) async fn query(&self, expression: &str) -> Option<f64> {
        let path = format!("/api/v1/query?query={expression}");
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nhost: here\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let body: serde_json::Value = serde_json::from_str(body).ok()?;
        body["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }

    async fn wait_for_value(&self, expression: &str, expected: f64) {
        let deadline = Instant::now() + 2 * crate::support::DEADLINE;
        loop {
            let value = self.query(expression).await;
            if value == Some(expected) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{expression} is {value:?}, not {expected}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn prometheus_reads_the_counts_that_were_recorded() {
    let telemetry = guard(|config| config);
    let address = service(&telemetry)
        .local_addr()
        .expect("the server listens");
    let Some(prometheus) = Prometheus::start(address).await else {
        return;
    };
    record(&telemetry).await;
    prometheus
        .wait_for_value("sum(http_requests_total)", 3.0)
        .await;
    for _ in 0..5 {
        request(layer(&telemetry), None).await;
    }
    for (expression, expected) in [
        ("http_requests_total", 8.0),
        ("http_server_request_duration_seconds_count", 8.0),
        (
            "http_server_request_duration_seconds_bucket{le=\"%2BInf\"}",
            8.0,
        ),
        ("http_duration_milliseconds_count", 8.0),
        ("http_server_active_requests", 0.0),
        ("shop_sent_bytes_total", 7.0),
        ("shop_open", -2.0),
        ("shop_load_ratio", 0.25),
        // The increase between two scrapes.
        (
            "max_over_time(http_requests_total[10m])-min_over_time(http_requests_total[10m])",
            5.0,
        ),
        (
            "count(http_requests_total*on(job,instance)group_left(service_name)target_info)",
            1.0,
        ),
        ("up", 1.0),
    ] {
        prometheus.wait_for_value(expression, expected).await;
    }
    telemetry.shutdown().await;
}

#[tokio::test]
async fn the_prometheus_linter_complains_only_about_milliseconds_and_missing_descriptions() {
    let telemetry = guard(|config| config);
    record(&telemetry).await;
    let text = scraped(&telemetry).await;
    telemetry.shutdown().await;
    let mut command = std::process::Command::new("promtool");
    command.args(["check", "metrics"]);
    command.stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let Ok(mut process) = command.spawn() else {
        println!("skipped: `promtool` is not installed");
        return;
    };
    let mut stdin = process.stdin.take().expect("the stream is piped");
    std::io::Write::write_all(&mut stdin, text.as_bytes()).expect("the other side is reading");
    drop(stdin);
    let output = process.wait_with_output().expect("the process ends");
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8(printed).expect("the output is UTF-8");
    let expected = [
        "http_duration_milliseconds use base unit \"seconds\" instead of \"milliseconds\"",
        // These instruments have no description.
        "shop_load_ratio no help text",
        "shop_open no help text",
        "shop_paid_total no help text",
        "shop_sent_bytes_total no help text",
    ];
    let mut lines: Vec<_> = printed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn exponential_histograms_are_not_scraped_and_are_warned_about_once() {
    let output =
        std::process::Command::new(std::env::current_exe().expect("the program has a path"))
            .args([
                "--exact",
                "prometheus::a_process_with_exponential_histograms",
                "--ignored",
                "--nocapture",
            ])
            .output()
            .expect("the program starts");
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    let warning =
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION cannot be written for Prometheus";
    assert_eq!(printed.matches(warning).count(), 1, "{printed}");
}

#[tokio::test]
#[ignore = "a program of another test"]
async fn a_process_with_exponential_histograms() {
    let histograms = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";
    let telemetry = config(&[(histograms, "base2_exponential_bucket_histogram")])
        .with_exporters([Exporter::Prometheus])
        .with_prometheus_server(any_port())
        .init()
        .expect("the configuration is valid");
    request(TelemetryLayer::new(), None).await;
    let text = scraped(&telemetry).await;
    assert!(text.contains("http_requests_total{"), "{text}");
    assert!(!text.contains("duration"), "{text}");
    telemetry.shutdown().await;
}
