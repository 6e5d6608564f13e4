//! B3, the format of Zipkin: the single header `b3` and the headers `X-B3-*`
//! (openzipkin/b3-propagation).
//!
//! Both forms are read in any configuration, the single header first (OpenTelemetry specification,
//! Propagators API, "B3 Requirements"). Only the configured form is written. Parsing is strict: a
//! header that occurs twice, or does not follow the grammar, makes its form invalid.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};

use crate::propagation::b3_names::{FLAGS, HEADERS, SAMPLED, SINGLE, SPAN_ID, TRACE_ID};
use crate::propagation::extracted::Extracted;
use crate::propagation::header_value::{legal_value, trim};
use crate::propagation::hex;
use crate::propagation::trace_extra::{Decision, decision_in};

/// The form in which B3 is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum B3Form {
    Single,
    Multi,
}

impl B3Form {
    /// Returns the names of the headers that this form writes.
    pub(crate) fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Single => &[SINGLE],
            Self::Multi => &[TRACE_ID, SPAN_ID, SAMPLED, FLAGS],
        }
    }
}

/// The content of a form: ids, a decision, or both.
struct Found {
    /// A valid trace id and span id.
    ids: Option<(TraceId, SpanId)>,
    state: Option<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Deny,
    Accept,
    Debug,
}

/// The values of the B3 headers.
#[derive(Default)]
struct Headers<'a> {
    values: [Option<&'a [u8]>; HEADERS.len()],
    is_repeated: [bool; HEADERS.len()],
}

impl<'a> Headers<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            let is_it = |one: &&str| *one == name.as_str();
            if let Some(index) = HEADERS.iter().position(is_it) {
                found.is_repeated[index] = found.values[index].is_some();
                found.values[index] = Some(trim(value.as_bytes()));
            }
        }
        found
    }
}

/// Reads the B3 headers into `extracted`.
pub(crate) fn extract(headers: &HeaderMap, extracted: &mut Extracted) {
    let Headers {
        values: [single, multi @ ..],
        is_repeated: [single_is_repeated, multi_are_repeated @ ..],
    } = Headers::of(headers);
    let single = single
        .filter(|_| !single_is_repeated)
        .and_then(parse_single);
    let found = single.or_else(|| {
        let is_unique = !multi_are_repeated.contains(&true);
        is_unique.then(|| parse_multi(multi)).flatten()
    });
    let Some(Found { ids, state }) = found else {
        return;
    };
    let Some((trace_id, span_id)) = ids else {
        if let Some(state) = state {
            extracted.set_decision(match state {
                State::Deny => Decision::Deny,
                State::Accept => Decision::Accept,
                State::Debug => Decision::Debug,
            });
        }
        return;
    };
    let is_sampled = matches!(state, Some(State::Accept | State::Debug));
    let flags = TraceFlags::NOT_SAMPLED.with_sampled(is_sampled);
    let span_context = SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE);
    let decision = match state {
        None => Some(Decision::Deferred),
        Some(State::Debug) => Some(Decision::Debug),
        Some(_) => None,
    };
    extracted.set_span(span_context, None, decision);
}

/// Parses `{trace id}-{span id}[-{state}[-{parent span id}]]`, or a state alone.
fn parse_single(value: &[u8]) -> Option<Found> {
    let state = |text: &[u8]| match text {
        b"0" => Some(State::Deny),
        b"1" => Some(State::Accept),
        b"d" => Some(State::Debug),
        _ => None,
    };
    if let Some(state) = state(value) {
        return Some(Found {
            ids: None,
            state: Some(state),
        });
    }
    let mut fields = value.splitn(5, |byte| *byte == b'-');
    let ids = (
        parse_trace_id(fields.next()?)?,
        parse_span_id(fields.next()?)?,
    );
    let state = match fields.next() {
        Some(text) => Some(state(text)?),
        None => None,
    };
    let parent_is_valid = fields.next().is_none_or(is_span_id);
    (parent_is_valid && fields.next().is_none()).then_some(Found {
        ids: Some(ids),
        state,
    })
}

