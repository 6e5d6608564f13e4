//! Tests how `Config` interprets variables and which warnings it gives about unusable values.

use std::collections::HashMap;

use tower_telemetry::{
    Config,
    config::{Environment, Exporter, InitError, Sampler},
};

fn config(variables: &[(&str, &str)]) -> Config {
    let variables: HashMap<_, _> = variables.iter().copied().collect();
    Config::from_vars(|name| variables.get(name).map(|value| (*value).to_owned()))
}

fn warnings(variables: &[(&str, &str)]) -> Vec<String> {
    let config = config(variables);
    config.warnings().iter().map(ToString::to_string).collect()
}

#[test]
fn a_warning_names_the_unusable_value_and_the_value_used_instead() {
    for (variables, expected) in [
        (
            &[("ENVIRONMENT", "moon")][..],
            "ENVIRONMENT=\"moon\" is not one of development, test, staging and production; using development",
        ),
        (
            &[("ENABLE_TELEMETRY", "no")],
            "ENABLE_TELEMETRY=\"no\" is neither true nor false; using true",
        ),
        (
            &[("OTEL_SDK_DISABLED", "1")],
            "OTEL_SDK_DISABLED=\"1\" is neither true nor false; using false",
        ),
        (
            &[("OTEL_TRACES_SAMPLER", "sometimes")],
            "OTEL_TRACES_SAMPLER=\"sometimes\" is not a known sampler; using parentbased_always_on",
        ),
        (
            &[
                ("OTEL_TRACES_SAMPLER", "sometimes"),
                ("ENVIRONMENT", "production"),
            ],
            "OTEL_TRACES_SAMPLER=\"sometimes\" is not a known sampler; using \
             parentbased_traceidratio(0.1)",
        ),
        (
            &[
                ("OTEL_TRACES_SAMPLER", "traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "abc"),
            ],
            "OTEL_TRACES_SAMPLER_ARG=\"abc\" is not a number from 0 to 1; using 1",
        ),
        (
            &[
                ("ENVIRONMENT", "production"),
                ("OTEL_TRACES_SAMPLER_ARG", "-1"),
            ],
            "OTEL_TRACES_SAMPLER_ARG=\"-1\" is not a number from 0 to 1; it is ignored",
        ),
        (
            &[
                ("ENVIRONMENT", "production"),
                ("OTEL_TRACES_SAMPLER_ARG", "NaN"),
            ],
            "OTEL_TRACES_SAMPLER_ARG=\"NaN\" is not a number from 0 to 1; it is ignored",
        ),
        (
            &[("OTEL_TRACES_SAMPLER_ARG", "abc")],
            "OTEL_TRACES_SAMPLER_ARG=\"abc\" is not a number from 0 to 1; it is ignored",
        ),
        (
            &[("OTEL_TRACES_SAMPLER_ARG", "0.5")],
            "OTEL_TRACES_SAMPLER_ARG=\"0.5\" has no effect on the sampler parentbased_always_on",
        ),
        (
            &[
                ("OTEL_TRACES_SAMPLER", "always_on"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
            ],
            "OTEL_TRACES_SAMPLER_ARG=\"0.5\" has no effect on the sampler always_on",
        ),
        (
            &[("OTEL_TRACES_EXPORTER", "prometheus")],
            "OTEL_TRACES_EXPORTER=\"prometheus\" is not one of otlp, console and none; using the default of ENVIRONMENT",
        ),
        #[cfg(not(feature = "http-json"))]
        (
            &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")],
            "OTEL_EXPORTER_OTLP_PROTOCOL=\"http/json\" requires the feature `http-json`; using \
             http/protobuf",
        ),
        #[cfg(not(feature = "http-json"))]
        (
            &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http")],
            "OTEL_EXPORTER_OTLP_PROTOCOL=\"http\" is not one of grpc, http/protobuf; it is ignored",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_TIMEOUT", "0")],
            "OTEL_EXPORTER_OTLP_TIMEOUT=\"0\" is not a whole number from 1 to 86400000; it is ignored",
        ),
        (
            &[("OTEL_BSP_MAX_QUEUE_SIZE", "0")],
            "OTEL_BSP_MAX_QUEUE_SIZE=\"0\" is not a whole number from 1 to 1048576; using 2048",
        ),
        (
            &[("OTEL_BLRP_SCHEDULE_DELAY", "soon")],
            "OTEL_BLRP_SCHEDULE_DELAY=\"soon\" is not a whole number from 1 to 86400000; using 1000",
        ),
        (
            &[("OTEL_METRIC_EXPORT_INTERVAL", "99999999999999999999")],
            "OTEL_METRIC_EXPORT_INTERVAL=\"99999999999999999999\" is not a whole number from 1 to \
             86400000; using 60000",
        ),
        (
            &[("OTEL_RESOURCE_ATTRIBUTES", "a=1,b")],
            "OTEL_RESOURCE_ATTRIBUTES is not a list of key=value: entry 2 is invalid; the whole list is ignored",
        ),
        (
            &[("OTEL_PROPAGATORS", "tracecontext,jaeger")],
            "OTEL_PROPAGATORS=\"jaeger\" is not one of tracecontext, baggage, b3, b3multi and none; it \
             is ignored",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "zstd")],
            "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION=\"zstd\" is not one of gzip, none; it is \
             ignored",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_INSECURE", "1")],
            "OTEL_EXPORTER_OTLP_INSECURE=\"1\" is neither true nor false; it is ignored",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "low")],
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=\"low\" is not one of cumulative, \
             delta, lowmemory; using cumulative",
        ),
        (
            &[(
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
                "exponential",
            )],
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION=\"exponential\" is not one of \
             explicit_bucket_histogram, base2_exponential_bucket_histogram; using \
             explicit_bucket_histogram",
        ),
        (
            &[("OTEL_SPAN_EVENT_COUNT_LIMIT", "many")],
            "OTEL_SPAN_EVENT_COUNT_LIMIT=\"many\" is not a whole number from 0 to 65536; using 128",
        ),
        (
            &[("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "-1")],
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT=\"-1\" is not a whole number from 0 to 1073741824; \
             values are not truncated",
        ),
        (
            &[("OTEL_BSP_EXPORT_TIMEOUT", "0")],
            "OTEL_BSP_EXPORT_TIMEOUT=\"0\" is not a whole number from 1 to 86400000; using 30000",
        ),
        (
            &[("OTEL_METRIC_EXPORT_TIMEOUT", "x")],
            "OTEL_METRIC_EXPORT_TIMEOUT=\"x\" is not a whole number from 1 to 86400000; using 30000",
        ),
        #[cfg(feature = "logs")]
        (
            &[("LOG_FORMAT", "xml")],
            "LOG_FORMAT=\"xml\" is not one of text, json; using the default of ENVIRONMENT",
        ),
        #[cfg(feature = "logs")]
        (
            &[("OTEL_LOG_LEVEL", "loud")],
            "OTEL_LOG_LEVEL=\"loud\" is not one of trace, debug, info, warn, error, off, none; using \
             warn",
        ),
        (
            &[("OTEL_METRICS_EXEMPLAR_FILTER", "trace-based")],
            "OTEL_METRICS_EXEMPLAR_FILTER=\"trace-based\" is not one of trace_based, always_on, \
             always_off; using trace_based",
        ),
    ] {
        assert_eq!(warnings(variables), [expected]);
    }
}

