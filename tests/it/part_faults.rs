//! Tests parts of the application that block, fail and panic: everything else continues, and the
//! report counts every item.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use opentelemetry::logs::Severity;
use opentelemetry::trace::{Link, SpanId, SpanKind, TraceId};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{LogBatch, LogExporter, LogProcessor, SdkLogRecord};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, Pipeline, Stream, Temporality};
use opentelemetry_sdk::resource::ResourceDetector;
use opentelemetry_sdk::trace::{
    IdGenerator, InMemorySpanExporter, SamplingResult, ShouldSample, Span, SpanData, SpanExporter,
    SpanProcessor,
};
use proptest::prelude::*;
use tower_telemetry::Config;
use tower_telemetry::config::Batch;
use tower_telemetry::stats::{Failure, PartKind, Report};

use crate::parts::{counts, part, to, to_none, work};
use crate::support::receiver::Receiver;
use crate::support::{block_on, eventually};

type Behaviour = dyn Fn(&'static str) -> OTelSdkResult + Send + Sync;

/// A part of every kind. All of its methods behave the same.
#[derive(Clone)]
struct Part(Arc<Behaviour>);

impl Part {
    fn new(behaviour: impl Fn(&'static str) -> OTelSdkResult + Send + Sync + 'static) -> Self {
        Self(Arc::new(behaviour))
    }

    fn call(&self, method: &'static str) -> OTelSdkResult {
        (self.0)(method)
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Part")
    }
}

impl SpanProcessor for Part {
    fn on_start(&self, _: &mut Span, _: &Context) {
        let _ = self.call("on_start");
    }

    fn on_end(&self, _: SpanData) {
        let _ = self.call("on_end");
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.call("span_processor.force_flush")
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.call("span_processor.shutdown")
    }

    fn set_resource(&mut self, _: &Resource) {
        let _ = self.call("set_resource");
    }
}

impl SpanExporter for Part {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        self.call("span_exporter.export")
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.call("span_exporter.force_flush")
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.call("span_exporter.shutdown")
    }

    fn set_resource(&mut self, _: &Resource) {
        let _ = self.call("set_resource");
    }
}

impl LogProcessor for Part {
    fn emit(&self, _: &mut SdkLogRecord, _: &InstrumentationScope) {
        let _ = self.call("emit");
    }

    fn event_enabled(&self, _: Severity, _: &str, _: Option<&str>) -> bool {
        let _ = self.call("event_enabled");
        true
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.call("log_processor.force_flush")
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.call("log_processor.shutdown")
    }

    fn set_resource(&mut self, _: &Resource) {
        let _ = self.call("set_resource");
    }
}

impl LogExporter for Part {
    async fn export(&self, _: LogBatch<'_>) -> OTelSdkResult {
        self.call("log_exporter.export")
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.call("log_exporter.shutdown")
    }

    fn set_resource(&mut self, _: &Resource) {
        let _ = self.call("set_resource");
    }
}

impl PushMetricExporter for Part {
    async fn export(&self, _: &ResourceMetrics) -> OTelSdkResult {
        self.call("metric_exporter.export")
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.call("metric_exporter.force_flush")
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.call("metric_exporter.shutdown")
    }

    fn temporality(&self) -> Temporality {
        let _ = self.call("temporality");
        Temporality::Cumulative
    }
}

impl MetricReader for Part {
    fn register_pipeline(&self, _: Weak<Pipeline>) {
        let _ = self.call("register_pipeline");
    }

    fn collect(&self, _: &mut ResourceMetrics) -> OTelSdkResult {
        self.call("collect")
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.call("metric_reader.force_flush")
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.call("metric_reader.shutdown")
    }

    fn temporality(&self, _: InstrumentKind) -> Temporality {
        let _ = self.call("temporality");
        Temporality::Cumulative
    }
}

impl ShouldSample for Part {
    fn should_sample(
        &self,
        _: Option<&Context>,
        _: TraceId,
        _: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        let _ = self.call("should_sample");
        unreachable!("the sampler is only used with a panicking behaviour")
    }
}

impl IdGenerator for Part {
    fn new_trace_id(&self) -> TraceId {
        let _ = self.call("new_trace_id");
        TraceId::INVALID
    }

    fn new_span_id(&self) -> SpanId {
        let _ = self.call("new_span_id");
        SpanId::INVALID
    }
}

impl ResourceDetector for Part {
    fn detect(&self) -> Resource {
        let _ = self.call("detect");
        Resource::builder_empty().build()
    }
}

/// Adds a part of each kind that is not called on the thread of a request.
fn with_all(config: Config, part: &Part) -> Config {
    config
        .with_span_processor(part.clone())
        .with_span_exporter(part.clone())
        .with_log_processor(part.clone())
        .with_log_exporter(part.clone())
        .with_metric_reader(part.clone())
        .with_metric_exporter(part.clone())
}

const KINDS: [PartKind; 6] = [
    PartKind::SpanProcessor,
    PartKind::SpanExporter,
    PartKind::LogProcessor,
    PartKind::LogExporter,
    PartKind::MetricReader,
    PartKind::MetricExporter,
];

fn received(receiver: &Receiver) -> [usize; 2] {
    let received = receiver.received();
    assert!(received.metric("http.server.request.duration").is_some());
    [received.spans().len(), received.log_records().len()]
}

/// Blocks its callers until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn wait(&self) {
        let (is_open, opened) = &*self.0;
        let is_open = is_open.lock().expect("the lock is not poisoned");
        let _open = opened.wait_while(is_open, |is_open| !*is_open);
    }

    fn open(&self) {
        *self.0.0.lock().expect("the lock is not poisoned") = true;
        self.0.1.notify_all();
    }
}

