//! Lists all environment variables and tests the warnings of `Config` about values that it cannot use.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use tower_telemetry::Config;

#[cfg(feature = "logs")]
const PAGE: &str = include_str!("../../docs/configuration.md");

/// Variables that are only read to warn about them. The page does not list them.
const UNSUPPORTED: &[&str] = &[
    "OTEL_BSP_MAX_CONCURRENT_EXPORTS",
    "OTEL_CONFIG_FILE",
    "OTEL_ENTITIES",
    #[cfg(not(feature = "prometheus"))]
    "OTEL_EXPORTER_PROMETHEUS_HOST",
    #[cfg(not(feature = "prometheus"))]
    "OTEL_EXPORTER_PROMETHEUS_PORT",
    #[cfg(not(feature = "runtime-metrics"))]
    "TELEMETRY_RUNTIME_METRICS",
];

/// Proxy variables in lower case, and the mark of a CGI process. The page names them in its text.
const PROXY_VARIABLES: [&str; 5] = [
    "REQUEST_METHOD",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

const OTLP_SUFFIXES: [&str; 4] = ["", "_TRACES", "_METRICS", "_LOGS"];

/// Returns the names of all variables that `Config` reads.
pub(crate) fn variables() -> BTreeSet<String> {
    let names = RefCell::new(BTreeSet::new());
    let _ = Config::from_vars(|name| {
        names.borrow_mut().insert(name.to_owned());
        None
    });
    names.into_inner()
}

fn warnings(config: &Config) -> Vec<String> {
    config.warnings().iter().map(ToString::to_string).collect()
}

/// Returns the names that `text` stands for. Alternatives are in braces.
#[cfg(feature = "logs")]
fn expanded(text: &str) -> Vec<String> {
    let Some((before, rest)) = text.split_once('{') else {
        return vec![text.to_owned()];
    };
    let (alternatives, after) = rest.split_once('}').expect("the brace is closed");
    let alternatives = alternatives.split(',');
    let names = alternatives.map(|one| format!("{before}{one}{after}"));
    names.flat_map(|name| expanded(&name)).collect()
}

#[cfg(feature = "logs")]
#[test]
fn the_page_about_configuration_lists_exactly_the_variables_that_are_read() {
    let tables = PAGE.split("| variable | setter | meaning |\n").skip(1);
    let tables = tables.filter_map(|rest| rest.split("\n\n").next());
    let cells = tables.flat_map(|table| table.lines().filter_map(|line| line.split('|').nth(1)));
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let listed: Vec<_> = names.flat_map(expanded).collect();
    let mut once: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), once.len());
    let unsupported: BTreeSet<_> = UNSUPPORTED.iter().map(ToString::to_string).collect();
    // These variables have an effect only with a feature that is off here.
    let needs_feature = |name: &str| name.contains("PROMETHEUS") || name.contains("RUNTIME");
    once.retain(|name| !unsupported.contains(name) || !needs_feature(name));
    let mut read: BTreeSet<_> = variables().difference(&unsupported).cloned().collect();
    read.retain(|name| !PROXY_VARIABLES.contains(&name.as_str()));
    assert_eq!(once, read);
}

