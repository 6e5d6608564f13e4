//! W3C Trace Context Level 2, parsed strictly.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use crate::propagation::byte_class::{STATE_KEY, STATE_VALUE, end_of};
use crate::propagation::header_value::trim;
use crate::propagation::hex;
use crate::request_headers::{Occurrence, RequestHeaders, TRACEPARENT, TRACESTATE};

const TRACEPARENT_HEADER: HeaderName = HeaderName::from_static(TRACEPARENT);
const TRACESTATE_HEADER: HeaderName = HeaderName::from_static(TRACESTATE);

/// The flags that Trace Context Level 2 defines: sampled and random.
const KNOWN_FLAGS: u8 = 0x03;

/// Maximum length of a propagated `tracestate` in bytes, which are characters: a valid one is ASCII.
/// The W3C requires that at least 512 characters are propagated.
const MAX_TRACESTATE_BYTES: usize = 512;
/// Maximum number of members of a `tracestate`: the W3C allows 32.
const MAX_TRACESTATE_MEMBERS: usize = 32;

/// Returns the span context and the text of its state, if the headers carry exactly one span
/// context and it is valid (Trace Context Level 2, sections 3.2 and 3.3).
#[inline]
pub(crate) fn extract(headers: &RequestHeaders<'_>) -> Option<(SpanContext, Option<Arc<str>>)> {
    let (trace_id, span_id, flags) = parse_traceparent(headers.traceparent?.as_bytes())?;
    let state = match headers.tracestate {
        Occurrence::Never => None,
        _ => extract_tracestate(headers),
    };
    let span_context = SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE);
    Some((span_context, state))
}

/// Writes `traceparent` and `tracestate` into the headers of a request.
pub(crate) fn inject(traceparent: HeaderValue, state: Option<&str>, headers: &mut HeaderMap) {
    // `insert` would panic if the map is full.
    let _ = headers.try_insert(TRACEPARENT_HEADER, traceparent);
    if let Some(state) = state
        && !state.is_empty()
        && let Ok(state) = state.parse()
    {
        let _ = headers.try_insert(TRACESTATE_HEADER, state);
    }
}

/// Removes `traceparent` and `tracestate`.
pub(crate) fn remove(headers: &mut HeaderMap) {
    headers.remove(TRACEPARENT);
    headers.remove(TRACESTATE);
}

#[inline]
fn parse_traceparent(value: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    const LENGTH: usize = 55;
    let value = trim(value);
    // Each field has a fixed position, so a long value costs as much as a short value.
    let (fields, rest) = value.split_first_chunk::<LENGTH>()?;
    if fields[2] != b'-' || fields[35] != b'-' || fields[52] != b'-' {
        return None;
    }
    let [version] = hex::decode::<2, 1>(&fields[0..2])?;
    match version {
        0x00 if !rest.is_empty() => return None,
        0xff => return None,
        // Later versions may append fields. They are ignored.
        _ if !matches!(rest.first(), None | Some(b'-')) => return None,
        _ => {}
    }
    let trace_id = TraceId::from_bytes(hex::decode::<32, 16>(&fields[3..35])?);
    let span_id = SpanId::from_bytes(hex::decode::<16, 8>(&fields[36..52])?);
    let [flags] = hex::decode::<2, 1>(&fields[53..55])?;
    if trace_id == TraceId::INVALID || span_id == SpanId::INVALID {
        return None;
    }
    Some((trace_id, span_id, TraceFlags::new(flags & KNOWN_FLAGS)))
}

// Not inlined: most requests have no `tracestate`.
#[inline(never)]
fn extract_tracestate(headers: &RequestHeaders<'_>) -> Option<Arc<str>> {
    match headers.tracestate {
        Occurrence::Never => None,
        Occurrence::Once(line) => match plain_list(line) {
            Some(text) => Some(text.into()),
            None => joined_members([line]),
        },
        Occurrence::Repeatedly => joined_members(headers.all.get_all(TRACESTATE)),
    }
}

/// Returns the line as text if it needs no change: it is valid, within the limits, and has no empty
/// members and no spaces around members. Nearly every `tracestate` is such a line.
fn plain_list(line: &HeaderValue) -> Option<&str> {
    let line = line.as_bytes();
    if line.len() > MAX_TRACESTATE_BYTES {
        return None;
    }
    let mut start = 0;
    for _ in 0..MAX_TRACESTATE_MEMBERS {
        let end = end_of_member(line, start)?;
        if line[end - 1] == b' ' {
            return None;
        }
        match line.get(end) {
            None => return std::str::from_utf8(line).ok(),
            Some(b',') => start = end + 1,
            Some(_) => return None,
        }
    }
    None
}