#[test]
fn a_usable_value_causes_no_warning() {
    for variables in [
        &[][..],
        &[
            ("ENVIRONMENT", "PRODUCTION"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
        ],
        &[
            ("OTEL_TRACES_SAMPLER", "ALWAYS_OFF"),
            ("ENABLE_TELEMETRY", "False"),
        ],
        &[
            ("OTEL_TRACES_SAMPLER", " "),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        ],
        &[
            ("OTEL_TRACES_EXPORTER", "otlp, console"),
            ("OTEL_LOGS_EXPORTER", "none"),
        ],
        &[("OTEL_RESOURCE_ATTRIBUTES", "a=b%20c,d=e")],
        &[("OTEL_PROPAGATORS", "B3, b3multi,baggage,b3")],
        &[("OTEL_METRICS_EXEMPLAR_FILTER", "Always_On")],
        &[(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20abc,x-tenant=1",
        )],
    ] {
        assert_eq!(warnings(variables), [""; 0], "{variables:?}");
    }
}

#[test]
fn an_unusable_endpoint_is_an_error_that_explains_the_fix() {
    for (variables, expected) in [
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense")][..],
            "OTEL_EXPORTER_OTLP_ENDPOINT=\"nonsense\" is not an http or https URL; write one such \
             as http://localhost:4317",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317")],
            "OTEL_EXPORTER_OTLP_ENDPOINT=\"localhost:4317\" is not an http or https URL; write one \
             such as http://localhost:4317",
        ),
        (
            &[(
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
                "ftp://user:secret@host/?key=secret",
            )],
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=\"ftp://REDACTED@host/\" is not an http or https \
             URL; write one such as http://localhost:4317",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@host")],
            "OTEL_EXPORTER_OTLP_ENDPOINT=\"http://REDACTED@host\" contains credentials, which belong \
             in OTEL_EXPORTER_OTLP_HEADERS",
        ),
        (
            &[(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "http://user:pa?canary@host/path",
            )],
            "OTEL_EXPORTER_OTLP_ENDPOINT=\"http://REDACTED\" contains credentials, which belong in \
             OTEL_EXPORTER_OTLP_HEADERS",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://host:port")],
            "OTEL_EXPORTER_OTLP_ENDPOINT=\"http://host:REDACTED\" has no valid port; write a number up \
             to 65535",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://host:65536")],
            "OTEL_EXPORTER_OTLP_ENDPOINT=\"http://host:65536\" has no valid port; write a number up \
             to 65535",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://bad host")],
            "OTEL_EXPORTER_OTLP_ENDPOINT=\"http://REDACTED\" is not a URL; write one such as \
             http://localhost:4317",
        ),
    ] {
        let error = config(variables)
            .build()
            .expect_err("the configuration is invalid");
        assert!(matches!(error, InitError::Endpoint { .. }));
        assert_eq!(error.to_string(), expected);
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn https_without_the_tls_feature_is_an_error_that_names_the_feature() {
    let error = config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://localhost:4317")]).build();
    let error = error.expect_err("the configuration is invalid").to_string();
    assert!(error.contains("the feature `tls`"), "{error}");
}

#[test]
fn secrets_appear_in_no_debug_output_and_no_warning() {
    let config = config(&[
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20canary,canary",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://localhost:1/?token=canary",
        ),
    ]);
    let shown = format!("{config:?}");
    assert!(!shown.contains("canary"), "{shown}");
    assert!(shown.contains("authorization"), "{shown}");
    let warnings: Vec<_> = config.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["OTEL_EXPORTER_OTLP_HEADERS is not a list of name=value: entry 2 is ignored"]
    );
    let telemetry = config.build().expect("the endpoint is a URL");
    assert!(!format!("{telemetry:?}").contains("canary"));
}

