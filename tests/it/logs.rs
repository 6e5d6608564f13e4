//! Compares exported log records with the records of OpenTelemetry's own bridge.

use std::error::Error;
use std::time::SystemTime;

use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use proptest::prelude::*;
use tower_telemetry::{Config, TelemetryGuard, config::Exporter, with_tracer};
use tracing_subscriber::prelude::*;

use crate::support::block_on;
use crate::support::receiver::Receiver;

fn guard(receiver: &Receiver) -> TelemetryGuard {
    Config::from_vars(|name| (name == "RUST_LOG").then(|| "trace".to_owned()))
        .with_exporters([Exporter::Otlp])
        .with_endpoint(receiver.endpoint())
        .build()
        .expect("the configuration is valid")
}

/// A record, and the name of its scope.
type Scoped = (String, LogRecord);

/// Returns the records that a receiver gets for the events of `log`.
fn sent(log: impl FnOnce()) -> Vec<Scoped> {
    let receiver = Receiver::start();
    let telemetry = guard(&receiver);
    let subscriber = tracing_subscriber::registry().with(telemetry.log_layer());
    tracing::subscriber::with_default(subscriber, log);
    assert_eq!(block_on(telemetry.shutdown()).lost(), 0);
    scoped(&receiver)
}

/// Does the same through OpenTelemetry's own bridge.
fn sent_by_appender(log: impl FnOnce()) -> Vec<Scoped> {
    let receiver = Receiver::start();
    let telemetry = guard(&receiver);
    let bridge = telemetry
        .logger_provider()
        .map(OpenTelemetryTracingBridge::new);
    let subscriber = tracing_subscriber::registry().with(bridge);
    tracing::subscriber::with_default(subscriber, log);
    assert_eq!(block_on(telemetry.shutdown()).lost(), 0);
    scoped(&receiver)
}

fn scoped(receiver: &Receiver) -> Vec<Scoped> {
    let received = receiver.received();
    let resources = received.logs.iter().flat_map(|logs| &logs.resource_logs);
    let mut records = Vec::new();
    for scope in resources.flat_map(|resource| &resource.scope_logs) {
        let name = &scope.scope.as_ref().expect("the scope is set").name;
        let with_name = |record: &LogRecord| (name.clone(), record.clone());
        records.extend(scope.log_records.iter().map(with_name));
    }
    // Warnings of this crate are logged once per process, by whichever test causes them first.
    records.retain(|(scope, _)| scope != "tower_telemetry");
    records.sort_by_key(|(_, record)| record.observed_time_unix_nano);
    records
}

fn only(records: Vec<Scoped>) -> Scoped {
    assert_eq!(records.len(), 1, "{records:#?}");
    records.into_iter().next().expect("there is a record")
}

fn text(value: &str) -> Option<AnyValue> {
    let value = Some(Value::StringValue(value.to_owned()));
    Some(AnyValue { value })
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn words(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| attribute(key, Value::StringValue((*value).to_owned())))
        .collect()
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.expect("the time is after 1970").as_nanos();
    u64::try_from(since).expect("the time fits 64 bits")
}

fn failure() -> std::io::Error {
    std::io::Error::other("the disk is full")
}

