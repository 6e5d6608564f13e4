//! Tests the subscriber that `init` installs, so this test is a process of its own.

#![cfg(all(feature = "init", feature = "logs"))]

use std::collections::BTreeSet;
use std::error::Error;
use std::process::Command;

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "it/support/receiver.rs"]
mod receiver;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use receiver::{Receiver, attributes_of};
use tower_telemetry::{
    Config, config::Exporter, get_span_id, get_trace_id, log_lines, logs::LogLines, with_tracer,
};
use tracing_subscriber::prelude::*;

#[tokio::test]
async fn tracing_and_log_records_carry_the_ids_of_the_current_span() {
    // A subscriber that was only set for a while earlier does not prevent the installation.
    let before = tracing_subscriber::fmt()
        .with_writer(std::io::sink)
        .finish();
    tracing::subscriber::with_default(before, || tracing::info!("before"));

    let receiver = Receiver::start();
    let telemetry = Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(receiver.endpoint())
        .init()
        .expect("no other telemetry is initialized");
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
    // Records after the shutdown are dropped.
    tracing::info!("too late");

    let records = receiver.received().log_records();
    let body = |record: &LogRecord| format!("{:?}", record.body);
    let find = |text: &str| records.iter().find(|record| body(record).contains(text));
    let hex = |bytes: &[u8]| {
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        digits.collect::<String>()
    };
    for (text, severity) in [("from tracing", "INFO"), ("from log", "WARN")] {
        let record = find(text).expect("the record was exported");
        assert_eq!(record.severity_text, severity);
        assert_eq!(
            Some(hex(&record.trace_id)),
            trace_id.map(|id| id.to_string())
        );
        assert_eq!(Some(hex(&record.span_id)), span_id.map(|id| id.to_string()));
    }
    let record = find("from tracing").expect("the record was exported");
    assert_eq!(attributes_of(&record.attributes)["user"], "42");
    assert!(find("outside").is_some_and(|record| record.trace_id.is_empty()));
    let theirs = records
        .iter()
        .filter(|one| body(one).contains("from an application"));
    assert_eq!(theirs.count(), 3);
    assert!(
        find("from the SDK").is_none(),
        "records of the SDK are only written to the console"
    );
    assert!(find("too late").is_none());
}

/// Runs code that the page about logs has to show in the same words.
#[cfg(feature = "tracing")]
macro_rules! documented_code {
    ($($code:tt)*) => {
        let dense = |text: &str| text.split_whitespace().collect::<String>();
        let page = dense(include_str!("../docs/logs.md"));
        assert!(page.contains(&dense(stringify!($($code)*))));
        $($code)*
    };
}

/// Logs on all levels in two modules, through `log`, and as the SDK does.
fn log_everything() {
    macro_rules! at_all_levels {
        ($target:literal) => {
            tracing::error!(target: $target, concat!($target, " error"));
            tracing::warn!(target: $target, concat!($target, " warn"));
            tracing::info!(target: $target, concat!($target, " info"));
            tracing::debug!(target: $target, concat!($target, " debug"));
            tracing::trace!(target: $target, concat!($target, " trace"));
        };
    }
    at_all_levels!("shop");
    at_all_levels!("other");
    log::warn!(target: "logged", "logged warn");
    log::debug!(target: "logged", "logged debug");
    for _ in 0..3 {
        tracing::warn!(target: "opentelemetry_sdk", "sdk warn");
        tracing::debug!(target: "opentelemetry_sdk", "sdk debug");
    }
}

#[test]
#[ignore = "a program that other tests run"]
#[cfg(feature = "tracing")]
fn program_with_a_subscriber_of_its_own() -> Result<(), Box<dyn Error>> {
    documented_code! {
        let telemetry = Config::from_env().without_subscriber().init()?;
        tracing_subscriber::registry()
            .with(log_lines(LogLines::Json))
            .with(telemetry.log_layer())
            .with(telemetry.span_layer())
            .init();
    }
    log_everything();
    Ok(())
}

#[test]
#[ignore = "a program that other tests run"]
#[cfg(not(feature = "tracing"))]
fn program_with_a_subscriber_of_its_own() -> Result<(), Box<dyn Error>> {
    let telemetry = Config::from_env().without_subscriber().init()?;
    tracing_subscriber::registry()
        .with(log_lines(LogLines::Json))
        .with(telemetry.log_layer())
        .init();
    log_everything();
    Ok(())
}

#[test]
#[ignore = "a program that other tests run"]
fn program_with_init() -> Result<(), Box<dyn Error>> {
    let _telemetry = tower_telemetry::init()?;
    log_everything();
    Ok(())
}

#[test]
#[ignore = "a program that another test runs"]
fn program_with_init_after_a_subscriber() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_ansi(false).init();
    let _telemetry = tower_telemetry::init()?;
    Ok(())
}