/// Returns an unusable value for each variable, and the warning that follows its name and value.
/// Variables that accept any text have `None`.
fn unusable() -> BTreeMap<String, Option<(&'static str, &'static str)>> {
    let mut all = BTreeMap::new();
    let mut add = |name: &str, value, consequence| {
        all.insert(name.to_owned(), Some((value, consequence)));
    };
    add(
        "ENABLE_TELEMETRY",
        "no",
        "is neither true nor false; using true",
    );
    add(
        "TELEMETRY_SELF_METRICS",
        "yes",
        "is neither true nor false; using false",
    );
    add(
        "TELEMETRY_EXPORT_THREAD",
        "no",
        "is neither true nor false; using true",
    );
    add(
        "OTEL_SDK_DISABLED",
        "1",
        "is neither true nor false; using false",
    );
    add(
        "ENVIRONMENT",
        "moon",
        "is not one of development, test, staging and production; using development",
    );
    add(
        "OTEL_RESOURCE_ATTRIBUTES",
        "a=1,b",
        "is not a list of key=value: entry 2 is invalid; the whole list is ignored",
    );
    add(
        "OTEL_TRACES_SAMPLER",
        "sometimes",
        "is not a known sampler; using parentbased_always_on",
    );
    add(
        "OTEL_TRACES_SAMPLER_ARG",
        "2",
        "is not a number from 0 to 1; it is ignored",
    );
    add(
        "OTEL_PROPAGATORS",
        "jaeger",
        "is not one of tracecontext, baggage, b3, b3multi and none; using tracecontext and baggage",
    );
    for signal in ["TRACES", "METRICS", "LOGS"] {
        let known = match signal {
            "METRICS" if cfg!(feature = "prometheus") => {
                "is not one of otlp, console, prometheus and none; using the default of ENVIRONMENT"
            }
            "METRICS" => {
                "is not one of otlp, console, none and, with the feature `prometheus`, prometheus; using the default of ENVIRONMENT"
            }
            _ => "is not one of otlp, console and none; using the default of ENVIRONMENT",
        };
        add(&format!("OTEL_{signal}_EXPORTER"), "zipkin", known);
    }
    #[cfg(feature = "runtime-metrics")]
    add(
        "TELEMETRY_RUNTIME_METRICS",
        "yes",
        "is neither true nor false; using false",
    );
    #[cfg(feature = "prometheus")]
    add(
        "OTEL_EXPORTER_PROMETHEUS_HOST",
        "two hosts",
        "is neither an address nor a host name; using localhost",
    );
    #[cfg(feature = "prometheus")]
    add(
        "OTEL_EXPORTER_PROMETHEUS_PORT",
        "http",
        "is not a whole number from 0 to 65535; using 9464",
    );
    for signal in OTLP_SUFFIXES {
        let mut add = |setting: &str, value, consequence| {
            add(
                &format!("OTEL_EXPORTER_OTLP{signal}_{setting}"),
                value,
                consequence,
            );
        };
        let protocols = match cfg!(feature = "http-json") {
            true => "is not one of grpc, http/protobuf, http/json; it is ignored",
            false => "is not one of grpc, http/protobuf; it is ignored",
        };
        add("PROTOCOL", "http", protocols);
        add("INSECURE", "1", "is neither true nor false; it is ignored");
        add(
            "COMPRESSION",
            "zstd",
            "is not one of gzip, none; it is ignored",
        );
        add(
            "TIMEOUT",
            "0",
            "is not a whole number from 1 to 86400000; it is ignored",
        );
        add(
            "HEADERS",
            "a=1,b",
            "is not a list of name=value: entry 2 is ignored",
        );
    }
    for signal in OTLP_SUFFIXES {
        add(
            &format!("OTLP{signal}_EXPORTER"),
            "reference",
            "is not one of opentelemetry-otlp, tower-telemetry; it is ignored",
        );
    }
    for (prefix, delay) in [
        (
            "OTEL_BSP",
            "is not a whole number from 1 to 86400000; using 5000",
        ),
        (
            "OTEL_BLRP",
            "is not a whole number from 1 to 86400000; using 1000",
        ),
    ] {
        let mut add = |setting: &str, value, consequence| {
            add(&format!("{prefix}_{setting}"), value, consequence);
        };
        add(
            "MAX_QUEUE_SIZE",
            "0",
            "is not a whole number from 1 to 1048576; using 2048",
        );
        add(
            "MAX_EXPORT_BATCH_SIZE",
            "-1",
            "is not a whole number from 1 to 1048576; using 512",
        );
        add("SCHEDULE_DELAY", "soon", delay);
        add(
            "EXPORT_TIMEOUT",
            "1s",
            "is not a whole number from 1 to 86400000; using 30000",
        );
    }
    add(
        "OTEL_METRIC_EXPORT_INTERVAL",
        "99999999999999999999",
        "is not a whole number from 1 to 86400000; using 60000",
    );
    add(
        "OTEL_METRIC_EXPORT_TIMEOUT",
        "x",
        "is not a whole number from 1 to 86400000; using 30000",
    );
    add(
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "low",
        "is not one of cumulative, delta, lowmemory; using cumulative",
    );
    add(
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        "exponential",
        "is not one of explicit_bucket_histogram, base2_exponential_bucket_histogram; using \
         explicit_bucket_histogram",
    );
    add(
        "OTEL_METRICS_EXEMPLAR_FILTER",
        "sometimes",
        "is not one of trace_based, always_on, always_off; using trace_based",
    );
    add(
        "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN",
        "spans",
        "is not one of logs, logs/dup; using events on spans",
    );
    for name in [
        "ATTRIBUTE",
        "SPAN_ATTRIBUTE",
        "LOGRECORD_ATTRIBUTE",
        "SPAN_EVENT",
        "SPAN_LINK",
        "EVENT_ATTRIBUTE",
        "LINK_ATTRIBUTE",
    ] {
        add(
            &format!("OTEL_{name}_COUNT_LIMIT"),
            "many",
            "is not a whole number from 0 to 65536; using 128",
        );
    }
    for name in ["ATTRIBUTE", "SPAN_ATTRIBUTE", "LOGRECORD_ATTRIBUTE"] {
        add(
            &format!("OTEL_{name}_VALUE_LENGTH_LIMIT"),
            "-1",
            "is not a whole number from 0 to 1073741824; values are not truncated",
        );
    }
    if cfg!(feature = "logs") {
        add(
            "OTEL_LOG_LEVEL",
            "loud",
            "is not one of trace, debug, info, warn, error, off, none; using warn",
        );
        add(
            "LOG_FORMAT",
            "xml",
            "is not one of text, json; using the default of ENVIRONMENT",
        );
        add(
            "RUST_LOG",
            "a=b=c",
            "is not a filter (error parsing level filter: expected one of \"off\", \"error\", \
             \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5); using info",
        );
    }
    #[cfg(feature = "tracing")]
    add(
        "TRACING_SPANS",
        "a=b=c",
        "is not a filter (error parsing level filter: expected one of \"off\", \"error\", \
         \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5); using info",
    );
    for name in ["", "TRACES_", "METRICS_"] {
        add(
            &format!("TELEMETRY_{name}EXCLUDED_PATHS"),
            "healthz",
            "is not a path that starts with /, optionally with * at its end; it is ignored",
        );
    }
    add(
        "TELEMETRY_BAGGAGE_ATTRIBUTES",
        "two words",
        "is not a valid key of a baggage member; it is ignored",
    );
    add(
        "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS",
        "PUR GE",
        "is not an HTTP method; it is ignored",
    );
    for (kind, value, consequence) in [
        (
            "SERVER_REQUEST",
            "Cookie",
            "is a header that carries credentials; it is not captured",
        ),
        (
            "SERVER_RESPONSE",
            "set cookie",
            "is not a valid header name; it is ignored",
        ),
        (
            "CLIENT_REQUEST",
            "authorization",
            "is a header that carries credentials; it is not captured",
        ),
        (
            "CLIENT_RESPONSE",
            "é",
            "is not a valid header name; it is ignored",
        ),
    ] {
        add(
            &format!("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_{kind}"),
            value,
            consequence,
        );
    }
    for name in UNSUPPORTED {
        add(name, "1", "is not supported and has no effect");
    }
    for name in ["http", "https", "all"] {
        let consequence = "has a scheme other than http, https and socks5; it is ignored";
        for name in [
            format!("{name}_proxy"),
            format!("{name}_proxy").to_uppercase(),
        ] {
            add(&name, "ftp://proxy:21", consequence);
        }
    }
    for name in [
        "SERVICE_NAME",
        "OTEL_SERVICE_NAME",
        "NO_PROXY",
        "no_proxy",
        "REQUEST_METHOD",
    ] {
        all.insert(name.to_owned(), None);
    }
    for signal in OTLP_SUFFIXES {
        for setting in [
            "ENDPOINT",
            "CERTIFICATE",
            "CLIENT_CERTIFICATE",
            "CLIENT_KEY",
        ] {
            all.insert(format!("OTEL_EXPORTER_OTLP{signal}_{setting}"), None);
        }
    }
    all
}

