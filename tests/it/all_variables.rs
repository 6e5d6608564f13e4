//! All variables: which there are, and what `Config` says of values that it cannot use.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use tower_telemetry::Config;

const README: &str = include_str!("../../README.md");

/// Read to warn of them alone, which is why the README does not list them.
const UNSUPPORTED: [&str; 6] = [
    "OTEL_BSP_MAX_CONCURRENT_EXPORTS",
    "OTEL_CONFIG_FILE",
    "OTEL_ENTITIES",
    "OTEL_EXPORTER_PROMETHEUS_HOST",
    "OTEL_EXPORTER_PROMETHEUS_PORT",
    "OTEL_METRICS_EXEMPLAR_FILTER",
];

const OF_OTLP: [&str; 4] = ["", "_TRACES", "_METRICS", "_LOGS"];

/// The variables that are read.
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

/// The names that `text` stands for, which may have alternatives in braces.
fn expanded(text: &str) -> Vec<String> {
    let Some((before, rest)) = text.split_once('{') else {
        return vec![text.to_owned()];
    };
    let (alternatives, after) = rest.split_once('}').expect("it is closed");
    let alternatives = alternatives.split(',');
    let names = alternatives.map(|one| format!("{before}{one}{after}"));
    names.flat_map(|name| expanded(&name)).collect()
}

#[cfg(feature = "logs")]
#[test]
fn the_readme_lists_the_variables_that_are_read() {
    let (_, table) = README
        .split_once("| variable | meaning |")
        .expect("it is there");
    let (table, _) = table.split_once("\n\n").expect("it ends");
    let cells = table.lines().filter_map(|line| line.split('|').nth(1));
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let listed: Vec<_> = names.flat_map(expanded).collect();
    let once: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), once.len());
    let unsupported: BTreeSet<_> = UNSUPPORTED.map(str::to_owned).into();
    let read: BTreeSet<_> = variables().difference(&unsupported).cloned().collect();
    assert_eq!(once, read);
}