#[tokio::test]
async fn blocking_parts_delay_no_other_part_and_their_waiting_items_are_counted() {
    let receiver = Receiver::start();
    let (gate, memory) = (Gate::default(), InMemorySpanExporter::default());
    let waiting = gate.clone();
    let blocks = Part::new(move |method| {
        // Requests call the other methods, which must not block.
        if method.contains('.') {
            waiting.wait();
        }
        Ok(())
    });
    let telemetry = with_all(to(&receiver), &blocks)
        .with_span_exporter(memory.clone())
        .with_shutdown_timeout(Duration::from_secs(2))
        .build()
        .expect("the configuration is valid");
    work(&telemetry, 3).await;
    let flush = telemetry.force_flush().await;
    assert!(flush.timed_out);
    assert_eq!(received(&receiver), [3, 3]);
    assert_eq!(
        memory
            .get_finished_spans()
            .expect("the lock is not poisoned")
            .len(),
        3
    );
    let stats = telemetry.stats();
    let waits = part(&stats, PartKind::SpanExporter)
        .counts
        .expect("the part is counted");
    assert_eq!((waits.accepted, waits.waiting), (3, 3));

    let report = telemetry.shutdown().await;
    assert!(report.timed_out);
    assert_eq!(report.stats.traces.lost() + report.stats.logs.lost(), 0);
    assert_eq!(counts(&report.stats, PartKind::SpanExporter), [3, 0, 0, 3]);
    assert_eq!(counts(&report.stats, PartKind::LogExporter), [3, 0, 0, 3]);
    let [accepted, .., dropped] = counts(&report.stats, PartKind::MetricExporter);
    assert!(accepted > 0 && accepted == dropped);
    assert_eq!(report.lost(), 6 + dropped);
    let text = report.to_string();
    assert!(
        text.contains("span exporter \"Part\": sent 0 spans, lost 3 spans"),
        "{text}"
    );
    gate.open();
}

#[tokio::test]
async fn flushes_that_wait_for_a_blocking_part_are_merged() {
    let (gate, called) = (Gate::default(), Arc::new(Mutex::new(BTreeMap::new())));
    let (waiting, calls) = (gate.clone(), called.clone());
    let blocks = Part::new(move |method| {
        if method.contains('.') {
            *calls
                .lock()
                .expect("the lock is not poisoned")
                .entry(method)
                .or_insert(0) += 1;
            waiting.wait();
        }
        Ok(())
    });
    let telemetry = with_all(to_none(), &blocks)
        .with_shutdown_timeout(Duration::from_millis(20))
        .build()
        .expect("the configuration is valid");
    for _ in 0..50 {
        assert!(telemetry.force_flush().await.timed_out);
    }
    assert!(telemetry.shutdown().await.timed_out);
    gate.open();
    // Flushes that waited run before the shutdown. The thread of each part is left to finish it.
    eventually("all parts are shut down", || {
        let called = called.lock().expect("the lock is not poisoned");
        called
            .keys()
            .filter(|method| method.ends_with("shutdown"))
            .count()
            == 6
    })
    .await;
    for (method, count) in &*called.lock().expect("the lock is not poisoned") {
        assert!(*count <= 3, "{method}: {count}");
    }
}