/// Returns whether warnings omit the value of a variable.
fn is_hidden(name: &str) -> bool {
    let ends = [
        "_HEADERS",
        "_ENDPOINT",
        "_CERTIFICATE",
        "_CLIENT_KEY",
        "_RESOURCE_ATTRIBUTES",
        "_PROXY",
        "_proxy",
    ];
    ends.iter().any(|end| name.ends_with(end))
}

#[test]
fn an_unusable_value_causes_exactly_one_warning() {
    let all = unusable();
    assert_eq!(all.keys().cloned().collect::<BTreeSet<_>>(), variables());
    for (name, case) in all {
        let Some((value, consequence)) = case else {
            continue;
        };
        let config = Config::from_vars(|asked| (asked == name).then(|| value.to_owned()));
        let expected = match is_hidden(&name) {
            true => format!("{name} {consequence}"),
            false => format!("{name}={value:?} {consequence}"),
        };
        assert_eq!(warnings(&config), [expected]);
    }
}

#[cfg(unix)]
mod not_utf8 {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::process::Command;

    use super::*;

    fn value() -> OsString {
        OsString::from_vec([b"caf\xe9 ".as_slice(), &[b'x'; 1000]].concat())
    }

    fn expected(name: &str) -> String {
        let shown = match is_hidden(name) {
            true => String::new(),
            // The value is cut to 128 bytes, including the ellipsis.
            false => format!("=\"caf\u{fffd} {}…\"", "x".repeat(118)),
        };
        format!("{name}{shown} is not UTF-8; it is ignored")
    }

