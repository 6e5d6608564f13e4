//! Exemplars with the global providers of `init`. This test is a program of its own, because the
//! providers are global.

#![cfg(feature = "init")]

use std::collections::BTreeSet;
use std::convert::Infallible;

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "it/support/receiver.rs"]
mod receiver;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use opentelemetry_proto::tonic::metrics::v1::Exemplar;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_sdk::trace::Sampler as SdkSampler;
use receiver::{Received, Receiver};
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::config::{Exporter, Sampler};
use tower_telemetry::{ClientTelemetryLayer, Config, TelemetryLayer, async_with_tracer};

fn exemplars(received: &Received, name: &str) -> Vec<Exemplar> {
    let metric = received.metric(name);
    match metric.and_then(|metric| metric.data) {
        Some(Data::Sum(data)) => {
            let points = data.data_points.into_iter();
            points.flat_map(|point| point.exemplars).collect()
        }
        Some(Data::Histogram(data)) => {
            let points = data.data_points.into_iter();
            points.flat_map(|point| point.exemplars).collect()
        }
        other => panic!("{name}: {other:?}"),
    }
}

async fn answer(_: Request<()>) -> Result<Response<Empty<Bytes>>, Infallible> {
    Ok(Response::new(Empty::new()))
}

/// Serves requests. The handler starts spans and sends a client request below them.
async fn serve() {
    let client = ClientTelemetryLayer::new().layer(service_fn(answer));
    let handler = service_fn(move |_: Request<()>| {
        let client = client.clone();
        async move {
            async_with_tracer("test", "work", async {
                #[cfg(feature = "tracing")]
                let _span = tracing::info_span!("of tracing").entered();
                let request = Request::get("http://example.com/").body(());
                client.oneshot(request.expect("a valid request")).await
            })
            .await
        }
    });
    for flags in ["01", "00"] {
        let parent = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        let request = Request::get("/")
            .header("traceparent", parent)
            .body(())
            .expect("a valid request");
        let service = TelemetryLayer::new().layer(handler.clone());
        drop(
            service
                .oneshot(request)
                .await
                .expect("the service cannot fail"),
        );
    }
}

#[tokio::test]
async fn exemplars_have_the_ids_of_exported_spans_of_this_crate_and_of_the_sdk() {
    type Change = fn(Config) -> Config;
    let changes: [Change; 2] = [
        |config| config.with_sampler(Sampler::ParentBasedAlwaysOn),
        // With a sampler of the application, the SDK creates the spans.
        |config| config.with_sampler(SdkSampler::parent_based(SdkSampler::AlwaysOn)),
    ];
    for change in changes {
        let receiver = Receiver::start();
        let config = Config::from_vars(|_| None)
            .with_exporters([Exporter::Otlp])
            .with_endpoint(receiver.endpoint());
        let telemetry = change(config)
            .init()
            .expect("the previous telemetry has ended");
        serve().await;
        let report = telemetry.shutdown().await;
        assert_eq!(report.lost(), 0, "{report:?}");
        let received = receiver.received();
        let spans = received.spans();
        let ids_of = |kind: SpanKind| {
            let spans = spans.iter().filter(|span| span.kind == kind as i32);
            let ids = spans.map(|span| (span.trace_id.clone(), span.span_id.clone()));
            ids.collect::<BTreeSet<_>>()
        };
        for (name, kind) in [
            ("http.requests", SpanKind::Server),
            ("http.duration", SpanKind::Server),
            ("http.server.request.duration", SpanKind::Server),
            ("http.client.request.duration", SpanKind::Client),
        ] {
            let found = exemplars(&received, name);
            assert_eq!(found.len(), 1, "{name}: {found:?}");
            let found = found.into_iter().map(|one| (one.trace_id, one.span_id));
            assert_eq!(found.collect::<BTreeSet<_>>(), ids_of(kind), "{name}");
        }
    }
}
