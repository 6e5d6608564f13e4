//! What a layer reads of the context that comes with requests.

use std::collections::HashSet;

use http::header::{HeaderMap, HeaderName};

use crate::support::{TRACEPARENT, TestTelemetry, get, send_through};

/// What a server makes of trace headers, case by case as the W3C's test suite for Trace Context
/// has them. `true` where the trace is to be continued, with the `tracestate` to be passed on.
#[tokio::test]
async fn trace_context_cases_of_the_w3c() {
    const ID: &str = "12345678901234567890123456789012";
    const PARENT: &str = "1234567890123456";
    let valid = format!("00-{ID}-{PARENT}-01");
    let with = |text: &str| text.replace("ID", ID).replace("PARENT", PARENT);
    let keys = |count: usize| {
        (1..=count)
            .map(|n| format!("bar{n}=1"))
            .collect::<Vec<_>>()
            .join(",")
    };
    let key = |length: usize| format!("{}=1", "z".repeat(length));
    let allowed: String = ('a'..='z').chain('0'..='9').chain("_-*/".chars()).collect();
    let values: String = (' '..='~').filter(|c| !",= ".contains(*c)).collect();
    let all_allowed = format!("{allowed}={values}");

    type Headers = Vec<(&'static str, String)>;
    let traceparent_cases: Vec<(&str, Headers, bool)> = vec![
        ("both_traceparent_and_tracestate_missing", vec![], false),
        (
            "traceparent_included_tracestate_missing",
            vec![("traceparent", valid.clone())],
            true,
        ),
        (
            "traceparent_duplicated",
            vec![
                ("traceparent", valid.clone()),
                ("traceparent", with("00-ID-PARENT-00")),
            ],
            false,
        ),
        (
            "traceparent_header_name: trace-parent",
            vec![("trace-parent", valid.clone())],
            false,
        ),
        (
            "traceparent_header_name: trace.parent",
            vec![("trace.parent", valid.clone())],
            false,
        ),
        (
            "traceparent_header_name_valid_casing",
            vec![("TraceParent", valid.clone())],
            true,
        ),
        (
            "traceparent_version_0x00: .",
            vec![("traceparent", with("00-ID-PARENT-01."))],
            false,
        ),
        (
            "traceparent_version_0x00: -what",
            vec![("traceparent", with("00-ID-PARENT-01-what-the-future"))],
            false,
        ),
        (
            "traceparent_version_0xcc",
            vec![("traceparent", with("cc-ID-PARENT-01"))],
            true,
        ),
        (
            "traceparent_version_0xcc: -what",
            vec![("traceparent", with("cc-ID-PARENT-01-what-the-future"))],
            true,
        ),
        (
            "traceparent_version_0xcc: .what",
            vec![("traceparent", with("cc-ID-PARENT-01.what-the-future"))],
            false,
        ),
        (
            "traceparent_version_0xff",
            vec![("traceparent", with("ff-ID-PARENT-01"))],
            false,
        ),
        (
            "traceparent_version_illegal_characters: .0",
            vec![("traceparent", with(".0-ID-PARENT-01"))],
            false,
        ),
        (
            "traceparent_version_illegal_characters: 0.",
            vec![("traceparent", with("0.-ID-PARENT-01"))],
            false,
        ),
        (
            "traceparent_version_too_long: 000",
            vec![("traceparent", with("000-ID-PARENT-01"))],
            false,
        ),
        (
            "traceparent_version_too_long: 0000",
            vec![("traceparent", with("0000-ID-PARENT-01"))],
            false,
        ),
        (
            "traceparent_version_too_short",
            vec![("traceparent", with("0-ID-PARENT-01"))],
            false,
        ),
        (
            "traceparent_trace_id_all_zero",
            vec![("traceparent", format!("00-{}-{PARENT}-01", "0".repeat(32)))],
            false,
        ),
        (
            "traceparent_trace_id_illegal_characters",
            vec![(
                "traceparent",
                with("00-.ID-PARENT-01").replacen("12", "1", 1),
            )],
            false,
        ),
        (
            "traceparent_trace_id_too_long",
            vec![("traceparent", with("00-ID3-PARENT-01"))],
            false,
        ),
        (
            "traceparent_trace_id_too_short",
            vec![("traceparent", format!("00-{}-{PARENT}-01", &ID[1..]))],
            false,
        ),
        (
            "traceparent_parent_id_all_zero",
            vec![("traceparent", format!("00-{ID}-{}-01", "0".repeat(16)))],
            false,
        ),
        (
            "traceparent_parent_id_illegal_characters",
            vec![("traceparent", format!("00-{ID}-.{}-01", &PARENT[1..]))],
            false,
        ),
        (
            "traceparent_parent_id_too_long",
            vec![("traceparent", with("00-ID-PARENT7-01"))],
            false,
        ),
        (
            "traceparent_parent_id_too_short",
            vec![("traceparent", format!("00-{ID}-{}-01", &PARENT[1..]))],
            false,
        ),
        (
            "traceparent_trace_flags_illegal_characters: .0",
            vec![("traceparent", with("00-ID-PARENT-.0"))],
            false,
        ),
        (
            "traceparent_trace_flags_illegal_characters: 0.",
            vec![("traceparent", with("00-ID-PARENT-0."))],
            false,
        ),
        (
            "traceparent_trace_flags_too_long",
            vec![("traceparent", with("00-ID-PARENT-001"))],
            false,
        ),
        (
            "traceparent_trace_flags_too_short",
            vec![("traceparent", with("00-ID-PARENT-1"))],
            false,
        ),
        (
            "traceparent_ows_handling: space before",
            vec![("traceparent", format!(" {valid}"))],
            true,
        ),
        (
            "traceparent_ows_handling: tab before",
            vec![("traceparent", format!("\t{valid}"))],
            true,
        ),
        (
            "traceparent_ows_handling: both",
            vec![("traceparent", format!("\t {valid} \t"))],
            true,
        ),
        (
            "tracestate_included_traceparent_missing",
            vec![("tracestate", "foo=1".into())],
            false,
        ),
    ];
    for (case, headers, continues) in traceparent_cases {
        let (found, tracestate) = received(&headers).await;
        assert_eq!(found == ID, continues, "{case}");
        assert_eq!(tracestate, "", "{case}");
    }

    let tracestate_cases: Vec<(&str, Vec<String>, String)> = vec![
        (
            "tracestate_included_traceparent_included",
            vec!["foo=1,bar=2".into()],
            "foo=1,bar=2".into(),
        ),
        (
            "tracestate_empty_header: first",
            vec!["foo=1".into(), String::new()],
            "foo=1".into(),
        ),
        (
            "tracestate_empty_header: second",
            vec![String::new(), "foo=1".into()],
            "foo=1".into(),
        ),
        (
            "tracestate_multiple_headers_different_keys",
            vec![
                "foo=1,".into(),
                "bar=2".into(),
                "rojo=1,congo=2".into(),
                "baz=3".into(),
            ],
            "foo=1,bar=2,rojo=1,congo=2,baz=3".into(),
        ),
        (
            "tracestate_duplicated_keys",
            vec!["foo=1,foo=2".into()],
            "foo=1,foo=2".into(),
        ),
        (
            "tracestate_all_allowed_characters",
            vec![all_allowed.clone()],
            all_allowed,
        ),
        (
            "tracestate_ows_handling",
            vec!["foo=1 \t , \t bar=2, \t baz=3 ".into()],
            "foo=1,bar=2,baz=3".into(),
        ),
        (
            "tracestate_key_illegal_characters: space",
            vec!["foo =1".into()],
            String::new(),
        ),
        (
            "tracestate_key_illegal_characters: case",
            vec!["FOO=1".into()],
            String::new(),
        ),
        (
            "tracestate_key_illegal_characters: dot",
            vec!["foo.bar=1".into()],
            String::new(),
        ),
        (
            "tracestate_key_illegal_vendor_format: foo@",
            vec!["foo@=1,bar=2".into()],
            "foo@=1,bar=2".into(),
        ),
        // Level 2 allows these keys too. The API's `TraceState` does not hold them: the state is
        // left out, and the trace goes on.
        (
            "tracestate_key_illegal_vendor_format: foo@@bar",
            vec!["foo@@bar=1,bar=2".into()],
            String::new(),
        ),
        (
            "tracestate_key_illegal_vendor_format: foo@bar@baz",
            vec!["foo@bar@baz=1,bar=2".into()],
            String::new(),
        ),
        (
            "tracestate_key_illegal_vendor_format",
            vec!["@foo=1,bar=2".into()],
            String::new(),
        ),
        (
            "tracestate_member_count_limit: 32",
            vec![keys(32)],
            keys(32),
        ),
        (
            "tracestate_member_count_limit: 33",
            vec![keys(33)],
            String::new(),
        ),
        ("tracestate_key_length_limit: 256", vec![key(256)], key(256)),
        (
            "tracestate_key_length_limit: 257",
            vec![key(257)],
            String::new(),
        ),
        (
            "tracestate_value_illegal_characters: two equals",
            vec!["foo=bar=baz".into()],
            String::new(),
        ),
        (
            "tracestate_value_illegal_characters: none",
            vec!["foo=,bar=3".into()],
            String::new(),
        ),
    ];
    for (case, values, expected) in tracestate_cases {
        let mut headers = vec![("TraceParent", valid.clone())];
        headers.extend(values.into_iter().map(|value| ("TraceState", value)));
        let (found, tracestate) = received(&headers).await;
        assert_eq!(found, ID, "{case}");
        assert_eq!(tracestate, expected, "{case}");
    }
}

/// The trace id and the `tracestate` of the span of a request with these headers.
async fn received(headers: &[(&str, String)]) -> (String, String) {
    let telemetry = TestTelemetry::new();
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a legal name");
        map.append(name, value.parse().expect("a legal value"));
    }
    let mut request = get("/");
    if let Some(headers) = request.headers_mut() {
        *headers = map;
    }
    send_through(&telemetry.layer(), request).await;
    let span = telemetry.only_span().await;
    let context = span.span_context;
    (
        context.trace_id().to_string(),
        context.trace_state().header(),
    )
}