    #[test]
    fn a_value_that_is_not_utf_8_is_ignored_with_one_warning() {
        let unset = format!("{:?}", Config::from_vars(|_| None));
        for name in variables() {
            let config = Config::from_vars_os(|asked| (asked == name).then(value));
            assert_eq!(warnings(&config), [expected(&name)]);
            let shown = format!("{config:?}");
            let without = shown
                .split_once("warnings: ")
                .expect("Debug shows the warnings")
                .0;
            assert!(unset.starts_with(without), "{name}: {shown}");
        }
    }

    const PROGRAM: &str = "WARNINGS_OF_THE_ENVIRONMENT";

    /// The program of the test below. It does nothing unless its variable is set.
    #[test]
    fn warnings_of_the_process_environment() {
        if std::env::var_os(PROGRAM).is_some() {
            for warning in Config::from_env().warnings() {
                println!("WARNING {warning}");
            }
        }
    }

    #[test]
    fn the_process_environment_is_read_like_any_other_variables() {
        let output = Command::new(std::env::current_exe().expect("the test has a path"))
            .args(["warnings_of_the_process_environment", "--nocapture"])
            .env(PROGRAM, "1")
            .envs(variables().into_iter().map(|name| (name, value())))
            .output()
            .expect("the program starts");
        let text = String::from_utf8(output.stdout).expect("the output is UTF-8");
        let lines = text.lines();
        let mut warned: Vec<_> = lines
            .filter_map(|line| Some(line.split_once("WARNING ")?.1))
            .collect();
        warned.sort_unstable();
        let mut all: Vec<_> = variables().iter().map(|name| expected(name)).collect();
        all.sort_unstable();
        assert_eq!(warned, all);
    }
}

