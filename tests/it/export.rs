//! Exports over OTLP to a real receiver, and to addresses without one.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{
    Config, TelemetryGuard, TelemetryLayer,
    config::{Batch, Exporter, Protocol, Sampler},
};

use crate::support::receiver::{Receiver, attributes_of};
use crate::support::{DEADLINE, TRACE_ID, TRACEPARENT, attributes, eventually};

pub(crate) fn config(variables: &[(&str, &str)]) -> Config {
    let variables: HashMap<_, _> = variables.iter().copied().collect();
    Config::from_vars(|name| variables.get(name).map(|value| (*value).to_owned()))
}

/// An exporter and its protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) protocol: Protocol,
    /// Whether the crate `opentelemetry-otlp` sends.
    #[cfg_attr(
        not(feature = "opentelemetry-otlp"),
        allow(dead_code, reason = "without it there is one exporter")
    )]
    by_reference: bool,
}

impl Way {
    pub(crate) fn all() -> Vec<Self> {
        let exporters = match cfg!(feature = "opentelemetry-otlp") {
            true => &[false, true][..],
            false => &[false],
        };
        let protocols = [Protocol::Grpc, Protocol::HttpProtobuf];
        let ways = exporters.iter().flat_map(|by_reference| {
            protocols.map(|protocol| Self {
                protocol,
                by_reference: *by_reference,
            })
        });
        ways.collect()
    }

    pub(crate) fn of(self, config: Config) -> Config {
        let config = config.with_protocol(self.protocol);
        #[cfg(feature = "opentelemetry-otlp")]
        if self.by_reference {
            return config.with_reference_exporter();
        }
        config
    }
}

pub(crate) fn layer(telemetry: &TelemetryGuard) -> TelemetryLayer {
    TelemetryLayer::new()
        .with_tracer_provider(
            telemetry
                .tracer_provider()
                .expect("traces are enabled")
                .clone(),
        )
        .with_meter_provider(
            telemetry
                .meter_provider()
                .expect("metrics are enabled")
                .clone(),
        )
}

pub(crate) async fn request(
    layer: TelemetryLayer,
    traceparent: Option<&str>,
) -> Response<impl Sized> {
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let mut request = Request::get("/path");
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    let request = request.body(()).expect("a valid request");
    service
        .oneshot(request)
        .await
        .expect("the service cannot fail")
}