/// For each variable a value that cannot be used, and the warning after its name and value;
/// `None` for a variable that takes any text.
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
        "OTEL_SDK_DISABLED",
        "1",
        "is neither true nor false; using false",
    );
    add(
        "ENVIRONMENT",
        "moon",
        "is none of development, test, staging and production; using development",
    );
    add(
        "OTEL_RESOURCE_ATTRIBUTES",
        "a=1,b",
        "is not a list of key=value; all of it is left out",
    );
    add(
        "OTEL_TRACES_SAMPLER",
        "sometimes",
        "is not a known sampler; using parentbased_always_on",
    );
    add(
        "OTEL_TRACES_SAMPLER_ARG",
        "2",
        "is not a number from 0 to 1; it is left out",
    );
    add(
        "OTEL_PROPAGATORS",
        "jaeger",
        "is none of tracecontext, baggage, b3, b3multi and none; the default holds",
    );
    for signal in ["TRACES", "METRICS", "LOGS"] {
        add(
            &format!("OTEL_{signal}_EXPORTER"),
            "prometheus",
            "is none of otlp, console and none; the default holds",
        );
    }
    for signal in OF_OTLP {
        let mut add = |setting: &str, value, consequence| {
            add(
                &format!("OTEL_EXPORTER_OTLP{signal}_{setting}"),
                value,
                consequence,
            );
        };
        let protocols = match cfg!(feature = "http-json") {
            true => "is none of grpc, http/protobuf, http/json; it is left out",
            false => "is none of grpc, http/protobuf; it is left out",
        };
        add("PROTOCOL", "http", protocols);
        add("INSECURE", "1", "is neither true nor false; it is left out");
        add(
            "COMPRESSION",
            "zstd",
            "is none of gzip, none; it is left out",
        );
        add(
            "TIMEOUT",
            "0",
            "is not a whole number from 1 to 86400000; it is left out",
        );
        add(
            "HEADERS",
            "a=1,b",
            "is not a list of name=value: entry 2 is left out",
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
        "is none of cumulative, delta, lowmemory; using cumulative",
    );
    add(
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        "exponential",
        "is none of explicit_bucket_histogram, base2_exponential_bucket_histogram; using \
         explicit_bucket_histogram",
    );
    add(
        "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN",
        "spans",
        "is none of logs, logs/dup; using events on spans",
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
            "is not a whole number from 0 to 1073741824; values are not cut",
        );
    }
    if cfg!(feature = "logs") {
        add(
            "OTEL_LOG_LEVEL",
            "loud",
            "is none of trace, debug, info, warn, error, off, none; using warn",
        );
        add(
            "LOG_FORMAT",
            "xml",
            "is none of text, json; the default holds",
        );
        add(
            "RUST_LOG",
            "a=b=c",
            "is not a filter (error parsing level filter: expected one of \"off\", \"error\", \
             \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5); using info",
        );
    }
    add(
        "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS",
        "PUR GE",
        "is not an HTTP method; it is left out",
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
            "is not the name of a header; it is left out",
        ),
        (
            "CLIENT_REQUEST",
            "authorization",
            "is a header that carries credentials; it is not captured",
        ),
        (
            "CLIENT_RESPONSE",
            "é",
            "is not the name of a header; it is left out",
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
    for name in ["SERVICE_NAME", "OTEL_SERVICE_NAME"] {
        all.insert(name.to_owned(), None);
    }
    for signal in OF_OTLP {
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

/// Whether warnings leave the value of a variable out.
fn is_hidden(name: &str) -> bool {
    let ends = ["_HEADERS", "_ENDPOINT", "_CERTIFICATE", "_CLIENT_KEY"];
    ends.iter().any(|end| name.ends_with(end))
}

#[test]
fn a_value_that_cannot_be_used_gives_one_warning_for_each_variable() {
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
            // Bounded to 128 bytes, the mark included.
            false => format!("=\"caf\u{fffd} {}…\"", "x".repeat(118)),
        };
        format!("{name}{shown} is not UTF-8; it is left out")
    }

    #[test]
    fn a_value_that_is_not_utf_8_counts_as_not_set_and_gives_one_warning() {
        let unset = format!("{:?}", Config::from_vars(|_| None));
        for name in variables() {
            let config = Config::from_vars_os(|asked| (asked == name).then(value));
            assert_eq!(warnings(&config), [expected(&name)]);
            let shown = format!("{config:?}");
            let without = shown.split_once("warnings: ").expect("they are shown").0;
            assert!(unset.starts_with(without), "{name}: {shown}");
        }
    }

    const PROGRAM: &str = "WARNINGS_OF_THE_ENVIRONMENT";

    /// The program of the test below, which is nothing without its variable.
    #[test]
    fn warnings_of_the_process_environment() {
        if std::env::var_os(PROGRAM).is_some() {
            for warning in Config::from_env().warnings() {
                println!("WARNING {warning}");
            }
        }
    }

    #[test]
    fn the_process_environment_is_read_as_any_other_variables_are() {
        let output = Command::new(std::env::current_exe().expect("a test is a program"))
            .args(["warnings_of_the_process_environment", "--nocapture"])
            .env(PROGRAM, "1")
            .envs(variables().into_iter().map(|name| (name, value())))
            .output()
            .expect("it starts");
        let text = String::from_utf8(output.stdout).expect("it is text");
        let lines = text.lines();
        let mut told: Vec<_> = lines
            .filter_map(|line| Some(line.split_once("WARNING ")?.1))
            .collect();
        told.sort_unstable();
        let mut all: Vec<_> = variables().iter().map(|name| expected(name)).collect();
        all.sort_unstable();
        assert_eq!(told, all);
    }
}

#[test]
fn short_forms_of_environments_are_understood() {
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