#[test]
fn short_names_of_environments_are_accepted() {
    for (texts, name) in [
        (
            &["development", "develop", "dev", "local", "DEV"][..],
            "development",
        ),
        (&["test", "testing", "qa", "ci"], "test"),
        (
            &[
                "staging",
                "stage",
                "stg",
                "preprod",
                "pre-prod",
                "preproduction",
            ],
            "staging",
        ),
        (&["production", "prod", "Prod", "prd", "live"], "production"),
    ] {
        for text in texts {
            let config =
                Config::from_vars(|asked| (asked == "ENVIRONMENT").then(|| (*text).to_owned()));
            assert_eq!(warnings(&config), [""; 0]);
            let line = config.to_string();
            assert!(line.contains(&format!(" environment={name} ")), "{line}");
            assert!(
                line.contains(&format!("because ENVIRONMENT={name})")),
                "{line}"
            );
            let is_sampled = line.contains("sampler=parentbased_always_on(");
            assert_eq!(is_sampled, name != "production", "{line}");
            assert_eq!(line.contains("traces=console"), name == "development");
        }
    }
}

mod setters {
    use std::time::Duration;

    use http::{HeaderMap, HeaderName, HeaderValue};
    use tower_telemetry::config::{
        Batch, Compression, Environment, ExceptionSignal, ExemplarFilter, Exporter,
        HistogramAggregation, Limits, OtlpSettings, Propagator, Protocol, Sampler, Temporality,
    };

    use super::*;

