//! Tests the effect of the variables on the telemetry that a receiver gets.

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::{Link, SpanContext, Tracer, TracerProvider};
use opentelemetry_proto::tonic::metrics::v1::AggregationTemporality::{Cumulative, Delta};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use tower_telemetry::{Config, TelemetryGuard, stats::Failure};

use crate::export::{config, layer, request};
use crate::support::receiver::{Receiver, attributes_of};

fn start(receiver: &Receiver, variables: &[(&str, &str)]) -> TelemetryGuard {
    let config = configured(receiver, variables);
    assert!(config.warnings().is_empty(), "{:?}", config.warnings());
    config.build().expect("the configuration is valid")
}

fn configured(receiver: &Receiver, variables: &[(&str, &str)]) -> Config {
    let mut all = vec![("ENVIRONMENT", "staging")];
    all.extend(variables);
    let has_endpoint = all.iter().any(|(name, _)| name.ends_with("_ENDPOINT"));
    let config = config(&all);
    if has_endpoint {
        config
    } else {
        config.with_endpoint(receiver.endpoint())
    }
}

#[tokio::test]
async fn messages_are_compressed_if_configured() {
    for (protocol, encoding) in [
        ("grpc", "grpc-encoding"),
        ("http/protobuf", "content-encoding"),
    ] {
        let receiver = Receiver::start();
        let telemetry = start(
            &receiver,
            &[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", "GZIP"),
                ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none"),
            ],
        );
        request(layer(&telemetry), None).await;
        let report = telemetry.shutdown().await;
        assert_eq!(report.lost(), 0, "{report:?}");
        let received = receiver.received();
        assert_eq!((received.spans().len(), received.points()), (1, 4));
        let encodings = received.headers.iter().map(|one| one.get(encoding));
        let compressed = encodings.flatten().filter(|value| *value == "gzip");
        assert_eq!(compressed.count(), 1, "the traces over {protocol}");
    }
}

#[cfg(feature = "http-json")]
#[tokio::test]
async fn messages_and_responses_are_json_if_configured() {
    use crate::support::receiver::Fault;

    for fault in [Fault::None, Fault::Partial(1)] {
        let receiver = Receiver::start_with(fault.clone());
        let telemetry = start(&receiver, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]);
        request(layer(&telemetry), None).await;
        let stats = telemetry.shutdown().await.stats;
        let lost = u64::from(!matches!(fault, Fault::None));
        assert_eq!((stats.traces.failed, stats.metrics.failed), (lost, lost));
        let received = receiver.received();
        assert_eq!((received.spans().len(), received.points()), (1, 4));
        for headers in &received.headers {
            assert_eq!(headers["content-type"], "application/json");
        }
    }
    let receiver = Receiver::start_with(Fault::Html);
    let telemetry = start(&receiver, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]);
    request(layer(&telemetry), None).await;
    let stats = telemetry.shutdown().await.stats;
    assert_eq!(stats.traces.last_failure, Some(Failure::NoReceiver));
}

#[tokio::test]
async fn a_signal_can_have_its_own_endpoint_protocol_and_headers() {
    let (general, own) = (Receiver::start(), Receiver::start());
    let (base, traces) = (general.endpoint(), own.endpoint());
    let telemetry = start(
        &general,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &base),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=all"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &traces),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-key=own"),
        ],
    );
    request(layer(&telemetry), None).await;
    assert_eq!(telemetry.shutdown().await.lost(), 0);
    for (receiver, way, key) in [(general, "/v1/metrics", "all"), (own, "grpc", "own")] {
        let received = receiver.received();
        assert_eq!(received.ways, [way]);
        assert_eq!(received.headers[0]["x-key"], key);
    }
}

#[tokio::test]
async fn each_attempt_has_the_current_headers_of_the_callback() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{HeaderMap, HeaderValue};

    for protocol in ["grpc", "http/protobuf"] {
        let receiver = Receiver::start();
        let calls = AtomicUsize::new(0);
        let variables = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-token=old,x-fixed=1"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ];
        let config = configured(&receiver, &variables).with_headers_from(move || {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            if call == 2 {
                panic!("on purpose");
            }
            let mut headers = HeaderMap::new();
            let token = format!("token {call}");
            headers.insert(
                "x-token",
                HeaderValue::from_str(&token).expect("a legal value"),
            );
            headers.insert("content-length", HeaderValue::from_static("0"));
            headers
        });
        let telemetry = config.build().expect("the configuration is valid");
        for _ in 0..3 {
            request(layer(&telemetry), None).await;
            telemetry.force_flush().await;
        }
        assert_eq!(telemetry.shutdown().await.lost(), 0);
        let received = receiver.received();
        assert_eq!(received.spans().len(), 3);
        let tokens: Vec<_> = received.headers.iter().map(|one| &one["x-token"]).collect();
        assert_eq!(tokens, ["token 0", "token 1", "old"], "{protocol}");
        assert!(received.headers.iter().all(|one| one["x-fixed"] == "1"));
    }
}

