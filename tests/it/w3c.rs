//! Runs the cases of the W3C test suite for Trace Context: a service that is called with these
//! headers, through both layers and real sockets.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use http::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::support::process::Process;
use crate::support::{Server, TRACEPARENT, within_deadline};

/// The service under test, which is an example, and the server that it calls.
struct Service {
    tested: Process,
    callback: Server,
    /// The headers of the requests that arrived at the callback.
    arrived: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Service {
    async fn start(order: &[&str]) -> Self {
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let keep = arrived.clone();
        let callback = post(async move |headers: HeaderMap| {
            keep.lock().expect("the lock is not poisoned").push(headers);
        });
        Self {
            tested: Process::example(
                "w3c",
                &[
                    ("OTEL_TRACES_EXPORTER", "none"),
                    ("OTEL_PROPAGATORS", &order.join(",")),
                ],
            ),
            callback: Server::start(Router::new().route("/callback", callback)).await,
            arrived,
        }
    }

    /// Calls the service with these headers, and returns the headers of its own calls.
    async fn calls(&self, headers: &[(&str, String)], count: usize) -> Vec<HeaderMap> {
        let url = format!("http://{}/callback", self.callback.address);
        let order = serde_json::json!({ "url": url, "arguments": [] });
        let orders = serde_json::Value::from(vec![order; count]).to_string();
        let mut request = Request::post(format!("{}/test", self.tested.url()))
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(orders))
            .expect("a valid request");
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a legal name");
            let value = value.parse().expect("a legal value");
            request.headers_mut().append(name, value);
        }
        let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
        let response = within_deadline("a response", client.request(request)).await;
        assert_eq!(
            response.expect("the server responds").status(),
            StatusCode::OK
        );
        let arrived = std::mem::take(&mut *self.arrived.lock().expect("the lock is not poisoned"));
        assert_eq!(arrived.len(), count);
        arrived
    }

    /// Calls the service, and returns the trace id and the `tracestate` that it sends.
    async fn passes_on(&self, headers: &[(&str, String)]) -> (String, String) {
        let arrived = self.calls(headers, 1).await;
        let (trace_id, _) = traceparent(&arrived[0]);
        let states = arrived[0].get_all("tracestate").iter();
        let states: Vec<_> = states
            .map(|state| state.to_str().expect("the text is UTF-8"))
            .collect();
        (trace_id, states.join(","))
    }
}

/// Returns the trace id and the parent id of the only, valid `traceparent`.
fn traceparent(headers: &HeaderMap) -> (String, String) {
    let mut values = headers.get_all("traceparent").iter();
    let value = values.next().expect("a traceparent was sent");
    assert!(values.next().is_none(), "only one traceparent was sent");
    let fields: Vec<_> = value
        .to_str()
        .expect("the text is UTF-8")
        .split('-')
        .collect();
    let [version, trace_id, parent_id, flags] = fields[..] else {
        panic!("{value:?}");
    };
    let lengths = [version, trace_id, parent_id, flags].map(str::len);
    assert_eq!((version, lengths), ("00", [2, 32, 16, 2]));
    (trace_id.to_owned(), parent_id.to_owned())
}

/// Returns every order of `tracecontext` alone, with one other propagator, and with all of them.
fn orders() -> Vec<Vec<&'static str>> {
    let mut orders: Vec<Vec<&str>> = vec![Vec::new()];
    let mut grown = orders.clone();
    while !grown.is_empty() {
        let more = grown.iter().flat_map(|order| {
            let all = ["tracecontext", "baggage", "b3", "b3multi"].into_iter();
            let rest = all.filter(|one| !order.contains(one));
            rest.map(|one| [&order[..], &[one]].concat())
        });
        grown = more.collect();
        orders.extend_from_slice(&grown);
    }
    orders.retain(|order| order.contains(&"tracecontext") && order.len() != 3);
    orders
}

/// Every order is tested, because other propagators read the same headers before and after it.
#[tokio::test]
async fn the_cases_of_the_w3c_pass_for_every_order_of_propagators() {
    let orders = orders();
    assert_eq!(orders.len(), 31);
    for order in orders {
        let service = Service::start(&order).await;
        trace_context_cases(&service, &order).await;
        the_random_flag_is_sent_on(&service, &order).await;
        all_calls_are_in_one_trace_with_parents_of_their_own(&service, &order).await;
    }
}

/// Each case expects whether the trace is continued, or the `tracestate` that is sent.
async fn trace_context_cases(service: &Service, order: &[&str]) {
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
        let (found, tracestate) = service.passes_on(&headers).await;
        assert_eq!(found == ID, continues, "{case} {order:?}");
        assert_eq!(tracestate, "", "{case} {order:?}");
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
        // Legal in Level 2, but `TraceState` of the API cannot represent it.
        (
            "tracestate_key_illegal_vendor_format: foo@@bar",
            vec!["foo@@bar=1,bar=2".into()],
            "foo@@bar=1,bar=2".into(),
        ),
        (
            "tracestate_key_illegal_vendor_format: foo@bar@baz",
            vec!["foo@bar@baz=1,bar=2".into()],
            "foo@bar@baz=1,bar=2".into(),
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
        let (found, tracestate) = service.passes_on(&headers).await;
        assert_eq!(found, ID, "{case} {order:?}");
        assert_eq!(tracestate, expected, "{case} {order:?}");
    }
}

async fn the_random_flag_is_sent_on(service: &Service, order: &[&str]) {
    for (flags, random) in [("03", true), ("01", false), ("02", true), ("00", false)] {
        let header = TRACEPARENT.replace("-01", &format!("-{flags}"));
        let arrived = service.calls(&[("traceparent", header)], 1).await;
        let sent = arrived[0]["traceparent"]
            .to_str()
            .expect("the text is UTF-8");
        let found = u8::from_str_radix(&sent[53..], 16).expect("the flags are hex");
        assert_eq!(found & 0x02 != 0, random, "{flags}: {sent} {order:?}");
    }
    // A trace that starts in this service has a random id.
    let arrived = service.calls(&[], 1).await;
    assert_eq!(&arrived[0]["traceparent"].as_bytes()[53..], b"03");
}

/// `multiple_requests_*` of the suite: one request causes several calls.
async fn all_calls_are_in_one_trace_with_parents_of_their_own(service: &Service, order: &[&str]) {
    for (case, header, continued) in [
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
        let headers: Vec<_> = header
            .map(|value| ("traceparent", value.to_owned()))
            .into_iter()
            .collect();
        let arrived = service.calls(&headers, 3).await;
        let ids: Vec<_> = arrived.iter().map(traceparent).collect();
        let traces: HashSet<_> = ids.iter().map(|(trace_id, _)| trace_id).collect();
        let parents: HashSet<_> = ids.iter().map(|(_, parent_id)| parent_id).collect();
        assert_eq!((traces.len(), parents.len()), (1, 3), "{case} {order:?}");
        let found = ids[0].0 == TRACEPARENT[3..35];
        assert_eq!(found, continued, "{case} {order:?}");
    }
}