/// Returns the members of all `tracestate` headers in their order, within the limits. One invalid
/// member makes all members invalid.
fn joined_members<'a>(values: impl IntoIterator<Item = &'a HeaderValue>) -> Option<Arc<str>> {
    let mut members = Vec::new();
    for value in values {
        for member in value.as_bytes().split(|&byte| byte == b',') {
            let member = trim(member);
            if member.is_empty() {
                continue;
            }
            if members.len() == MAX_TRACESTATE_MEMBERS || !is_tracestate_member(member) {
                return None;
            }
            members.push(std::str::from_utf8(member).ok()?);
        }
    }
    // Whole members are removed: long members first, then members at the end.
    let length = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>();
    if length(&members) > MAX_TRACESTATE_BYTES + 1 {
        members.retain(|member| member.len() <= 128);
        while length(&members) > MAX_TRACESTATE_BYTES + 1 {
            members.pop();
        }
    }
    (!members.is_empty()).then(|| members.join(",").into())
}

fn is_tracestate_member(member: &[u8]) -> bool {
    end_of_member(member, 0) == Some(member.len())
}

/// Returns the end of the member that begins at `start`; `None` if it is invalid. The next byte is
/// not checked.
#[inline]
fn end_of_member(list: &[u8], start: usize) -> Option<usize> {
    let equals = end_of(STATE_KEY, list, start);
    let end = end_of(STATE_VALUE, list, equals + 1);
    let is_valid = list.get(start).is_some_and(u8::is_ascii_alphanumeric)
        && list.get(equals) == Some(&b'=')
        && equals - start <= 256
        && (1..=256).contains(&(end - (equals + 1)));
    is_valid.then_some(end)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn extract(headers: &HeaderMap) -> Option<(SpanContext, Option<Arc<str>>)> {
        super::extract(&RequestHeaders::find_in(headers))
    }

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_str(value).expect("a legal value");
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn a_traceparent_is_parsed_exactly_by_the_grammar() {
        let long = format!("{VALID}{}", "-".repeat(400_000));
        for (case, value, accepted) in [
            ("version 00", VALID, true),
            ("white space around", &format!(" \t{VALID} "), true),
            ("not sampled", &VALID.replace("-01", "-00"), true),
            ("a future version", &VALID.replace("00-0", "cc-0"), true),
            (
                "a future version with more",
                &format!("cc{}-what", &VALID[2..]),
                true,
            ),
            (
                "a future version with other more",
                &format!("cc{}.what", &VALID[2..]),
                false,
            ),
            ("version 00 with more", &format!("{VALID}-what"), false),
            ("version 00 with a dash", &format!("{VALID}-"), false),
            ("version ff", &VALID.replace("00-0", "ff-0"), false),
            (
                "version in upper case",
                &VALID.replace("00-0", "CC-0"),
                false,
            ),
            ("version too short", &VALID[1..], false),
            ("version too long", &format!("0{VALID}"), false),
            ("version with a sign", &VALID.replace("00-0", "+0-0"), false),
            ("trace id in upper case", &VALID.replace("af", "AF"), false),
            (
                "trace id of zeros",
                &VALID.replace(&VALID[3..35], &"0".repeat(32)),
                false,
            ),
            ("trace id too short", &VALID.replace("0af", "af"), false),
            (
                "trace id not hexadecimal",
                &VALID.replace("0af", "0ag"),
                false,
            ),
            (
                "parent id of zeros",
                &VALID.replace(&VALID[36..52], &"0".repeat(16)),
                false,
            ),
            (
                "parent id not hexadecimal",
                &VALID.replace("b7ad", "b7a."),
                false,
            ),
            ("flags too short", &VALID[..54], false),
            ("flags not hexadecimal", &VALID.replace("-01", "-0x"), false),
            ("other separators", &VALID.replace('-', "_"), false),
            ("empty", "", false),
            ("400 KB", &long, false),
        ] {
            let extracted = extract(&headers(TRACEPARENT, &[value]));
            assert_eq!(extracted.is_some(), accepted, "{case}");
        }
    }

    #[test]
    fn the_fields_of_a_traceparent_are_extracted() {
        let (extracted, _) =
            extract(&headers(TRACEPARENT, &[VALID])).expect("the traceparent is valid");
        assert_eq!(extracted.trace_id().to_string(), &VALID[3..35]);
        assert_eq!(extracted.span_id().to_string(), &VALID[36..52]);
        assert!(extracted.is_sampled() && extracted.is_remote());

        let flags = extract(&headers(TRACEPARENT, &[&VALID.replace("-01", "-ff")]));
        assert_eq!(
            flags.map(|(context, _)| context.trace_flags().to_u8()),
            Some(0x03)
        );
    }

    #[test]
    fn two_traceparents_are_ignored() {
        assert_eq!(extract(&headers(TRACEPARENT, &[VALID, VALID])), None);
    }

    #[test]
    fn a_tracestate_is_joined_and_bounded() {
        let long_key = "k".repeat(257);
        let members = |count: usize| (0..count).map(|n| format!("k{n}=1")).collect::<Vec<_>>();
        let large: Vec<_> = (0..8)
            .map(|n| format!("k{n}={}", "x".repeat(100)))
            .collect();
        for (case, values, expected) in [
            ("one", vec!["foo=1"], "foo=1"),
            ("several headers", vec!["foo=1", "bar=2"], "foo=1,bar=2"),
            ("an empty header", vec!["", "foo=1"], "foo=1"),
            ("white space", vec!["foo=1 \t , \t bar=2"], "foo=1,bar=2"),
            ("no value", vec!["foo=1,bar="], ""),
            ("no key", vec!["foo=1,=2"], ""),
            ("two equals", vec!["foo==1"], ""),
            ("upper case", vec!["Foo=1"], ""),
            ("a long key", vec![&format!("{long_key}=1")], ""),
            (
                "32 members",
                vec![&members(32).join(",")],
                &members(32).join(","),
            ),
            ("33 members", vec![&members(33).join(",")], ""),
            (
                "too many characters",
                vec![&large.join(",")],
                &large[..4].join(","),
            ),
            (
                "a member of more than 128 characters goes first",
                vec![&format!(
                    "long={},{}",
                    "x".repeat(200),
                    large[..4].join(",")
                )],
                &large[..4].join(","),
            ),
        ] {
            let mut headers = headers(TRACESTATE, &values);
            headers.insert(TRACEPARENT, HeaderValue::from_static(VALID));
            let extracted = extract(&headers).expect("the traceparent stays valid");
            assert_eq!(extracted.1.as_deref().unwrap_or(""), expected, "{case}");
        }
    }

    /// Splits headers and joins their members, as the grammar and the limits define.
    fn split_and_joined(lines: &[String]) -> Option<String> {
        let members = lines.iter().flat_map(|line| line.split(','));
        let members = members.map(|member| member.trim_matches([' ', '\t']));
        let mut members: Vec<_> = members.filter(|member| !member.is_empty()).collect();
        let is_key = |key: &str| {
            let others =
                |one: char| matches!(one, 'a'..='z' | '0'..='9' | '_' | '-' | '*' | '/' | '@');
            key.starts_with(|one: char| one.is_ascii_alphanumeric())
                && key.len() <= 256
                && key.chars().all(others)
        };
        let is_value = |value: &str| {
            let is_legal = |one: char| matches!(one, ' '..='~') && one != '=';
            (1..=256).contains(&value.len()) && value.chars().all(is_legal)
        };
        let is_valid = |member: &&str| {
            let pair = member.split_once('=');
            pair.is_some_and(|(key, value)| is_key(key) && is_value(value))
        };
        if members.len() > 32 || !members.iter().all(is_valid) {
            return None;
        }
        if members.join(",").len() > 512 {
            members.retain(|member| member.len() <= 128);
        }
        while members.join(",").len() > 512 {
            members.pop();
        }
        Some(members.join(",")).filter(|joined| !joined.is_empty())
    }

    fn line() -> impl Strategy<Value = String> {
        let member = "[a-z0-9@][a-z0-9_*/@-]{0,9}=[!-+:-<>-~]{1,9}";
        prop_oneof![
            6 => vec(member, 1..6).prop_map(|members| members.join(",")),
            2 => vec(member, 25..40).prop_map(|members| members.join(",")),
            2 => (250..260_usize, 250..260_usize)
                .prop_map(|(key, value)| format!("{}={}", "k".repeat(key), "v".repeat(value))),
            2 => (1..300_usize, 1..300_usize)
                .prop_map(|(one, two)| format!("a={},b={}", "v".repeat(one), "v".repeat(two))),
            4 => "[aZ0@=, \t~é]{0,20}",
            2 => "[ \t,]{0,2}a=[1 ]{1,3}[ \t,]{0,2}b=2[ \t,]{0,2}",
        ]
    }

    proptest! {
        #[test]
        fn any_tracestate_is_read_as_if_it_was_split_and_joined(lines in vec(line(), 1..4)) {
            let values: Vec<_> = lines.iter().map(|line| &**line).collect();
            let mut headers = headers(TRACESTATE, &values);
            headers.insert(TRACEPARENT, HeaderValue::from_static(VALID));
            let (_, state) = extract(&headers).expect("the traceparent stays valid");
            prop_assert_eq!(state.map(|state| state.to_string()), split_and_joined(&lines));
        }
    }

    #[test]
    fn a_tracestate_without_a_traceparent_is_ignored() {
        assert_eq!(extract(&headers(TRACESTATE, &["foo=1"])), None);
    }
}