#[tokio::test]
async fn an_endpoint_without_a_scheme_uses_http_if_it_is_insecure() {
    let receiver = Receiver::start();
    let endpoint = receiver.address.to_string();
    let telemetry = start(
        &receiver,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
        ],
    );
    request(layer(&telemetry), None).await;
    assert_eq!(telemetry.shutdown().await.lost(), 0);
    assert_eq!(receiver.received().spans().len(), 1);
}

#[tokio::test]
async fn the_temporality_of_metrics_follows_the_preference() {
    for (preference, counter, up_down_counter, histogram) in [
        ("cumulative", Cumulative, Cumulative, Cumulative),
        ("DELTA", Delta, Cumulative, Delta),
        ("lowmemory", Delta, Cumulative, Delta),
    ] {
        let receiver = Receiver::start();
        let telemetry = start(
            &receiver,
            &[(
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
                preference,
            )],
        );
        let layer = layer(&telemetry);
        for _ in 0..2 {
            request(layer.clone(), None).await;
            telemetry.force_flush().await;
        }
        let received = receiver.received();
        let last = received
            .metrics
            .last()
            .expect("two messages were sent")
            .clone();
        let last = crate::support::receiver::Received {
            metrics: vec![last],
            ..Default::default()
        };
        for (name, expected) in [
            ("http.requests", counter),
            ("http.server.active_requests", up_down_counter),
        ] {
            let Some(Data::Sum(sum)) = last.metric(name).and_then(|metric| metric.data) else {
                panic!("{name} is a sum");
            };
            assert_eq!(sum.aggregation_temporality(), expected, "{preference}");
        }
        let data = last.metric("http.duration").and_then(|metric| metric.data);
        let Some(Data::Histogram(data)) = data else {
            panic!("http.duration is a histogram");
        };
        assert_eq!(data.aggregation_temporality(), histogram, "{preference}");
        let expected = if histogram == Delta { 1 } else { 2 };
        assert_eq!(data.data_points[0].count, expected, "{preference}");
    }
}

#[tokio::test]
async fn histograms_are_exponential_if_configured() {
    let receiver = Receiver::start();
    let telemetry = start(
        &receiver,
        &[(
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "base2_exponential_bucket_histogram",
        )],
    );
    let meter = telemetry
        .meter_provider()
        .expect("metrics are enabled")
        .meter("test");
    meter.f64_histogram("own").build().record(1.0, &[]);
    request(layer(&telemetry), None).await;
    telemetry.shutdown().await;
    let received = receiver.received();
    for name in ["own", "http.duration", "http.server.request.duration"] {
        let data = received.metric(name).and_then(|metric| metric.data);
        let Some(Data::ExponentialHistogram(data)) = data else {
            panic!("{name} is {data:?}");
        };
        assert_eq!(data.data_points[0].count, 1);
    }
    assert_eq!(
        received.points(),
        5,
        "each instrument is exported once: {received:#?}"
    );
}

#[tokio::test]
async fn the_limits_of_spans_are_applied() {
    let receiver = Receiver::start();
    let telemetry = start(
        &receiver,
        &[
            ("OTEL_ATTRIBUTE_COUNT_LIMIT", "1"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "3"),
            ("OTEL_SPAN_EVENT_COUNT_LIMIT", "2"),
            ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "1"),
            ("OTEL_SPAN_LINK_COUNT_LIMIT", "1"),
            ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "1"),
            ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "100"),
            ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3"),
        ],
    );
    let provider = telemetry.tracer_provider().expect("traces are enabled");
    let many = || (0..5).map(|n| KeyValue::new(n.to_string(), "äöüx"));
    let other = provider.tracer("test").build(Default::default());
    let other = opentelemetry::trace::Span::span_context(&other).clone();
    let links = (0..3).map(|_| Link::new(other.clone(), many().collect(), 0));
    let builder = provider.tracer("test").span_builder("limited");
    let mut span = builder
        .with_attributes(many())
        .with_links(links.collect())
        .start(&provider.tracer("test"));
    for _ in 0..4 {
        opentelemetry::trace::Span::add_event(&mut span, "event", many().collect());
    }
    let _: &SpanContext = opentelemetry::trace::Span::span_context(&span);
    drop(span);
    telemetry.shutdown().await;

    let spans = receiver.received().spans();
    let span = spans
        .iter()
        .find(|span| span.name == "limited")
        .expect("the record was exported");
    let (events, links) = (&span.events, &span.links);
    assert_eq!(
        (span.attributes.len(), span.dropped_attributes_count),
        (3, 2)
    );
    assert_eq!((events.len(), span.dropped_events_count), (2, 2));
    assert_eq!((links.len(), span.dropped_links_count), (1, 2));
    assert_eq!(
        (events[0].attributes.len(), links[0].attributes.len()),
        (1, 1)
    );
    for attributes in [
        &span.attributes,
        &events[0].attributes,
        &links[0].attributes,
    ] {
        assert_eq!(attributes_of(attributes)["0"], "äöü");
    }
}