/// Parses the values of the headers `X-B3-*`, in the order of [`HEADERS`].
fn parse_multi(
    [trace_id, span_id, parent_span_id, sampled, flags]: [Option<&[u8]>; 5],
) -> Option<Found> {
    let ids = match (trace_id, span_id) {
        (Some(trace_id), Some(span_id)) => {
            Some((parse_trace_id(trace_id)?, parse_span_id(span_id)?))
        }
        (None, None) => None,
        _ => return None,
    };
    if !parent_span_id.is_none_or(is_span_id) {
        return None;
    }
    // Debug is the only flag that B3 defines.
    let state = if flags == Some(b"1") {
        Some(State::Debug)
    } else {
        match sampled {
            Some(b"1") => Some(State::Accept),
            Some(b"0") => Some(State::Deny),
            // Early implementations wrote `true` and `false`.
            Some(text) if text.eq_ignore_ascii_case(b"true") => Some(State::Accept),
            Some(text) if text.eq_ignore_ascii_case(b"false") => Some(State::Deny),
            Some(_) => return None,
            None => None,
        }
    };
    Some(Found { ids, state })
}

/// Parses a trace id of 32 digits. 16 digits are the right half, and the left half is zero.
fn parse_trace_id(digits: &[u8]) -> Option<TraceId> {
    let bytes = match digits.len() {
        16 => {
            let mut bytes = [0; 16];
            bytes[8..].copy_from_slice(&hex::decode::<16, 8>(digits)?);
            bytes
        }
        _ => hex::decode::<32, 16>(digits)?,
    };
    Some(TraceId::from_bytes(bytes)).filter(|id| *id != TraceId::INVALID)
}

fn parse_span_id(digits: &[u8]) -> Option<SpanId> {
    let id = SpanId::from_bytes(hex::decode::<16, 8>(digits)?);
    Some(id).filter(|id| *id != SpanId::INVALID)
}

/// Returns whether the digits have the form of a span id. The parent span id is only checked,
/// because no span of this crate is its child.
fn is_span_id(digits: &[u8]) -> bool {
    hex::decode::<16, 8>(digits).is_some()
}

