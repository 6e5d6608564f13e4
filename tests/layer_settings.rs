//! Tests the variables of the layers, with and without `init`. Variables are read once per process,
//! so each program here is a process of its own, and there is no test harness.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::process::Command;

use bytes::Bytes;
use http::header::HeaderName;
use http::{Request, Response};
use http_body_util::Empty;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{ClientTelemetryLayer, TelemetryLayer};

const METHODS: &str = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS";
const HEADERS: &str = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS";

/// The environment of each program.
fn environment() -> [(String, &'static str); 5] {
    [
        (METHODS.to_owned(), "ENV,PUR GE"),
        (
            format!("{HEADERS}_SERVER_REQUEST"),
            "X-Env-1, authorization",
        ),
        (format!("{HEADERS}_SERVER_RESPONSE"), "x-env-2,x env"),
        (format!("{HEADERS}_CLIENT_REQUEST"), "x-env-3"),
        (format!("{HEADERS}_CLIENT_RESPONSE"), "x-env-4"),
    ]
}

/// The warnings that this environment causes.
fn warnings() -> [String; 3] {
    [
        format!(
            "{HEADERS}_SERVER_REQUEST=\"authorization\" is a header that carries credentials; it is \
             not captured"
        ),
        format!("{HEADERS}_SERVER_RESPONSE=\"x env\" is not a valid header name; it is ignored"),
        format!("{METHODS}=\"PUR GE\" is not an HTTP method; it is ignored"),
    ]
}

fn main() {
    match std::env::var("PROGRAM") {
        Ok(program) => run(&program),
        Err(_) => test(),
    }
}

fn run(program: &str) {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .init();
    let spans = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(spans.clone())
        .build();
    let mut server = TelemetryLayer::new().with_tracer_provider(provider.clone());
    let mut client = ClientTelemetryLayer::new().with_tracer_provider(provider);
    if program.ends_with("setters of the layer") {
        let name = HeaderName::from_static;
        server = server
            .with_known_methods(["LAYER"])
            .with_captured_request_headers([name("x-layer-1")])
            .with_captured_response_headers([name("x-layer-2")]);
        client = client
            .with_known_methods(["LAYER"])
            .with_captured_request_headers([name("x-layer-3")])
            .with_captured_response_headers([name("x-layer-4")]);
    }
    #[cfg(feature = "init")]
    let _telemetry = with_init::start(program);
    let service = service_fn(|_: Request<()>| async {
        let mut response = Response::new(Empty::<Bytes>::new());
        for from in ["env", "vars", "config", "layer"] {
            for n in 1..=4 {
                let name: HeaderName = format!("x-{from}-{n}").parse().expect("a legal name");
                response
                    .headers_mut()
                    .insert(name, "1".parse().expect("a legal value"));
            }
        }
        Ok::<_, Infallible>(response)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("the runtime can be built").block_on(async {
        for method in ["GET", "ENV", "VARS", "CONFIG", "LAYER"] {
            let mut request = Request::builder().method(method).uri("http://host/");
            for from in ["env", "vars", "config", "layer"] {
                for n in 1..=4 {
                    request = request.header(format!("x-{from}-{n}"), "1");
                }
            }
            let request = request.body(()).expect("a valid request");
            let copy = request.clone();
            drop(
                server
                    .layer(service)
                    .oneshot(request)
                    .await
                    .expect("the service cannot fail"),
            );
            drop(
                client
                    .layer(service)
                    .oneshot(copy)
                    .await
                    .expect("the service cannot fail"),
            );
        }
    });
    for span in spans
        .get_finished_spans()
        .expect("the exporter is not shut down")
    {
        println!("SPAN {}", description(&span));
    }
}

/// Returns the method and the names of the captured headers.
fn description(span: &SpanData) -> String {
    let of = |key: &str| {
        let mut found = span.attributes.iter().filter(|one| one.key.as_str() == key);
        found.next().map(|one| one.value.to_string())
    };
    let headers: BTreeSet<_> = span
        .attributes
        .iter()
        .filter_map(|one| one.key.as_str().split_once(".header."))
        .map(|(_, name)| name)
        .collect();
    let headers: Vec<_> = headers.into_iter().collect();
    let method = of("http.request.method").expect("the span has a method");
    format!("{method} {}", headers.join(" "))
}

#[cfg(feature = "init")]
mod with_init {
    use super::{HEADERS, HeaderName, METHODS};
    use tower_telemetry::{Config, TelemetryGuard};

    pub(crate) fn start(program: &str) -> Option<TelemetryGuard> {
        let config = match program {
            "init" => Config::from_env(),
            "init from variables" | "init from variables, setters of the layer" => {
                Config::from_vars(|name| {
                    Some(match name.strip_prefix(HEADERS) {
                        Some("_SERVER_REQUEST") => "x-vars-1".to_owned(),
                        Some("_SERVER_RESPONSE") => "x-vars-2".to_owned(),
                        Some("_CLIENT_REQUEST") => "x-vars-3".to_owned(),
                        Some("_CLIENT_RESPONSE") => "x-vars-4".to_owned(),
                        _ if name == METHODS => "VARS".to_owned(),
                        _ => return None,
                    })
                })
            }
            "init from no variables" => Config::from_vars(|_| None),
            "init with setters" => {
                let name = HeaderName::from_static;
                Config::from_vars(|_| None)
                    .with_known_methods(["CONFIG"])
                    .with_captured_server_request_headers([name("x-config-1")])
                    .with_captured_server_response_headers([name("x-config-2")])
                    .with_captured_client_request_headers([name("x-config-3")])
                    .with_captured_client_response_headers([name("x-config-4")])
            }
            _ => return None,
        };
        let config = config.with_exporters([]);
        Some(config.init().expect("no other telemetry is initialized"))
    }
}

fn test() {
    for (program, needs_init, from, warns) in [
        ("no init", false, "env", true),
        ("no init, setters of the layer", false, "layer", true),
        ("init", true, "env", true),
        ("init from variables", true, "vars", false),
        (
            "init from variables, setters of the layer",
            true,
            "layer",
            false,
        ),
        ("init from no variables", true, "", false),
        ("init with setters", true, "config", false),
    ] {
        if needs_init && cfg!(not(feature = "init")) {
            continue;
        }
        let output = Command::new(std::env::current_exe().expect("the test has a path"))
            .env_clear()
            .env("PROGRAM", program)
            .envs(environment())
            .output()
            .expect("the program starts");
        let text = String::from_utf8(output.stdout).expect("the output is UTF-8");
        let after = |mark: &str| -> Vec<String> {
            let lines = text.lines().filter_map(|line| line.split_once(mark));
            lines.map(|(_, rest)| rest.trim().to_owned()).collect()
        };
        let mut spans = Vec::new();
        for method in ["GET", "ENV", "VARS", "CONFIG", "LAYER"] {
            let is_known =
                method.eq_ignore_ascii_case(from) || (from.is_empty() && method == "GET");
            let method = if is_known { method } else { "_OTHER" };
            for (request, response) in [(1, 2), (3, 4)] {
                spans.push(match from {
                    "" => method.to_owned(),
                    from => format!("{method} x-{from}-{request} x-{from}-{response}"),
                });
            }
        }
        assert_eq!(after("SPAN "), spans, "{program}: {text}");
        let warned = after("tower_telemetry: ");
        let expected = if warns {
            warnings().to_vec()
        } else {
            Vec::new()
        };
        assert_eq!(warned, expected, "{program}: {text}");
        println!("{program}: ok");
    }
}
