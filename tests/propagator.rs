//! Tests B3 with a sampler of the application, with the own providers of a layer, and in
//! OpenTelemetry's global propagator. The propagators apply to the whole process, so this test is a
//! program of its own.

#![cfg(feature = "init")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState, Tracer};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::trace::{
    InMemorySpanExporter, Sampler as SdkSampler, SamplingDecision, SamplingResult,
    SdkTracerProvider, ShouldSample,
};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_telemetry::{
    ClientTelemetryLayer, Config, TelemetryLayer,
    config::{Exporter, Sampler},
    layers::Trust,
    with_tracer,
};

const TRACE: &str = "463ac35c9f6413ad48485a3953bb6124";
const SPAN: &str = "a2fb4a1d1a96d312";

/// A call of the sampler: for a root span, or below a parent that is sampled or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SamplerCall {
    Root,
    Below(bool),
}

/// A sampler that follows its parent, samples new traces, and records how it was called.
#[derive(Clone, Debug, Default)]
struct RecordingSampler(Arc<Mutex<Vec<SamplerCall>>>);

impl ShouldSample for RecordingSampler {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        _: TraceId,
        _: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        let parent = parent.filter(|cx| cx.has_active_span());
        let asked = match parent {
            Some(cx) => SamplerCall::Below(cx.span().span_context().is_sampled()),
            None => SamplerCall::Root,
        };
        self.0.lock().expect("the lock is not poisoned").push(asked);
        SamplingResult {
            decision: match asked {
                SamplerCall::Below(false) => SamplingDecision::Drop,
                _ => SamplingDecision::RecordAndSample,
            },
            attributes: Vec::new(),
            trace_state: TraceState::NONE,
        }
    }
}

/// Sends a request with this `b3` header. Returns the trace of the request, the `b3` header of a
/// call that its handler makes, and whether a span below it is recorded.
async fn passes_on(
    layer: &TelemetryLayer,
    client: &ClientTelemetryLayer,
    b3: &str,
) -> (String, String, bool) {
    passes_on_within(None, layer, client, b3).await
}

/// Does the same, optionally with another layer outside. The trace is empty if no response names it.
async fn passes_on_within(
    outer: Option<&TelemetryLayer>,
    layer: &TelemetryLayer,
    client: &ClientTelemetryLayer,
    b3: &str,
) -> (String, String, bool) {
    let (sender, mut sent) = tokio::sync::mpsc::unbounded_channel();
    let client = client.layer(service_fn(move |request: Request<()>| {
        let b3 = request.headers()["b3"].to_str().map(str::to_owned);
        let sent = sender.send(b3.expect("the text is UTF-8"));
        sent.expect("the receiver was not dropped");
        async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
    }));
    let recorded = Arc::new(Mutex::new(false));
    let is_recorded = recorded.clone();
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let mut client = client.clone();
        let is_recorded = is_recorded.clone();
        async move {
            with_tracer("test", "child", || {
                let cx = Context::current();
                *is_recorded.lock().expect("the lock is not poisoned") = cx.span().is_recording();
            });
            client.call(Request::new(())).await
        }
    }));
    let request = Request::builder().header("b3", b3).body(());
    let request = request.expect("a valid request");
    let headers = match outer {
        Some(outer) => {
            // Without the copy, the inner layer would see the mark of the outer one and ignore the request.
            let inner = service.map_request(|request: Request<()>| {
                let mut copy = Request::new(());
                *copy.headers_mut() = request.headers().clone();
                copy
            });
            let response = outer.layer(inner).oneshot(request).await;
            response.expect("the service cannot fail").headers().clone()
        }
        None => {
            let response = service.oneshot(request).await;
            response.expect("the service cannot fail").headers().clone()
        }
    };
    let trace = headers.get("x-trace-id").map(|trace| trace.to_str());
    let trace = trace.map(|trace| trace.expect("the text is UTF-8").to_owned());
    let trace = trace.unwrap_or_default();
    let sent = sent.recv().await.expect("the handler has made a call");
    let recorded = *recorded.lock().expect("the lock is not poisoned");
    (trace, sent, recorded)
}