/// The suite's `multiple_requests_*`: several requests with the same headers.
#[tokio::test]
async fn several_requests_of_one_caller_share_its_trace_and_nothing_else() {
    for (case, traceparent, shared) in [
        (
            "multiple_requests_with_valid_traceparent",
            Some(TRACEPARENT),
            true,
        ),
        ("multiple_requests_without_traceparent", None, false),
        (
            "multiple_requests_with_illegal_traceparent",
            Some("00-illegal"),
            false,
        ),
    ] {
        let telemetry = TestTelemetry::new();
        for _ in 0..3 {
            let mut request = get("/");
            if let Some(traceparent) = traceparent {
                request = request.header("traceparent", traceparent);
            }
            send_through(&telemetry.layer(), request).await;
        }
        let spans = telemetry.spans();
        let traces: HashSet<_> = spans
            .iter()
            .map(|one| one.span_context.trace_id())
            .collect();
        let ids: HashSet<_> = spans.iter().map(|one| one.span_context.span_id()).collect();
        assert_eq!(traces.len(), if shared { 1 } else { 3 }, "{case}");
        assert_eq!(ids.len(), 3, "{case}");
    }
}

#[tokio::test]
async fn the_random_flag_is_passed_on() {
    use opentelemetry_sdk::trace::Sampler;

    for sampler in [Sampler::AlwaysOn, Sampler::AlwaysOff] {
        let telemetry = TestTelemetry::with_sampler(sampler);
        let layer = telemetry.layer().with_traceresponse();
        for (flags, random) in [("03", true), ("01", false), ("02", true), ("00", false)] {
            let traceparent = TRACEPARENT.replace("-01", &format!("-{flags}"));
            let response = send_through(&layer, get("/").header("traceparent", traceparent)).await;
            let answer = response.headers()["traceresponse"]
                .to_str()
                .expect("it is text");
            let found = u8::from_str_radix(&answer[53..], 16).expect("they are flags");
            assert_eq!(found & 0x02 != 0, random, "{flags}: {answer}");
        }
    }
}

#[tokio::test]
async fn another_propagator_takes_the_place_of_those_of_the_w3c() {
    let telemetry = TestTelemetry::new();
    let propagator = opentelemetry::propagation::TextMapCompositePropagator::new(vec![]);
    let layer = telemetry.layer().with_propagator(propagator);
    send_through(&layer, get("/").header("traceparent", TRACEPARENT)).await;
    let propagator = opentelemetry_sdk::propagation::TraceContextPropagator::new();
    let layer = telemetry.layer().with_propagator(propagator);
    send_through(&layer, get("/").header("traceparent", TRACEPARENT)).await;
    let spans = telemetry.spans();
    let continued = spans.iter().map(|span| span.parent_span_is_remote);
    assert_eq!(continued.collect::<Vec<_>>(), [false, true]);
}