#[tokio::test]
async fn the_queue_of_a_blocking_part_is_bounded() {
    let (gate, memory) = (Gate::default(), InMemorySpanExporter::default());
    let waiting = gate.clone();
    let blocks = Part::new(move |_| {
        waiting.wait();
        Ok(())
    });
    let batch = Batch::default()
        .with_max_queue_size(8)
        .with_max_export_batch_size(1);
    let telemetry = to_none()
        .with_span_exporter(Named(blocks))
        .with_span_exporter(memory.clone())
        .with_span_batch(batch)
        .with_shutdown_timeout(Duration::from_millis(100))
        .build()
        .expect("the configuration is valid");
    for done in 1..=20 {
        work(&telemetry, 1).await;
        // The other exporter has room for each span.
        eventually("a span is exported", || {
            memory
                .get_finished_spans()
                .expect("the lock is not poisoned")
                .len()
                >= done
        })
        .await;
    }
    let stats = telemetry.stats();
    let waits = stats.parts[0].counts.expect("the part is counted");
    assert_eq!((waits.accepted, waits.waiting + waits.dropped), (20, 20));
    assert!(waits.waiting <= 8, "{waits:?}");
    let report = telemetry.shutdown().await;
    assert_eq!(report.lost(), 20, "{report}");
    gate.open();
}

/// A span exporter with only the required method. The default methods do not call the part.
#[derive(Debug)]
struct Named(Part);

impl SpanExporter for Named {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        self.0.call("export")
    }
}

#[tokio::test]
async fn parts_that_panic_in_every_method_affect_nothing_else() {
    let receiver = Receiver::start();
    let memory = InMemorySpanExporter::default();
    let panics = Part::new(|method| panic!("on purpose, in {method}"));
    let config = with_all(to(&receiver), &panics)
        .with_span_exporter(memory.clone())
        .with_sampler(panics.clone())
        .with_id_generator(panics.clone())
        .with_resource_detector(panics.clone())
        .with_view(|_: &_| -> Option<Stream> { panic!("on purpose, in a view") });
    let warnings: Vec<_> = config.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["Config::with_resource_detector panicked; its attributes are missing"]
    );
    let telemetry = config.build().expect("the configuration is valid");
    work(&telemetry, 3).await;
    let flush = telemetry.force_flush().await;
    assert!(!flush.timed_out, "{flush}");
    let report = telemetry.shutdown().await;
    assert!(!report.timed_out, "{report}");
    assert_eq!(received(&receiver), [3, 3]);
    assert_eq!(report.stats.traces.lost() + report.stats.logs.lost(), 0);
    for kind in KINDS {
        let stats = &report.stats;
        match kind {
            PartKind::MetricReader => assert_eq!(part(stats, kind).counts, None),
            PartKind::MetricExporter => {
                let [accepted, exported, failed, _] = counts(stats, kind);
                assert!(accepted > 0);
                assert_eq!((exported, failed), (0, accepted), "{kind}");
            }
            _ => assert_eq!(counts(stats, kind), [3, 0, 3, 0], "{kind}"),
        }
        let part = part(stats, kind);
        let last = part.counts.and_then(|counts| counts.last_failure);
        assert!(part.counts.is_none() || last == Some(Failure::Panic));
        // Two flushes and the shutdown: the explicit flush, the flush before the shutdown, and the shutdown.
        let flushes = if kind == PartKind::LogExporter { 1 } else { 3 };
        assert_eq!(part.failed_flushes, flushes, "{kind}");
    }
    let text = report.to_string();
    let words = "metric reader \"Part\": not counted, 3 flushes failed";
    assert!(text.contains(words), "{text}");
}

#[tokio::test]
async fn a_span_is_not_exported_and_is_counted_if_the_processor_around_the_export_panics() {
    let receiver = Receiver::start();
    let panics = Part::new(|_| panic!("on purpose"));
    let telemetry = to(&receiver)
        .with_span_processor_around(|_| panics)
        .build()
        .expect("the configuration is valid");
    work(&telemetry, 2).await;
    let report = telemetry.shutdown().await;
    assert_eq!(receiver.received().spans().len(), 0);
    assert_eq!(report.stats.traces.accepted, 0);
    assert_eq!(counts(&report.stats, PartKind::SpanProcessor), [2, 0, 2, 0]);
    assert_eq!(report.lost(), 2);
}

