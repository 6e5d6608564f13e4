//! Runs the example server as a user does.

use axum::body::{Body, Bytes};
use axum::http::{Request, Response, Version};
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::support::process::Process;
use crate::support::receiver::{Fault, Receiver, attributes_of};
use crate::support::refused::RefusedPort;
use crate::support::{DEADLINE, TRACE_ID, TRACEPARENT, eventually, send};

async fn get(server: &Process, path: &str) -> Response<Bytes> {
    let request = Request::get(format!("{}{path}", server.url()))
        .header("traceparent", TRACEPARENT)
        .body(Body::empty());
    send(Version::HTTP_11, request.expect("a valid request")).await
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn in_development_the_console_shows_a_request_and_its_child_spans_together() {
    let mut server = Process::example("server", &[]);
    let response = get(&server, "/users/42").await;
    assert_eq!(response.body(), "Hello, Arthur!\n");
    assert_eq!(response.headers()["x-trace-id"], TRACE_ID);

    // In development, a log line shows the beginning of the id, and the line of the request all of it.
    let log = server.line("greeted");
    assert!(
        log.ends_with(&format!(" trace={}", &TRACE_ID[..8])),
        "{log}"
    );
    server.line("render-greeting");
    let lines = server.lines();
    let place = lines.iter().position(|line| line.contains(TRACE_ID));
    let place = place.expect("the request was printed");
    let request = &lines[place];
    assert!(
        request.contains(" GET /users/{id} (/users/42) 200 ") && request.len() <= 100,
        "{lines:#?}"
    );
    assert!(
        request.ends_with(&format!(" trace={TRACE_ID}")),
        "{lines:#?}"
    );
    for (line, child) in lines[place + 1..]
        .iter()
        .zip(["load-user", "render-greeting"])
    {
        let expected = format!("{:14} {child} ok ", "");
        assert!(line.starts_with(&expected), "{lines:#?}");
    }

    server.terminate();
    assert!(server.wait().success());
    // The metrics are printed at the end, those of the layer and those of the handler.
    let row = |metric: &str, series: &str, has_percentiles: bool| {
        server.line(metric);
        let lines = server.lines();
        let place = lines.iter().position(|line| line == metric);
        let place = place.unwrap_or_else(|| panic!("{metric} has no row of its own: {lines:#?}"));
        let mut words = lines[place + 1]
            .strip_prefix(series)
            .unwrap_or_default()
            .split_whitespace();
        assert_eq!(words.next(), Some("1"), "{lines:#?}");
        assert_eq!(
            words.count(),
            if has_percentiles { 2 } else { 0 },
            "{lines:#?}"
        );
    };
    row("http.requests {request}", "  GET /users/{id} 200 ", false);
    row(
        "http.server.request.duration",
        "  GET /users/{id} 200 ",
        true,
    );
    row("users.loaded", "  cache.hit=false ", false);
}

#[tokio::test]
async fn spans_metrics_and_logs_of_a_request_arrive_with_one_trace_id() {
    for protocol in ["grpc", "http/protobuf"] {
        let receiver = Receiver::start();
        let endpoint = receiver.endpoint();
        let mut server = Process::example(
            "server",
            &[
                ("ENVIRONMENT", "staging"),
                ("SERVICE_NAME", "example"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ],
        );
        get(&server, "/users/42").await;
        server.terminate();
        assert!(server.wait().success());

        let received = receiver.received();
        let spans = received.spans();
        let mut names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["GET /users/{id}", "load-user", "render-greeting"]);
        let request = spans.iter().find(|span| span.name.starts_with("GET"));
        let request = request.expect("the span of the request was recorded");
        for span in &spans {
            assert_eq!(hex(&span.trace_id), TRACE_ID);
            let parent = hex(&span.parent_span_id);
            if span.span_id == request.span_id {
                assert_eq!(parent, "b7ad6b7169203331");
                let mut attributes = span.attributes.iter();
                let id = attributes.find(|attribute| attribute.key == "user.id");
                let id = id.and_then(|id| id.value.as_ref()?.value.clone());
                assert_eq!(id, Some(AnyValue::StringValue("42".to_owned())));
            } else {
                assert_eq!(parent, hex(&request.span_id));
            }
        }
        let load = spans.iter().find(|span| span.name == "load-user");
        assert_eq!(
            load.expect("the span was exported").events[0].name,
            "cache-miss"
        );

        let records = received.log_records();
        let greeted = records
            .iter()
            .find(|record| hex(&record.trace_id) == TRACE_ID);
        let greeted = greeted.expect("the log line of the handler was exported");
        assert_eq!(hex(&greeted.span_id), hex(&request.span_id));
        assert_eq!(attributes_of(&greeted.attributes)["user"], "42");
        let named = received.logs[0].resource_logs[0].resource.as_ref();
        let named = attributes_of(&named.expect("the resource is set").attributes);
        assert_eq!(named["service.name"], "example");
        assert_eq!(named["deployment.environment.name"], "staging");

        for metric in [
            "http.requests",
            "http.duration",
            "users.loaded",
            "users.load.duration",
        ] {
            assert!(received.metric(metric).is_some(), "{metric}");
        }
    }
}

#[tokio::test]
async fn each_route_ends_with_its_status_on_the_console() {
    let server = Process::example("server", &[]);
    for (path, code, line) in [
        ("/", 200, " GET / 200 "),
        ("/healthz", 200, " GET /healthz 200 "),
        ("/slow?ms=20", 200, " GET /slow 200 "),
        ("/error", 500, " GET /error 500 "),
        ("/panic", 500, " GET /panic 500 "),
        ("/stream?parts=3", 200, " GET /stream 200 "),
        ("/nowhere", 404, " GET /nowhere 404 "),
        ("/users/abc", 400, " GET /users/{id} (/users/abc) 400 "),
    ] {
        let response = get(&server, path).await;
        assert_eq!(response.status(), code, "{path}");
        assert_eq!(response.headers()["x-trace-id"], TRACE_ID, "{path}");
        server.line(line);
    }
}

#[tokio::test]
async fn a_termination_loses_no_span_of_a_running_request() {
    const REQUESTS: usize = 20;
    let receiver = Receiver::start();
    let endpoint = receiver.endpoint();
    let mut server = Process::example(
        "server",
        &[
            ("ENVIRONMENT", "staging"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_METRIC_EXPORT_INTERVAL", "10"),
        ],
    );
    let url = format!("{}/slow?ms=500", server.url());
    let requests: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let request = Request::get(&url).body(Body::empty());
            tokio::spawn(send(Version::HTTP_11, request.expect("a valid request")))
        })
        .collect();
    // All requests have arrived when this many are active.
    eventually("all requests are active", || {
        active_requests(&receiver) == REQUESTS as i64
    })
    .await;
    assert_eq!(receiver.received().spans().len(), 0);
    server.terminate();
    for request in requests {
        let response = request.await.expect("the task does not panic");
        assert_eq!(response.status(), 200);
    }
    assert!(server.wait().success());
    assert_eq!(receiver.received().spans().len(), REQUESTS);
    assert_eq!(active_requests(&receiver), 0);
}

