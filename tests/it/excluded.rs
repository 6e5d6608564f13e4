//! Excludes requests from traces, from metrics, or from both.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use opentelemetry::trace::SpanKind;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_telemetry::{get_tracer, start_as_current_span};

use crate::support::{TRACEPARENT, TestTelemetry, get};

/// Sends a request to a service that starts a span of its own. Returns whether the response has a trace id.
async fn send<L, B>(layer: L, content_type: &str) -> bool
where
    L: Layer<Inner>,
    L::Service: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body,
{
    let inner: Inner = service_fn(|_| {
        drop(start_as_current_span(&get_tracer("test"), "inside"));
        let response = Response::builder().header("grpc-status", "0");
        let response = response.body(Full::<Bytes>::default());
        std::future::ready(Ok(response.expect("a valid response")))
    });
    let request = get("/").header("traceparent", TRACEPARENT);
    let request = request.header("content-type", content_type).body(());
    let request = request.expect("a valid request");
    let response = layer.layer(inner).oneshot(request).await;
    let (head, body) = response.expect("the service cannot fail").into_parts();
    let _ = body.collect().await;
    head.headers.contains_key("x-trace-id")
}

type Answer = std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>;
type Inner = tower::util::ServiceFn<fn(Request<()>) -> Answer>;

#[tokio::test]
async fn a_filter_for_one_signal_does_not_affect_the_other() {
    for content_type in ["text/plain", "application/grpc"] {
        for (traces, metrics) in [(true, true), (true, false), (false, true), (false, false)] {
            for side in [SpanKind::Server, SpanKind::Client] {
                let telemetry = TestTelemetry::new();
                let has_trace_id = match side {
                    SpanKind::Server => {
                        let layer = telemetry.layer().with_trace_filter(move |_| traces);
                        send(layer.with_metric_filter(move |_| metrics), content_type).await
                    }
                    _ => {
                        let layer = telemetry.client_layer().with_trace_filter(move |_| traces);
                        send(layer.with_metric_filter(move |_| metrics), content_type).await
                    }
                };
                let case = format!("{content_type} {side:?} traces={traces} metrics={metrics}");
                let spans = telemetry.spans();
                let of_layer = spans.iter().filter(|span| span.span_kind == side).count();
                assert_eq!(of_layer, usize::from(traces), "{case}");
                assert_eq!(has_trace_id, traces && side == SpanKind::Server, "{case}");
                let recorded = telemetry.metrics();
                assert_eq!(
                    !recorded.is_empty(),
                    metrics,
                    "{case}: {:?}",
                    recorded.keys()
                );
                if side == SpanKind::Server {
                    let inside = spans.iter().find(|span| span.name == "inside");
                    let inside = inside.filter(|_| traces || metrics);
                    let parent = inside.map(|span| span.parent_span_id.to_string());
                    let is_of_caller = parent.as_deref() == Some("b7ad6b7169203331");
                    assert_eq!(is_of_caller, !traces && metrics, "{case}: {parent:?}");
                }
            }
        }
    }
}

#[cfg(feature = "init")]
mod by_path {
    use std::collections::BTreeSet;
    use std::process::Command;

    use tower_telemetry::config::Exporter;
    use tower_telemetry::{Config, TelemetryLayer};

    use super::*;
    use crate::support::receiver::{Receiver, attributes_of};

    const PROGRAM: &str = "excluded::by_path::a_service_whose_paths_are_excluded";

    #[test]
    fn a_variable_excludes_paths_from_traces_metrics_or_both() {
        let receiver = Receiver::start();
        let output = Command::new(std::env::current_exe().expect("the program has a path"))
            .args(["--exact", PROGRAM, "--ignored", "--nocapture"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint())
            .env("TELEMETRY_EXCLUDED_PATHS", "/healthz, /internal/*")
            .env("TELEMETRY_TRACES_EXCLUDED_PATHS", "/poll")
            .env("TELEMETRY_METRICS_EXCLUDED_PATHS", "/debug/*")
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{output:?}");
        let received = receiver.received();
        let spans: BTreeSet<_> = received
            .spans()
            .iter()
            .map(|span| attributes_of(&span.attributes)["url.path"].clone())
            .collect();
        let expected = ["/", "/debug/x", "/healthz/", "/polls"].map(str::to_owned);
        assert_eq!(spans, expected.into());
        let requests = received
            .metric("http.requests")
            .expect("the metric was exported");
        let Some(opentelemetry_proto::tonic::metrics::v1::metric::Data::Sum(sum)) = requests.data
        else {
            panic!("http.requests is a sum");
        };
        let counts = sum.data_points.iter().map(|point| point.value);
        let counts: Vec<_> = counts.collect();
        let expected = opentelemetry_proto::tonic::metrics::v1::number_data_point::Value::AsInt(4);
        assert_eq!(counts, [Some(expected)], "/, /healthz/, /poll and /polls");
    }

    #[tokio::test]
    #[ignore = "a program of another test"]
    async fn a_service_whose_paths_are_excluded() {
        let telemetry = Config::from_env().with_exporters([Exporter::Otlp]).init();
        let telemetry = telemetry.expect("the configuration is valid");
        let layer = TelemetryLayer::new();
        for path in [
            "/",
            "/healthz",
            "/healthz/",
            "/internal/a/b",
            "/poll",
            "/polls",
            "/debug/x",
        ] {
            let service = layer.layer(service_fn(|_: Request<()>| async {
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }));
            let request = get(path).body(()).expect("a valid request");
            let response = service
                .oneshot(request)
                .await
                .expect("the service cannot fail");
            let _ = response.into_body().collect().await;
        }
        telemetry.shutdown().await;
    }
}
