//! Sends spans of the layer, of handler code and of `tracing` through exporters and processors of
//! the application, with `init`. The spans are made by this crate or by the SDK. `init` applies to
//! the whole process, so this test is a process of its own.

#![cfg(all(feature = "init", feature = "logs", feature = "tracing"))]

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "it/support/receiver.rs"]
mod receiver;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use opentelemetry::Context;
use opentelemetry::trace::{Link, SpanId, SpanKind, TraceId};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    IdGenerator, InMemorySpanExporter, RandomIdGenerator, Sampler, SamplingResult, ShouldSample,
    Span, SpanData, SpanProcessor,
};
use receiver::Receiver;
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::config::Exporter;
use tower_telemetry::{Config, TelemetryLayer, with_tracer};
use tracing::{Instrument, info_span};

/// The name of a span and of its parent.
type Place = (String, Option<String>);

/// Handles a request in a span of each kind.
async fn handle(_: Request<()>) -> Result<Response<Empty<Bytes>>, Infallible> {
    async {
        with_tracer("shop", "load", || info_span!("parse").in_scope(|| {}));
    }
    .instrument(info_span!("place"))
    .await;
    Ok(Response::new(Empty::new()))
}

/// Returns the place of each span. A span comes as its id, the id of its parent, and its name.
fn places(spans: &[(Vec<u8>, Vec<u8>, String)]) -> Vec<Place> {
    let place = |(_, parent, name): &(Vec<u8>, Vec<u8>, String)| {
        let above = spans.iter().find(|(id, ..)| id == parent);
        (name.clone(), above.map(|(.., name)| name.clone()))
    };
    let mut places: Vec<_> = spans.iter().map(place).collect();
    places.sort();
    places
}

fn places_of(spans: &[SpanData]) -> Vec<Place> {
    let spans = spans.iter().map(|span| {
        let (id, parent) = (span.span_context.span_id(), span.parent_span_id);
        let ids = [id, parent].map(|id| id.to_bytes().to_vec());
        let [id, parent] = ids;
        (id, parent, span.name.to_string())
    });
    places(&spans.collect::<Vec<_>>())
}

fn expected() -> Vec<Place> {
    let below = |name: &str, parent: &str| (name.to_owned(), Some(parent.to_owned()));
    vec![
        ("GET".to_owned(), None),
        below("load", "place"),
        below("parse", "load"),
        below("place", "GET"),
    ]
}

/// Records its calls. As a sampler it follows the decision of the parent.
#[derive(Clone, Debug, Default)]
struct Seen {
    started: Arc<Mutex<Vec<String>>>,
    ended: Arc<Mutex<Vec<SpanData>>>,
}

impl Seen {
    fn start(&self, name: &str) {
        self.started
            .lock()
            .expect("the lock is not poisoned")
            .push(name.to_owned());
    }

    fn started(&self) -> Vec<String> {
        self.started
            .lock()
            .expect("the lock is not poisoned")
            .clone()
    }
}

impl SpanProcessor for Seen {
    fn on_start(&self, span: &mut Span, _: &Context) {
        self.start(&span.exported_data().expect("the span is recorded").name);
    }

    fn on_end(&self, span: SpanData) {
        self.ended
            .lock()
            .expect("the lock is not poisoned")
            .push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl ShouldSample for Seen {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[opentelemetry::KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        self.start(name);
        let sampler = Sampler::parent_based(Sampler::AlwaysOn);
        sampler.should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

impl IdGenerator for Seen {
    fn new_trace_id(&self) -> TraceId {
        RandomIdGenerator::default().new_trace_id()
    }

    fn new_span_id(&self) -> SpanId {
        self.start("an id");
        RandomIdGenerator::default().new_span_id()
    }
}

#[tokio::test]
async fn spans_of_layers_handlers_and_tracing_reach_every_kind_of_configured_part() {
    type Add = fn(Config, &Seen) -> Config;
    let started = ["GET", "place", "load", "parse"];
    let cases: [(&str, Add, &[&str], usize); 5] = [
        ("an exporter alone", |config, _| config, &[], 0),
        (
            "a processor",
            |config, seen| config.with_span_processor(seen.clone()),
            &started,
            4,
        ),
        (
            "a sampler",
            |config, seen| config.with_sampler(seen.clone()),
            &started,
            0,
        ),
        (
            "a generator of ids",
            |config, seen| config.with_id_generator(seen.clone()),
            &["an id"; 4],
            0,
        ),
        (
            "a processor in the place of the export",
            |config, seen| config.with_span_processor_around(|_| seen.clone()),
            &started,
            4,
        ),
    ];
    for (case, add, started, ended) in cases {
        let receiver = Receiver::start();
        let (seen, exporter) = (Seen::default(), InMemorySpanExporter::default());
        let config = Config::from_vars(|_| None)
            .with_exporters([Exporter::Otlp])
            .with_endpoint(receiver.endpoint())
            .with_span_exporter(exporter.clone());
        let telemetry = add(config, &seen)
            .init()
            .expect("no other telemetry is initialized");
        let service = TelemetryLayer::new().layer(service_fn(handle));
        let response = service.oneshot(Request::new(())).await;
        drop(response.expect("the service cannot fail"));
        let report = telemetry.force_flush().await;
        let in_memory = exporter
            .get_finished_spans()
            .expect("the lock is not poisoned");
        telemetry.shutdown().await;
        assert_eq!((report.lost(), report.timed_out), (0, false), "{case}");

        assert_eq!(seen.started(), started, "{case}");
        let seen = seen.ended.lock().expect("the lock is not poisoned").clone();
        assert_eq!(seen.len(), ended, "{case}");
        if ended > 0 {
            assert_eq!(places_of(&seen), expected(), "{case}");
        }
        let received = receiver.received().spans();
        let received: Vec<_> = received
            .iter()
            .map(|span| {
                let ids = (span.span_id.clone(), span.parent_span_id.clone());
                (ids.0, ids.1, span.name.clone())
            })
            .collect();
        if case.ends_with("in the place of the export") {
            assert_eq!((in_memory.len(), received.len()), (0, 0), "{case}");
            continue;
        }
        assert_eq!(places_of(&in_memory), expected(), "{case}");
        assert_eq!(places(&received), expected(), "{case}");
        let ids: BTreeSet<_> = received.into_iter().map(|(id, ..)| id).collect();
        let same = |span: &SpanData| ids.contains(&span.span_context.span_id().to_bytes()[..]);
        assert!(in_memory.iter().all(same), "{case}");
    }
}