/// Returns the last value of `http.server.active_requests` that was received.
fn active_requests(receiver: &Receiver) -> i64 {
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;

    let mut received = receiver.received();
    received.metrics.reverse();
    match received
        .metric("http.server.active_requests")
        .and_then(|metric| metric.data)
    {
        Some(Data::Sum(sum)) => match sum.data_points[0].value {
            Some(Value::AsInt(value)) => value,
            _ => panic!("the point is an integer"),
        },
        _ => 0,
    }
}

#[tokio::test]
async fn variables_for_layers_and_propagators_are_read() {
    let receiver = Receiver::start();
    let endpoint = receiver.endpoint();
    let mut server = Process::example(
        "server",
        &[
            ("ENVIRONMENT", "staging"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "HEAD,PURGE"),
            (
                "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST",
                "X-Tenant, Authorization",
            ),
            (
                "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE",
                "content-type",
            ),
        ],
    );
    let b3 = format!("{TRACE_ID}-b7ad6b7169203331-1");
    let request = Request::get(format!("{}/healthz", server.url()))
        .header("b3", b3)
        .header("x-tenant", "blue")
        .header("authorization", "Bearer canary")
        .body(Body::empty());
    let response = send(Version::HTTP_11, request.expect("a valid request")).await;
    assert_eq!(response.headers()["x-trace-id"], TRACE_ID);
    server.terminate();
    assert!(server.wait().success());

    let spans = receiver.received().spans();
    assert_eq!(hex(&spans[0].parent_span_id), "b7ad6b7169203331");
    assert_eq!(spans[0].name, "HTTP /healthz");
    let keys: Vec<_> = spans[0]
        .attributes
        .iter()
        .map(|one| one.key.as_str())
        .collect();
    assert!(keys.contains(&"http.request.header.x-tenant"), "{keys:?}");
    assert!(
        keys.contains(&"http.response.header.content-type"),
        "{keys:?}"
    );
    assert!(!format!("{spans:?}").contains("canary"));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn disabled_telemetry_has_no_thread_no_connection_and_no_response_header() {
    fn has_export_thread(server: &Process) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.id()));
        tasks
            .expect("the process runs")
            .filter_map(Result::ok)
            .any(|task| {
                let name = std::fs::read_to_string(task.path().join("comm"));
                name.is_ok_and(|name| name.starts_with("telemetry"))
            })
    }
    let receiver = Receiver::start();
    let endpoint = receiver.endpoint();
    for (switch, on) in [("true", true), ("false", false)] {
        let mut server = Process::example(
            "server",
            &[
                ("ENVIRONMENT", "staging"),
                ("ENABLE_TELEMETRY", switch),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ],
        );
        let response = get(&server, "/users/42").await;
        assert_eq!(response.body(), "Hello, Arthur!\n");
        assert_eq!(response.headers().contains_key("x-trace-id"), on);
        assert_eq!(has_export_thread(&server), on);
        // The trace of the request is continued all the same.
        assert!(
            server
                .line("greeted")
                .contains(&format!(r#""trace_id":"{TRACE_ID}""#))
        );
        let before = receiver.received().ways.len();
        server.terminate();
        assert!(server.wait().success());
        assert_eq!(receiver.received().ways.len() > before, on);
    }
}

#[test]
fn invalid_variables_are_reported_in_one_line_each() {
    let server = Process::example(
        "server",
        &[
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "abc"),
            ("ENVIRONMENT", "moon"),
        ],
    );
    let line = server.line("OTEL_TRACES_SAMPLER_ARG=\"abc\" is not a number from 0 to 1; using 1");
    assert!(line.contains("WARN"), "{line}");
    server.line("ENVIRONMENT=\"moon\" is not one of development, test, staging and production");
    server.url();

    let mut server = Process::example("server", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense")]);
    assert!(!server.wait().success());
    server.line("Error: OTEL_EXPORTER_OTLP_ENDPOINT=\"nonsense\" is not an http or https URL");
}

#[tokio::test]
async fn a_collector_that_is_down_does_not_delay_the_shutdown_and_the_reason_is_logged() {
    let port = RefusedPort::reserve();
    let endpoint = format!("http://{}", port.address());
    let mut server = Process::example(
        "server",
        &[
            ("ENVIRONMENT", "staging"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ],
    );
    get(&server, "/users/42").await;
    let start = std::time::Instant::now();
    server.terminate();
    assert!(server.wait().success());
    assert!(start.elapsed() < DEADLINE);
    let lines = server.lines();
    for signal in ["traces", "metrics", "logs"] {
        let text =
            format!("telemetry waits: {signal} are kept and sent again, because {endpoint}/v1/");
        let line = lines.iter().find(|line| line.contains(&text));
        let line = line.unwrap_or_else(|| panic!("{signal}: {lines:#?}"));
        assert!(
            line.contains("check that the receiver is running"),
            "{line}"
        );
        assert!(line.contains("refused"), "{line}");
    }
    let lost = lines.iter().find(|line| line.contains(NOT_EXPORTED));
    let lost = lost.expect("the loss is logged");
    assert!(
        lost.contains("; check that the receiver is running"),
        "{lost}"
    );
}

const NOT_EXPORTED: &str = "not everything was exported before the shutdown ended";

#[tokio::test]
async fn a_loss_to_a_collector_that_never_responds_is_logged_with_a_hint() {
    // The system accepts connections, and no process reads from them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = silent.local_addr().expect("the socket is bound");
    let mut server = Process::example(
        "server",
        &[
            ("ENVIRONMENT", "staging"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}")),
        ],
    );
    get(&server, "/users/42").await;
    server.terminate();
    assert!(server.wait().success());
    let lines = server.lines();
    let lost = lines.iter().find(|line| line.contains(NOT_EXPORTED));
    let lost = lost.unwrap_or_else(|| panic!("{lines:#?}"));
    assert!(
        lost.contains("; no attempt has failed, so check the network"),
        "{lost}"
    );
}

#[test]
fn the_start_line_shows_the_configuration_without_secrets() {
    let receiver = Receiver::start();
    let endpoint = format!("{}/?token=canary", receiver.endpoint());
    let mut server = Process::example(
        "server",
        &[
            ("ENVIRONMENT", "production"),
            ("SERVICE_NAME", "shop"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer canary"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ],
    );
    server.url();
    server.terminate();
    assert!(server.wait().success());
    let lines = server.lines();
    let start_lines: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("service=shop"))
        .collect();
    assert_eq!(start_lines.len(), 1, "{lines:#?}");
    let (_, line) = start_lines[0]
        .split_once("service=")
        .expect("the line contains the text");
    // The line is JSON in production.
    let line = line.split('"').next().unwrap_or(line);
    let address = receiver.address;
    let expected = format!(
        "shop version={} environment=production \
         traces=otlp(http/protobuf,http://{address}/v1/traces) metrics=none \
         logs=otlp(http/protobuf,http://{address}/v1/logs) \
         sampler=parentbased_traceidratio(0.1, because ENVIRONMENT=production) propagators=tracecontext,baggage",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(line, expected);
    assert!(start_lines[0].contains("INFO"), "{}", start_lines[0]);
    assert!(!lines.join("\n").contains("canary"), "{lines:#?}");
}

#[test]
fn credentials_that_are_sent_in_plain_text_are_warned_about_once() {
    for (endpoint, headers, warns) in [
        (
            "http://collector.invalid:4318",
            "authorization=canary",
            true,
        ),
        ("http://collector.invalid:4318", "", false),
        (
            "https://collector.invalid:4318",
            "authorization=canary",
            false,
        ),
        ("http://127.0.0.1:9", "authorization=canary", false),
        ("http://[::1]:9", "authorization=canary", false),
        ("http://localhost:9", "authorization=canary", false),
    ] {
        let mut server = Process::example(
            "server",
            &[
                ("ENVIRONMENT", "staging"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
                ("OTEL_EXPORTER_OTLP_HEADERS", headers),
                ("OTEL_METRICS_EXPORTER", "none"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "100"),
            ],
        );
        server.url();
        server.terminate();
        assert!(server.wait().success());
        let lines = server.lines();
        let warnings = lines
            .iter()
            .filter(|line| line.contains("without encryption"));
        assert_eq!(
            warnings.count(),
            usize::from(warns),
            "{endpoint} {lines:#?}"
        );
        assert!(!lines.join("\n").contains("canary"), "{lines:#?}");
    }
}

#[tokio::test]
async fn an_idle_service_exports_no_logs_of_its_own_export_at_any_level() {
    for protocol in ["grpc", "http/protobuf"] {
        let receiver = Receiver::start();
        let endpoint = receiver.endpoint();
        let server = Process::example(
            "server",
            &[
                ("ENVIRONMENT", "staging"),
                ("RUST_LOG", "trace"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_BSP_SCHEDULE_DELAY", "5"),
                ("OTEL_BLRP_SCHEDULE_DELAY", "5"),
                ("OTEL_METRIC_EXPORT_INTERVAL", "5"),
            ],
        );
        let response = get(&server, "/users/42").await;
        assert_eq!(response.status(), 200);
        let metrics = || receiver.received().metrics.len();
        let logs = || receiver.received().log_records().len();
        // First the telemetry of the request arrives, then only metrics.
        let later = metrics() + 50;
        eventually("metrics are exported", || metrics() > later).await;
        let before = logs();
        assert!(before > 0, "log records are exported");
        let later = metrics() + 200;
        eventually("metrics are exported", || metrics() > later).await;
        assert_eq!(logs(), before, "over {protocol}");
        assert_eq!(receiver.received().spans().len(), 3);
        // The log lines of the exporter are written to the console at this level.
        server.line("hyper");
    }
}

#[test]
fn log_lines_of_the_sdk_are_shown_from_otel_log_level_on() {
    for (level, shown) in [("", false), ("debug", true)] {
        let mut server = Process::example(
            "server",
            &[("ENVIRONMENT", "development"), ("OTEL_LOG_LEVEL", level)],
        );
        server.url();
        server.terminate();
        assert!(server.wait().success());
        let lines = server.lines();
        let is_logged = lines.iter().any(|line| line.contains(" opentelemetry_sdk"));
        assert_eq!(is_logged, shown, "{lines:#?}");
    }
}

#[tokio::test]
async fn log_lines_are_json_outside_of_development_or_if_configured() {
    for (variables, is_json) in [
        ([("ENVIRONMENT", "development"), ("LOG_FORMAT", "")], false),
        ([("ENVIRONMENT", "staging"), ("LOG_FORMAT", "")], true),
        (
            [("ENVIRONMENT", "production"), ("LOG_FORMAT", "text")],
            false,
        ),
        (
            [("ENVIRONMENT", "development"), ("LOG_FORMAT", "JSON")],
            true,
        ),
    ] {
        let mut all = vec![
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ];
        all.extend([("OTEL_LOGS_EXPORTER", "none")]);
        all.extend(variables);
        let server = Process::example("server", &all);
        let response = get(&server, "/users/42").await;
        assert_eq!(response.headers()["x-trace-id"], TRACE_ID);
        let line = server.line("greeted");
        if !is_json {
            assert!(
                line.contains(&format!("trace_id={TRACE_ID} span_id=")),
                "{line}"
            );
            continue;
        }
        for line in server.lines() {
            let line: serde_json::Value = serde_json::from_str(&line).expect("every line is JSON");
            assert!(line["timestamp"].is_string() && line["level"].is_string());
        }
        let line: serde_json::Value = serde_json::from_str(&line).expect("the text is JSON");
        assert_eq!(line["fields"]["message"], "greeted");
        assert_eq!(line["fields"]["user"], 42);
        assert_eq!(line["trace_id"], TRACE_ID);
        assert_eq!(line["span_id"].as_str().map(str::len), Some(16));
    }
}

#[tokio::test]
async fn traces_and_metrics_do_not_depend_on_the_log_filter() {
    let receiver = Receiver::start();
    let endpoint = receiver.endpoint();
    let mut server = Process::example(
        "server",
        &[
            ("ENVIRONMENT", "staging"),
            ("RUST_LOG", "off,server=info"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ],
    );
    server.url();
    get(&server, "/users/42").await;
    server.terminate();
    assert!(server.wait().success());
    assert_eq!(receiver.received().spans().len(), 3);
    assert!(receiver.received().metric("http.requests").is_some());
    let lines = server.lines();
    assert!(
        !lines.iter().any(|line| line.contains("tower_telemetry")),
        "{lines:#?}"
    );
}

#[cfg(all(feature = "macros", feature = "tracing"))]
#[tokio::test]
async fn a_server_with_tracing_spans_has_all_spans_in_one_trace() {
    let server = Process::example("tracing", &[]);
    let response = get(&server, "/users/42").await;
    assert_eq!(response.body(), "Hello, 42!\n");
    assert_eq!(response.headers()["x-trace-id"], TRACE_ID);
    let line = server.line("greeted");
    assert!(
        line.ends_with(&format!(" trace={}", &TRACE_ID[..8])),
        "{line}"
    );
    server.line("greeting ok");
    let lines = server.lines();
    let place = lines.iter().position(|line| line.contains(TRACE_ID));
    let tree = &lines[place.expect("the request was printed")..];
    let mut below: Vec<_> = tree.iter().map(|line| &line[13..]).collect();
    assert!(
        below
            .remove(0)
            .starts_with("GET /users/{id} (/users/42) 200"),
        "{lines:#?}"
    );
    assert!(below.remove(0).starts_with("  user"), "{lines:#?}");
    // The task and the function run concurrently.
    let has = |name| {
        below
            .iter()
            .any(|line| line.starts_with(&format!("    {name}")))
    };
    assert!(has("greeting"), "{lines:#?}");
}

/// Returns the number of traces that were received, and a tree of the service and the name of each span.
#[cfg(feature = "macros")]
pub(crate) fn service_tree(receiver: &Receiver) -> (usize, Vec<String>) {
    fn below(parent: &[u8], depth: usize, spans: &[(String, Span)], lines: &mut Vec<String>) {
        for (service, span) in spans {
            if span.parent_span_id == parent {
                let indent = "  ".repeat(depth);
                lines.push(format!("{indent}{service}: {}", span.name));
                below(&span.span_id, depth + 1, spans, lines);
            }
        }
    }
    let received = receiver.received();
    let mut spans = Vec::new();
    for resource in received.traces.iter().flat_map(|one| &one.resource_spans) {
        let attributes = resource.resource.as_ref().map(|one| &one.attributes);
        let name = attributes_of(attributes.expect("the resource is set"))["service.name"].clone();
        let scopes = resource.scope_spans.iter();
        spans.extend(
            scopes
                .flat_map(|scope| &scope.spans)
                .map(|span| (name.clone(), span.clone())),
        );
    }
    spans.sort_by_key(|(_, span)| span.start_time_unix_nano);
    let traces: std::collections::HashSet<_> = spans
        .iter()
        .map(|(_, span)| span.trace_id.clone())
        .collect();
    let mut lines = Vec::new();
    below(&[], 0, &spans, &mut lines);
    (traces.len(), lines)
}

#[cfg(feature = "macros")]
#[tokio::test]
async fn a_client_two_servers_and_a_grpc_service_share_one_trace() {
    let receiver = Receiver::start();
    let endpoint = receiver.endpoint();
    let variables = |name: &'static str| {
        [
            ("ENVIRONMENT", "staging"),
            ("SERVICE_NAME", name),
            ("OTEL_BSP_SCHEDULE_DELAY", "5"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ]
    };
    let start = |example, name, more: &[(&str, &str)]| {
        let mut all = variables(name).to_vec();
        all.push(("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint));
        all.extend(more);
        Process::example(example, &all)
    };
    let behind = start("server", "behind", &[]);
    let behind_url = behind.url();
    let front = start("server", "front", &[("PROXY_TO", &behind_url)]);
    let grpc = start("tonic", "grpc", &[]);
    let (server_url, grpc_url) = (front.url(), format!("http://{}", grpc.url()));
    let urls = [("SERVER_URL", &*server_url), ("GRPC_URL", &*grpc_url)];
    let mut client = start("client", "client", &urls);
    assert!(client.wait().success(), "{:#?}", client.lines());
    client.line("Hello, Arthur!");
    client.line("Hello, stranger!");
    client.line("serving: true");

    let expected = [
        "client: calls",
        "  client: GET",
        "    front: GET /users/{id}",
        "      front: load-user",
        "      front: render-greeting",
        "  client: GET",
        "    front: GET /proxy/{*path}",
        "      front: GET",
        "        behind: GET /users/{id}",
        "          behind: load-user",
        "          behind: render-greeting",
        "  client: grpc.health.v1.Health/Check",
        "    grpc: grpc.health.v1.Health/Check",
    ];
    eventually("all spans arrive", || {
        receiver.received().spans().len() >= expected.len()
    })
    .await;
    let (traces, lines) = service_tree(&receiver);
    assert_eq!(lines, expected);
    assert_eq!(traces, 1);
}

#[cfg(feature = "macros")]
#[tokio::test]
async fn a_client_a_server_a_queue_a_worker_and_its_child_process_share_one_trace() {
    use http_body_util::Empty;
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use tower::{Layer, ServiceExt};
    use tower_telemetry::{ClientTelemetryLayer, Config};

    let receiver = Receiver::start();
    let endpoint = receiver.endpoint();
    let queue = tempfile_dir("queue");
    let start = |example, name| {
        let variables = [
            ("ENVIRONMENT", "staging"),
            ("SERVICE_NAME", name),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            ("QUEUE_DIR", queue.to_str().expect("the text is UTF-8")),
            // The context in the environment of the process must not become the context of its messages.
            ("TRACEPARENT", TRACEPARENT),
            ("TRACESTATE", "stale=1"),
        ];
        Process::example(example, &variables)
    };
    let mut worker = start("worker", "worker");
    worker.line("waiting for orders");
    let mut server = start("server", "server");

    let telemetry = Config::from_vars(|name| (name == "SERVICE_NAME").then(|| "client".to_owned()))
        .with_environment(tower_telemetry::config::Environment::Staging)
        .with_endpoint(&endpoint)
        .build();
    let telemetry = telemetry.expect("the configuration is valid");
    let provider = telemetry
        .tracer_provider()
        .expect("traces are enabled")
        .clone();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let layer = ClientTelemetryLayer::new().with_tracer_provider(provider);
    let request = Request::post(format!("{}/orders/42", server.url())).body(Empty::<Bytes>::new());
    let request = request.expect("a valid request");
    let response = layer.layer(client).oneshot(request).await;
    assert_eq!(response.expect("the server responds").status(), 200);
    worker.line("handled");
    telemetry.shutdown().await;
    for process in [&mut server, &mut worker] {
        process.terminate();
        assert!(process.wait().success());
    }
    std::fs::remove_dir_all(&queue).expect("the folder can be removed");

    let (traces, lines) = service_tree(&receiver);
    let expected = [
        "client: POST",
        "  server: POST /orders/{id}",
        "    server: send orders",
        "      worker: process orders",
        "        worker: pack",
        "        receipt: print-receipt",
    ];
    assert_eq!(lines, expected);
    assert_eq!(traces, 1);
    let spans = receiver.received().spans();
    assert!(spans.iter().all(|span| span.trace_state.is_empty()));
    let find = |name: &str| spans.iter().find(|span| span.name == name);
    let (sent, handled) = (find("send orders"), find("process orders"));
    let (sent, handled) = (
        sent.expect("the message was sent"),
        handled.expect("the message was handled"),
    );
    assert_eq!(
        (sent.kind, handled.kind),
        (4, 5),
        "a producer and a consumer"
    );
    assert_eq!(handled.links.len(), 1);
    assert_eq!(handled.links[0].span_id, sent.span_id);
    for metric in [
        "messaging.client.operation.duration",
        "messaging.process.duration",
    ] {
        assert!(receiver.received().metric(metric).is_some(), "{metric}");
    }
}

/// Creates a folder for this test.
fn tempfile_dir(name: &str) -> std::path::PathBuf {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = folder.join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the folder can be created");
    folder
}

#[tokio::test]
async fn a_receiver_that_rejects_logs_is_reported_once_with_the_variable_to_set() {
    let receiver = Receiver::start();
    let without_logs = Receiver::start_with(Fault::Status(404, None));
    let mut server = Process::example(
        "server",
        &[
            ("ENVIRONMENT", "staging"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.endpoint()),
            (
                "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
                &format!("{}/v1/logs", without_logs.endpoint()),
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "10"),
        ],
    );
    // Send until several messages were rejected.
    eventually("logs are sent", || !without_logs.arrivals().is_empty()).await;
    for _ in 0..4 {
        let before = without_logs.arrivals().len();
        get(&server, "/users/42").await;
        eventually("a log line is sent", || {
            without_logs.arrivals().len() > before
        })
        .await;
    }
    server.terminate();
    assert!(server.wait().success());
    let lines = server.lines();
    let hints = lines
        .iter()
        .filter(|line| line.contains("OTEL_LOGS_EXPORTER=none"));
    assert_eq!(hints.count(), 1, "{lines:#?}");
    // The other signals are still exported.
    assert_eq!(receiver.received().spans().len(), 4 * 3);
}

/// Returns the words of a line. Times, durations and span ids, which differ from run to run, have no value.
fn words(line: &str) -> Vec<String> {
    let words = line.split_whitespace().map(|word| {
        let begins_with_digit = word.starts_with(|one: char| one.is_ascii_digit());
        match word.split_once('=') {
            Some(("span_id", _)) => "span_id=".to_owned(),
            None if begins_with_digit && word.contains(':') => "a time".to_owned(),
            None if begins_with_digit && word.ends_with('s') => "a duration".to_owned(),
            _ => word.to_owned(),
        }
    });
    words.collect()
}

#[tokio::test]
async fn the_picture_of_the_console_shows_what_the_example_prints() {
    let picture = include_str!("../../docs/console.svg");
    let lines = picture.lines().filter(|line| line.starts_with("<text"));
    let texts = lines.map(|line| {
        let parts = line.split('<').filter_map(|part| part.split_once('>'));
        parts.map(|(_, text)| text).collect::<String>()
    });
    let shown: Vec<_> = texts.map(|text| words(&text)).collect();
    let (command, shown) = shown.split_first().expect("there is a line");
    assert_eq!(command.join(" "), "$ cargo run --example server");

    let mut server = Process::example("server", &[]);
    get(&server, "/users/42").await;
    server.terminate();
    assert!(server.wait().success());
    server.line("render-greeting");
    let printed: Vec<_> = server.lines().iter().map(|line| words(line)).collect();
    // Log lines and spans are written by threads of their own, in either order.
    for line in shown {
        assert!(printed.contains(line), "{line:?} is not in {printed:#?}");
    }
}
