//! W3C Baggage within limits.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::baggage::Baggage;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_encode};

use crate::propagation::byte_class::{BAGGAGE_OCTET, SPACE, TOKEN, end_of, find, is_in};
use crate::request_headers::{BAGGAGE, Occurrence, RequestHeaders};

/// The limits that the W3C requires, in bytes of all headers and in members. Larger baggage is
/// ignored as a whole, because the application could not detect that a part is missing.
const MAX_BYTES: usize = 8192;
const MAX_MEMBERS: usize = 64;

/// Returns the members of all `baggage` headers; `None` if no member is valid.
///
/// Properties are omitted, because they could look like members in the outgoing header.
#[inline]
pub(crate) fn extract(headers: &RequestHeaders<'_>) -> Option<Baggage> {
    match headers.baggage {
        Occurrence::Never => None,
        Occurrence::Once(value) => extract_from([value]),
        Occurrence::Repeatedly => extract_from(headers.all.get_all(BAGGAGE)),
    }
}

// Not inlined: most requests have no baggage.
#[inline(never)]
fn extract_from<'a>(values: impl IntoIterator<Item = &'a HeaderValue>) -> Option<Baggage> {
    let mut baggage = Baggage::new();
    let (mut bytes, mut members) = (0, 0);
    for value in values {
        bytes += value.len();
        if bytes > MAX_BYTES {
            return None;
        }
        // The replacement character makes the member invalid, as the invalid byte does.
        let text = match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(value.as_bytes()),
        };
        let mut rest = Some(&*text);
        while let Some(list) = rest {
            members += 1;
            if members > MAX_MEMBERS {
                return None;
            }
            let (member, after) = split_member(list);
            if let Some((key, value)) = member {
                baggage.insert(key.to_owned(), decoded(value));
            }
            rest = after;
        }
    }
    (!baggage.is_empty()).then_some(baggage)
}

/// Writes baggage into the headers of a request: as many whole members as the limits allow.
pub(crate) fn inject(baggage: &Baggage, headers: &mut HeaderMap) {
    let mut text = String::new();
    // Sorting by key makes the order stable, because the map has no order.
    let mut members: Vec<_> = baggage
        .iter()
        .map(|(key, (value, _))| (key.as_str(), value.as_str()))
        .filter(|(key, _)| is_key(key))
        .collect();
    members.sort_unstable();
    members.truncate(MAX_MEMBERS);
    for (key, value) in members {
        let end = text.len();
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(key);
        text.push('=');
        text.extend(percent_encode(value.as_bytes(), ENCODED));
        if text.len() > MAX_BYTES {
            text.truncate(end);
        }
    }
    if !text.is_empty()
        && let Ok(text) = HeaderValue::try_from(text)
    {
        let _ = headers.try_insert(const { HeaderName::from_static(BAGGAGE) }, text);
    }
}

/// Removes the header `baggage`.
pub(crate) fn remove(headers: &mut HeaderMap) {
    headers.remove(BAGGAGE);
}

/// The characters to encode: all characters that are not a `baggage-octet`, and the percent sign.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b',')
    .add(b';')
    .add(b'\\')
    .add(b'%');

/// Parses `key=value;property;..` at the start of a list. Returns the key and the value if both are
/// valid, and the rest of the list after the next comma.
#[inline]
fn split_member(list: &str) -> (Option<(&str, &str)>, Option<&str>) {
    let bytes = list.as_bytes();
    let key_start = end_of(SPACE, bytes, 0);
    let key_end = end_of(TOKEN, bytes, key_start);
    let equals = end_of(SPACE, bytes, key_end);
    let mut member = None;
    let mut end = equals;
    if key_end > key_start && bytes.get(equals) == Some(&b'=') {
        let value_start = end_of(SPACE, bytes, equals + 1);
        let value_end = end_of(BAGGAGE_OCTET, bytes, value_start);
        end = end_of(SPACE, bytes, value_end);
        // The check works on encoded text, because `%` and digits are octets themselves.
        if matches!(bytes.get(end), None | Some(b',' | b';')) {
            member = Some((&list[key_start..key_end], &list[value_start..value_end]));
        }
    }
    let comma = find(bytes, end, |byte| byte == b',');
    (member, list.get(comma + 1..))
}

/// Returns a value without its percent-encoding.
fn decoded(value: &str) -> String {
    if !value.bytes().any(|byte| byte == b'%') {
        return value.to_owned();
    }
    // With the exact capacity, the baggage keeps this allocation and does not copy the text.
    let mut decoded = Vec::with_capacity(percent_decode(value.as_bytes()).count());
    decoded.extend(percent_decode(value.as_bytes()));
    match String::from_utf8(decoded) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }
}

