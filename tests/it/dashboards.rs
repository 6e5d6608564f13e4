//! Compares the dashboards and alerts of the examples with the telemetry of the example server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use axum::body::Body;
use http::{Request, Version};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::net::TcpSocket;
use tower_telemetry::config::Exporter;

use crate::export::config;
use crate::prometheus::{Prometheus, over_tcp, scraped};
use crate::support::process::Process;
use crate::support::receiver::{Fault, Receiver};
use crate::support::{DEADLINE, send};

/// The labels of each metric, by the name of the metric.
type Metrics = BTreeMap<String, BTreeSet<String>>;

/// The labels that Prometheus adds for each target.
const TARGET_LABELS: [&str; 2] = ["job", "instance"];

const KEYWORDS: [&str; 7] = ["and", "or", "unless", "offset", "bool", "inf", "nan"];
const TAKE_LABELS: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text,
    Other(char),
}

/// Splits a PromQL expression into tokens. Leaves out numbers, durations, ranges and variables of Grafana.
fn tokens(expression: &str) -> Vec<Token> {
    let is_word = |char: char| char.is_alphanumeric() || "_:.".contains(char);
    let mut tokens = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => {
                tokens.push(Token::Text);
                let mut escaped = false;
                let end = rest[1..].find(|char| {
                    let ends = char == '"' && !escaped;
                    escaped = char == '\\' && !escaped;
                    ends
                });
                end.expect("the text is closed") + 2
            }
            '[' => rest.find(']').expect("the range is closed") + 1,
            _ if is_word(first) => {
                let end = rest.find(|char| !is_word(char)).unwrap_or(rest.len());
                if !first.is_ascii_digit() {
                    tokens.push(Token::Word(rest[..end].to_owned()));
                }
                end
            }
            _ => {
                if !first.is_whitespace() {
                    tokens.push(Token::Other(first));
                }
                first.len_utf8()
            }
        };
        rest = &rest[end..];
    }
    tokens
}

/// Returns the metrics that an expression names, and the labels that it uses of each. It also reads
/// the samples of a scraped text.
fn uses(expression: &str) -> Metrics {
    let tokens = tokens(expression);
    let opens = |index: usize| tokens.get(index) == Some(&Token::Other('('));
    let mut metrics = Metrics::new();
    let mut of_all = BTreeSet::new();
    // The labels of each open parenthesis, and of the parenthesis that opens next.
    let mut open: Vec<BTreeSet<String>> = Vec::new();
    let mut next = BTreeSet::new();
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        index += 1;
        match token {
            Token::Other('(') => open.push(std::mem::take(&mut next)),
            Token::Other(')') => drop(open.pop()),
            Token::Word(word) if word == "label_values" => {
                // The last word is the label.
                let label = tokens.iter().rev().find_map(|token| match token {
                    Token::Word(label) => Some(label.clone()),
                    _ => None,
                });
                next.extend(label);
            }
            Token::Word(word) if TAKE_LABELS.contains(&&**word) => {
                if !opens(index) {
                    continue;
                }
                let end = tokens[index..]
                    .iter()
                    .position(|token| *token == Token::Other(')'));
                let end = index + end.expect("the labels are closed");
                let labels = words(&tokens[index..end]);
                index = end + 1;
                if word == "by" || word == "without" {
                    assert!(
                        opens(index),
                        "write labels before the expression that they group: {expression}"
                    );
                    next = labels;
                } else {
                    of_all.extend(labels);
                }
            }
            Token::Word(word) => {
                let is_keyword = KEYWORDS.contains(&&*word.to_lowercase());
                let is_label = expression.starts_with("label_values") && index == tokens.len() - 1;
                let next_is = |words: &[&str]| matches!(tokens.get(index), Some(Token::Word(word)) if words.contains(&&**word));
                if opens(index) || next_is(&["by", "without"]) || is_keyword || is_label {
                    continue;
                }
                let labels = metrics.entry(word.clone()).or_default();
                labels.extend(open.iter().flatten().cloned());
                if tokens.get(index) == Some(&Token::Other('{')) {
                    let end = tokens[index..]
                        .iter()
                        .position(|token| *token == Token::Other('}'));
                    let end = index + end.expect("the matchers are closed");
                    labels.extend(words(&tokens[index..end]));
                    index = end + 1;
                }
            }
            _ => {}
        }
    }
    for labels in metrics.values_mut() {
        labels.extend(of_all.iter().cloned());
    }
    metrics
}