    type Variables = Vec<(String, &'static str)>;
    type Setter = Box<dyn Fn(Config) -> Config>;

    /// Variables, each with the setters that have the same effect.
    struct Equivalent(Vec<(Variables, Setter)>);

    impl Equivalent {
        fn add(
            &mut self,
            name: &str,
            value: &'static str,
            set: impl Fn(Config) -> Config + 'static,
        ) {
            self.add_all(&[(name, value)], set);
        }

        fn add_all(
            &mut self,
            variables: &[(&str, &'static str)],
            set: impl Fn(Config) -> Config + 'static,
        ) {
            let variables = variables.iter();
            let variables = variables.map(|(name, value)| ((*name).to_owned(), *value));
            self.0.push((variables.collect(), Box::new(set)));
        }
    }

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer a"));
        headers
    }

    fn general(same: &mut Equivalent) {
        let prefix = |setting: &str| format!("OTEL_EXPORTER_OTLP_{setting}");
        let second = Duration::from_secs(1);
        same.add(&prefix("ENDPOINT"), "http://h:1", |config| {
            config.with_endpoint("http://h:1")
        });
        same.add(&prefix("PROTOCOL"), "grpc", |config| {
            config.with_protocol(Protocol::Grpc)
        });
        same.add(&prefix("INSECURE"), "true", |config| {
            config.with_insecure(true)
        });
        same.add(&prefix("COMPRESSION"), "gzip", |config| {
            config.with_compression(Compression::Gzip)
        });
        same.add(&prefix("HEADERS"), "authorization=Bearer%20a", |config| {
            config.with_headers(headers())
        });
        same.add(&prefix("TIMEOUT"), "1000", move |config| {
            config.with_export_timeout(second)
        });
        same.add(&prefix("CERTIFICATE"), "/ca.pem", |config| {
            config.with_ca_certificate("/ca.pem")
        });
        same.add_all(
            &[
                (&prefix("CLIENT_CERTIFICATE"), "/c.pem"),
                (&prefix("CLIENT_KEY"), "/k.pem"),
            ],
            |config| config.with_client_certificate("/c.pem", "/k.pem"),
        );
        #[cfg(feature = "opentelemetry-otlp")]
        same.add("OTLP_EXPORTER", "opentelemetry-otlp", |config| {
            config.with_reference_exporter()
        });
    }

    fn of_signals(same: &mut Equivalent) {
        type Set = fn(Config, OtlpSettings) -> Config;
        let signals: [(&str, Set); 3] = [
            ("TRACES", Config::with_traces_otlp),
            ("METRICS", Config::with_metrics_otlp),
            ("LOGS", Config::with_logs_otlp),
        ];
        for (signal, set) in signals {
            let prefix = |setting: &str| format!("OTEL_EXPORTER_OTLP_{signal}_{setting}");
            let new = OtlpSettings::new;
            same.add(&prefix("ENDPOINT"), "http://h:1", move |config| {
                set(config, new().with_endpoint("http://h:1"))
            });
            same.add(&prefix("PROTOCOL"), "grpc", move |config| {
                set(config, new().with_protocol(Protocol::Grpc))
            });
            same.add(&prefix("INSECURE"), "true", move |config| {
                set(config, new().with_insecure(true))
            });
            same.add(&prefix("COMPRESSION"), "gzip", move |config| {
                set(config, new().with_compression(Compression::Gzip))
            });
            same.add(
                &prefix("HEADERS"),
                "authorization=Bearer%20a",
                move |config| set(config, new().with_headers(headers())),
            );
            same.add(&prefix("TIMEOUT"), "1000", move |config| {
                set(config, new().with_timeout(Duration::from_secs(1)))
            });
            same.add(&prefix("CERTIFICATE"), "/ca.pem", move |config| {
                set(config, new().with_ca_certificate("/ca.pem"))
            });
            same.add_all(
                &[
                    (&prefix("CLIENT_CERTIFICATE"), "/c.pem"),
                    (&prefix("CLIENT_KEY"), "/k.pem"),
                ],
                move |config| set(config, new().with_client_certificate("/c.pem", "/k.pem")),
            );
            #[cfg(feature = "opentelemetry-otlp")]
            for (value, by_reference) in [("opentelemetry-otlp", true), ("Tower-Telemetry", false)]
            {
                let name = format!("OTLP_{signal}_EXPORTER");
                same.add(&name, value, move |config| {
                    set(config, new().with_reference_exporter(by_reference))
                });
            }
        }
    }

    fn queues(same: &mut Equivalent) {
        let logs = || Batch::default().with_schedule_delay(Duration::from_secs(1));
        type Set = fn(Config, Batch) -> Config;
        let queues: [(&str, Batch, Set); 2] = [
            ("BSP", Batch::default(), Config::with_span_batch),
            ("BLRP", logs(), Config::with_log_batch),
        ];
        for (name, batch, set) in queues {
            let prefix = |setting: &str| format!("OTEL_{name}_{setting}");
            let time = Duration::from_millis(7);
            same.add(&prefix("MAX_QUEUE_SIZE"), "7", move |config| {
                set(config, batch.with_max_queue_size(7))
            });
            same.add(&prefix("MAX_EXPORT_BATCH_SIZE"), "7", move |config| {
                set(config, batch.with_max_export_batch_size(7))
            });
            same.add(&prefix("SCHEDULE_DELAY"), "7", move |config| {
                set(config, batch.with_schedule_delay(time))
            });
            same.add(&prefix("EXPORT_TIMEOUT"), "7", move |config| {
                set(config, batch.with_export_timeout(time))
            });
        }
    }

    fn limits(same: &mut Equivalent) {
        type Set = fn(Limits) -> Limits;
        let limits: [(&str, Set); 10] = [
            ("ATTRIBUTE_COUNT", |limits| {
                limits.with_span_attributes(7).with_log_attributes(7)
            }),
            ("ATTRIBUTE_VALUE_LENGTH", |limits| {
                limits.with_span_value_length(7).with_log_value_length(7)
            }),
            ("SPAN_ATTRIBUTE_COUNT", |limits| {
                limits.with_span_attributes(7)
            }),
            ("SPAN_ATTRIBUTE_VALUE_LENGTH", |limits| {
                limits.with_span_value_length(7)
            }),
            ("LOGRECORD_ATTRIBUTE_COUNT", |limits| {
                limits.with_log_attributes(7)
            }),
            ("LOGRECORD_ATTRIBUTE_VALUE_LENGTH", |limits| {
                limits.with_log_value_length(7)
            }),
            ("SPAN_EVENT_COUNT", |limits| limits.with_span_events(7)),
            ("SPAN_LINK_COUNT", |limits| limits.with_span_links(7)),
            ("EVENT_ATTRIBUTE_COUNT", |limits| {
                limits.with_event_attributes(7)
            }),
            ("LINK_ATTRIBUTE_COUNT", |limits| {
                limits.with_link_attributes(7)
            }),
        ];
        for (name, set) in limits {
            same.add(&format!("OTEL_{name}_LIMIT"), "7", move |config| {
                config.with_limits(set(Limits::default()))
            });
        }
    }

    fn layers(same: &mut Equivalent) {
        same.add("TELEMETRY_EXCLUDED_PATHS", "/a, /b/*", |config| {
            config.with_excluded_paths(["/a", "/b/*"])
        });
        same.add("TELEMETRY_TRACES_EXCLUDED_PATHS", "/a", |config| {
            config.with_paths_excluded_from_traces(["/a"])
        });
        same.add("TELEMETRY_METRICS_EXCLUDED_PATHS", "/a", |config| {
            config.with_paths_excluded_from_metrics(["/a"])
        });
        same.add("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "A", |config| {
            config.with_known_methods(["A"])
        });
        type Set = fn(Config, [HeaderName; 1]) -> Config;
        let headers: [(&str, Set); 4] = [
            (
                "SERVER_REQUEST",
                Config::with_captured_server_request_headers,
            ),
            (
                "SERVER_RESPONSE",
                Config::with_captured_server_response_headers,
            ),
            (
                "CLIENT_REQUEST",
                Config::with_captured_client_request_headers,
            ),
            (
                "CLIENT_RESPONSE",
                Config::with_captured_client_response_headers,
            ),
        ];
        for (name, set) in headers {
            let name = format!("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_{name}");
            same.add(&name, "x-a", move |config| {
                set(config, [HeaderName::from_static("x-a")])
            });
        }
    }

    fn all() -> Equivalent {
        let mut same = Equivalent(Vec::new());
        #[cfg(feature = "runtime-metrics")]
        same.add("TELEMETRY_RUNTIME_METRICS", "true", |config| {
            config.with_runtime_metrics(true)
        });
        same.add("TELEMETRY_SELF_METRICS", "true", |config| {
            config.with_self_metrics(true)
        });
        same.add("TELEMETRY_EXPORT_THREAD", "false", |config| {
            config.with_export_thread(false)
        });
        same.add("TELEMETRY_BAGGAGE_ATTRIBUTES", "tenant,plan", |config| {
            config.with_baggage_attributes(["tenant", "plan"])
        });
        #[cfg(feature = "prometheus")]
        same.add_all(
            &[
                ("OTEL_METRICS_EXPORTER", "prometheus"),
                ("OTEL_EXPORTER_PROMETHEUS_HOST", "::1"),
                ("OTEL_EXPORTER_PROMETHEUS_PORT", "80"),
            ],
            |config| {
                config
                    .with_metrics_exporters([Exporter::Prometheus])
                    .with_prometheus_server(([0, 0, 0, 0, 0, 0, 0, 1], 80).into())
            },
        );
        let ratio = || Sampler::ParentBasedTraceIdRatio(0.5);
        same.add("ENABLE_TELEMETRY", "false", |config| {
            config.with_enabled(false)
        });
        same.add("OTEL_SDK_DISABLED", "true", |config| {
            config.with_enabled(false)
        });
        same.add("SERVICE_NAME", "shop", |config| {
            config.with_service_name("shop")
        });
        same.add("OTEL_SERVICE_NAME", "shop", |config| {
            config.with_service_name("shop")
        });
        same.add("ENVIRONMENT", "staging", |config| {
            config.with_environment(Environment::Staging)
        });
        same.add("OTEL_TRACES_SAMPLER", "always_off", |config| {
            config.with_sampler(Sampler::AlwaysOff)
        });
        same.add_all(
            &[
                ("ENVIRONMENT", "production"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
            ],
            move |config| {
                let config = config.with_environment(Environment::Production);
                config.with_sampler(ratio())
            },
        );
        same.add("OTEL_PROPAGATORS", "b3", |config| {
            config.with_propagators([Propagator::B3])
        });
        same.add("OTEL_TRACES_EXPORTER", "none", |config| {
            config.with_traces_exporters([])
        });
        same.add("OTEL_METRICS_EXPORTER", "otlp", |config| {
            config.with_metrics_exporters([Exporter::Otlp])
        });
        same.add("OTEL_LOGS_EXPORTER", "none", |config| {
            config.with_logs_exporters([])
        });
        general(&mut same);
        of_signals(&mut same);
        queues(&mut same);
        limits(&mut same);
        layers(&mut same);
        let time = Duration::from_millis(7);
        same.add("OTEL_METRIC_EXPORT_INTERVAL", "7", move |config| {
            config.with_metric_interval(time)
        });
        same.add("OTEL_METRIC_EXPORT_TIMEOUT", "7", move |config| {
            config.with_metric_export_timeout(time)
        });
        let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        same.add(name, "delta", |config| {
            config.with_temporality(Temporality::Delta)
        });
        let name = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";
        same.add(name, "base2_exponential_bucket_histogram", |config| {
            config.with_histogram_aggregation(HistogramAggregation::ExponentialBuckets)
        });
        same.add("OTEL_METRICS_EXEMPLAR_FILTER", "always_on", |config| {
            config.with_exemplar_filter(ExemplarFilter::AlwaysOn)
        });
        same.add("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "logs", |config| {
            config.with_exception_signal(ExceptionSignal::Logs)
        });
        #[cfg(feature = "logs")]
        {
            use tower_telemetry::logs::LogLines;

            same.add("RUST_LOG", "debug,a=off", |config| {
                config.with_log_filter("debug,a=off")
            });
            same.add("LOG_FORMAT", "json", |config| {
                config.with_log_lines(LogLines::Json)
            });
            same.add("OTEL_LOG_LEVEL", "off", |config| {
                config.with_sdk_log_level(None)
            });
        }
        #[cfg(feature = "tracing")]
        same.add("TRACING_SPANS", "warn,a=debug", |config| {
            config.with_tracing_spans("warn,a=debug")
        });
        same
    }

    #[test]
    fn every_variable_has_a_setter_with_the_same_effect() {
        // The setter adds an attribute with priority over `SERVICE_NAME`. The variable has a lower priority.
        let mut covered: BTreeSet<_> = ["OTEL_RESOURCE_ATTRIBUTES".to_owned()].into();
        // Variables choose a proxy by scheme and host. `with_proxy` sets one proxy for all receivers.
        covered.extend(PROXY_VARIABLES.map(str::to_owned));
        let upper = ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
        covered.extend(upper.map(str::to_owned));
        // Without the feature, the setters of the reference exporter do not compile.
        if cfg!(not(feature = "opentelemetry-otlp")) {
            covered.extend(OTLP_SUFFIXES.map(|signal| format!("OTLP{signal}_EXPORTER")));
        }
        let unset = format!("{:?}", Config::from_vars(|_| None));
        for (variables, set) in all().0 {
            let read = Config::from_vars(|name| {
                let mut found = variables.iter().filter(|(one, _)| one == name);
                found.next().map(|(_, value)| (*value).to_owned())
            });
            let read = format!("{read:?}");
            assert_ne!(read, unset, "{variables:?}");
            let written = set(Config::from_vars(|_| None));
            assert_eq!(format!("{written:?}"), read, "{variables:?}");
            covered.extend(variables.into_iter().map(|(name, _)| name));
        }
        covered.extend(UNSUPPORTED.iter().map(ToString::to_string));
        assert_eq!(covered, super::variables());
    }

    #[test]
    fn resource_attributes_can_be_set_in_code() {
        let read = Config::from_vars(|name| {
            (name == "OTEL_RESOURCE_ATTRIBUTES").then(|| "service.version=7".to_owned())
        });
        let attribute = opentelemetry::KeyValue::new("service.version", "7");
        let written = Config::from_vars(|_| None).with_resource_attribute(attribute);
        assert!(read.to_string().contains(" version=7 "), "{read}");
        assert_eq!(read.to_string(), written.to_string());
    }
}