#[tokio::test]
async fn every_form_of_endpoint_reaches_the_receiver_with_a_complete_resource() {
    for (path, protocol, ways) in [
        ("", Some("grpc"), ["grpc", "grpc"]),
        ("/v1/traces", Some("grpc"), ["grpc", "grpc"]),
        ("", None, ["/v1/metrics", "/v1/traces"]),
        ("/", Some("http/protobuf"), ["/v1/metrics", "/v1/traces"]),
        ("/v1/traces", None, ["/v1/metrics", "/v1/traces"]),
        ("/v1/logs/", None, ["/v1/metrics", "/v1/traces"]),
    ] {
        let receiver = Receiver::start();
        let endpoint = format!("{}{path}", receiver.endpoint());
        let mut variables = vec![
            ("ENVIRONMENT", "staging"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc"),
            ("SERVICE_NAME", "loses"),
            ("OTEL_SERVICE_NAME", "wins"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=loses,team=a%20b"),
        ];
        variables.extend(protocol.map(|name| ("OTEL_EXPORTER_OTLP_PROTOCOL", name)));
        let telemetry = config(&variables)
            .with_service_version("1.2.3")
            .build()
            .expect("the configuration is valid");
        request(layer(&telemetry), Some(TRACEPARENT)).await;
        let report = telemetry.shutdown().await;
        assert!(!report.timed_out);
        assert_eq!(
            (report.stats.traces.exported, report.stats.traces.accepted),
            (1, 1)
        );
        assert_eq!(report.stats.metrics.exported, 4);

        let received = receiver.received();
        let mut found: Vec<_> = received.ways.iter().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, ways, "{endpoint} {protocol:?}");
        for headers in &received.headers {
            assert_eq!(headers["authorization"], "Bearer abc");
        }

        let resource = &received.traces[0].resource_spans[0];
        let mut described = attributes_of(
            &resource
                .resource
                .as_ref()
                .expect("the field is set")
                .attributes,
        );
        // These attributes differ between machines and runs.
        for key in [
            "container.id",
            "host.arch",
            "host.name",
            "os.type",
            "service.instance.id",
            "telemetry.sdk.version",
        ] {
            let value = described.remove(key);
            let found = value.is_some_and(|value| !value.is_empty());
            assert!(found || key == "container.id", "{key} is missing");
        }
        let program = std::env::current_exe().expect("the test has a path");
        let program = program.file_name().expect("the program has a name");
        assert_eq!(
            described,
            attributes([
                ("deployment.environment.name", "staging"),
                ("process.executable.name", &program.to_string_lossy()),
                ("process.pid", &std::process::id().to_string()),
                ("service.name", "wins"),
                ("service.version", "1.2.3"),
                ("team", "a b"),
                ("telemetry.distro.name", "tower-telemetry"),
                ("telemetry.distro.version", env!("CARGO_PKG_VERSION")),
                ("telemetry.sdk.language", "rust"),
                ("telemetry.sdk.name", "opentelemetry"),
            ])
        );
        assert_eq!(
            received.metrics[0].resource_metrics[0]
                .resource
                .as_ref()
                .map(|resource| { attributes_of(&resource.attributes)["service.name"].clone() }),
            Some("wins".to_owned())
        );

        let scope = &resource.scope_spans[0];
        let named = scope.scope.as_ref().expect("the field is set");
        assert_eq!(named.name, "tower-telemetry");
        assert_eq!(named.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(scope.schema_url, "https://opentelemetry.io/schemas/1.45.0");

        let span = &received.spans()[0];
        let hex = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        assert_eq!(span.name, "GET");
        assert_eq!(span.kind, SpanKind::Server as i32);
        assert_eq!(hex(&span.trace_id), TRACE_ID);
        assert_eq!(hex(&span.parent_span_id), "b7ad6b7169203331");
        assert_eq!(
            span.status.as_ref().map(|status| status.code),
            Some(StatusCode::Unset as i32)
        );
        assert_eq!(
            attributes_of(&span.attributes),
            attributes([
                ("http.request.method", "GET"),
                ("http.response.status_code", "200"),
                ("network.protocol.version", "1.1"),
                ("url.path", "/path"),
                ("url.scheme", "http"),
            ])
        );

        let requests = received
            .metric("http.requests")
            .expect("the metric was exported");
        let Some(Data::Sum(sum)) = requests.data else {
            panic!("http.requests is a counter");
        };
        assert!(sum.is_monotonic);
        assert_eq!(sum.data_points[0].value, Some(Value::AsInt(1)));
        let duration = received
            .metric("http.server.request.duration")
            .expect("the metric was exported");
        let Some(Data::Histogram(histogram)) = duration.data else {
            panic!("http.server.request.duration is a histogram");
        };
        assert_eq!(histogram.data_points[0].count, 1);
        assert_eq!(histogram.data_points[0].explicit_bounds.len(), 14);
    }
}

#[tokio::test]
async fn batches_are_exported_on_a_schedule_and_when_they_are_full() {
    let receiver = Receiver::start();
    let batch = Batch::default().with_schedule_delay(Duration::from_millis(1));
    let telemetry = config(&[])
        .with_exporters([Exporter::Otlp])
        .with_endpoint(receiver.endpoint())
        .with_protocol(Protocol::Grpc)
        .with_span_batch(batch)
        .with_metric_interval(Duration::from_millis(1))
        .build()
        .expect("the configuration is valid");
    request(layer(&telemetry), None).await;
    eventually("the span and the metrics arrive", || {
        let received = receiver.received();
        received.spans().len() == 1 && received.metric("http.requests").is_some()
    })
    .await;

    // A full batch does not wait for the schedule.
    let receiver = Receiver::start();
    let batch = Batch::default()
        .with_schedule_delay(Duration::from_secs(3600))
        .with_max_export_batch_size(4);
    let telemetry = config(&[])
        .with_exporters([Exporter::Otlp])
        .with_endpoint(receiver.endpoint())
        .with_span_batch(batch)
        .build()
        .expect("the configuration is valid");
    let layer = layer(&telemetry);
    for _ in 0..4 {
        request(layer.clone(), None).await;
    }
    eventually("the batch arrives", || {
        receiver.received().spans().len() == 4
    })
    .await;
}

#[tokio::test]
async fn a_flush_exports_pending_spans_and_later_spans_can_follow() {
    let receiver = Receiver::start();
    let telemetry = config(&[("ENVIRONMENT", "staging")])
        .with_endpoint(receiver.endpoint())
        .build()
        .expect("the configuration is valid");
    for count in 1..=3 {
        request(layer(&telemetry), None).await;
        let report = telemetry.force_flush().await;
        assert!(!report.timed_out);
        assert_eq!(receiver.received().spans().len(), count);
        assert_eq!(telemetry.stats().traces.exported, count as u64);
    }
}

/// Serves an app that could be mistaken for a receiver, and returns its address.
async fn serve(app: axum::Router) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("loopback has free ports");
    let address = listener.local_addr().expect("the socket is bound");
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn a_server_that_is_no_otlp_receiver_counts_as_a_failed_export() {
    use axum::http::StatusCode;
    use axum::routing::post;

    for (case, code, body) in [
        ("a web page", StatusCode::OK, "<html>Welcome</html>"),
        ("not found", StatusCode::NOT_FOUND, ""),
        ("unauthorized", StatusCode::UNAUTHORIZED, ""),
        ("a redirect", StatusCode::TEMPORARY_REDIRECT, ""),
    ] {
        let app = axum::Router::new().fallback(post(async move || (code, body)));
        let address = serve(app).await;
        let telemetry = config(&[("ENVIRONMENT", "staging")])
            .with_endpoint(format!("http://{address}"))
            .build()
            .expect("the configuration is valid");
        request(layer(&telemetry), None).await;
        let stats = telemetry.shutdown().await.stats;
        assert_eq!(
            (stats.traces.exported, stats.traces.failed),
            (0, 1),
            "{case}"
        );
        assert_eq!(
            (stats.metrics.exported, stats.metrics.failed),
            (0, 4),
            "{case}"
        );
    }
}

#[tokio::test]
async fn any_successful_status_counts_as_a_successful_export() {
    let app = axum::Router::new().fallback(async || axum::http::StatusCode::NO_CONTENT);
    let address = serve(app).await;
    let telemetry = config(&[("ENVIRONMENT", "staging")])
        .with_endpoint(format!("http://{address}"))
        .build()
        .expect("the configuration is valid");
    request(layer(&telemetry), None).await;
    let report = telemetry.shutdown().await;
    assert_eq!(report.stats.traces.exported, 1);
    assert_eq!(report.lost(), 0);
}

#[tokio::test]
async fn an_exporter_that_is_named_twice_exports_once() {
    let receiver = Receiver::start();
    let telemetry = config(&[("OTEL_METRICS_EXPORTER", "otlp,console,otlp")])
        .with_exporters([Exporter::Otlp, Exporter::Otlp])
        .with_endpoint(receiver.endpoint())
        .build()
        .expect("the configuration is valid");
    request(layer(&telemetry), None).await;
    telemetry.shutdown().await;
    let received = receiver.received();
    assert_eq!((received.traces.len(), received.metrics.len()), (1, 1));
}

#[tokio::test]
async fn a_callback_that_blocks_or_panics_does_not_delay_the_shutdown() {
    use opentelemetry::metrics::MeterProvider;

    let receiver = Receiver::start();
    for blocks in [true, false] {
        let telemetry = config(&[("ENVIRONMENT", "staging")])
            .with_endpoint(receiver.endpoint())
            .with_shutdown_timeout(Duration::from_millis(200))
            .build()
            .expect("the configuration is valid");
        let (_keep, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let meter = telemetry
            .meter_provider()
            .expect("metrics are enabled")
            .meter("test");
        let _gauge = meter
            .u64_observable_gauge("test.gauge")
            .with_callback(move |_| {
                assert!(blocks, "on purpose");
                let _ = wait.lock().expect("the lock is not poisoned").recv();
            })
            .build();
        let layer = layer(&telemetry);
        request(layer.clone(), None).await;
        // Without the layer, only the guard holds the providers.
        drop(layer);
        let start = Instant::now();
        let report = telemetry.shutdown().await;
        assert!(start.elapsed() < DEADLINE / 2);
        assert!(report.timed_out, "the callback did not return in time");
        assert_eq!(report.stats.metrics.exported, 0);
    }
}

#[tokio::test]
async fn in_production_a_tenth_of_new_traces_is_sampled_and_a_sampled_parent_is_followed() {
    let receiver = Receiver::start();
    let batch = Batch::default().with_max_queue_size(20_000);
    let telemetry = config(&[("ENVIRONMENT", "production")])
        .with_endpoint(receiver.endpoint())
        .with_span_batch(batch)
        .build()
        .expect("the configuration is valid");
    let layer = layer(&telemetry);
    for _ in 0..10_000 {
        request(layer.clone(), None).await;
    }
    telemetry.force_flush().await;
    let sampled = receiver.received().spans().len();
    // Five standard deviations around the mean of 10,000 draws with probability 0.1.
    assert!((850..=1150).contains(&sampled), "{sampled}");

    for _ in 0..100 {
        request(layer.clone(), Some(TRACEPARENT)).await;
        request(layer.clone(), Some(&TRACEPARENT.replace("-01", "-00"))).await;
    }
    telemetry.shutdown().await;
    assert_eq!(receiver.received().spans().len(), sampled + 100);
}

#[tokio::test]
async fn disabled_telemetry_exports_nothing_and_has_no_providers() {
    for variable in [("ENABLE_TELEMETRY", "false"), ("OTEL_SDK_DISABLED", "true")] {
        let receiver = Receiver::start();
        let telemetry = config(&[("ENVIRONMENT", "staging"), variable])
            .with_endpoint(receiver.endpoint())
            .build()
            .expect("the configuration is valid");
        assert!(telemetry.tracer_provider().is_none());
        assert!(telemetry.meter_provider().is_none());
        assert_eq!(telemetry.shutdown().await, Default::default());
        assert!(receiver.received().ways.is_empty());
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn a_client_cannot_exhaust_the_series_of_other_routes() {
    use axum::routing::any;

    const ROUTES: usize = 50;
    let receiver = Receiver::start();
    let telemetry = config(&[("ENVIRONMENT", "staging")])
        .with_endpoint(receiver.endpoint())
        .build()
        .expect("the configuration is valid");
    let mut app = axum::Router::new().route("/new", any(async || ""));
    for n in 0..ROUTES {
        app = app.route(&format!("/{n}"), any(async || ""));
    }
    let app = app.layer(layer(&telemetry));
    let mut flood = Vec::new();
    for n in 0..ROUTES {
        for method in [
            "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "QUERY",
        ] {
            for version in [
                http::Version::HTTP_10,
                http::Version::HTTP_11,
                http::Version::HTTP_2,
            ] {
                for scheme in ["http", "https"] {
                    let request = Request::builder().method(method).version(version);
                    flood.push(request.uri(format!("{scheme}://a/{n}")));
                }
            }
        }
    }
    // The scheme in the request does not reach the metric, so both schemes share a series.
    let series = flood.len() / 2;
    assert!(
        flood.len() > 2000,
        "the flood exceeds the default limit of the SDK"
    );
    flood.push(Request::get("/new"));
    for request in flood {
        let request = request
            .body(axum::body::Body::empty())
            .expect("a valid request");
        app.clone()
            .oneshot(request)
            .await
            .expect("the service cannot fail");
    }
    telemetry.shutdown().await;

    let metric = receiver.received().metric("http.server.request.duration");
    let Some(Data::Histogram(histogram)) = metric.and_then(|metric| metric.data) else {
        panic!("the duration is a histogram");
    };
    let points: Vec<_> = histogram
        .data_points
        .iter()
        .map(|point| attributes_of(&point.attributes))
        .collect();
    assert_eq!(points.len(), series + 1);
    assert!(points.iter().any(|point| point["http.route"] == "/new"));
    assert!(
        points
            .iter()
            .all(|point| !point.contains_key("otel.metric.overflow"))
    );
}

/// A sampler of an application. It decides by the path of the request to drop, record, or sample a span.
#[derive(Clone, Debug)]
struct ByPath;

impl opentelemetry_sdk::trace::ShouldSample for ByPath {
    fn should_sample(
        &self,
        _: Option<&opentelemetry::Context>,
        _: opentelemetry::trace::TraceId,
        _: &str,
        _: &opentelemetry::trace::SpanKind,
        attributes: &[opentelemetry::KeyValue],
        _: &[opentelemetry::trace::Link],
    ) -> opentelemetry_sdk::trace::SamplingResult {
        use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult};

        let path = attributes.iter().find(|one| one.key.as_str() == "url.path");
        let path = path.map(|one| one.value.as_str());
        SamplingResult {
            decision: match path.as_deref() {
                Some("/sent") => SamplingDecision::RecordAndSample,
                Some("/recorded") => SamplingDecision::RecordOnly,
                _ => SamplingDecision::Drop,
            },
            attributes: Vec::new(),
            trace_state: Default::default(),
        }
    }
}

#[tokio::test]
async fn a_custom_sampler_decides_by_attributes_and_only_sampled_spans_are_sent() {
    let receiver = Receiver::start();
    let telemetry = config(&[("ENVIRONMENT", "staging")])
        .with_endpoint(receiver.endpoint())
        .with_sampler(Sampler::Custom(Box::new(ByPath)))
        .build()
        .expect("the configuration is valid");
    for path in ["/sent", "/recorded", "/dropped"] {
        let service = layer(&telemetry).layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
        let request = Request::get(path).body(()).expect("a valid request");
        service
            .oneshot(request)
            .await
            .expect("the service cannot fail");
    }
    telemetry.shutdown().await;
    let spans = receiver.received().spans();
    assert_eq!(spans.len(), 1);
    assert_eq!(attributes_of(&spans[0].attributes)["url.path"], "/sent");
}