#[cfg(feature = "logs")]
#[tokio::test]
async fn the_limits_of_log_records_are_applied() {
    use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider};

    let receiver = Receiver::start();
    let telemetry = start(
        &receiver,
        &[
            ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "2"),
            ("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "2"),
        ],
    );
    let logger = telemetry
        .logger_provider()
        .expect("logs are enabled")
        .logger("test");
    let mut record = logger.create_log_record();
    record.set_body("a body is no attribute".into());
    for name in ["a", "b", "c"] {
        let value = AnyValue::ListAny(Box::new(vec!["long".into()]));
        record.add_attribute(name, value);
    }
    logger.emit(record);
    telemetry.shutdown().await;
    let records = receiver.received().log_records();
    assert_eq!(records[0].attributes.len(), 2);
    assert_eq!(records[0].dropped_attributes_count, 1);
    let shown = format!("{:?}", records[0]);
    assert!(shown.contains("a body is no attribute"), "{shown}");
    assert!(
        shown.contains("\"lo\"") && !shown.contains("\"long\""),
        "{shown}"
    );
}

#[tokio::test]
async fn batches_are_no_larger_than_configured() {
    let receiver = Receiver::start();
    let telemetry = start(
        &receiver,
        &[
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
            ("OTEL_BSP_SCHEDULE_DELAY", "86400000"),
        ],
    );
    let tracer = telemetry
        .tracer_provider()
        .expect("traces are enabled")
        .tracer("test");
    for _ in 0..9 {
        drop(tracer.start("span"));
    }
    telemetry.shutdown().await;
    let received = receiver.received();
    assert_eq!(received.spans().len(), 9);
    assert!(received.traces.len() >= 3);
    for request in &received.traces {
        assert!(request.resource_spans[0].scope_spans[0].spans.len() <= 4);
    }
}

#[tokio::test]
async fn a_batch_too_large_for_one_message_is_split() {
    use opentelemetry::metrics::MeterProvider;

    const LIMIT: usize = 3584 * 1024;
    let mut protocols = vec!["grpc", "http/protobuf"];
    if cfg!(feature = "http-json") {
        protocols.push("http/json");
    }
    for protocol in protocols {
        let receiver = Receiver::start();
        let telemetry = start(&receiver, &[("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)]);
        let tracer = telemetry
            .tracer_provider()
            .expect("traces are enabled")
            .tracer("test");
        let span = |bytes| {
            let large = KeyValue::new("large", "x".repeat(bytes));
            let builder = tracer.span_builder("span").with_attributes([large]);
            drop(builder.start(&tracer));
        };
        // 8 MiB that can be split, and one span that is too large by itself.
        for _ in 0..20 {
            span(200 * 1024);
        }
        span(LIMIT);
        for _ in 0..20 {
            span(200 * 1024);
        }
        let meter = telemetry
            .meter_provider()
            .expect("metrics are enabled")
            .meter("test");
        let counter = meter.u64_counter("large").build();
        for n in 0..1500 {
            counter.add(1, &[KeyValue::new("key", format!("{n:04000}"))]);
        }
        let report = telemetry.shutdown().await;
        assert!(!report.timed_out);
        let (stats, received) = (report.stats.clone(), receiver.received());
        assert_eq!(
            (stats.traces.exported, stats.traces.failed),
            (40, 1),
            "{protocol} {report:?}"
        );
        assert_eq!(stats.traces.last_failure, Some(Failure::TooLarge));
        assert_eq!(received.spans().len(), 40);
        assert_eq!((stats.metrics.exported, received.points()), (1500, 1500));
        assert!(received.traces.len() >= 3 && received.metrics.len() >= 2);
        for size in &received.sizes {
            assert!(*size <= LIMIT, "{size}");
        }
        for message in &received.metrics {
            let metric = &message.resource_metrics[0].scope_metrics[0].metrics[0];
            assert_eq!(metric.name, "large");
            let Some(Data::Sum(sum)) = &metric.data else {
                panic!("the metric is a counter");
            };
            assert!(sum.is_monotonic && !sum.data_points.is_empty());
        }
    }
}
