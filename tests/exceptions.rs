//! Tests exceptions as span events and as log records. Only `init` sets the latter up, so this test
//! is a process of its own.

#![cfg(all(feature = "init", feature = "logs"))]

#[path = "it/support/receiver.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod receiver;

use std::io::{Error, ErrorKind};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{ClientTelemetryLayer, Config, TelemetryLayer, set_span_error};

use receiver::{Attributes, Receiver, attributes_of};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sends a request whose handler records an error and then calls a server that does not answer.
async fn fail(sampled: bool) {
    let traceparent = format!("00-{TRACE_ID}-b7ad6b7169203331-0{}", u8::from(sampled));
    let request = |content_type: &str| {
        Request::builder()
            .uri("/a.B/C")
            .method("POST")
            .header("traceparent", &traceparent)
            .header("content-type", content_type)
            .body(())
            .expect("a valid request")
    };
    let refuse = |_: Request<()>| async {
        Err::<Response<Empty<Bytes>>, _>(Error::from(ErrorKind::ConnectionRefused))
    };
    let client = ClientTelemetryLayer::new().layer(service_fn(refuse));
    let handler = service_fn(move |mut request: Request<()>| {
        let client = client.clone();
        async move {
            set_span_error(&Error::other("see https://a/?sig=secret"));
            *request.uri_mut() = "http://a.example/".parse().expect("a valid URI");
            client.oneshot(request).await
        }
    });
    for content_type in ["text/plain", "application/grpc"] {
        let service = TelemetryLayer::new()
            .with_grpc_methods(["a.B/C"])
            .layer(handler.clone());
        let response = service.oneshot(request(content_type)).await;
        assert!(response.is_err(), "the call fails");
    }
}

fn described(record: &LogRecord) -> (String, String, i32, Attributes) {
    assert!(record.time_unix_nano > 0 && record.observed_time_unix_nano > 0);
    assert_eq!(hex(&record.trace_id), TRACE_ID);
    (
        record.event_name.clone(),
        record.severity_text.clone(),
        record.severity_number,
        attributes_of(&record.attributes),
    )
}

#[tokio::test]
async fn exceptions_are_recorded_on_spans_or_as_log_records_as_configured() {
    for (value, sampled, on_spans, logged) in [
        (None, true, true, false),
        (Some("sometimes"), true, true, false),
        (Some("logs"), true, false, true),
        (Some("logs/dup"), true, true, true),
        (Some("LOGS"), false, false, true),
    ] {
        let receiver = Receiver::start();
        let telemetry = Config::from_vars(|name| match name {
            "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN" => value.map(str::to_owned),
            "ENVIRONMENT" => Some("staging".to_owned()),
            _ => None,
        })
        .with_endpoint(receiver.endpoint())
        .without_subscriber()
        .init()
        .expect("no other telemetry is initialized");
        fail(sampled).await;
        let report = telemetry.shutdown().await;
        assert_eq!(report.lost(), 0, "{value:?}: {report:?}");

        let received = receiver.received();
        let spans = received.spans();
        assert_eq!(spans.len(), if sampled { 4 } else { 0 }, "{value:?}");
        let mut events = spans.iter().flat_map(|span| &span.events).peekable();
        assert_eq!(events.peek().is_some(), on_spans, "{value:?}");
        for event in events {
            assert_eq!(event.name, "exception");
        }
        let refused = ErrorKind::ConnectionRefused.to_string();
        let one = |event: &str, severity: &str, number, error_type: &str, message: &str| {
            let attributes = [
                ("exception.type", error_type),
                ("exception.message", message),
            ];
            let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned()));
            (
                event.to_owned(),
                severity.to_owned(),
                number,
                attributes.into(),
            )
        };
        let io = "std::io::Error";
        let mut expected = Vec::new();
        if logged {
            for (client, server) in [
                (
                    "http.client.request.exception",
                    "http.server.request.exception",
                ),
                ("rpc.client.call.exception", "rpc.server.call.exception"),
            ] {
                let recorded = "see https://a/?sig=REDACTED";
                expected.extend([
                    one("exception", "ERROR", 17, "std::io::error::Error", recorded),
                    one(client, "WARN", 13, io, &refused),
                    one(server, "ERROR", 17, io, &refused),
                ]);
            }
        }
        let found: Vec<_> = received.log_records().iter().map(described).collect();
        assert_eq!(found, expected, "{value:?}");
    }
}

#[test]
fn an_unusable_exception_signal_is_warned_about() {
    let config = Config::from_vars(|name| match name {
        "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN" => Some("sometimes".to_owned()),
        _ => None,
    });
    let warning = config.warnings()[0].to_string();
    assert!(
        warning.contains("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"),
        "{warning}"
    );
    assert!(
        warning.contains("sometimes") && warning.contains("events on spans"),
        "{warning}"
    );
}
