//! Exports to an independent receiver: `@elastic/mockotlpserver`, from the npm registry.

use std::process::Command;

use axum::body::Body;
use axum::http::{Request, Version};
use serde_json::Value;

use crate::support::npm::install;
use crate::support::process::Process;
use crate::support::{TRACEPARENT, send};

const PACKAGE: &str = "@elastic/mockotlpserver@0.10.0";

/// The trace id of `TRACEPARENT`.
const TRACE_ID_BYTES: u128 = 0x0af7651916cd43dd8448eb211c80319c;
const TRACE_ID_BASE64: &str = "CvdlGRbNQ92ESOshHIAxnA==";

/// Starts both of its servers on free ports, and prints everything that it receives.
const PROGRAM: &str = "
const {MockOtlpServer} = require('@elastic/mockotlpserver');
const print = (what) => (data) => console.log(what + ' ' + JSON.stringify(data));
const server = new MockOtlpServer({
    logLevel: 'fatal',
    services: ['http', 'grpc'],
    httpHostname: '127.0.0.1',
    httpPort: 0,
    grpcHostname: '127.0.0.1',
    grpcPort: 0,
    onTrace: print('TRACES'),
    onMetrics: print('METRICS'),
    onLogs: print('LOGS'),
});
server.start().then(() => {
    console.log('http/protobuf on ' + server.httpUrl.origin);
    console.log('grpc on ' + server.grpcUrl.origin);
});
";

/// Returns the JSON after `word` in the first line that also contains `text`.
fn received(server: &Process, word: &str, text: &str) -> Value {
    server.line(text);
    let lines = server.lines();
    let json = lines
        .iter()
        .filter_map(|line| line.strip_prefix(word))
        .find(|json| json.contains(text));
    serde_json::from_str(json.expect("a line contains the text")).expect("the text is JSON")
}

fn attribute<'a>(attributes: &'a Value, key: &str) -> &'a Value {
    let mut attributes = attributes.as_array().expect("the value is a list").iter();
    let found = attributes.find(|attribute| attribute["key"] == key);
    &found.expect("the attribute is set")["value"]
}

#[tokio::test]
async fn an_independent_receiver_reads_all_three_signals_over_both_protocols() {
    let Some(folder) = install(PACKAGE) else {
        return;
    };
    for protocol in ["grpc", "http/protobuf"] {
        let receiver = Process::start(
            Command::new("node")
                .args(["-e", PROGRAM])
                .current_dir(&folder),
        );
        let line = receiver.line(&format!("{protocol} on "));
        let (_, endpoint) = line.split_once(" on ").expect("the line contains the text");
        let mut server = Process::example(
            "server",
            &[
                ("ENVIRONMENT", "staging"),
                ("SERVICE_NAME", "example"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ],
        );
        let request = Request::get(format!("{}/users/42", server.url()));
        let request = request
            .header("traceparent", TRACEPARENT)
            .body(Body::empty());
        send(Version::HTTP_11, request.expect("a valid request")).await;
        server.terminate();
        assert!(server.wait().success());

        let traces = received(&receiver, "TRACES ", "GET /users/{id}");
        let resource = &traces["resourceSpans"][0];
        let name = attribute(&resource["resource"]["attributes"], "service.name");
        assert_eq!(name["stringValue"], "example");
        let spans = resource["scopeSpans"]
            .as_array()
            .expect("the value is a list")
            .iter();
        let mut spans =
            spans.flat_map(|scope| scope["spans"].as_array().expect("the value is a list"));
        let span = spans.find(|span| span["name"] == "GET /users/{id}");
        let span = span.expect("the span was recorded");
        assert_eq!(
            attribute(&span["attributes"], "http.route")["stringValue"],
            "/users/{id}"
        );
        // Bytes are shown as base64 over gRPC, and as numbers over HTTP.
        match &span["traceId"]["data"] {
            Value::Null => assert_eq!(span["traceId"], TRACE_ID_BASE64),
            numbers => assert_eq!(*numbers, serde_json::json!(TRACE_ID_BYTES.to_be_bytes())),
        }

        received(&receiver, "METRICS ", "http.server.request.duration");
        received(&receiver, "METRICS ", "users.loaded");
        received(&receiver, "LOGS ", "greeted");
    }
}