#[tokio::test]
async fn each_part_is_flushed_and_then_shut_down_once() {
    let called = Arc::new(Mutex::new(Vec::new()));
    let calls = called.clone();
    let part = Part::new(move |method| {
        if method.contains('.') && !method.ends_with(".export") {
            calls.lock().expect("the lock is not poisoned").push(method);
        }
        Ok(())
    });
    let telemetry = with_all(to_none(), &part)
        .build()
        .expect("the configuration is valid");
    work(&telemetry, 1).await;
    let report = telemetry.shutdown().await;
    assert_eq!((report.lost(), report.timed_out), (0, false), "{report}");
    let mut by_part = BTreeMap::<_, Vec<_>>::new();
    for method in called.lock().expect("the lock is not poisoned").iter() {
        let (part, method) = method
            .split_once('.')
            .expect("the method belongs to a part");
        by_part.entry(part).or_default().push(method);
    }
    let both = vec!["force_flush", "shutdown"];
    let expected = [
        ("log_exporter", vec!["shutdown"]),
        ("log_processor", both.clone()),
        ("metric_exporter", both.clone()),
        ("metric_reader", both.clone()),
        ("span_exporter", both.clone()),
        ("span_processor", both),
    ];
    assert_eq!(by_part, BTreeMap::from(expected));
}

#[tokio::test]
async fn an_export_future_that_never_completes_is_a_timeout() {
    #[derive(Debug)]
    struct Pending;

    impl SpanExporter for Pending {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            std::future::pending().await
        }
    }

    let batch = Batch::default().with_export_timeout(Duration::from_millis(50));
    let telemetry = to_none()
        .with_span_exporter(Pending)
        .with_span_batch(batch)
        .build()
        .expect("the configuration is valid");
    work(&telemetry, 1).await;
    let report = telemetry.shutdown().await;
    assert!(!report.timed_out);
    assert_eq!(counts(&report.stats, PartKind::SpanExporter), [1, 0, 1, 0]);
    let last = report.stats.parts[0]
        .counts
        .and_then(|one| one.last_failure);
    assert_eq!(last, Some(Failure::Timeout));
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    Well,
    Failed,
    TimedOut,
    Panicked,
}

/// Exports one item at a time with the outcomes of a script, and returns the report.
fn run(script: Vec<Ends>, kind: PartKind) -> Report {
    let count = script.len();
    let next = Mutex::new(script.into_iter());
    let part = Part::new(move |method| {
        if !method.ends_with(".export") {
            return Ok(());
        }
        let ends = next.lock().expect("the lock is not poisoned").next();
        match ends.expect("nothing is exported twice") {
            Ends::Well => Ok(()),
            Ends::Failed => Err(OTelSdkError::InternalFailure("on purpose".to_owned())),
            Ends::TimedOut => Err(OTelSdkError::Timeout(Duration::from_secs(1))),
            Ends::Panicked => panic!("on purpose"),
        }
    });
    let batch = Batch::default().with_max_export_batch_size(1);
    let config = to_none().with_span_batch(batch).with_log_batch(batch);
    let config = match kind {
        PartKind::SpanExporter => config.with_span_exporter(part),
        _ => config.with_log_exporter(part),
    };
    let telemetry = config.build().expect("the configuration is valid");
    block_on(async {
        work(&telemetry, count).await;
        telemetry.shutdown().await
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_report_counts_every_item_that_went_through_an_exporter(
        script in prop::collection::vec(
            prop::sample::select(vec![Ends::Well, Ends::Failed, Ends::TimedOut, Ends::Panicked]),
            0..12,
        ),
        kind in prop::sample::select(vec![PartKind::SpanExporter, PartKind::LogExporter]),
    ) {
        let report = run(script.clone(), kind);
        let well = script.iter().filter(|ends| **ends == Ends::Well).count() as u64;
        let all = script.len() as u64;
        prop_assert_eq!(counts(&report.stats, kind), [all, well, all - well, 0]);
        prop_assert_eq!(report.lost(), all - well);
        let last = script.iter().rev().find(|ends| **ends != Ends::Well);
        let expected = last.map(|ends| match ends {
            Ends::TimedOut => Failure::Timeout,
            Ends::Panicked => Failure::Panic,
            _ => Failure::Exporter,
        });
        let counts = part(&report.stats, kind).counts.expect("the part is counted");
        prop_assert_eq!(counts.last_failure, expected);
    }
}