#[test]
fn the_start_line_names_the_reason_for_the_sampler() {
    let cases: [(&[(&str, &str)], &str); 8] = [
        (&[], "sampler=parentbased_always_on propagators"),
        (
            &[("ENVIRONMENT", "production")],
            "sampler=parentbased_traceidratio(0.1, because ENVIRONMENT=production) ",
        ),
        (
            &[
                ("ENVIRONMENT", "Production"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
            ],
            "sampler=parentbased_traceidratio(0.5, because ENVIRONMENT=production) ",
        ),
        (
            &[("ENVIRONMENT", "staging")],
            "sampler=parentbased_always_on(because ENVIRONMENT=staging) ",
        ),
        (
            &[("ENVIRONMENT", "nowhere")],
            "sampler=parentbased_always_on propagators",
        ),
        (
            &[
                ("ENVIRONMENT", "production"),
                ("OTEL_TRACES_SAMPLER", "always_on"),
            ],
            "sampler=always_on(because OTEL_TRACES_SAMPLER) ",
        ),
        (
            &[
                ("OTEL_TRACES_SAMPLER", "traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.2"),
            ],
            "sampler=traceidratio(0.2, because OTEL_TRACES_SAMPLER) ",
        ),
        (
            &[
                ("ENVIRONMENT", "production"),
                ("OTEL_TRACES_SAMPLER", "sometimes"),
            ],
            "sampler=parentbased_traceidratio(0.1, because ENVIRONMENT=production) ",
        ),
    ];
    for (variables, expected) in cases {
        let line = config(variables).to_string();
        assert!(line.contains(expected), "{variables:?}: {line}");
    }
    let line = config(&[("OTEL_TRACES_SAMPLER", "always_on")])
        .with_sampler(Sampler::AlwaysOff)
        .to_string();
    assert!(
        line.contains("sampler=always_off(because Config::with_sampler) "),
        "{line}"
    );
    let line = config(&[])
        .with_environment(Environment::Production)
        .to_string();
    assert!(
        line.contains("(0.1, because Config::with_environment) "),
        "{line}"
    );
}

#[test]
fn exporters_can_be_set_per_signal_and_an_overridden_variable_is_warned_about() {
    let otlp = || [Exporter::Otlp];
    let shown = |config: &Config, signal: &str| {
        let line = config.to_string();
        let words = line.split(' ');
        let mut values = words.filter_map(|word| word.strip_prefix(&format!("{signal}=")));
        let value = values.next().expect("the line shows the signal").to_owned();
        value
            .split('(')
            .next()
            .expect("the line shows the exporter")
            .to_owned()
    };
    let none = &[("OTEL_LOGS_EXPORTER", "none")];
    let all = |config: &Config| ["traces", "metrics", "logs"].map(|signal| shown(config, signal));

    let apart = config(none)
        .with_traces_exporters(otlp())
        .with_metrics_exporters(otlp());
    assert_eq!(all(&apart), ["otlp", "otlp", "none"]);
    assert!(apart.warnings().is_empty());

    let together = config(none).with_exporters(otlp());
    assert_eq!(all(&together), ["otlp", "otlp", "otlp"]);
    let [warning] = together.warnings() else {
        panic!("{:?}", together.warnings());
    };
    let expected = "OTEL_LOGS_EXPORTER=\"none\" has no effect: Config::with_exporters sets all \
                    signals";
    assert_eq!(warning.to_string(), expected);
    // No warning: the variable agrees with the setter, or the exporter was set in code before.
    let same = config(&[("OTEL_LOGS_EXPORTER", "otlp")]).with_exporters(otlp());
    assert!(same.warnings().is_empty());
    let last = config(none).with_logs_exporters([]).with_exporters(otlp());
    assert_eq!(shown(&last, "logs"), "otlp");
    assert!(last.warnings().is_empty());
    let one = config(&[]).with_exporters(otlp()).with_logs_exporters([]);
    assert_eq!(all(&one), ["otlp", "otlp", "none"]);
}
