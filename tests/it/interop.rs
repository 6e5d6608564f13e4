//! Tests spans of `tracing` in the trace of a request, through `tracing-opentelemetry`.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SpanData;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_http::trace::TraceLayer;
use tower_telemetry::{async_with_tracer, get_trace_id, with_tracer};
use tracing_subscriber::prelude::*;

use crate::support::{TRACE_ID, TRACEPARENT, TestTelemetry, tree};

#[tracing::instrument]
async fn instrumented() {
    tokio::task::yield_now().await;
    // An OpenTelemetry span below a `tracing` span, with another `tracing` span below.
    async_with_tracer("test", "native", async {
        tokio::task::yield_now().await;
        inner();
    })
    .await;
}

#[tracing::instrument]
fn inner() {
    with_tracer("test", "innermost", || {});
}

async fn handle(_: Request<Empty<Bytes>>) -> Result<Response<Empty<Bytes>>, Infallible> {
    assert!(get_trace_id().is_some());
    instrumented().await;
    Ok(Response::new(Empty::new()))
}

/// The place of `TraceLayer`, relative to the layer of this crate.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Nowhere,
    Inside,
    Outside,
}

/// Returns the spans of a request, and checks that all of them are in the trace that the response names.
fn spans(place: Place, traceparent: Option<&str>) -> Vec<SpanData> {
    let spans = spans_of(place, traceparent);
    let traces: std::collections::HashSet<_> = spans
        .iter()
        .map(|span| span.span_context.trace_id())
        .collect();
    assert_eq!(traces.len(), 1, "{place:?}");
    spans
}

fn spans_of(place: Place, traceparent: Option<&str>) -> Vec<SpanData> {
    let telemetry = TestTelemetry::new();
    let tracer = telemetry.tracer_provider().tracer("tracing");
    let subscriber = tracing_subscriber::registry()
        .with(tracing_opentelemetry::layer().with_tracer(tracer))
        .with(tracing_subscriber::filter::LevelFilter::DEBUG);
    // The subscriber is set for this thread only, and the runtime stays on it.
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("the runtime can be built").block_on(async {
        let mut request = Request::new(Empty::new());
        if let Some(traceparent) = traceparent {
            let value = traceparent.parse().expect("a legal value");
            request.headers_mut().insert("traceparent", value);
        }
        let (ours, other) = (telemetry.layer(), TraceLayer::new_for_http());
        let services = ServiceBuilder::new();
        let trace_id = match place {
            Place::Nowhere => respond(services.layer(ours).service_fn(handle), request).await,
            Place::Inside => {
                let services = services.layer(ours).layer(other);
                respond(services.service_fn(handle), request).await
            }
            Place::Outside => {
                let services = services.layer(other).layer(ours);
                respond(services.service_fn(handle), request).await
            }
        };
        let spans = telemetry.spans();
        let server = spans.iter().find(|span| span.name == "GET");
        let server = server.expect("the span has ended").span_context.trace_id();
        assert_eq!(trace_id, server.to_string().as_str(), "{place:?}");
    });
    telemetry.spans()
}

/// Reads the whole response and returns its trace id.
async fn respond<S, B>(service: S, request: Request<Empty<Bytes>>) -> HeaderValue
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body,
{
    let response = service
        .oneshot(request)
        .await
        .expect("the service cannot fail");
    let trace_id = response.headers()["x-trace-id"].clone();
    let _ = response.into_body().collect().await;
    trace_id
}

const HANDLER: [&str; 4] = ["instrumented", "native", "inner", "innermost"];

/// Returns the tree in which each span is the child of the previous one.
fn chain(names: &[&str]) -> Vec<String> {
    let lines = names.iter().enumerate();
    lines
        .map(|(depth, name)| format!("{}{name}", "  ".repeat(depth)))
        .collect()
}

#[test]
fn spans_of_tracing_and_of_opentelemetry_nest_in_one_trace() {
    for traceparent in [None, Some(TRACEPARENT)] {
        for (place, outer) in [
            (Place::Nowhere, &["GET"][..]),
            (Place::Inside, &["GET", "request"]),
        ] {
            let spans = spans(place, traceparent);
            assert_eq!(
                tree(&spans),
                chain(&[outer, &HANDLER].concat()),
                "{place:?}"
            );
            if traceparent.is_some() {
                assert_eq!(spans[0].span_context.trace_id().to_string(), TRACE_ID);
            }
        }
    }
}

#[test]
fn with_an_outer_trace_layer_the_trace_of_the_request_is_still_continued() {
    let spans = spans_of(Place::Outside, Some(TRACEPARENT));
    let in_trace = |span: &&SpanData| span.span_context.trace_id().to_string() == TRACE_ID;
    let (ours, others): (Vec<_>, Vec<_>) = spans.iter().partition(in_trace);
    assert_eq!(ours.len(), 1 + HANDLER.len());
    // The outer layer does not read headers, so its span starts a new trace.
    let others: Vec<_> = others.iter().map(|span| &*span.name).collect();
    assert_eq!(others, ["request"]);
}

#[test]
fn an_outer_trace_layer_is_the_root_of_a_request_without_a_parent() {
    let spans = spans(Place::Outside, None);
    assert_eq!(
        tree(&spans),
        chain(&[&["request", "GET"][..], &HANDLER].concat())
    );
}
