//! Tests the access log as a subscriber writes it.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{layers::AccessLog, logs::LogFormat};
use tracing::Level;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::{fmt, prelude::*};

use crate::support::{TRACE_ID, TRACEPARENT, TestTelemetry, block_on};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .expect("the lock is not poisoned")
            .write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends requests to these paths and returns the lines of the access log.
fn lines(log: Option<AccessLog>, paths: &[&str]) -> Vec<Map<String, Value>> {
    let lines = Lines::default();
    let writer = lines.clone();
    let layer = fmt::layer()
        .fmt_fields(JsonFields::new())
        .event_format(LogFormat::json(fmt::format().json()))
        .with_writer(move || writer.clone());
    let subscriber = tracing_subscriber::registry().with(layer);
    let telemetry = TestTelemetry::new();
    let layer = match log {
        Some(log) => telemetry.layer().with_access_log(log),
        None => telemetry.layer(),
    };
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        if request.uri().path() == "/cancelled" {
            std::future::pending::<()>().await;
        }
        let status = if request.uri().path() == "/broken" {
            500
        } else {
            200
        };
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = status.try_into().expect("a legal status");
        Ok::<_, Infallible>(response)
    }));
    tracing::subscriber::with_default(subscriber, || {
        for path in paths {
            let request = Request::post(*path).header("traceparent", TRACEPARENT);
            let request = request.body(()).expect("a valid request");
            let mut future = Box::pin(service.clone().oneshot(request));
            if *path == "/cancelled" {
                let waker = std::task::Waker::noop();
                let mut cx = std::task::Context::from_waker(waker);
                assert!(future.as_mut().poll(&mut cx).is_pending());
            } else {
                drop(block_on(future));
            }
        }
    });
    let text = String::from_utf8(lines.0.lock().expect("the lock is not poisoned").clone());
    let text = text.expect("the output is UTF-8");
    let all = text.lines().map(|line| {
        let value: Value = serde_json::from_str(line).expect("the text is JSON");
        let Value::Object(line) = value else {
            panic!("{line}");
        };
        line
    });
    all.filter(|line| line["target"] == "tower_telemetry::access")
        .collect()
}

#[test]
fn each_request_is_logged_as_one_line_with_its_fields_and_ids() {
    let cases = [
        ("/ok", json!({"http.response.status_code": 200})),
        (
            "/broken",
            json!({"http.response.status_code": 500, "error.type": "500"}),
        ),
        ("/cancelled", json!({"error.type": "cancelled"})),
    ];
    for (path, expected) in cases {
        let mut lines = lines(Some(AccessLog::new()), &[path]);
        assert_eq!(lines.len(), 1, "{path}: {lines:?}");
        let mut line = lines.remove(0);
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["trace_id"], TRACE_ID);
        assert!(line["span_id"].is_string());
        let fields = line["fields"]
            .as_object_mut()
            .expect("the value is an object");
        let duration = fields
            .remove("duration_ms")
            .expect("the duration is logged");
        assert!(duration.as_f64().is_some_and(|duration| duration >= 0.0));
        let mut all = json!({
            "message": "request",
            "http.request.method": "POST",
            "url.path": path,
        });
        let all = all.as_object_mut().expect("the value is an object");
        all.extend(
            expected
                .as_object()
                .expect("the value is an object")
                .clone(),
        );
        assert_eq!(fields, all, "{path}");
    }
}

#[test]
fn level_threshold_and_filter_choose_which_lines_are_logged_at_which_level() {
    let slow = Duration::ZERO;
    let never = Duration::MAX;
    let cases = [
        (AccessLog::new(), vec!["INFO", "INFO"]),
        (
            AccessLog::new().with_level(Level::DEBUG),
            vec!["DEBUG", "DEBUG"],
        ),
        (
            AccessLog::new().with_slow_threshold(slow),
            vec!["WARN", "WARN"],
        ),
        (
            AccessLog::new().with_slow_threshold(never),
            vec!["INFO", "INFO"],
        ),
        (
            AccessLog::new()
                .with_level(Level::ERROR)
                .with_slow_threshold(slow),
            vec!["ERROR", "ERROR"],
        ),
        (
            AccessLog::new().with_filter(|request| request.uri.path() != "/healthz"),
            vec!["INFO"],
        ),
        (
            AccessLog::new().with_filter(|_| panic!("on purpose")),
            vec!["INFO", "INFO"],
        ),
    ];
    for (log, expected) in cases {
        let case = format!("{log:?}");
        let lines = lines(Some(log), &["/ok", "/healthz"]);
        let levels: Vec<_> = lines.iter().map(|line| line["level"].clone()).collect();
        assert_eq!(levels, expected, "{case}");
    }
    assert!(lines(None, &["/ok"]).is_empty(), "no access log by default");
}

#[test]
fn a_grpc_call_is_logged_with_the_name_of_its_status() {
    let written = Lines::default();
    let writer = written.clone();
    let layer = fmt::layer()
        .fmt_fields(JsonFields::new())
        .event_format(LogFormat::json(fmt::format().json()))
        .with_writer(move || writer.clone());
    let subscriber = tracing_subscriber::registry().with(layer);
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .layer()
        .with_grpc_methods(["a.B/C"])
        .with_access_log(AccessLog::new());
    let service = layer.layer(service_fn(|_: Request<()>| async {
        let response = Response::builder().header("grpc-status", "5");
        let response = response.body(Full::<Bytes>::default());
        Ok::<_, Infallible>(response.expect("a valid response"))
    }));
    let request = Request::post("/a.B/C").header("content-type", "application/grpc");
    let request = request.body(()).expect("a valid request");
    tracing::subscriber::with_default(subscriber, || {
        drop(block_on(service.oneshot(request)));
    });
    let text = String::from_utf8(written.0.lock().expect("the lock is not poisoned").clone());
    let text = text.expect("the output is UTF-8");
    let mut lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("the text is JSON"))
        .filter(|line| line["target"] == "tower_telemetry::access");
    let line = lines.next().expect("the request is logged");
    assert_eq!(line["fields"]["rpc.status_code"], "NOT_FOUND");
    assert_eq!(line["fields"]["http.response.status_code"], 200);
    assert!(lines.next().is_none(), "the call is logged once");
}
