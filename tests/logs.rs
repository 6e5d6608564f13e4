//! The subscriber that `init` installs, which is why this is a process of its own.

#![cfg(all(feature = "init", feature = "logs"))]

use std::collections::BTreeMap;

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "it/support/receiver.rs"]
mod receiver;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use receiver::{Receiver, attributes_of};
use tower_telemetry::{Config, Exporter, get_span_id, get_trace_id, with_tracer};

pub(crate) type Attributes = BTreeMap<String, String>;

#[tokio::test]
async fn records_of_tracing_and_of_log_carry_the_ids_of_the_span_they_are_written_in() {
    // What a program has had before, for a while, is in nobody's way.
    let before = tracing_subscriber::fmt()
        .with_writer(std::io::sink)
        .finish();
    tracing::subscriber::with_default(before, || tracing::info!("before"));

    let receiver = Receiver::start();
    let telemetry = Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(receiver.endpoint())
        .init()
        .expect("it is the first");
    let (trace_id, span_id) = with_tracer("test", "span", || {
        tracing::info!(user = 42, "from tracing");
        log::warn!("from log");
        tracing::warn!(target: "opentelemetry_sdk", "from the SDK");
        for _ in 0..3 {
            tracing::info!(target: "opentelemetry_demo::shop", "from an application");
        }
        (get_trace_id(), get_span_id())
    });
    tracing::info!("outside");
    assert_eq!(telemetry.shutdown().await.lost(), 0);
    // Later records have nowhere to go.
    tracing::info!("too late");

    let records = receiver.received().log_records();
    let body = |record: &LogRecord| format!("{:?}", record.body);
    let find = |text: &str| records.iter().find(|record| body(record).contains(text));
    let hex = |bytes: &[u8]| {
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        digits.collect::<String>()
    };
    for (text, severity) in [("from tracing", "INFO"), ("from log", "WARN")] {
        let record = find(text).expect("it is sent");
        assert_eq!(record.severity_text, severity);
        assert_eq!(
            Some(hex(&record.trace_id)),
            trace_id.map(|id| id.to_string())
        );
        assert_eq!(Some(hex(&record.span_id)), span_id.map(|id| id.to_string()));
    }
    let record = find("from tracing").expect("it is sent");
    assert_eq!(attributes_of(&record.attributes)["user"], "42");
    assert!(find("outside").is_some_and(|record| record.trace_id.is_empty()));
    let theirs = records
        .iter()
        .filter(|one| body(one).contains("from an application"));
    assert_eq!(theirs.count(), 3);
    assert!(find("from the SDK").is_none(), "that is for the console");
    assert!(find("too late").is_none());
}