fn words(tokens: &[Token]) -> BTreeSet<String> {
    let words = tokens.iter().filter_map(|token| match token {
        Token::Word(word) => Some(word.clone()),
        _ => None,
    });
    words.collect()
}

/// An expression, and the labels that are shown with its values.
#[derive(Clone, Debug)]
struct Shown {
    /// The file, and the panel, rule or variable in it.
    place: String,
    expression: String,
    labels: BTreeSet<String>,
}

impl Shown {
    /// Returns the metrics and labels of this expression that do not exist.
    fn missing(&self, there: &Metrics) -> Vec<String> {
        let mut missing = Vec::new();
        let has = |metric: &str, label: &str| {
            TARGET_LABELS.contains(&label)
                || there
                    .get(metric)
                    .is_some_and(|labels| labels.contains(label))
        };
        let uses = uses(&self.expression);
        assert!(!uses.is_empty(), "the expression names no metric: {self:?}");
        for (metric, labels) in &uses {
            if !there.contains_key(metric) {
                missing.push(metric.clone());
                continue;
            }
            let labels = labels.iter().filter(|label| !has(metric, label));
            missing.extend(labels.map(|label| format!("{metric}{{{label}}}")));
        }
        // A label that is shown must remain after the grouping.
        let left = |label: &&String| {
            let mut labels = uses.values();
            !TARGET_LABELS.contains(&&***label) && !labels.any(|labels| labels.contains(*label))
        };
        missing.extend(self.labels.iter().filter(left).cloned());
        missing
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(examples().join(file)).expect("the file is readable")
}

fn dashboards() -> Vec<(String, Value)> {
    let names = ["pipeline", "requests", "runtime"];
    let folder = examples().join("grafana/dashboards");
    let files = std::fs::read_dir(folder).expect("the folder is readable");
    assert_eq!(files.count(), names.len());
    let read = |name: &str| {
        let text = read(&format!("grafana/dashboards/{name}.json"));
        (
            name.to_owned(),
            serde_json::from_str(&text).expect("the text is JSON"),
        )
    };
    names.map(read).into()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Returns the parts of a text between `start` and the next character of `end`.
fn between<'a>(
    text: &'a str,
    start: &'a str,
    end: &'a [char],
) -> impl Iterator<Item = String> + 'a {
    let found = text.split(start).skip(1);
    found.map(move |rest| rest.split(end).next().unwrap_or_default().trim().to_owned())
}

/// Returns the expressions of the panels, each with the labels that its panel shows.
fn panels() -> Vec<Shown> {
    let mut all = Vec::new();
    for (name, dashboard) in dashboards() {
        for panel in list(&dashboard["panels"]) {
            let title = panel["title"].as_str().expect("the field is set");
            let targets = list(&panel["targets"]);
            assert_eq!(
                targets.is_empty(),
                panel["type"] == "row",
                "{name}: {title}"
            );
            for target in targets {
                let legend = target["legendFormat"].as_str().unwrap_or_default();
                let links = panel["fieldConfig"].to_string();
                let in_links = between(&links, "${__data.fields.", &['}', '.']);
                let labels = between(legend, "{{", &['}']).chain(in_links);
                all.push(Shown {
                    place: format!("{name}: {title}"),
                    expression: target["expr"]
                        .as_str()
                        .expect("the field is set")
                        .to_owned(),
                    labels: labels.filter(|label| label != "Value").collect(),
                });
            }
        }
    }
    all
}

fn variables() -> Vec<Shown> {
    let mut all = Vec::new();
    for (name, dashboard) in dashboards() {
        for variable in list(&dashboard["templating"]["list"]) {
            let expression = variable["query"]["query"]
                .as_str()
                .expect("the field is set");
            all.push(Shown {
                place: format!("{name}: variable {}", variable["name"]),
                expression: expression.to_owned(),
                labels: BTreeSet::new(),
            });
        }
    }
    all
}

