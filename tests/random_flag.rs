//! The random flag of new traces, with parts of the application in the pipeline of `init`. This
//! test is a program of its own, because `init` sets telemetry up for the process.

#![cfg(feature = "init")]

use std::collections::HashMap;
use std::convert::Infallible;

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "it/support/receiver.rs"]
mod receiver;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use opentelemetry::trace::{Link, SpanId, SpanKind, TraceId};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::trace::{
    IdGenerator, InMemorySpanExporter, RandomIdGenerator, Sampler, SamplingDecision,
    SamplingResult, ShouldSample, SimpleSpanProcessor,
};
use receiver::Receiver;
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{Config, TelemetryLayer, config::Exporter};

/// A generator of trace ids that are consecutive numbers, not random.
#[derive(Debug)]
struct Counting;

impl IdGenerator for Counting {
    fn new_trace_id(&self) -> TraceId {
        TraceId::from(7)
    }

    fn new_span_id(&self) -> SpanId {
        RandomIdGenerator::default().new_span_id()
    }
}

/// A sampler with the same decision for all spans.
#[derive(Clone, Debug)]
struct Always(SamplingDecision);

impl ShouldSample for Always {
    fn should_sample(
        &self,
        _: Option<&Context>,
        _: TraceId,
        _: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        SamplingResult {
            decision: self.0.clone(),
            attributes: Vec::new(),
            trace_state: Default::default(),
        }
    }
}

/// Serves a request. Returns the flags that the handler propagates, and the flags of the exported
/// spans.
async fn flags(config: Config, traceparent: Option<&str>) -> (u8, Vec<u32>) {
    let receiver = Receiver::start();
    let config = config
        .with_exporters([Exporter::Otlp])
        .with_metrics_exporters([])
        .with_endpoint(receiver.endpoint());
    let telemetry = config.init().expect("the previous telemetry has ended");
    let service = TelemetryLayer::new().layer(service_fn(|_: Request<()>| async {
        let mut sent = HashMap::new();
        let cx = Context::current();
        global::get_text_map_propagator(|one| one.inject_context(&cx, &mut sent));
        let mut response = Response::new(Empty::<Bytes>::new());
        let traceparent = sent["traceparent"].parse().expect("a legal value");
        response.headers_mut().insert("sent", traceparent);
        // The child span has the flags of the request's span.
        tower_telemetry::with_tracer("test", "below", || ());
        Ok::<_, Infallible>(response)
    }));
    let mut request = Request::get("/");
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    let request = request.body(()).expect("a valid request");
    let response = service
        .oneshot(request)
        .await
        .expect("the service cannot fail");
    let sent = response.headers()["sent"]
        .to_str()
        .expect("the text is UTF-8");
    let sent = u8::from_str_radix(&sent[53..], 16).expect("the text is a number");
    drop(response);
    let report = telemetry.shutdown().await;
    assert_eq!(report.lost(), 0, "{report:?}");
    let spans = receiver.received().spans();
    (sent, spans.iter().map(|span| span.flags & 0xff).collect())
}

#[tokio::test]
async fn a_new_trace_has_the_random_flag_unless_the_application_generates_ids() {
    type Change = fn(Config) -> Config;
    let samplers: [(&str, u8, Change); 7] = [
        ("default", 1, |config| config),
        ("off", 0, |config| {
            config.with_sampler(tower_telemetry::config::Sampler::AlwaysOff)
        }),
        ("own", 1, |config| config.with_sampler(Sampler::AlwaysOn)),
        ("drop", 0, |config| {
            config.with_sampler(Always(SamplingDecision::Drop))
        }),
        ("record", 0, |config| {
            config.with_sampler(Always(SamplingDecision::RecordOnly))
        }),
        ("sample", 1, |config| {
            config.with_sampler(Always(SamplingDecision::RecordAndSample))
        }),
        ("processor", 1, |config| {
            config.with_span_processor(SimpleSpanProcessor::new(InMemorySpanExporter::default()))
        }),
    ];
    for (name, sampled, change) in samplers {
        for has_own_ids in [false, true] {
            for (traceparent, inherited) in [
                (None, None),
                (Some("01"), Some(0)),
                (Some("03"), Some(2)),
                (Some("00"), Some(0)),
                (Some("02"), Some(2)),
            ] {
                let config = change(Config::from_vars(|_| None));
                let config = match has_own_ids {
                    true => config.with_id_generator(Counting),
                    false => config,
                };
                let header = traceparent.map(|flags| {
                    format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}")
                });
                let (sent, exported) = flags(config, header.as_deref()).await;
                let random = inherited.unwrap_or(if has_own_ids { 0 } else { 2 });
                let case = format!("{name} {has_own_ids} {traceparent:?}");
                assert_eq!(sent & 2, random, "{case}");
                // The default sampler follows the caller's decision.
                let follows = ["default", "processor"].contains(&name);
                let is_sampled = match traceparent {
                    Some(flags) if follows => u8::from(flags.ends_with(['1', '3'])),
                    _ => sampled,
                };
                assert_eq!(sent & 1, is_sampled, "{case}");
                let expected = if is_sampled == 1 {
                    vec![u32::from(1 | random); 2]
                } else {
                    Vec::new()
                };
                assert_eq!(exported, expected, "{case}");
            }
        }
    }
}
