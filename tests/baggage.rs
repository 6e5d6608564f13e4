//! Tests baggage members as span and log attributes. The setting applies to the whole process, so
//! this test is a program of its own.

#![cfg(all(feature = "init", feature = "logs"))]

use std::convert::Infallible;

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "it/support/receiver.rs"]
mod receiver;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use opentelemetry_sdk::trace::SdkTracerProvider;
use receiver::{Attributes, Receiver, attributes_of};
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::layers::Trust;
use tower_telemetry::messaging::Destination;
use tower_telemetry::{
    ClientTelemetryLayer, Config, TelemetryLayer, attributes, carriers, get_tracer,
};
use tracing_subscriber::prelude::*;

/// Serves a request with this baggage. Its handler makes a span, makes a `tracing` span, writes a
/// log line, and calls another server.
async fn serve(layer: &TelemetryLayer, baggage: &str) {
    let client = ClientTelemetryLayer::new().layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let client = client.clone();
        async move {
            let span = get_tracer("test").span("handler");
            span.with_attributes(attributes! { "taken" => "mine" })
                .run(|| {
                    tracing::info_span!("tracing").in_scope(|| {});
                    tracing::info!(taken = "mine", "line");
                });
            let request = Request::get("http://other.invalid/").body(());
            let response = client.oneshot(request.expect("a valid request")).await;
            drop(response);
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    }));
    let request = Request::get("/path")
        .header("baggage", baggage)
        .body(())
        .expect("a valid request");
    let response = service.oneshot(request).await;
    drop(response.expect("the service cannot fail"));
}

#[tokio::test]
async fn allowed_baggage_members_are_on_every_span_and_log_record_and_replace_no_attribute() {
    const KEYS: [&str; 4] = ["tenant", "taken", "url.path", "missing"];
    let long = "x".repeat(4000);
    let baggage = format!("tenant=a%20b,secret=canary,taken=theirs,url.path=%2Ftheirs,long={long}");
    for with_sdk in [false, true] {
        let receiver = Receiver::start();
        let config = Config::from_vars(|_| None)
            .with_endpoint(receiver.endpoint())
            .with_exporters([tower_telemetry::config::Exporter::Otlp])
            .with_baggage_attributes(KEYS.into_iter().chain(["long", "tenant"]))
            .without_subscriber();
        let telemetry = config.init().expect("no other telemetry is initialized");
        let subscriber = tracing_subscriber::registry().with(telemetry.log_layer());
        #[cfg(feature = "tracing")]
        let subscriber = subscriber.with(telemetry.span_layer());
        let subscriber = tracing::subscriber::set_default(subscriber);
        let mut layer = TelemetryLayer::new();
        if with_sdk {
            // A layer with its own provider uses the setting of the process.
            let provider = telemetry.tracer_provider().expect("traces are enabled");
            layer = layer.with_tracer_provider(SdkTracerProvider::clone(provider));
        }
        serve(&layer, &baggage).await;
        serve(&layer.clone().with_trust(Trust::Link), &baggage).await;
        let cx = carriers::extract([("baggage", &*baggage)]);
        Destination::new("kafka", "orders").process(cx).run(|| {});
        drop(subscriber);
        let report = telemetry.shutdown().await;
        assert_eq!(report.lost(), 0, "{report}");

        let received = receiver.received();
        let cut = format!("{}…", "x".repeat(253));
        let of = |attributes: &Attributes| {
            let keys = KEYS.into_iter().chain(["long"]);
            let found = keys.filter_map(|key| Some((key.to_owned(), attributes.get(key)?.clone())));
            found.collect::<Attributes>()
        };
        let expected = |taken: &str, path: Option<&str>| {
            let mut expected = Attributes::from([
                ("tenant".to_owned(), "a b".to_owned()),
                ("taken".to_owned(), taken.to_owned()),
                ("long".to_owned(), cut.clone()),
            ]);
            expected.extend(path.map(|path| ("url.path".to_owned(), path.to_owned())));
            expected
        };
        let mut names = Vec::new();
        let spans = received.spans();
        for span in &spans {
            let found = of(&attributes_of(&span.attributes));
            let is_linked = !found.contains_key("tenant");
            names.push((span.name.as_str(), is_linked));
            let mut expected = match &*span.name {
                "handler" => expected("mine", Some("/theirs")),
                "GET" if span.kind == 2 => expected("theirs", Some("/path")),
                _ => expected("theirs", Some("/theirs")),
            };
            // On either side, baggage never sets an attribute that the layer records itself.
            if span.name == "GET" && span.kind == 3 {
                expected.remove("url.path");
            }
            if is_linked {
                expected.retain(|key, value| {
                    key == "taken" && value == "mine" || key == "url.path" && value == "/path"
                });
            }
            assert_eq!(found, expected, "{} {with_sdk}", span.name);
        }
        names.sort_unstable();
        let mut all = vec![("GET", false), ("GET", false), ("handler", false)];
        all.extend([("GET", true), ("GET", true), ("handler", true)]);
        all.push(("process orders", false));
        if cfg!(feature = "tracing") {
            all.extend([("tracing", false), ("tracing", true)]);
        }
        all.sort_unstable();
        assert_eq!(names, all);

        let records = received.log_records();
        let lines = records.iter().filter(|record| record.event_name.is_empty());
        let lines: Vec<_> = lines
            .map(|record| of(&attributes_of(&record.attributes)))
            .filter(|attributes| attributes.contains_key("taken"))
            .collect();
        let linked = Attributes::from([("taken".to_owned(), "mine".to_owned())]);
        assert_eq!(lines, [expected("mine", Some("/theirs")), linked]);
        assert!(!format!("{received:?}").contains("canary"));
        assert!(!format!("{:?}", received.metrics).contains("tenant"));
    }
}