/// Writes the current span of `cx`, or the decision for a trace that has not begun yet.
pub(crate) fn inject(form: B3Form, cx: &Context, headers: &mut HeaderMap) {
    let span = cx.span();
    let span_context = span.span_context();
    let decision = decision_in(cx);
    // Only the sampled flag is a decision; the random flag is not.
    let sampled = if span_context.is_sampled() {
        b'1'
    } else {
        b'0'
    };
    let ids = span_context.is_valid().then(|| {
        let trace_id: [u8; 32] = hex::encode(span_context.trace_id().to_bytes());
        let span_id: [u8; 16] = hex::encode(span_context.span_id().to_bytes());
        (trace_id, span_id)
    });
    let state = match (decision, ids.is_some()) {
        (Some(Decision::Deferred), _) => None,
        (Some(Decision::Debug), _) => Some(b'd'),
        (Some(Decision::Accept), false) => Some(b'1'),
        (Some(Decision::Deny), false) => Some(b'0'),
        (_, true) => Some(sampled),
        (None, false) => None,
    };
    let mut set = |name: &'static str, value: HeaderValue| {
        // `insert` would panic if the map is full.
        let _ = headers.try_insert(HeaderName::from_static(name), value);
    };
    match form {
        B3Form::Single => {
            let mut text = Vec::with_capacity(51);
            if let Some((trace_id, span_id)) = ids {
                text.extend_from_slice(&trace_id);
                text.push(b'-');
                text.extend_from_slice(&span_id);
            }
            if let Some(state) = state {
                if !text.is_empty() {
                    text.push(b'-');
                }
                text.push(state);
            }
            if !text.is_empty() {
                set(SINGLE, legal_value(&text));
            }
        }
        B3Form::Multi => {
            if let Some((trace_id, span_id)) = ids {
                set(TRACE_ID, legal_value(&trace_id));
                set(SPAN_ID, legal_value(&span_id));
            }
            match state {
                // The debug flag implies sampled.
                Some(b'd') => set(FLAGS, HeaderValue::from_static("1")),
                Some(state) => set(SAMPLED, legal_value(&[state])),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::propagation::b3_names::PARENT_SPAN_ID;

    const TRACE: &str = "463ac35c9f6413ad48485a3953bb6124";
    const SPAN: &str = "a2fb4a1d1a96d312";
    const PARENT: &str = "0020000000000001";

    fn extracted(pairs: &[(&'static str, &str)]) -> Extracted {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a legal value");
            headers.append(HeaderName::from_static(name), value);
        }
        let mut extracted = Extracted::default();
        extract(&headers, &mut extracted);
        extracted
    }

    /// Returns the trace id, the sampled flag and the decision of the span; or only the decision.
    fn read(pairs: &[(&'static str, &str)]) -> Option<(String, bool, Option<Decision>)> {
        let extracted = extracted(pairs);
        match extracted.span_context {
            Some(span) => {
                assert_eq!(span.span_id().to_string(), SPAN);
                assert!(span.is_remote());
                assert_eq!(span.trace_flags().to_u8() & !1, 0);
                let trace_id = span.trace_id().to_string();
                Some((trace_id, span.is_sampled(), extracted.decision))
            }
            None => Some((String::new(), false, Some(extracted.decision?))),
        }
    }

    fn ids(sampled: bool, decision: Option<Decision>) -> Option<(String, bool, Option<Decision>)> {
        Some((TRACE.to_owned(), sampled, decision))
    }

    fn alone(decision: Decision) -> Option<(String, bool, Option<Decision>)> {
        Some((String::new(), false, Some(decision)))
    }

    #[test]
    fn a_single_header_is_parsed_exactly_by_the_grammar() {
        use Decision::{Accept, Debug, Deferred, Deny};

        let with = |text: &str| {
            let text = text.replace("PARENT", PARENT);
            text.replace("TRACE", TRACE).replace("SPAN", SPAN)
        };
        let half = Some((format!("{:0>32}", &TRACE[16..]), true, None));
        for (value, expected) in [
            ("TRACE-SPAN", ids(false, Some(Deferred))),
            ("TRACE-SPAN-0", ids(false, None)),
            ("TRACE-SPAN-1", ids(true, None)),
            ("TRACE-SPAN-d", ids(true, Some(Debug))),
            ("TRACE-SPAN-0-PARENT", ids(false, None)),
            ("TRACE-SPAN-1-PARENT", ids(true, None)),
            ("TRACE-SPAN-d-PARENT", ids(true, Some(Debug))),
            (" \tTRACE-SPAN-1 ", ids(true, None)),
            ("48485a3953bb6124-SPAN-1", half),
            ("0", alone(Deny)),
            ("1", alone(Accept)),
            ("d", alone(Debug)),
            (" 0\t", alone(Deny)),
            ("", None),
            ("-", None),
            ("2", None),
            ("D", None),
            ("00", None),
            ("true", None),
            ("TRACE", None),
            ("TRACE-", None),
            ("-SPAN-1", None),
            ("TRACE-SPAN-", None),
            ("TRACE-SPAN-2", None),
            ("TRACE-SPAN-D", None),
            ("TRACE-SPAN-true", None),
            ("TRACE-SPAN-PARENT", None),
            ("TRACE-SPAN--PARENT", None),
            ("TRACE-SPAN-1-", None),
            ("TRACE-SPAN-1-PAREN", None),
            ("TRACE-SPAN-1-PARENT-", None),
            ("TRACE-SPAN-1-PARENT-1", None),
            ("TRACE--SPAN-1", None),
            ("TRACE-SPAN 1", None),
            ("TRACE-SPAN-1,TRACE-SPAN-1", None),
            ("00000000000000000000000000000000-SPAN-1", None),
            ("0000000000000000-SPAN-1", None),
            ("TRACE-0000000000000000-1", None),
            ("463AC35C9F6413AD48485A3953BB6124-SPAN-1", None),
            ("TRACE-A2FB4A1D1A96D312-1", None),
            ("63ac35c9f6413ad48485a3953bb6124-SPAN-1", None),
            ("0TRACE-SPAN-1", None),
            ("TRACE-0SPAN-1", None),
            ("gTRACE-SPAN-1", None),
            ("TRACE-aäfb4a1d1a96d312-1", None),
        ] {
            assert_eq!(read(&[(SINGLE, &with(value))]), expected, "{value:?}");
        }
        let long = format!("{}{}", with("TRACE-SPAN-1-PARENT"), "-".repeat(400_000));
        assert_eq!(read(&[(SINGLE, &long)]), None);
    }

    #[test]
    fn multiple_headers_are_combined() {
        use Decision::{Accept, Debug, Deferred, Deny};

        const IDS: [(&str, &str); 2] = [(TRACE_ID, TRACE), (SPAN_ID, SPAN)];
        type Pairs<'a> = &'a [(&'static str, &'a str)];
        let cases: [(Pairs<'_>, _, _); 22] = [
            (&[], ids(false, Some(Deferred)), None),
            (&[(SAMPLED, "0")], ids(false, None), alone(Deny)),
            (&[(SAMPLED, "1")], ids(true, None), alone(Accept)),
            (&[(SAMPLED, "false")], ids(false, None), alone(Deny)),
            (&[(SAMPLED, "true")], ids(true, None), alone(Accept)),
            (&[(SAMPLED, "True")], ids(true, None), alone(Accept)),
            (&[(SAMPLED, " 1\t")], ids(true, None), alone(Accept)),
            (&[(SAMPLED, "d")], None, None),
            (&[(SAMPLED, "")], None, None),
            (&[(SAMPLED, "2")], None, None),
            (&[(SAMPLED, "1"), (SAMPLED, "1")], None, None),
            (&[(FLAGS, "1")], ids(true, Some(Debug)), alone(Debug)),
            (
                &[(FLAGS, "1"), (SAMPLED, "0")],
                ids(true, Some(Debug)),
                alone(Debug),
            ),
            (&[(FLAGS, "0")], ids(false, Some(Deferred)), None),
            (
                &[(FLAGS, "0"), (SAMPLED, "1")],
                ids(true, None),
                alone(Accept),
            ),
            (&[(FLAGS, "2")], ids(false, Some(Deferred)), None),
            (&[(FLAGS, "1"), (FLAGS, "1")], None, None),
            (
                &[(PARENT_SPAN_ID, PARENT)],
                ids(false, Some(Deferred)),
                None,
            ),
            (&[(PARENT_SPAN_ID, "1")], None, None),
            (&[(TRACE_ID, TRACE)], None, None),
            (&[(SPAN_ID, "x")], None, None),
            // If one form is invalid, the next form is read.
            (&[(SINGLE, "x")], ids(false, Some(Deferred)), None),
        ];
        for (more, with_ids, without) in cases {
            let pairs = [&IDS[..], more].concat();
            assert_eq!(read(&pairs), with_ids, "{more:?} with ids");
            assert_eq!(read(more), without, "{more:?} alone");
        }
        for pairs in [
            [(TRACE_ID, TRACE), (SPAN_ID, "0000000000000000")],
            [
                (TRACE_ID, "00000000000000000000000000000000"),
                (SPAN_ID, SPAN),
            ],
            [(TRACE_ID, "0000000000000000"), (SPAN_ID, SPAN)],
            [(TRACE_ID, &TRACE[1..]), (SPAN_ID, SPAN)],
            [(TRACE_ID, TRACE), (SPAN_ID, &SPAN[1..])],
            [
                (TRACE_ID, "463AC35C9F6413AD48485A3953BB6124"),
                (SPAN_ID, SPAN),
            ],
        ] {
            assert_eq!(read(&pairs), None, "{pairs:?}");
            // A decision next to invalid ids is also ignored.
            assert_eq!(read(&[&pairs[..], &[(SAMPLED, "1")]].concat()), None);
        }
    }

    #[test]
    fn the_single_header_has_priority_over_the_others() {
        let all = |single: &'static str| {
            read(&[
                (SINGLE, single),
                (TRACE_ID, TRACE),
                (SPAN_ID, SPAN),
                (SAMPLED, "1"),
            ])
        };
        assert_eq!(all("0"), alone(Decision::Deny));
        assert_eq!(all("nonsense"), ids(true, None));
        let one = format!("{TRACE}-{SPAN}-0");
        assert_eq!(read(&[(SINGLE, &one), (SAMPLED, "1")]), ids(false, None));
        assert_eq!(read(&[(SINGLE, &one), (SINGLE, &one)]), None);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        use proptest::prelude::*;

        proptest!(|(values in prop::collection::vec((0..6usize, "[ -~0-9a-f\\-]{0,70}"), 0..8))| {
            let pairs: Vec<_> = values.iter().map(|(n, value)| (HEADERS[*n], &**value)).collect();
            let extracted = extracted(&pairs);
            if let Some(span) = extracted.span_context {
                prop_assert!(span.is_valid());
            }
        });
    }
}