/// Returns the expressions of the rules. A recorded metric has the name of its rule.
fn rules() -> Vec<Shown> {
    let text = read("alerts.yaml");
    let mut all: Vec<Shown> = Vec::new();
    let mut block = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(least) = block {
            if indent > least {
                let last = all.last_mut().expect("a rule has begun");
                last.expression += &format!("{line}\n");
                continue;
            }
            block = None;
        }
        for kind in ["- record: ", "- alert: "] {
            if let Some(name) = line.strip_prefix(kind) {
                all.push(Shown {
                    place: name.to_owned(),
                    expression: String::new(),
                    labels: BTreeSet::new(),
                });
            }
        }
        if let Some(expression) = line.strip_prefix("expr: ") {
            let last = all.last_mut().expect("the rule has a name");
            match expression {
                "|" => block = Some(indent),
                expression => last.expression = expression.to_owned(),
            }
        }
        if let Some(last) = all.last_mut() {
            last.labels.extend(between(line, "$labels.", &['}', ' ']));
        }
    }
    let expressions = text.lines().filter(|line| line.contains("expr:")).count();
    assert_eq!(all.len(), expressions);
    all
}

fn is_recorded(name: &str) -> bool {
    name.contains(':')
}

fn emitted(text: &str) -> Metrics {
    let mut all = Metrics::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        for (metric, labels) in uses(line) {
            all.entry(metric).or_default().extend(labels);
        }
    }
    all
}

/// Runs the example server with all of its metrics, a second server that it calls, and a receiver
/// that rejects all telemetry.
struct Servers {
    server: Process,
    _behind: Process,
    _receiver: Receiver,
    /// Reserves the port, so that only the server listens on it.
    _port: TcpSocket,
    metrics: SocketAddr,
}

impl Servers {
    fn start() -> Self {
        let receiver = Receiver::start_with(Fault::Status(400, None));
        let behind = Process::example("server", &[("ENABLE_TELEMETRY", "false")]);
        let port = TcpSocket::new_v4().expect("a socket can be created");
        port.set_reuseaddr(true).expect("the port can be shared");
        let any = "127.0.0.1:0".parse().expect("a valid address");
        port.bind(any).expect("loopback has free ports");
        let metrics = port.local_addr().expect("the socket is bound");
        let server = Process::example(
            "server",
            &[
                ("ENVIRONMENT", "staging"),
                ("SERVICE_NAME", "shop"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.endpoint()),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
                ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
                ("OTEL_EXPORTER_PROMETHEUS_HOST", "127.0.0.1"),
                ("OTEL_EXPORTER_PROMETHEUS_PORT", &metrics.port().to_string()),
                ("OTEL_BSP_SCHEDULE_DELAY", "10"),
                ("OTEL_BLRP_SCHEDULE_DELAY", "10"),
                ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
                ("TELEMETRY_SELF_METRICS", "true"),
                ("TELEMETRY_RUNTIME_METRICS", "true"),
                ("PROXY_TO", &behind.url()),
            ],
        );
        Self {
            server,
            _behind: behind,
            _receiver: receiver,
            _port: port,
            metrics,
        }
    }

    /// Sends requests that end in different ways.
    async fn visit(&self) {
        for path in [
            "/users/42",
            "/error",
            "/nowhere",
            "/proxy/users/1",
            "/proxy/error",
        ] {
            let request = Request::get(format!("{}{path}", self.server.url())).body(Body::empty());
            send(Version::HTTP_11, request.expect("a valid request")).await;
        }
    }

    async fn emitted(&self) -> Metrics {
        let text = over_tcp(self.metrics, "/metrics")
            .await
            .expect("the server responds");
        let (_, text) = text
            .split_once("\r\n\r\n")
            .expect("the response has a head");
        emitted(text)
    }
}

/// Returns the metrics of a service with named runtimes. The runtimes of the example server have no names.
async fn emitted_with_named_runtimes() -> Metrics {
    let telemetry = config(&[])
        .with_exporters([Exporter::Prometheus])
        .without_prometheus_server()
        .with_runtime("api", &tokio::runtime::Handle::current())
        .build()
        .expect("the configuration is valid");
    let text = scraped(&telemetry).await;
    telemetry.shutdown().await;
    let mut metrics = emitted(&text);
    metrics.retain(|name, _| name.starts_with("tokio_"));
    metrics
}