/// Returns whether the key is valid for a member.
pub(crate) fn is_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| is_in(TOKEN, byte))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use opentelemetry::KeyValue;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::propagation::header_value::trim;

    fn extracted<V: AsRef<[u8]>>(values: &[V]) -> Option<BTreeMap<String, String>> {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_ref());
            headers.append(BAGGAGE, value.expect("a legal value"));
        }
        let baggage = extract(&RequestHeaders::find_in(&headers))?;
        let pairs = baggage.iter();
        Some(
            pairs
                .map(|(key, (value, _))| (key.to_string(), value.to_string()))
                .collect(),
        )
    }

    #[test]
    fn values_survive_any_number_of_hops_and_never_become_members() {
        let mut baggage = Baggage::new();
        let value = "a,b;c=\"d\"\\%2Cx=1\r\nä ";
        baggage.insert("key", value);
        baggage.insert("other", "1");
        for _ in 0..3 {
            let mut headers = HeaderMap::new();
            inject(&baggage, &mut headers);
            let headers = RequestHeaders::find_in(&headers);
            baggage = extract(&headers).expect("the baggage is valid");
        }
        let text = |key: &str| baggage.get(key).map(ToString::to_string);
        assert_eq!(text("key").as_deref(), Some(value));
        assert_eq!(text("other").as_deref(), Some("1"));
        assert_eq!(baggage.len(), 2);
    }

    #[test]
    fn members_of_all_headers_are_read_without_their_properties() {
        for (case, values, expected) in [
            ("one", &["a=1"][..], &[("a", "1")][..]),
            (
                "several headers",
                &["a=1", "b=2,c=3"],
                &[("a", "1"), ("b", "2"), ("c", "3")],
            ),
            (
                "white space",
                &[" a \t= 1 , b=2"],
                &[("a", "1"), ("b", "2")],
            ),
            ("encoded", &["a=x%20y%2C%25"], &[("a", "x y,%")]),
            ("a value with =", &["a=b=c"], &[("a", "b=c")]),
            ("not UTF-8", &["a=%FF"], &[("a", "\u{fffd}")]),
            (
                "a property",
                &["a=1;p=x%2Cadmin%3Dtrue,b=2"],
                &[("a", "1"), ("b", "2")],
            ),
            (
                "bad members among good",
                &["a=1,,=2,b,c d=3,e=\"4\",f=5"],
                &[("a", "1"), ("f", "5")],
            ),
        ] {
            let expected: BTreeMap<_, _> = expected
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(extracted(values), Some(expected), "{case}");
        }
        assert_eq!(extracted::<&str>(&[]), None);
        assert_eq!(extracted(&["nonsense"]), None);
    }

    #[test]
    fn baggage_beyond_the_limits_is_ignored() {
        let members = |count| {
            (0..count)
                .map(|n| format!("k{n}=v"))
                .collect::<Vec<_>>()
                .join(",")
        };
        assert_eq!(
            extracted(&[&members(64)]).map(|baggage| baggage.len()),
            Some(64)
        );
        assert_eq!(extracted(&[&members(65)]), None);
        let half = format!("a={}", "x".repeat(4094));
        assert!(extracted(&[&half, &half]).is_some());
        assert_eq!(extracted(&[&half, &half, "b=1"]), None);
    }

    /// Reads headers by splitting them as the grammar defines.
    fn split(values: &[Vec<u8>]) -> Option<BTreeMap<String, String>> {
        let members = || {
            values
                .iter()
                .flat_map(|value| value.split(|byte| *byte == b','))
        };
        if values.iter().map(Vec::len).sum::<usize>() > MAX_BYTES || members().count() > MAX_MEMBERS
        {
            return None;
        }
        let mut found = BTreeMap::new();
        for member in members() {
            let pair = member
                .split(|byte| *byte == b';')
                .next()
                .unwrap_or_default();
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            let (Some(key), Some(value)) = (parts.next(), parts.next()) else {
                continue;
            };
            let (key, value) = (trim(key), trim(value));
            let is_octet = |byte: &u8| byte.is_ascii_graphic() && !b"\",;\\".contains(byte);
            let key = std::str::from_utf8(key).ok().filter(|key| is_key(key));
            if let (Some(key), true) = (key, value.iter().all(is_octet)) {
                let value = percent_decode(value).decode_utf8_lossy().into_owned();
                found.insert(key.to_owned(), value);
            }
        }
        (!found.is_empty()).then_some(found)
    }

    fn line() -> impl Strategy<Value = Vec<u8>> {
        let byte = select(b"aZ0.~%%C3a,,;;==  \t\"\\()/:\x80\xc3\xa4\xff".to_vec());
        prop_oneof![
            4 => vec(byte, 0..40),
            4 => "[ \t]?(a|b|key|!#[$])[ \t]?=[ \t]?([a-z:%]|%2[0-9C]|%[CF]3){0,9}[ \t]?(;p=1)?(,a=1|,|, k=2)?"
                .prop_map(String::into_bytes),
            1 => (1..70_usize).prop_map(|count| b"k=v,".repeat(count)),
            1 => (0..5000_usize).prop_map(|count| [&b"k="[..], &vec![b'x'; count]].concat()),
        ]
    }

    proptest! {
        #[test]
        fn any_headers_are_read_as_if_they_were_split(lines in vec(line(), 0..4)) {
            prop_assert_eq!(extracted(&lines), split(&lines));
        }

        #[test]
        fn any_baggage_is_read_back_unchanged(
            pairs in vec(("[a-z!~.]{1,9}", any::<String>()), 1..9),
        ) {
            let written: BTreeMap<_, _> = pairs.into_iter().collect();
            let pairs = written.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
            let mut headers = HeaderMap::new();
            inject(&Baggage::from_iter(pairs), &mut headers);
            let lines: Vec<_> = headers.get_all(BAGGAGE).iter().collect();
            prop_assert_eq!(extracted(&lines), Some(written));
        }
    }
}