#[tokio::test]
async fn b3_decisions_apply_to_every_kind_of_span() {
    let asking = RecordingSampler::default();
    let asked = || std::mem::take(&mut *asking.0.lock().expect("the lock is not poisoned"));
    let variables = |name: &str| (name == "OTEL_PROPAGATORS").then(|| "tracecontext,b3".to_owned());
    let config = Config::from_vars(variables)
        .with_exporters([Exporter::Console])
        .with_sampler(Sampler::Custom(Box::new(asking.clone())));
    let telemetry = config.init().expect("the configuration is valid");

    // The spans below are decided by the sampler of the application.
    let layers = (TelemetryLayer::new(), ClientTelemetryLayer::new());
    for (state, continues, sampled, first) in [
        (
            format!("{TRACE}-{SPAN}"),
            true,
            true,
            Some(SamplerCall::Root),
        ),
        (
            format!("{TRACE}-{SPAN}-1"),
            true,
            true,
            Some(SamplerCall::Below(true)),
        ),
        (
            format!("{TRACE}-{SPAN}-d"),
            true,
            true,
            Some(SamplerCall::Below(true)),
        ),
        (
            format!("{TRACE}-{SPAN}-0"),
            true,
            false,
            Some(SamplerCall::Below(false)),
        ),
        ("1".to_owned(), false, true, Some(SamplerCall::Below(true))),
        ("d".to_owned(), false, true, Some(SamplerCall::Below(true))),
        ("0".to_owned(), false, false, None),
    ] {
        let (trace, sent, recorded) = passes_on(&layers.0, &layers.1, &state).await;
        assert_eq!(trace == TRACE, continues, "{state}");
        assert_eq!(recorded, sampled, "{state}");
        let end = match (sampled, state.ends_with('d')) {
            (_, true) => "d",
            (true, false) => "1",
            (false, false) => "0",
        };
        assert_eq!((&sent[..32], &sent[50..]), (&*trace, end), "{state}");
        assert_eq!(asked().first().copied(), first, "{state}");
    }

    // A decision is trusted like the sampled flag.
    for trust in [Trust::Link, Trust::Ignore] {
        let layer = TelemetryLayer::new().with_trust(trust);
        for state in [
            format!("{TRACE}-{SPAN}"),
            format!("{TRACE}-{SPAN}-d"),
            "0".to_owned(),
            "1".to_owned(),
            "d".to_owned(),
        ] {
            let (trace, sent, recorded) = passes_on(&layer, &layers.1, &state).await;
            assert!(trace != TRACE && recorded, "{trust:?} {state}");
            assert_eq!(&sent[50..], "1", "{trust:?} {state}");
            assert_eq!(
                asked().first(),
                Some(&SamplerCall::Root),
                "{trust:?} {state}"
            );
        }
    }
    let layer = TelemetryLayer::new().with_forced_trace_limit(0);
    for (state, sampled) in [
        (format!("{TRACE}-{SPAN}"), true),
        (format!("{TRACE}-{SPAN}-0"), false),
        (format!("{TRACE}-{SPAN}-1"), false),
        (format!("{TRACE}-{SPAN}-d"), false),
        ("0".to_owned(), false),
        ("1".to_owned(), false),
        ("d".to_owned(), false),
    ] {
        let (trace, sent, recorded) = passes_on(&layer, &layers.1, &state).await;
        assert_eq!(trace == TRACE, state.len() > 1, "{state}");
        assert_eq!(recorded, sampled, "{state}");
        assert_eq!(&sent[50..], if sampled { "1" } else { "0" }, "{state}");
    }

    // A request that no layer records is forwarded with its context unchanged.
    let silent = (
        TelemetryLayer::new().with_filter(|_| false),
        ClientTelemetryLayer::new().with_filter(|_| false),
    );
    for state in [
        format!("{TRACE}-{SPAN}"),
        format!("{TRACE}-{SPAN}-0"),
        format!("{TRACE}-{SPAN}-d"),
        "0".to_owned(),
        "1".to_owned(),
        "d".to_owned(),
    ] {
        let (trace, sent, _) = passes_on(&silent.0, &silent.1, &state).await;
        assert_eq!((&*trace, sent), ("", state));
    }

    // With two layers, the inner one follows the decision of the outer one.
    let with_ids = ["", "-0", "-1", "-d"].map(|state| format!("{TRACE}-{SPAN}{state}"));
    let [open, deny, accept, debug] = &with_ids;
    for (state, end) in [
        ("0", "0"),
        ("1", "1"),
        ("d", "d"),
        (open, "1"),
        (deny, "0"),
        (accept, "1"),
        (debug, "d"),
    ] {
        let outer = TelemetryLayer::new();
        let (trace, sent, recorded) =
            passes_on_within(Some(&outer), &layers.0, &layers.1, state).await;
        assert_eq!((&sent[..32], &sent[50..]), (&*trace, end), "{state}");
        assert_eq!(recorded, end != "0", "{state}");
    }

    // The layer has its own provider, which samples everything.
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_sampler(SdkSampler::AlwaysOn)
        .with_simple_exporter(exporter.clone())
        .build();
    let layers = (
        TelemetryLayer::new().with_tracer_provider(provider.clone()),
        ClientTelemetryLayer::new().with_tracer_provider(provider.clone()),
    );
    for (state, sampled) in [("0", false), ("1", true), ("d", true)] {
        let (trace, sent, recorded) = passes_on(&layers.0, &layers.1, state).await;
        assert_eq!((&sent[..32], &sent[50..]), (&*trace, state));
        assert_eq!(recorded, sampled, "{state}");
        let spans = exporter
            .get_finished_spans()
            .expect("the lock is not poisoned");
        assert_eq!(spans.is_empty(), !sampled, "{state}");
        exporter.reset();
    }

    // Other code uses the API of OpenTelemetry only.
    let tracer = global::tracer("other");
    let extract = |state: &str| {
        let carrier = HashMap::from([("b3".to_owned(), state.to_owned())]);
        global::get_text_map_propagator(|one| one.extract_with_context(&Context::new(), &carrier))
    };
    let inject = |cx: &Context| {
        let mut carrier = HashMap::new();
        global::get_text_map_propagator(|one| one.inject_context(cx, &mut carrier));
        carrier.remove("b3")
    };
    let open = format!("{TRACE}-{SPAN}");
    for (state, sampled) in [(&*open, true), ("0", false), ("1", true)] {
        let cx = extract(state);
        assert_eq!(
            inject(&cx).as_deref(),
            Some(state),
            "the context is passed through"
        );
        let span = tracer.start_with_context("other", &cx);
        let cx = cx.with_span(span);
        assert_eq!(cx.span().span_context().is_sampled(), sampled, "{state}");
        let sent = inject(&cx).expect("the context has a span");
        assert!(sent.ends_with(if sampled { "-1" } else { "-0" }), "{state}");
    }
    let nothing = extract("nonsense");
    assert!(!nothing.has_active_span());
    assert_eq!(inject(&nothing), None);
    let fields = global::get_text_map_propagator(|one| {
        let fields = one.fields().map(str::to_owned);
        fields.collect::<Vec<_>>()
    });
    assert_eq!(fields, ["traceparent", "tracestate", "b3"]);
    telemetry.shutdown().await;
}