#[test]
fn records_equal_those_of_the_appender_except_for_the_documented_differences() {
    let error = failure();
    let error: &(dyn Error + 'static) = &error;
    let events: [(&str, &dyn Fn()); 6] = [
        ("levels and messages", &|| {
            tracing::warn!("low on {}", "disk");
        }),
        ("values of all types", &|| {
            tracing::info!(
                target: "shop::cart",
                flag = true,
                small = -3_i64,
                large = u64::MAX,
                huge = i128::MIN,
                fits = 7_u128,
                ratio = 0.5,
                text = "text",
                debug = ?Some(1),
                display = %"shown",
                bytes = b"bytes".as_slice(),
                dotted.key = 1,
                "message"
            );
        }),
        ("an event without a message", &|| tracing::error!(code = 5)),
        ("a given name", &|| {
            tracing::debug!(name: "cart.paid", target: "shop", amount = 3, "paid");
        }),
        ("an error", &|| tracing::error!(error, "it failed")),
        ("in a span", &|| {
            with_tracer("test", "span", || tracing::trace!("inside"));
        }),
    ];
    for (case, log) in events {
        let before = nanos(SystemTime::now());
        let (scope, ours) = only(sent(log));
        let after = nanos(SystemTime::now());
        let (their_scope, theirs) = only(sent_by_appender(log));
        // The appender names an event after its place in the source, unless the event has a name.
        let expected_name = match theirs.event_name.strip_prefix("event ") {
            Some(place) => {
                assert!(place.contains("logs.rs:"), "{case}: {place}");
                String::new()
            }
            None => theirs.event_name.clone(),
        };
        assert_eq!(theirs.time_unix_nano, 0, "{case}");
        assert!((before..=after).contains(&ours.time_unix_nano), "{case}");
        assert_eq!(ours.observed_time_unix_nano, ours.time_unix_nano, "{case}");
        assert_eq!(scope, their_scope, "{case}");
        let expected = LogRecord {
            event_name: expected_name,
            time_unix_nano: ours.time_unix_nano,
            observed_time_unix_nano: ours.observed_time_unix_nano,
            ..theirs
        };
        assert_eq!(ours, expected, "{case}");
    }
}

#[test]
fn events_of_the_log_crate_keep_their_target_level_and_message() {
    for level in [log::Level::Error, log::Level::Warn, log::Level::Debug] {
        let log = || {
            let record = log::Record::builder()
                .target("shop::mail")
                .level(level)
                .module_path(Some("shop::mail::relay"))
                .file(Some("/build/shop/src/mail.rs"))
                .line(Some(7))
                .args(format_args!("sent"))
                .build();
            tracing_log::format_trace(&record).expect("the record can be logged");
        };
        let (scope, record) = only(sent(log));
        assert_eq!(scope, "shop::mail");
        let expected = LogRecord {
            time_unix_nano: record.time_unix_nano,
            observed_time_unix_nano: record.time_unix_nano,
            severity_number: match level {
                log::Level::Error => 17,
                log::Level::Warn => 13,
                _ => 5,
            },
            severity_text: level.as_str().to_owned(),
            body: text("sent"),
            ..LogRecord::default()
        };
        assert_eq!(record, expected);
    }
}

#[test]
fn a_record_has_a_name_only_if_the_event_has_one() {
    /// The logging code, the name of the event, and its attributes.
    type Case<'a> = (&'a dyn Fn(), &'a str, &'a [(&'a str, &'a str)]);

    let cases: [Case; 6] = [
        (&|| tracing::info!("no name"), "", &[]),
        (&|| tracing::info!(name: "paid", "named"), "paid", &[]),
        // This name only looks like the place of an event.
        (
            &|| tracing::info!(name: "event src/main.rs:1", "named"),
            "event src/main.rs:1",
            &[],
        ),
        (&|| tracing::info!(name: "event", "named"), "event", &[]),
        (
            &|| tracing::info!(event.name = "paid", "field"),
            "paid",
            &[],
        ),
        (
            &|| tracing::info!(name: "paid", { event.name = "other" }, "both"),
            "paid",
            &[("event.name", "other")],
        ),
    ];
    for (log, name, attributes) in cases {
        let (_, record) = only(sent(log));
        assert_eq!(record.event_name, name);
        assert_eq!(record.attributes, words(attributes), "{name}");
    }
}

#[test]
fn the_first_of_several_errors_is_the_exception_and_none_is_lost() {
    let first = failure();
    let second = std::io::Error::other("so was the other");
    let (_, record) = only(sent(|| {
        tracing::error!(
            error = &first as &(dyn Error + 'static),
            cause = &second as &(dyn Error + 'static),
            r#type = "disk",
            "it failed"
        );
    }));
    let expected = [
        ("exception.message", "the disk is full"),
        ("cause", "so was the other"),
        ("type", "disk"),
    ];
    assert_eq!(record.attributes, words(&expected));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn keys_of_a_record_are_unique_and_the_last_value_wins(values: [i64; 3], key in 0..3_usize) {
        let (_, record) = only(sent(|| match key {
            0 => tracing::info!(a = values[0], b = values[1], a = values[2]),
            1 => tracing::info!(b = values[0], b = values[1], b = values[2]),
            _ => tracing::info!(a = values[0], a = "text", b = values[1], a = values[2]),
        }));
        let [_, second, last] = values.map(Value::IntValue);
        let expected = match key {
            0 => vec![attribute("a", last), attribute("b", second)],
            1 => vec![attribute("b", last)],
            _ => vec![attribute("a", last), attribute("b", second)],
        };
        prop_assert_eq!(record.attributes, expected);
    }
}
