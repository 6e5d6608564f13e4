//! Compares the exporter of this crate with the crate `opentelemetry-otlp`: a receiver gets the same
//! telemetry, field by field. Each difference has a test of its own and a row in `docs/exporters.md`.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue};
#[cfg(feature = "logs")]
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger, LoggerProvider, Severity};
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    Tracer, TracerProvider,
};
use opentelemetry::{Array, Context, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_proto::tonic::common::v1 as common;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::resource::v1::Resource;
use tower_telemetry::config::{
    Compression, ExemplarFilter, Exporter, HistogramAggregation, Limits, OtlpSettings, Protocol,
    Sampler, Temporality,
};
use tower_telemetry::stats::{Failure, Report};
use tower_telemetry::{Config, TelemetryGuard};

use crate::export::{layer, request};
use crate::support::TRACEPARENT;
use crate::support::receiver::{Fault, Received, Receiver};

const PROTOCOLS: &[Protocol] = &[
    Protocol::Grpc,
    Protocol::HttpProtobuf,
    #[cfg(feature = "http-json")]
    Protocol::HttpJson,
];

fn config(receiver: &Receiver, protocol: Protocol) -> Config {
    Config::from_vars(|name| {
        let attributes = "service.instance.id=one,team=two,empty=";
        (name == "OTEL_RESOURCE_ATTRIBUTES").then(|| attributes.to_owned())
    })
    .with_service_name("shop")
    .with_exporters([Exporter::Otlp])
    .with_sampler(Sampler::AlwaysOn)
    .with_endpoint(receiver.endpoint())
    .with_protocol(protocol)
    // The reference has none.
    .with_exemplar_filter(ExemplarFilter::AlwaysOff)
}

/// Sends the same telemetry by both exporters. Returns the telemetry that the receiver got and the
/// report of each.
async fn both(
    protocol: Protocol,
    record: impl AsyncFn(&TelemetryGuard),
    change: impl Fn(Config) -> Config,
) -> [(Received, Report); 2] {
    let mut all = Vec::new();
    for by_reference in [false, true] {
        let receiver = Receiver::start();
        let config = change(config(&receiver, protocol));
        let config = match by_reference {
            true => config.with_reference_exporter(),
            false => config,
        };
        let telemetry = config.build().expect("the configuration is valid");
        record(&telemetry).await;
        let report = telemetry.shutdown().await;
        assert!(!report.timed_out, "{report:?}");
        all.push((receiver.received(), report));
    }
    all.try_into().expect("there are two exporters")
}

fn fixed(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::new(1_700_000_000 + seconds, 123_456_789)
}

/// Returns whether a time, in nanoseconds, was taken during the run.
fn is_now(time: u64) -> bool {
    time > 1_750_000_000_000_000_000
}

/// Returns attributes with values of all kinds.
fn values(odd_numbers: bool) -> Vec<KeyValue> {
    let strings = |list: &[&'static str]| {
        let list = list.iter().map(|text| StringValue::from(*text)).collect();
        Value::Array(Array::String(list))
    };
    let mut values = vec![
        KeyValue::new("bool", true),
        KeyValue::new("int", i64::MIN),
        KeyValue::new("int.max", i64::MAX),
        KeyValue::new("double", 1.5),
        KeyValue::new("double.whole", 2.0),
        KeyValue::new("double.small", f64::MIN_POSITIVE),
        KeyValue::new("double.large", f64::MAX),
        KeyValue::new("double.minus.zero", -0.0),
        KeyValue::new("text", "caf\u{e9} \u{1f600} \"quoted\" \\ \n\t\u{0} \u{7f}"),
        KeyValue::new("text.empty", ""),
        KeyValue::new("text.huge", "h".repeat(100_000)),
        KeyValue::new("", "of the empty key"),
        KeyValue::new("bools", Value::Array(Array::Bool(vec![true, false]))),
        KeyValue::new("ints", Value::Array(Array::I64(vec![0, -1, i64::MAX]))),
        KeyValue::new("doubles", Value::Array(Array::F64(vec![0.1, -2.5]))),
        KeyValue::new("texts", strings(&["a", "", "\u{e9}"])),
        KeyValue::new("texts.none", strings(&[])),
    ];
    if odd_numbers {
        values.extend([
            KeyValue::new("double.infinite", f64::INFINITY),
            KeyValue::new("double.minus.infinite", f64::NEG_INFINITY),
            KeyValue::new("double.none", f64::NAN),
        ]);
    }
    values
}

fn scope(name: &'static str) -> InstrumentationScope {
    InstrumentationScope::builder(name)
        .with_version("1.2.3")
        .with_schema_url("https://example.com/schema")
        .with_attributes([KeyValue::new("scope", "attribute"), KeyValue::new("n", 1)])
        .build()
}

fn linked(n: u8, is_remote: bool) -> SpanContext {
    let state = ["", "vendor=value", "a=1,b=2,c=3,d=4,e=5"][usize::from(n % 3)];
    SpanContext::new(
        TraceId::from_bytes([n + 1; 16]),
        SpanId::from_bytes([n + 1; 8]),
        TraceFlags::new(n % 4),
        is_remote,
        state.parse().expect("a valid state"),
    )
}

fn spans(telemetry: &TelemetryGuard, odd_numbers: bool) {
    let tracers = telemetry.tracer_provider().expect("traces are enabled");
    let kinds = [
        SpanKind::Internal,
        SpanKind::Server,
        SpanKind::Client,
        SpanKind::Producer,
        SpanKind::Consumer,
    ];
    for (n, kind) in kinds.into_iter().enumerate() {
        let tracer = match n {
            0 => tracers.tracer("plain"),
            1 => tracers.tracer(""),
            _ => tracers.tracer_with_scope(scope("scope")),
        };
        let number = u8::try_from(n).expect("the number is small");
        // The parents are remote, local, or absent.
        let parent = match n {
            0 => Context::new(),
            _ => Context::new().with_remote_span_context(linked(number, n % 2 == 0)),
        };
        let mut span = tracer
            .span_builder(format!("span{n}"))
            .with_kind(kind)
            .with_start_time(fixed(n as u64))
            .with_attributes(values(odd_numbers))
            .with_links(
                (0..number)
                    .map(|n| Link::new(linked(n, true), values(odd_numbers), 0))
                    .collect(),
            )
            .start_with_context(&tracer, &parent);
        for n in 0..number {
            span.add_event_with_timestamp(format!("event{n}"), fixed(9), values(odd_numbers));
            span.add_link(linked(n, false), vec![KeyValue::new("added", i64::from(n))]);
        }
        span.add_event_with_timestamp("", UNIX_EPOCH, Vec::new());
        span.set_attribute(KeyValue::new("int", 7));
        span.set_status(match n {
            0 => Status::Unset,
            1 => Status::Ok,
            2 => Status::error(""),
            _ => Status::error("it failed: caf\u{e9}"),
        });
        span.end_with_timestamp(fixed(10));
    }
    let tracer = tracers.tracer_with_scope(scope("twice"));
    let twice = || {
        vec![
            KeyValue::new("a", 1),
            KeyValue::new("b", 2),
            KeyValue::new("a", 3),
        ]
    };
    let mut span = tracer
        .span_builder("twice")
        .with_attributes(twice())
        .start(&tracer);
    span.add_event_with_timestamp("twice", fixed(1), twice());
    span.add_link(linked(0, true), twice());
    span.end();
}

fn metrics(telemetry: &TelemetryGuard, odd_numbers: bool) {
    let meters = telemetry.meter_provider().expect("metrics are enabled");
    let meter = meters.meter_with_scope(scope("scope"));
    let other = meters.meter("plain");
    // The attributes of metrics also have values of every kind.
    for attributes in [
        values(odd_numbers),
        vec![KeyValue::new("point", 2)],
        Vec::new(),
    ] {
        let counter = meter.u64_counter("counter.u64");
        let counter = counter
            .with_unit("{thing}")
            .with_description("Things, caf\u{e9}.");
        counter.build().add(
            u64::try_from(i64::MAX).expect("the number fits"),
            &attributes,
        );
        meter
            .f64_counter("counter.f64")
            .build()
            .add(0.5, &attributes);
        let up_down = meter.i64_up_down_counter("up.down.i64");
        up_down.build().add(-7, &attributes);
        other
            .f64_up_down_counter("up.down.f64")
            .build()
            .add(-0.5, &attributes);
        meter.u64_gauge("gauge.u64").build().record(3, &attributes);
        meter
            .i64_gauge("gauge.i64")
            .build()
            .record(i64::MIN, &attributes);
        other
            .f64_gauge("gauge.f64")
            .build()
            .record(1e300, &attributes);
        for value in [0.0, 0.3, 7.0, 1e9, -4.0] {
            meter
                .f64_histogram("histogram.f64")
                .build()
                .record(value, &attributes);
            let bounds = meter.f64_histogram("histogram.bounds");
            bounds
                .with_boundaries(vec![0.1, 1.0])
                .build()
                .record(value, &attributes);
            let none = meter.f64_histogram("histogram.no.bounds");
            none.with_boundaries(Vec::new())
                .build()
                .record(value, &attributes);
        }
        for value in [0, 1, 1000, u64::MAX >> 12] {
            meter
                .u64_histogram("histogram.u64")
                .build()
                .record(value, &attributes);
        }
        let observed = attributes.clone();
        meter
            .f64_observable_gauge(format!("observed.{}", observed.len()))
            .with_callback(move |observer| observer.observe(2.5, &observed))
            .build();
    }
    let _ = meter.u64_counter("never.used").build();
}

#[cfg(not(feature = "logs"))]
fn logs(_: &TelemetryGuard, _: bool) {}

#[cfg(feature = "logs")]
fn logs(telemetry: &TelemetryGuard, odd_numbers: bool) {
    let loggers = telemetry.logger_provider().expect("logs are enabled");
    let map = |odd_numbers: bool| {
        let mut map = std::collections::HashMap::from([(
            opentelemetry::Key::from("inner"),
            AnyValue::from("value"),
        )]);
        if odd_numbers {
            map.insert(opentelemetry::Key::from("inner"), AnyValue::from(f64::NAN));
        }
        AnyValue::Map(Box::new(map))
    };
    let list = AnyValue::ListAny(Box::new(vec![
        AnyValue::Boolean(false),
        AnyValue::Int(-1),
        map(odd_numbers),
        AnyValue::ListAny(Box::default()),
    ]));
    let bodies = [
        None,
        Some(AnyValue::from("")),
        Some(AnyValue::from("text caf\u{e9}")),
        Some(AnyValue::from("h".repeat(100_000))),
        Some(AnyValue::Int(i64::MIN)),
        Some(AnyValue::Double(0.1)),
        Some(AnyValue::Boolean(true)),
        Some(AnyValue::Bytes(Box::new(vec![0, 255, 7]))),
        Some(list.clone()),
        Some(map(false)),
    ];
    let severities = [
        Severity::Trace,
        Severity::Debug2,
        Severity::Info,
        Severity::Warn,
        Severity::Error4,
        Severity::Fatal,
    ];
    // In JSON, `opentelemetry-otlp` writes a missing body as `null`.
    let first = usize::from(!odd_numbers);
    for (n, body) in bodies.into_iter().enumerate().skip(first) {
        let logger = match n % 2 {
            0 => loggers.logger_with_scope(scope("scope")),
            _ => loggers.logger("plain"),
        };
        let mut record = logger.create_log_record();
        record.add_attribute("number", n as i64);
        if let Some(body) = body {
            record.set_body(body);
        }
        if n > 0 {
            record.set_timestamp(fixed(n as u64));
            record.set_observed_timestamp(fixed(100));
            record.set_severity_number(severities[n % 6]);
            record.set_severity_text(severities[n % 6].name());
        }
        if n > 1 {
            record.set_event_name("event");
            record.set_target("target");
            record.set_trace_context(TraceId::from(7), SpanId::from(8), Some(TraceFlags::SAMPLED));
        }
        if n > 2 {
            record.set_trace_context(TraceId::from(7), SpanId::from(8), None);
            record.add_attribute("list", list.clone());
            record.add_attribute("map", map(false));
            record.add_attribute("bytes", AnyValue::Bytes(Box::default()));
            record.add_attribute("text", "");
            record.add_attribute("number", 7 + n as i64);
        }
        logger.emit(record);
    }
}

async fn everything(telemetry: &TelemetryGuard, odd_numbers: bool) {
    spans(telemetry, odd_numbers);
    metrics(telemetry, odd_numbers);
    logs(telemetry, odd_numbers);
    for traceparent in [Some(TRACEPARENT), None] {
        request(layer(telemetry), traceparent).await;
    }
}

/// Numbers random ids in the order of their appearance.
#[derive(Default)]
struct Ids(BTreeMap<Vec<u8>, u8>);

impl Ids {
    fn name(&mut self, id: &mut Vec<u8>) {
        if !id.is_empty() {
            let next = u8::try_from(self.0.len()).expect("there are fewer than 256 ids");
            *id = vec![*self.0.entry(id.clone()).or_insert(next)];
        }
    }
}

fn clear_times(times: &mut [&mut u64]) {
    for time in times {
        if is_now(**time) {
            **time = 1;
        }
    }
}

/// An item with its resource, its scope and their schemas.
type Item<T> = (
    Option<Resource>,
    String,
    Option<common::InstrumentationScope>,
    String,
    T,
);

/// Sorts items in an order that does not depend on the exporter.
fn sorted<T: Debug>(mut items: Vec<Item<T>>, key: impl Fn(&T) -> String) -> Vec<Item<T>> {
    for (resource, ..) in &mut items {
        let resource = resource.as_mut().expect("every item has a resource");
        resource
            .attributes
            .sort_by(|one, other| one.key.cmp(&other.key));
    }
    items.sort_by_key(|(_, _, scope, _, item)| (format!("{scope:?}"), key(item)));
    items
}

macro_rules! items {
    ($received:expr, $resources:ident, $scopes:ident, $items:ident) => {{
        let mut all = Vec::new();
        for resource in $received.iter().flat_map(|message| &message.$resources) {
            for scope in &resource.$scopes {
                for item in &scope.$items {
                    all.push((
                        resource.resource.clone(),
                        resource.schema_url.clone(),
                        scope.scope.clone(),
                        scope.schema_url.clone(),
                        item.clone(),
                    ));
                }
            }
        }
        all
    }};
}

/// Formats received telemetry, so that equal telemetry has equal text.
fn shown(received: &Received) -> String {
    let mut spans = sorted(
        items!(received.traces, resource_spans, scope_spans, spans),
        |span| format!("{} {:?}", span.name, span.parent_span_id.is_empty()),
    );
    let mut ids = Ids::default();
    for (.., span) in &mut spans {
        for id in [
            &mut span.trace_id,
            &mut span.span_id,
            &mut span.parent_span_id,
        ] {
            ids.name(id);
        }
        clear_times(&mut [&mut span.start_time_unix_nano, &mut span.end_time_unix_nano]);
    }
    let mut metrics = items!(received.metrics, resource_metrics, scope_metrics, metrics);
    for (.., metric) in &mut metrics {
        let is_timed = metric.name.starts_with("http.");
        macro_rules! points {
            ($data:expr) => {
                for point in &mut $data.data_points {
                    clear_times(&mut [&mut point.start_time_unix_nano, &mut point.time_unix_nano]);
                }
                for point in &mut $data.data_points {
                    // Before sorting: the SDK orders attributes as in one of the calls, and makes a
                    // new point for each `NaN`.
                    point
                        .attributes
                        .sort_by(|one, other| one.key.cmp(&other.key));
                }
                $data.data_points.sort_by_key(|point| format!("{point:?}"));
            };
        }
        match metric.data.as_mut().expect("the metric has data") {
            Data::Gauge(data) => {
                points!(data);
            }
            Data::Sum(data) => {
                points!(data);
            }
            Data::Histogram(data) => {
                points!(data);
                for point in data.data_points.iter_mut().filter(|_| is_timed) {
                    (point.sum, point.min, point.max) = (None, None, None);
                    point.bucket_counts.clear();
                }
            }
            Data::ExponentialHistogram(data) => {
                points!(data);
                for point in data.data_points.iter_mut().filter(|_| is_timed) {
                    (point.sum, point.min, point.max) = (None, None, None);
                    (point.scale, point.positive, point.negative) = (0, None, None);
                }
            }
            Data::Summary(_) => panic!("no instrument makes a summary"),
        }
    }
    let metrics = sorted(metrics, |metric| metric.name.clone());
    let mut logs = items!(received.logs, resource_logs, scope_logs, log_records);
    for (.., record) in &mut logs {
        clear_times(&mut [
            &mut record.time_unix_nano,
            &mut record.observed_time_unix_nano,
        ]);
    }
    let logs = sorted(logs, |record| format!("{:?}", record.attributes));
    format!("{spans:#?}\n{metrics:#?}\n{logs:#?}")
}

fn assert_same(case: &str, own: &Received, reference: &Received) {
    let (own, reference) = (shown(own), shown(reference));
    let (own, reference): (Vec<_>, Vec<_>) = (own.lines().collect(), reference.lines().collect());
    let pairs = own.iter().zip(&reference);
    if let Some(n) = pairs.clone().position(|(one, other)| one != other) {
        let part = |lines: &[&str]| {
            let lines = &lines[n.saturating_sub(30)..(n + 10).min(lines.len())];
            let lines: Vec<_> = lines
                .iter()
                .map(|line| &line[..line.len().min(200)])
                .collect();
            lines.join("\n")
        };
        let (own, reference) = (part(&own), part(&reference));
        panic!("{case}\nown:\n{own}\n\nreference:\n{reference}");
    }
    assert_eq!(own.len(), reference.len(), "{case}");
}

fn assert_same_counts(case: &str, reports: [&Report; 2]) {
    let [own, reference] = reports.map(|report| {
        let stats = &report.stats;
        [&stats.traces, &stats.metrics, &stats.logs].map(|signal| (signal.exported, signal.failed))
    });
    assert_eq!(own, reference, "{case}");
    assert!(
        own.iter().all(|(_, failed)| *failed == 0),
        "{case}: {own:?}"
    );
}

#[tokio::test]
async fn both_exporters_send_the_same_telemetry_field_by_field() {
    type Change = fn(Config) -> Config;
    let changes: [(&str, Change); 5] = [
        ("defaults", |config| config),
        ("exponential histograms", |config| {
            config.with_histogram_aggregation(HistogramAggregation::ExponentialBuckets)
        }),
        ("delta", |config| {
            config.with_temporality(Temporality::Delta)
        }),
        ("low memory, compressed", |config| {
            let config = config.with_temporality(Temporality::LowMemory);
            config.with_compression(Compression::Gzip)
        }),
        ("limits", |config| {
            config.with_limits(
                Limits::default()
                    .with_span_attributes(5)
                    .with_span_events(2)
                    .with_span_links(3)
                    .with_event_attributes(4)
                    .with_link_attributes(3)
                    .with_span_value_length(4)
                    .with_log_value_length(4),
            )
        }),
    ];
    for &protocol in PROTOCOLS {
        let odd_numbers = matches!(protocol, Protocol::Grpc | Protocol::HttpProtobuf);
        let record = async |telemetry: &TelemetryGuard| everything(telemetry, odd_numbers).await;
        for (name, change) in changes {
            let case = format!("{protocol:?} {name}");
            let [(own, own_report), (reference, reference_report)] =
                both(protocol, record, change).await;
            assert_same(&case, &own, &reference);
            assert_same_counts(&case, [&own_report, &reference_report]);
            assert!(own.spans().len() >= 8 && own.points() > 20, "{case}");
        }
    }
}

fn span_with(telemetry: &TelemetryGuard, attributes: Vec<KeyValue>) {
    let tracers = telemetry.tracer_provider().expect("traces are enabled");
    let tracer = tracers.tracer("test");
    let span = tracer.span_builder("span").with_attributes(attributes);
    span.start(&tracer).end();
}

fn metric_with(telemetry: &TelemetryGuard, attributes: &[KeyValue]) {
    let meters = telemetry.meter_provider().expect("metrics are enabled");
    let counter = meters.meter("test").u64_counter("counter").build();
    counter.add(1, attributes);
}

/// The JSON mapping of protobuf encodes numbers that are not finite, and omits unset fields.
#[cfg(feature = "http-json")]
#[tokio::test]
async fn json_with_a_non_finite_number_or_without_a_body_is_rejected_only_from_the_reference() {
    let span = async |telemetry: &TelemetryGuard| {
        span_with(telemetry, vec![KeyValue::new("n", f64::NAN)]);
    };
    let point = async |telemetry: &TelemetryGuard| {
        metric_with(telemetry, &[KeyValue::new("n", f64::INFINITY)]);
    };
    let json = Protocol::HttpJson;
    let mut cases = vec![
        ("span", both(json, span, |config| config).await),
        ("point", both(json, point, |config| config).await),
    ];
    #[cfg(feature = "logs")]
    {
        let record = async |telemetry: &TelemetryGuard| {
            let logger = telemetry
                .logger_provider()
                .expect("logs are enabled")
                .logger("test");
            logger.emit(logger.create_log_record());
        };
        cases.push(("record", both(json, record, |config| config).await));
    }
    for (case, [(_, own), (_, reference)]) in cases {
        assert_eq!(own.lost(), 0, "{case}: {own:?}");
        // The loss is counted.
        assert_eq!(reference.lost(), 1, "{case}: {reference:?}");
        let stats = &reference.stats;
        let signals = [&stats.traces, &stats.metrics, &stats.logs];
        let failures = signals.map(|signal| signal.last_failure);
        assert!(failures.contains(&Some(Failure::HttpStatus(400))), "{case}");
    }
}

/// Attribute keys are unique (specification, "Attribute collections").
#[tokio::test]
async fn a_duplicate_key_is_sent_twice_only_by_the_reference() {
    let twice = || vec![KeyValue::new("a", 1), KeyValue::new("a", 2)];
    let in_scope = async |telemetry: &TelemetryGuard| {
        let scope = InstrumentationScope::builder("scope");
        let scope = scope.with_attributes(twice()).build();
        let meters = telemetry.meter_provider().expect("metrics are enabled");
        let meter = meters.meter_with_scope(scope);
        meter.u64_counter("counter").build().add(1, &[]);
    };
    let in_point = async |telemetry: &TelemetryGuard| metric_with(telemetry, &twice());
    for protocol in [Protocol::HttpProtobuf, Protocol::Grpc] {
        for (case, reports) in [
            ("scope", both(protocol, in_scope, |config| config).await),
            ("point", both(protocol, in_point, |config| config).await),
        ] {
            // The receiver rejects collections with duplicate keys.
            let [own, reference] = reports.map(|(_, report)| report.lost());
            assert_eq!(own, 0, "{case} {protocol:?}");
            // The SDK may hold both forms of the point, and it is random which of them it collects.
            assert!(reference == 1 || case == "point", "{case} {protocol:?}");
        }
    }
}

/// The attribute `event.name` became the field "EventName" of the data model. The SDK accepts only
/// static names for it, and does not count attributes that limits drop.
#[cfg(feature = "logs")]
#[tokio::test]
async fn only_the_own_exporter_sends_event_names_and_counts_of_dropped_attributes() {
    let record = async |telemetry: &TelemetryGuard| {
        let logger = telemetry
            .logger_provider()
            .expect("logs are enabled")
            .logger("test");
        let mut record = logger.create_log_record();
        record.set_body("body".into());
        for key in ["event.name", "a", "b"] {
            record.add_attribute(key, "text");
        }
        logger.emit(record);
    };
    let limited = |config: Config| config.with_limits(Limits::default().with_log_attributes(2));
    let [own, reference] = both(Protocol::Grpc, record, limited).await;
    let [own, reference] = [own, reference].map(|(received, _)| {
        let record = received.log_records().remove(0);
        let keys = record.attributes.into_iter().map(|attribute| attribute.key);
        let keys: Vec<_> = keys.collect();
        (
            record.event_name,
            keys.join(" "),
            record.dropped_attributes_count,
        )
    });
    assert_eq!(own, ("text".to_owned(), "a b".to_owned(), 0));
    assert_eq!(reference, (String::new(), "event.name a".to_owned(), 0));
    let fewer = |config: Config| config.with_limits(Limits::default().with_log_attributes(1));
    let dropped = both(Protocol::Grpc, record, fewer)
        .await
        .map(|(received, _)| received.log_records()[0].dropped_attributes_count);
    assert_eq!(dropped, [1, 0]);
}

#[tokio::test]
async fn spans_too_large_for_one_message_are_split_and_only_the_reference_loses_metrics() {
    const HUGE: usize = 1024 * 1024;

    let large = async |telemetry: &TelemetryGuard| {
        for _ in 0..10 {
            span_with(telemetry, vec![KeyValue::new("large", "h".repeat(HUGE))]);
        }
        span_with(
            telemetry,
            vec![KeyValue::new("too large", "h".repeat(4 * HUGE))],
        );
        for n in 0..5 {
            let large = KeyValue::new("large", "h".repeat(HUGE));
            metric_with(telemetry, &[KeyValue::new("n", n), large]);
        }
    };
    for protocol in [Protocol::HttpProtobuf, Protocol::Grpc] {
        let all = both(protocol, large, |config| config).await;
        for ((received, report), points) in all.into_iter().zip([5, 0]) {
            let stats = &report.stats;
            assert_eq!(received.spans().len(), 10, "{protocol:?}");
            assert_eq!((stats.traces.exported, stats.traces.failed), (10, 1));
            assert_eq!(stats.traces.last_failure, Some(Failure::TooLarge));
            assert_eq!(received.points() as u64, points, "{protocol:?}");
            assert_eq!(
                (stats.metrics.exported, stats.metrics.failed),
                (points, 5 - points)
            );
            let expected = (points == 0).then_some(Failure::TooLarge);
            assert_eq!(stats.metrics.last_failure, expected);
        }
    }
}

#[tokio::test]
async fn rejected_counts_are_unknown_where_the_reference_hides_them() {
    for (protocol, rejected) in [(Protocol::HttpProtobuf, Some(2)), (Protocol::Grpc, None)] {
        let receiver = Receiver::start_with(Fault::Partial(2));
        let config = config(&receiver, protocol).with_reference_exporter();
        let telemetry = config.build().expect("the configuration is valid");
        assert_eq!(telemetry.stats().traces.rejected, rejected.map(|_| 0));
        for _ in 0..5 {
            span_with(&telemetry, Vec::new());
        }
        let report = telemetry.shutdown().await;
        let traces = &report.stats.traces;
        assert_eq!(traces.rejected, rejected);
        assert_eq!(traces.failed, rejected.unwrap_or(0));
        let words = "unknown how many spans the receiver rejected";
        let text = report.to_string();
        assert_eq!(text.contains(words), rejected.is_none(), "{text}");
    }
}

#[tokio::test]
async fn the_reference_exporter_has_the_same_settings() {
    for &protocol in PROTOCOLS {
        let receiver = Receiver::start();
        let (one, two) = ("x-one", "x-two");
        let mut headers = HeaderMap::new();
        headers.insert(one, HeaderValue::from_static("secret"));
        let mut fresh = HeaderMap::new();
        fresh.insert(two, HeaderValue::from_static("fresh"));
        let telemetry = config(&receiver, protocol)
            .with_headers(headers)
            .with_headers_from(move || fresh.clone())
            .with_compression(Compression::Gzip)
            .with_reference_exporter()
            .build()
            .expect("the configuration is valid");
        everything(&telemetry, false).await;
        let report = telemetry.shutdown().await;
        assert_eq!(report.lost(), 0, "{protocol:?}: {report:?}");
        let received = receiver.received();
        assert!(received.headers.len() >= 2, "{protocol:?}");
        for headers in &received.headers {
            assert_eq!(headers[one], "secret");
            assert_eq!(headers[two], "fresh");
            let encoding = match protocol {
                Protocol::Grpc => "grpc-encoding",
                _ => "content-encoding",
            };
            assert_eq!(headers[encoding], "gzip", "{protocol:?}");
        }
        assert!(!format!("{report:?} {report}").contains("secret"));
    }
}

#[tokio::test]
async fn the_reference_is_selected_for_one_signal_or_for_all_in_code_or_by_variables() {
    let by_variable = |name: &'static str, value: &'static str| {
        Config::from_vars(move |asked| (asked == name).then(|| value.to_owned()))
    };
    let of_traces = || OtlpSettings::new().with_reference_exporter(true);
    let own = || OtlpSettings::new().with_reference_exporter(false);
    let name = "opentelemetry-otlp";
    let cases = [
        (by_variable("", ""), ""),
        (
            by_variable("", "").with_reference_exporter(),
            "traces metrics logs",
        ),
        (by_variable("", "").with_traces_otlp(of_traces()), "traces"),
        (by_variable("OTLP_EXPORTER", name), "traces metrics logs"),
        (by_variable("OTLP_EXPORTER", "Tower-Telemetry"), ""),
        (by_variable("OTLP_EXPORTER", "unknown"), ""),
        (by_variable("OTLP_METRICS_EXPORTER", name), "metrics"),
        (by_variable("OTLP_LOGS_EXPORTER", name), "logs"),
        (
            by_variable("OTLP_METRICS_EXPORTER", "tower-telemetry").with_reference_exporter(),
            "traces metrics logs",
        ),
        (
            by_variable("OTLP_EXPORTER", name).with_traces_otlp(own()),
            "metrics logs",
        ),
    ];
    for (config, expected) in cases {
        let receiver = Receiver::start();
        let config = config
            .with_exporters([Exporter::Otlp])
            .with_endpoint(receiver.endpoint())
            .with_protocol(Protocol::HttpProtobuf);
        let line = config.to_string();
        let telemetry = config.build().expect("the configuration is valid");
        everything(&telemetry, false).await;
        telemetry.shutdown().await;
        let received = receiver.received();
        assert!(received.ways.len() >= 2, "{line}");
        for (way, headers) in received.ways.iter().zip(&received.headers) {
            let signal = way
                .rsplit('/')
                .next()
                .expect("the path ends with the signal");
            let agent = headers["user-agent"].to_str().expect("the text is UTF-8");
            let own = agent.starts_with("tower-telemetry/");
            assert_eq!(!own, expected.contains(signal), "{signal} {agent}: {line}");
        }
    }
}
