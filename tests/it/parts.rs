//! Tests parts that an application adds: the telemetry that reaches them, and the changes they make.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry::logs::{AnyValue, LogRecord};
use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanId, SpanKind, TraceContextExt, TraceId, Tracer,
    TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{InMemoryLogExporter, LogProcessor, SdkLogRecord};
use opentelemetry_sdk::metrics::InMemoryMetricExporter;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::resource::ResourceDetector;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, IdGenerator, InMemorySpanExporter, SamplingDecision, SamplingResult,
    ShouldSample, Span, SpanData, SpanProcessor,
};
use tower_telemetry::config::{Exporter, SpanExport};
use tower_telemetry::stats::{PartKind, PartStats, Stats};
use tower_telemetry::{Config, TelemetryGuard};
use tracing_subscriber::prelude::*;

use crate::export::{config, layer, request};
use crate::support::receiver::{Receiver, attributes_of};
use crate::support::span_attributes;

/// Returns a configuration that exports all signals to a receiver.
pub(crate) fn to(receiver: &Receiver) -> Config {
    config(&[("SERVICE_NAME", "shop")])
        .with_exporters([Exporter::Otlp])
        .with_endpoint(receiver.endpoint())
        .with_shutdown_timeout(crate::support::DEADLINE)
}

/// Returns a configuration that exports nothing over OTLP.
pub(crate) fn to_none() -> Config {
    config(&[("SERVICE_NAME", "shop")])
        .with_exporters([])
        .with_shutdown_timeout(crate::support::DEADLINE)
}

/// Serves requests and logs one line in each.
pub(crate) async fn work(telemetry: &TelemetryGuard, count: usize) {
    let subscriber = tracing_subscriber::registry().with(telemetry.log_layer());
    let subscriber = tracing::Dispatch::new(subscriber);
    for _ in 0..count {
        drop(request(layer(telemetry), None).await);
        let log = || tracing::info!("served");
        tracing::dispatcher::with_default(&subscriber, log);
    }
}

/// Returns the counts of the only part of a kind: accepted, exported, failed, dropped.
pub(crate) fn counts(stats: &Stats, kind: PartKind) -> [u64; 4] {
    let part = part(stats, kind);
    let counts = part.counts.expect("the part is counted");
    let sum = counts.exported + counts.failed + counts.dropped + counts.waiting;
    assert_eq!(counts.accepted, sum, "{part:?}");
    [
        counts.accepted,
        counts.exported,
        counts.failed,
        counts.dropped,
    ]
}

pub(crate) fn part(stats: &Stats, kind: PartKind) -> &PartStats {
    let part = stats.parts.iter().find(|part| part.kind == kind);
    part.unwrap_or_else(|| panic!("no {kind} in {stats:?}"))
}

struct InMemory {
    spans: InMemorySpanExporter,
    metrics: InMemoryMetricExporter,
    logs: InMemoryLogExporter,
}

impl InMemory {
    fn new() -> Self {
        Self {
            spans: InMemorySpanExporter::default(),
            metrics: InMemoryMetricExporter::default(),
            logs: InMemoryLogExporter::default(),
        }
    }

    fn add_to(&self, config: Config) -> Config {
        config
            .with_span_exporter(self.spans.clone())
            .with_metric_exporter(self.metrics.clone())
            .with_log_exporter(self.logs.clone())
    }

    fn spans(&self) -> Vec<SpanData> {
        self.spans
            .get_finished_spans()
            .expect("the lock is not poisoned")
    }
}