#[test]
fn init_after_a_subscriber_names_everything_that_is_not_exported() {
    let spans = cfg!(feature = "tracing");
    for (exporter, expected) in [
        (
            None,
            if spans {
                Some("log records and spans of `tracing`")
            } else {
                Some("log records")
            },
        ),
        (
            Some("OTEL_LOGS_EXPORTER"),
            spans.then_some("spans of `tracing`"),
        ),
        (Some("OTEL_TRACES_EXPORTER"), Some("log records")),
    ] {
        let mut command = Command::new(std::env::current_exe().expect("the test has a path"));
        command.args([
            "program_with_init_after_a_subscriber",
            "--exact",
            "--ignored",
            "--nocapture",
        ]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", Receiver::start().endpoint());
        command
            .env_remove("RUST_LOG")
            .envs(exporter.map(|name| (name, "none")));
        let output = command.output().expect("the program starts");
        assert!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout).expect("the output is UTF-8");
        let (_, warning) = lines.split_once("subscriber already, and ").unzip();
        let what = warning.and_then(|warning| Some(warning.split_once(" are not exported")?.0));
        assert_eq!(what, expected, "{exporter:?}: {lines}");
    }
}

#[tokio::test]
#[ignore = "a program that another test runs"]
async fn program_with_a_request_and_metrics() -> Result<(), Box<dyn Error>> {
    use tower::{Layer, ServiceExt};

    // The second `init` has a subscriber from the start.
    for _ in 0..2 {
        let telemetry = tower_telemetry::init()?;
        let service = tower_telemetry::TelemetryLayer::new().layer(tower::service_fn(
            async |_: http::Request<()>| {
                tower_telemetry::increment_counter("things", "Counted.", []);
                Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
            },
        ));
        drop(service.oneshot(http::Request::new(())).await);
        telemetry.shutdown().await;
    }
    Ok(())
}

#[test]
fn without_a_metrics_exporter_the_sdk_logs_no_error_about_instruments_of_this_crate() {
    let program = std::env::current_exe().expect("the test has a path");
    let output = Command::new(program)
        .args([
            "program_with_a_request_and_metrics",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env("OTEL_METRICS_EXPORTER", "none")
        .env_remove("RUST_LOG")
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).expect("the output is UTF-8");
    assert!(
        lines.contains(" INFO ") && !lines.contains("ERROR"),
        "{lines}"
    );
}

/// Returns the messages that a program of this file writes to its output, and the messages that it exports.
fn logged_by(program: &str, variables: &[(&str, &str)]) -> [Vec<String>; 2] {
    let receiver = Receiver::start();
    let mut command = Command::new(std::env::current_exe().expect("the test has a path"));
    command.args([program, "--exact", "--ignored", "--nocapture"]);
    for name in ["OTEL_LOG_LEVEL", "RUST_LOG", "LOG_FORMAT"] {
        command.env_remove(name);
    }
    command
        .env("ENVIRONMENT", "staging")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint())
        .envs(variables.iter().copied());
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).expect("the output is UTF-8");
    let lines = lines.lines().filter_map(|line| {
        // The test harness may have printed the name of the test in front.
        let json = &line[line.find('{')?..];
        let json: serde_json::Value = serde_json::from_str(json).expect("the text is JSON");
        Some(json["fields"]["message"].as_str()?.to_owned())
    });
    let records = receiver.received().log_records();
    let records = records.iter().filter_map(|record| {
        let body = record.body.clone()?.value?;
        match body {
            opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(text) => {
                Some(text)
            }
            _ => None,
        }
    });
    let is_of_the_program = |text: &String| {
        let names = ["shop ", "other ", "logged ", "sdk "];
        names.iter().any(|name| text.starts_with(name))
    };
    [
        lines.filter(is_of_the_program).collect(),
        records.filter(is_of_the_program).collect(),
    ]
}

#[test]
fn rust_log_filters_lines_and_exported_records_alike_for_init_and_for_separate_layers() {
    /// The variables, the messages of the program, and the messages of the SDK among its lines.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a [&'a str]);

    let by_default: &[&str] = &[
        "shop error",
        "shop warn",
        "shop info",
        "other error",
        "other warn",
        "other info",
        "logged warn",
    ];
    let cases: [Case; 8] = [
        (&[], by_default, &["sdk warn"]),
        (&[("RUST_LOG", " ")], by_default, &["sdk warn"]),
        (&[("RUST_LOG", "=no=filter=")], by_default, &["sdk warn"]),
        (
            &[("RUST_LOG", "error")],
            &["shop error", "other error"],
            &[],
        ),
        (
            &[("RUST_LOG", "shop=debug")],
            &["shop error", "shop warn", "shop info", "shop debug"],
            &[],
        ),
        (
            &[("RUST_LOG", "warn,shop=off,logged=debug")],
            &["other error", "other warn", "logged warn", "logged debug"],
            &["sdk warn"],
        ),
        (&[("OTEL_LOG_LEVEL", "off")], by_default, &[]),
        (
            &[("OTEL_LOG_LEVEL", "debug")],
            by_default,
            &["sdk warn", "sdk debug"],
        ),
    ];
    for (variables, expected, of_sdk) in cases {
        for program in ["program_with_init", "program_with_a_subscriber_of_its_own"] {
            let [lines, records] = logged_by(program, variables);
            let set = |texts: &[String]| texts.iter().cloned().collect::<BTreeSet<_>>();
            let all = |texts: &[&str]| {
                texts
                    .iter()
                    .map(|&text| text.to_owned())
                    .collect::<Vec<_>>()
            };
            let case = format!("{program} with {variables:?}");
            assert_eq!(set(&records), set(&all(expected)), "{case}");
            let expected = [expected, of_sdk].concat();
            assert_eq!(set(&lines), set(&all(&expected)), "{case}");
            // Each message of the SDK is written once.
            assert_eq!(lines.len(), expected.len(), "{case}");
        }
    }
}