#[tokio::test]
async fn every_metric_and_label_of_dashboards_and_alerts_is_emitted() {
    let (panels, variables, rules) = (panels(), variables(), rules());
    assert!(panels.len() > 40 && variables.len() == 6 && rules.len() > 15);
    let all = [panels, variables, rules.clone()].concat();

    let servers = Servers::start();
    servers.visit().await;
    let with_names = emitted_with_named_runtimes().await;
    let recorded = rules.iter().filter(|rule| is_recorded(&rule.place));
    let recorded: Metrics = recorded
        .map(|rule| (rule.place.clone(), BTreeSet::new()))
        .collect();
    let start = Instant::now();
    let there = loop {
        let mut there = servers.emitted().await;
        for (metric, labels) in with_names.iter().chain(&recorded) {
            there
                .entry(metric.clone())
                .or_default()
                .extend(labels.clone());
        }
        let missing: Vec<_> = all
            .iter()
            .map(|shown| (&shown.place, shown.missing(&there)))
            .filter(|(_, missing)| !missing.is_empty())
            .collect();
        if missing.is_empty() {
            break there;
        }
        assert!(start.elapsed() < DEADLINE, "{missing:#?}\n{there:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };

    // Replacing any name with one that is not emitted must be detected.
    let mut replaced = 0;
    for shown in &all {
        for (metric, labels) in uses(&shown.expression) {
            for name in labels.iter().chain([&metric]) {
                let mut other = shown.clone();
                other.expression = with_unknown_word(&shown.expression, name);
                let missing = other.missing(&there);
                assert!(
                    missing.iter().any(|one| one.contains("made_up")),
                    "{name} {other:?} {missing:?}"
                );
                replaced += 1;
            }
        }
        for label in &shown.labels {
            let mut other = shown.clone();
            other.labels.remove(label);
            other.labels.insert("made_up".to_owned());
            assert_eq!(other.missing(&there), ["made_up"]);
            replaced += 1;
        }
    }
    assert!(replaced > 200, "{replaced}");
}

/// Replaces a word of an expression.
fn with_unknown_word(expression: &str, name: &str) -> String {
    let is_word = |char: char| char.is_alphanumeric() || "_:$".contains(char);
    let mut result = String::new();
    let mut rest = expression;
    while !rest.is_empty() {
        let end = rest.find(|char| !is_word(char)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        result += if word == name { "made_up" } else { word };
        let other = after.chars().next().map_or(0, char::len_utf8);
        result += &after[..other];
        rest = &after[other..];
    }
    result
}

#[test]
fn names_are_read_from_every_form_of_expression() {
    for (expression, expected) in [
        ("a", &[("a", "")][..]),
        (
            "a_total{b=\"c{d}\\\"e\", f!~\"g\"} 1.5e-05",
            &[("a_total", "b f")],
        ),
        ("a_bucket{le=\"+Inf\"} NaN", &[("a_bucket", "le")]),
        (
            "sum by (b, c) (rate(a{d=\"e\"}[$__rate_interval])) > 0",
            &[("a", "b c d")],
        ),
        (
            "sum by (b) (a) / sum by (c) (d{e=\"\"} offset 10m)",
            &[("a", "b"), ("d", "c e")],
        ),
        (
            "topk(10, histogram_quantile(0.5, sum by (le) (a)) > 1e3)",
            &[("a", "le")],
        ),
        (
            "max by (b) (sum without (c) (a)) unless d",
            &[("a", "b c"), ("d", "")],
        ),
        (
            "a * on (b) group_left (c) d{e=~\"$e\"}",
            &[("a", "b c"), ("d", "b c e")],
        ),
        (
            "job:a:ratio_rate5m > 14.4 * 0.001 and b",
            &[("job:a:ratio_rate5m", ""), ("b", "")],
        ),
        ("label_values(a{b=~\"$b\"}, c)", &[("a", "b c")]),
        ("label_values(a, c)", &[("a", "c")]),
    ] {
        let expected: Metrics = expected
            .iter()
            .map(|(name, labels)| {
                let labels = labels.split_whitespace().map(str::to_owned).collect();
                ((*name).to_owned(), labels)
            })
            .collect();
        assert_eq!(uses(expression), expected, "{expression}");
    }
}

#[tokio::test]
async fn every_panel_and_recorded_metric_has_a_value_in_prometheus() {
    let servers = Servers::start();
    servers.visit().await;
    let Some(prometheus) = Prometheus::start(servers.metrics).await else {
        return;
    };
    let mut recorded = rules();
    recorded.retain(|rule| is_recorded(&rule.place));
    let mut waiting = [panels(), recorded].concat();
    let start = Instant::now();
    while !waiting.is_empty() {
        assert!(start.elapsed() < 2 * DEADLINE, "{waiting:#?}");
        // A quantile needs requests between two scrapes.
        servers.visit().await;
        let mut still = Vec::new();
        for shown in waiting {
            let expression = shown
                .expression
                .replace("$__rate_interval", "1m")
                .replace("$__range", "1m")
                .replace("$job", "shop")
                .replace("$instance", ".*")
                .replace("$route", ".*");
            assert!(!expression.contains('$'), "{expression}");
            let encoded = utf8_percent_encode(&expression, NON_ALPHANUMERIC).to_string();
            let value = prometheus.query(&encoded).await;
            if value.is_none_or(f64::is_nan) {
                still.push(shown);
            }
        }
        waiting = still;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Runs `promtool`. Returns `None` if it is not installed.
fn promtool(arguments: &[&str]) -> Option<String> {
    let Ok(output) = Command::new("promtool").args(arguments).output() else {
        println!("skipped: `promtool` is not installed");
        return None;
    };
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8(printed).expect("the output is UTF-8");
    assert!(output.status.success(), "{printed}");
    Some(printed)
}

#[test]
fn promtool_accepts_the_alert_rules() {
    let file = examples().join("alerts.yaml");
    let file = file.to_str().expect("the text is UTF-8");
    if let Some(printed) = promtool(&["check", "rules", "--lint-fatal", file]) {
        let expected = format!("SUCCESS: {} rules found", rules().len());
        assert!(printed.contains(&expected), "{printed}");
    }
}

/// The name of an alert, its series, the interval between their values, the time of evaluation, and
/// whether the alert fires.
type Alert = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
    &'static str,
    bool,
);

#[rustfmt::skip]
const ALERTS: &[Alert] = &[
    ("ErrorBudgetBurnsFast", &[(ALL, "0+100x90"), (FAILED, "0+2x90")], "1m", "90m", true),
    ("ErrorBudgetBurnsFast", &[(ALL, "0+200x90"), (FAILED, "0+1x90")], "1m", "90m", false),
    ("ErrorBudgetBurnsFast", &[(ALL, "0+100x80"), (FAILED, "0+1x80")], "5m", "400m", true),
    // The alert ends soon after the errors end.
    ("ErrorBudgetBurnsFast", &[(ALL, "0+100x130"), (FAILED, "0+2x90 180x40")], "1m", "130m", false),
    ("ErrorBudgetBurnsFast", &[(ALL, "0+100x90"), (CANCELLED, "0+50x90")], "1m", "90m", false),
    ("ErrorBudgetBurns", &[(ALL, "0+1000x50"), (FAILED, "0+4x50")], "30m", "24h", true),
    ("ErrorBudgetBurns", &[(ALL, "0+10000x80"), (FAILED, "0+12x80")], "1h", "75h", true),
    ("ErrorBudgetBurns", &[(ALL, "0+10000x80"), (FAILED, "0+8x80")], "1h", "75h", false),
    // A single loss, which also begins the series.
    ("SpansLost", &[(SPANS_LOST, "_x5 512x60")], "1m", "10m", true),
    ("SpansLost", &[(SPANS_LOST, "_x5 512x60")], "1m", "30m", false),
    ("SpansLost", &[(SPANS_LOST, "512x30 600x30")], "1m", "35m", true),
    ("SpansLost", &[(SPANS_EXPORTED, "0+100x60")], "1m", "30m", false),
    ("LogRecordsLost", &[(LOGS_LOST, "0+1x60")], "1m", "30m", true),
    ("LogRecordsLost", &[(LOGS_EXPORTED, "0+1x60")], "1m", "30m", false),
    ("MetricPointsLost", &[(POINTS_LOST, "0+1x60")], "1m", "30m", true),
    ("MetricPointsLost", &[(POINTS_EXPORTED, "0+1x60")], "1m", "30m", false),
    ("SpanQueueFull", &[(SPAN_QUEUE_FULL, "0x9 5x60")], "1m", "15m", true),
    ("SpanQueueFull", &[(SPAN_QUEUE_FULL, "0x60")], "1m", "15m", false),
    ("SpanQueueFull", &[("otel_sdk_processor_span_processed_total{job='a'}", "0+9x60")], "1m", "15m", false),
    ("LogQueueFull", &[(LOG_QUEUE_FULL, "0x9 5x60")], "1m", "15m", true),
    ("LogQueueFull", &[(LOG_QUEUE_FULL, "0x60")], "1m", "15m", false),
    ("SpanQueueFills", &[(SPAN_QUEUE_SIZE, "90x60"), (SPAN_QUEUE_CAPACITY, "100x60")], "1m", "15m", true),
    ("SpanQueueFills", &[(SPAN_QUEUE_SIZE, "70x60"), (SPAN_QUEUE_CAPACITY, "100x60")], "1m", "15m", false),
    ("LogQueueFills", &[(LOG_QUEUE_SIZE, "90x60"), (LOG_QUEUE_CAPACITY, "100x60")], "1m", "15m", true),
    ("LogQueueFills", &[(LOG_QUEUE_SIZE, "70x60"), (LOG_QUEUE_CAPACITY, "100x60")], "1m", "15m", false),
    ("ExportStalls", &[(SPANS_INFLIGHT, "5+5x60"), (SPANS_EXPORTED, "7x60")], "1m", "20m", true),
    ("ExportStalls", &[(SPANS_INFLIGHT, "5+5x60"), (SPANS_EXPORTED, "7+1x60")], "1m", "20m", false),
    ("ExportStalls", &[(SPANS_INFLIGHT, "0x60"), (SPANS_EXPORTED, "7x60")], "1m", "20m", false),
    ("MetricsStopped", &[(SPANS_LIVE, "0x10 _x200")], "1m", "30m", true),
    ("MetricsStopped", &[(SPANS_LIVE, "0x60")], "1m", "30m", false),
    ("MetricsStopped", &[(SPANS_LIVE, "0x10 _x200")], "1m", "80m", false),
];

const ALL: &str = "http_server_request_duration_seconds_count{job='a', http_route='/'}";
const FAILED: &str = "http_server_request_duration_seconds_count{job='a', error_type='500'}";
const CANCELLED: &str =
    "http_server_request_duration_seconds_count{job='a', error_type='cancelled'}";
const SPANS_LOST: &str =
    "otel_sdk_exporter_span_exported_total{job='a', error_type='connection_refused'}";
const SPANS_EXPORTED: &str = "otel_sdk_exporter_span_exported_total{job='a', instance='i'}";
const SPANS_INFLIGHT: &str = "otel_sdk_exporter_span_inflight{job='a', instance='i'}";

const SPANS_LIVE: &str = "otel_sdk_span_live{job='a'}";
const LOGS_LOST: &str = "otel_sdk_exporter_log_exported_total{job='a', error_type='404'}";
const LOGS_EXPORTED: &str = "otel_sdk_exporter_log_exported_total{job='a'}";
const POINTS_EXPORTED: &str = "otel_sdk_exporter_metric_data_point_exported_total{job='a'}";
const POINTS_LOST: &str =
    "otel_sdk_exporter_metric_data_point_exported_total{job='a', error_type='404'}";
const SPAN_QUEUE_FULL: &str =
    "otel_sdk_processor_span_processed_total{job='a', error_type='queue_full'}";
const LOG_QUEUE_FULL: &str =
    "otel_sdk_processor_log_processed_total{job='a', error_type='queue_full'}";
const SPAN_QUEUE_SIZE: &str = "otel_sdk_processor_span_queue_size{job='a'}";
const SPAN_QUEUE_CAPACITY: &str = "otel_sdk_processor_span_queue_capacity{job='a'}";
const LOG_QUEUE_SIZE: &str = "otel_sdk_processor_log_queue_size{job='a'}";
const LOG_QUEUE_CAPACITY: &str = "otel_sdk_processor_log_queue_capacity{job='a'}";

#[test]
fn each_alert_fires_exactly_in_the_situations_it_describes() {
    let alerts: BTreeSet<_> = rules()
        .into_iter()
        .map(|rule| rule.place)
        .filter(|name| !is_recorded(name))
        .collect();
    let tested: BTreeSet<_> = ALERTS.iter().map(|alert| alert.0.to_owned()).collect();
    assert_eq!(alerts, tested);
    // The query counts firing alerts, whatever their labels are.
    let mut text = format!(
        "rule_files: ['{}']\nevaluation_interval: 5m\ntests:\n",
        examples().join("alerts.yaml").display()
    );
    for (name, series, interval, at, fires) in ALERTS {
        text += &format!("- interval: {interval}\n  input_series:\n");
        for (series, values) in *series {
            text += &format!("  - {{series: \"{series}\", values: '{values}'}}\n");
        }
        let samples = if *fires { "[{value: 1}]" } else { "[]" };
        text += &format!(
            "  promql_expr_test:\n  - expr: count(ALERTS{{alertname='{name}', alertstate='firing'}})\n    \
             eval_time: {at}\n    exp_samples: {samples}\n"
        );
    }
    let folder = std::env::temp_dir().join(format!("alerts-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the folder can be created");
    let file = folder.join("tests.yaml");
    std::fs::write(&file, text).expect("the file can be created");
    promtool(&["test", "rules", file.to_str().expect("the text is UTF-8")]);
    std::fs::remove_dir_all(folder).expect("the folder can be removed");
}

#[test]
fn the_compose_file_of_the_collector_mounts_every_file_and_data_source_of_the_dashboards() {
    let compose = read("collector/compose.yaml");
    for line in compose.lines().map(str::trim) {
        let Some(mount) = line
            .strip_prefix("- .")
            .and_then(|line| line.strip_suffix(":ro"))
        else {
            continue;
        };
        let (from, _) = mount.split_once(':').expect("the mount has two sides");
        let from = examples().join("collector").join(format!(".{from}"));
        assert!(from.exists(), "{}", from.display());
    }
    let folder = read("grafana/provisioning/dashboards/dashboards.yaml");
    let folder: Vec<_> = between(&folder, "path: ", &['\n']).collect();
    assert!(compose.contains(&format!("../grafana/dashboards:{}:ro", folder[0])));
    assert!(read("collector/prometheus.yaml").contains("rule_files: [alerts.yaml]"));

    let sources = read("grafana/provisioning/datasources/datasources.yaml");
    let sources: BTreeSet<_> = between(&sources, "uid: ", &['\n']).collect();
    let mut named = BTreeSet::new();
    for (name, dashboard) in dashboards() {
        assert_eq!(dashboard["uid"], format!("tower-telemetry-{name}"));
        let panels = list(&dashboard["panels"]);
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
        assert_eq!(ids.len(), panels.len(), "{name}");
        for panel in panels.iter().filter(|panel| panel["type"] != "row") {
            named.extend(panel["datasource"]["uid"].as_str().map(str::to_owned));
            let links = panel["fieldConfig"].to_string();
            named.extend(between(&links, "%22datasource%22:%22", &['%']));
            // A complete link is percent-encoded JSON.
            for panes in between(&links, "panes=", &['"']) {
                let panes = percent_encoding::percent_decode_str(&panes).decode_utf8();
                let panes: Value = serde_json::from_str(&panes.expect("the text is UTF-8"))
                    .expect("the text is JSON");
                named.extend(
                    panes["a"]["queries"][0]["datasource"]["uid"]
                        .as_str()
                        .map(str::to_owned),
                );
            }
        }
    }
    assert_eq!(named, sources);
}