#[tokio::test]
async fn in_memory_exporters_get_the_same_telemetry_as_the_receiver_and_are_counted() {
    let receiver = Receiver::start();
    let memory = InMemory::new();
    let telemetry = memory
        .add_to(to(&receiver))
        .build()
        .expect("the configuration is valid");
    work(&telemetry, 3).await;
    let report = telemetry.force_flush().await;
    assert_eq!((report.lost(), report.timed_out), (0, false), "{report}");

    let received = receiver.received();
    let ids = |ids: &[u8]| ids.to_vec();
    let sent: BTreeSet<_> = received
        .spans()
        .iter()
        .map(|span| {
            (
                ids(&span.span_id),
                span.name.clone(),
                attributes_of(&span.attributes),
            )
        })
        .collect();
    let kept: BTreeSet<_> = memory
        .spans()
        .iter()
        .map(|span| {
            let id = span.span_context.span_id().to_bytes();
            (ids(&id), span.name.to_string(), span_attributes(span))
        })
        .collect();
    assert_eq!(sent.len(), 3);
    assert_eq!(sent, kept);

    let logs = memory
        .logs
        .get_emitted_logs()
        .expect("the lock is not poisoned");
    assert_eq!(logs.len(), 3);
    assert_eq!(received.log_records().len(), 3);
    let service = logs[0].resource.get(&"service.name".into());
    assert_eq!(service, Some(Value::from("shop")));

    let metrics = memory
        .metrics
        .get_finished_metrics()
        .expect("the lock is not poisoned");
    let names: BTreeSet<_> = metrics
        .iter()
        .flat_map(|metrics| metrics.scope_metrics())
        .flat_map(|scope| scope.metrics().map(|metric| metric.name().to_owned()))
        .collect();
    for name in &names {
        assert!(received.metric(name).is_some(), "{name}");
    }
    assert!(names.contains("http.server.request.duration"), "{names:?}");

    let stats = &report.stats;
    assert_eq!(counts(stats, PartKind::SpanExporter), [3, 3, 0, 0]);
    assert_eq!(counts(stats, PartKind::LogExporter), [3, 3, 0, 0]);
    let points = stats.metrics.exported;
    assert_eq!(
        counts(stats, PartKind::MetricExporter),
        [points, points, 0, 0]
    );
    let text = report.to_string();
    for words in [
        "; span exporter \"InMemorySpanExporter\": sent 3 spans, lost nothing",
        "; log exporter \"InMemoryLogExporter\": sent 3 log records, lost nothing",
        "; metric exporter \"InMemoryMetricExporter\": sent ",
    ] {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(telemetry.shutdown().await.lost(), 0);
}

#[tokio::test]
async fn parts_run_without_any_built_in_exporter() {
    let memory = InMemory::new();
    let config = memory.add_to(to_none());
    let parts = "span_exporter(InMemorySpanExporter),log_exporter(InMemoryLogExporter),\
                 metric_exporter(InMemoryMetricExporter)";
    assert!(config.to_string().ends_with(parts), "{config}");
    assert!(
        config
            .to_string()
            .contains("traces=none metrics=none logs=none")
    );
    let telemetry = config.build().expect("the configuration is valid");
    work(&telemetry, 2).await;
    // A flush of the provider includes the parts, too.
    let provider = telemetry
        .tracer_provider()
        .expect("traces are enabled")
        .clone();
    let flush = tokio::task::spawn_blocking(move || provider.force_flush());
    flush
        .await
        .expect("the task does not panic")
        .expect("the flush succeeds");
    assert_eq!(memory.spans().len(), 2);
    let logs = memory
        .logs
        .get_emitted_logs()
        .expect("the lock is not poisoned");
    assert_eq!(logs.len(), 2);
    let report = telemetry.shutdown().await;
    assert_eq!((report.lost(), report.timed_out), (0, false), "{report}");
    assert_eq!(report.stats.traces.accepted, 0);
    assert_eq!(counts(&report.stats, PartKind::SpanExporter), [2, 2, 0, 0]);
}

#[test]
fn configured_parts_are_shown_by_name_only() {
    #[derive(Debug)]
    struct Holder {
        _token: &'static str,
    }

    impl SpanProcessor for Holder {
        fn on_start(&self, _: &mut Span, _: &Context) {}
        fn on_end(&self, _: SpanData) {}
        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }
        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    let config = to_none().with_span_processor(Holder { _token: "s3cret" });
    let shown = format!("{config} {config:?}");
    assert!(shown.contains("span_processor(Holder)"), "{shown}");
    assert!(!shown.contains("s3cret"), "{shown}");
}

/// Prints for the test below, in a process of its own.
#[tokio::test]
#[ignore = "another test starts it and reads its output"]
async fn print_all_signals() {
    let telemetry = to_none()
        .with_span_exporter(opentelemetry_stdout::SpanExporter::default())
        .with_log_exporter(opentelemetry_stdout::LogExporter::default())
        .with_metric_exporter(opentelemetry_stdout::MetricExporter::default())
        .build()
        .expect("the configuration is valid");
    work(&telemetry, 1).await;
    let report = telemetry.shutdown().await;
    assert_eq!((report.lost(), report.timed_out), (0, false), "{report}");
}

#[test]
fn the_stdout_exporter_prints_spans_metrics_and_log_records() {
    let program = std::env::current_exe().expect("the test has a path");
    let output = Command::new(program)
        .args(["parts::print_all_signals", "--exact", "--ignored"])
        .arg("--nocapture")
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for words in [
        "Spans",
        "Metrics",
        "Logs",
        "http.server.request.duration",
        "served",
        "/path",
    ] {
        assert!(text.contains(words), "no {words} in {text}");
    }
}

/// Redacts an attribute of each exported span.
#[derive(Debug)]
struct Redacting(SpanExport);

impl SpanProcessor for Redacting {
    fn on_start(&self, span: &mut Span, cx: &Context) {
        self.0.on_start(span, cx);
    }

    fn on_end(&self, mut span: SpanData) {
        for attribute in &mut span.attributes {
            if attribute.key.as_str() == "url.path" {
                attribute.value = "REDACTED".into();
            }
        }
        self.0.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[tokio::test]
async fn a_redacting_processor_around_the_export_applies_to_all_exporters() {
    let receiver = Receiver::start();
    let (memory, beside) = (InMemory::new(), InMemorySpanExporter::default());
    let telemetry = memory
        .add_to(to(&receiver))
        .with_span_processor(BatchSpanProcessor::builder(beside.clone()).build())
        .with_span_processor_around(Redacting)
        .build()
        .expect("the configuration is valid");
    work(&telemetry, 2).await;
    let report = telemetry.force_flush().await;
    assert_eq!((report.lost(), report.timed_out), (0, false), "{report}");
    let sent = receiver.received().spans();
    let sent = sent.iter().map(|span| attributes_of(&span.attributes));
    let kept = memory.spans();
    let kept = kept.iter().map(span_attributes);
    let paths: Vec<_> = sent
        .chain(kept)
        .map(|all| all["url.path"].clone())
        .collect();
    assert_eq!(paths, ["REDACTED"; 4]);
    let beside = beside
        .get_finished_spans()
        .expect("the lock is not poisoned");
    let paths: Vec<_> = beside
        .iter()
        .map(|span| span_attributes(span)["url.path"].clone())
        .collect();
    assert_eq!(
        paths, ["/path"; 2],
        "another processor has its own copy of each span"
    );
    assert_eq!(telemetry.shutdown().await.stats.parts.len(), 5);
}

/// Counts its flushes.
#[derive(Debug)]
struct CountingFlushes(Arc<AtomicUsize>);

impl SpanProcessor for CountingFlushes {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, _: SpanData) {}

    fn force_flush(&self) -> OTelSdkResult {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Holds spans back until it is flushed.
#[derive(Debug)]
struct HoldsBack(SpanExport, Mutex<Vec<SpanData>>, &'static str);

impl SpanProcessor for HoldsBack {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, mut span: SpanData) {
        span.attributes.push(KeyValue::new(self.2, true));
        self.1.lock().expect("the lock is not poisoned").push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        for span in self.1.lock().expect("the lock is not poisoned").drain(..) {
            self.0.on_end(span);
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.force_flush()
    }
}

#[tokio::test]
async fn spans_held_back_by_processors_around_the_export_are_exported_by_flush_and_shutdown() {
    for last in [false, true] {
        let receiver = Receiver::start();
        let memory = InMemory::new();
        let keeping = |name| move |export| HoldsBack(export, Mutex::default(), name);
        let telemetry = memory
            .add_to(to(&receiver))
            .with_span_processor_around(keeping("outer"))
            .with_span_processor_around(keeping("inner"))
            .build()
            .expect("the configuration is valid");
        work(&telemetry, 3).await;
        let report = if last {
            telemetry.shutdown().await
        } else {
            telemetry.force_flush().await
        };
        assert_eq!((report.lost(), report.timed_out), (0, false), "{report}");
        assert_eq!(report.stats.traces.exported, 3);
        assert_eq!(counts(&report.stats, PartKind::SpanExporter), [3, 3, 0, 0]);
        for span in receiver.received().spans() {
            let keys: Vec<_> = span.attributes.iter().map(|one| one.key.as_str()).collect();
            assert!(keys.ends_with(&["outer", "inner"]), "{keys:?}");
        }
    }
}

#[tokio::test]
async fn spans_held_back_by_a_processor_around_the_export_are_no_longer_live() {
    let memory = InMemory::new();
    let telemetry = memory
        .add_to(to_none())
        .with_self_metrics(true)
        .with_span_processor_around(|export| HoldsBack(export, Mutex::default(), "kept"))
        .build()
        .expect("the configuration is valid");
    work(&telemetry, 3).await;
    // The first flush may collect before the processor has exported its spans.
    for _ in 0..2 {
        telemetry.force_flush().await;
        let metrics = memory
            .metrics
            .get_finished_metrics()
            .expect("the lock is not poisoned");
        let scopes = metrics.iter().flat_map(|metrics| metrics.scope_metrics());
        let live = scopes
            .flat_map(|scope| scope.metrics())
            .filter(|metric| metric.name() == "otel.sdk.span.live")
            .map(|metric| match metric.data() {
                AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                    sum.data_points().map(|point| point.value()).collect()
                }
                other => panic!("{other:?}"),
            });
        let live: Vec<Vec<i64>> = live.collect();
        assert!(!live.is_empty());
        assert!(live.iter().all(|live| live == &[0]), "{live:?}");
    }
}

#[tokio::test]
async fn the_flush_of_a_provider_flushes_each_part_once() {
    let flushes = Arc::new(AtomicUsize::new(0));
    let memory = InMemory::new();
    let second = InMemoryMetricExporter::default();
    let telemetry = memory
        .add_to(to_none())
        .with_span_processor(CountingFlushes(flushes.clone()))
        .with_metric_exporter(second.clone())
        .build()
        .expect("the configuration is valid");
    work(&telemetry, 1).await;
    let traces = telemetry
        .tracer_provider()
        .expect("traces are enabled")
        .clone();
    let metrics = telemetry
        .meter_provider()
        .expect("metrics are enabled")
        .clone();
    let logs = telemetry
        .logger_provider()
        .expect("logs are enabled")
        .clone();
    let all: [Box<dyn FnOnce() -> OTelSdkResult + Send>; 3] = [
        Box::new(move || traces.force_flush()),
        Box::new(move || metrics.force_flush()),
        Box::new(move || logs.force_flush()),
    ];
    for (done, flush) in all.into_iter().enumerate() {
        let flush = tokio::task::spawn_blocking(flush);
        flush
            .await
            .expect("the task does not panic")
            .expect("the flush succeeds");
        assert_eq!(flushes.load(Ordering::Relaxed), done + 1);
        for exporter in [&memory.metrics, &second] {
            let metrics = exporter
                .get_finished_metrics()
                .expect("the lock is not poisoned");
            assert_eq!(metrics.len(), done + 1);
        }
        assert_eq!(memory.spans().len(), 1);
    }
}

#[tokio::test]
async fn processors_see_each_attribute_key_once() {
    let kept = InMemorySpanExporter::default();
    let telemetry = to_none()
        .with_span_processor(BatchSpanProcessor::builder(kept.clone()).build())
        .build()
        .expect("the configuration is valid");
    let twice = || vec![KeyValue::new("a", 1), KeyValue::new("a", 2)];
    let provider = telemetry.tracer_provider().expect("traces are enabled");
    let mut span = provider.tracer("user").start("span");
    span.set_attributes(twice());
    span.add_event("event", twice());
    span.add_link(SpanContext::NONE, twice());
    drop(span);
    telemetry.force_flush().await;
    let spans = kept.get_finished_spans().expect("the lock is not poisoned");
    let [span] = &spans[..] else {
        panic!("{spans:?}");
    };
    let (event, link) = (&span.events.events[0], &span.links.links[0]);
    for attributes in [&span.attributes, &event.attributes, &link.attributes] {
        assert_eq!(attributes, &[KeyValue::new("a", 2)]);
    }
}

#[tokio::test]
async fn a_processor_can_change_spans_at_their_start_and_log_records_before_their_export() {
    #[derive(Debug)]
    struct AddsMark;

    impl SpanProcessor for AddsMark {
        fn on_start(&self, span: &mut Span, _: &Context) {
            span.set_attribute(KeyValue::new("app.mark", "yes"));
        }
        fn on_end(&self, _: SpanData) {}
        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }
        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    impl LogProcessor for AddsMark {
        fn emit(&self, record: &mut SdkLogRecord, _: &InstrumentationScope) {
            record.add_attribute("app.mark", AnyValue::from("yes"));
            // This event must not reach the processor again, which would never end.
            tracing::info!("a line of a processor");
        }
        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }
        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    let receiver = Receiver::start();
    let memory = InMemory::new();
    let telemetry = memory
        .add_to(to(&receiver))
        .with_span_processor(AddsMark)
        .with_log_processor(AddsMark)
        .build()
        .expect("the configuration is valid");
    work(&telemetry, 2).await;
    let report = telemetry.force_flush().await;
    assert_eq!((report.lost(), report.timed_out), (0, false), "{report}");
    assert_eq!(counts(&report.stats, PartKind::SpanProcessor), [2, 2, 0, 0]);
    assert_eq!(counts(&report.stats, PartKind::LogProcessor), [2, 2, 0, 0]);
    let received = receiver.received();
    let (spans, logs) = (received.spans(), received.log_records());
    assert_eq!((spans.len(), logs.len()), (2, 2));
    let spans = spans.iter().map(|span| &span.attributes);
    let logs = logs.iter().map(|record| &record.attributes);
    for attributes in spans.chain(logs) {
        assert_eq!(attributes_of(attributes)["app.mark"], "yes");
    }
    for span in memory.spans() {
        assert_eq!(span_attributes(&span)["app.mark"], "yes");
    }
}

/// Records every second trace, and collects the attribute keys that it sees.
#[derive(Clone, Debug, Default)]
struct EverySecond {
    asked: Arc<AtomicUsize>,
    keys: Arc<Mutex<BTreeSet<String>>>,
}

impl ShouldSample for EverySecond {
    fn should_sample(
        &self,
        _: Option<&Context>,
        _: TraceId,
        _: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        assert_eq!(*kind, SpanKind::Server);
        let keys = attributes.iter().map(|one| one.key.to_string());
        self.keys
            .lock()
            .expect("the lock is not poisoned")
            .extend(keys);
        let decision = match self.asked.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => SamplingDecision::RecordAndSample,
            _ => SamplingDecision::Drop,
        };
        SamplingResult {
            decision,
            attributes: Vec::new(),
            trace_state: Default::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Numbered(AtomicU64);

impl IdGenerator for Numbered {
    fn new_trace_id(&self) -> TraceId {
        TraceId::from(u128::from(0xabc0 + self.0.fetch_add(1, Ordering::Relaxed)))
    }

    fn new_span_id(&self) -> SpanId {
        SpanId::from(0xdef0 + self.0.fetch_add(1, Ordering::Relaxed))
    }
}

struct Rack;

impl ResourceDetector for Rack {
    fn detect(&self) -> Resource {
        let found = [
            ("app.rack", "b7"),
            ("os.type", "own"),
            ("service.name", "loses"),
        ];
        let found = found.map(|(key, value)| KeyValue::new(key, value));
        Resource::builder_empty().with_attributes(found).build()
    }
}

#[tokio::test]
async fn a_custom_sampler_id_generator_and_resource_detector_are_used() {
    let receiver = Receiver::start();
    let sampler = EverySecond::default();
    let telemetry = to(&receiver)
        .with_sampler(sampler.clone())
        .with_id_generator(Numbered::default())
        .with_resource_detector(Rack)
        .build()
        .expect("the configuration is valid");
    work(&telemetry, 4).await;
    assert_eq!(telemetry.shutdown().await.lost(), 0);
    let received = receiver.received();
    let spans = received.spans();
    assert_eq!(spans.len(), 2);
    for span in &spans {
        let trace_id = <[u8; 16]>::try_from(&*span.trace_id).expect("the id has the right length");
        assert!((0xabc0..0xabd0).contains(&u128::from_be_bytes(trace_id)));
        let span_id = <[u8; 8]>::try_from(&*span.span_id).expect("the id has the right length");
        assert!((0xdef0..0xdf00).contains(&u64::from_be_bytes(span_id)));
    }
    assert_eq!(sampler.asked.load(Ordering::Relaxed), 4);
    let keys = sampler.keys.lock().expect("the lock is not poisoned");
    for key in ["http.request.method", "url.path", "url.scheme"] {
        assert!(keys.contains(key), "{keys:?}");
    }
    let resource = received.traces[0].resource_spans[0].resource.clone();
    let resource = attributes_of(&resource.expect("the resource is set").attributes);
    let shown = ["app.rack", "os.type", "service.name"].map(|key| resource[key].as_str());
    assert_eq!(shown, ["b7", "own", "shop"]);
}

#[tokio::test]
async fn spans_of_handlers_reach_processors_as_children_of_the_request_span() {
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Empty;
    use tower::{Layer, ServiceExt, service_fn};

    let memory = InMemory::new();
    let telemetry = to_none()
        .with_span_processor(BatchSpanProcessor::builder(memory.spans.clone()).build())
        .build()
        .expect("the configuration is valid");
    let service = layer(&telemetry).layer(service_fn(|_: Request<()>| async {
        tower_telemetry::with_tracer("shop", "load", || {
            assert!(Context::current().span().is_recording());
        });
        Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    drop(
        service
            .oneshot(Request::new(()))
            .await
            .expect("the service cannot fail"),
    );
    telemetry.force_flush().await;
    let spans = memory.spans();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, ["load", "GET"]);
    assert_eq!(spans[0].parent_span_id, spans[1].span_context.span_id());
}
