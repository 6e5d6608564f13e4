//! W3C Baggage, bounded.

use http::header::{HeaderMap, HeaderName};
use opentelemetry::baggage::Baggage;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_encode};

use crate::propagation::header_value::trim;
use crate::request_headers::BAGGAGE;

/// Bounds that the W3C asks for, in bytes over all headers, and in members. Larger baggage is ignored
/// whole: the application could not know that a part is missing.
const MAX_BYTES: usize = 8192;
const MAX_MEMBERS: usize = 64;

/// Returns the members of all `baggage` headers; `None` without a valid member.
///
/// Properties are left out: in the outgoing header they could look like members.
pub(crate) fn extract(headers: &HeaderMap) -> Option<Baggage> {
    let mut values = headers.get_all(BAGGAGE).iter().peekable();
    values.peek()?;
    let mut baggage = Baggage::new();
    let (mut bytes, mut members) = (0, 0);
    for value in values {
        bytes += value.len();
        if bytes > MAX_BYTES {
            return None;
        }
        for member in value.as_bytes().split(|&byte| byte == b',') {
            members += 1;
            if members > MAX_MEMBERS {
                return None;
            }
            if let Some((key, value)) = parse(member) {
                baggage.insert(key, value);
            }
        }
    }
    (!baggage.is_empty()).then_some(baggage)
}

/// Writes baggage into the headers of a request, whole members as far as the limits allow.
pub(crate) fn inject(baggage: &Baggage, headers: &mut HeaderMap) {
    let mut text = String::new();
    // The members are sorted by key: a map has no order.
    let mut members: Vec<_> = baggage
        .iter()
        .map(|(key, (value, _))| (key.as_str(), value.as_str()))
        .filter(|(key, _)| is_key(key))
        .collect();
    members.sort_unstable();
    members.truncate(MAX_MEMBERS);
    for (key, value) in members {
        let separator = if text.is_empty() { "" } else { "," };
        let member = format!(
            "{separator}{key}={}",
            percent_encode(value.as_bytes(), ENCODED)
        );
        if text.len() + member.len() <= MAX_BYTES {
            text.push_str(&member);
        }
    }
    if !text.is_empty()
        && let Ok(text) = text.parse()
    {
        let _ = headers.try_insert(const { HeaderName::from_static(BAGGAGE) }, text);
    }
}

/// Removes the header.
pub(crate) fn remove(headers: &mut HeaderMap) {
    headers.remove(BAGGAGE);
}

/// The characters to encode: all but `baggage-octet`, and the percent sign.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b',')
    .add(b';')
    .add(b'\\')
    .add(b'%');

/// Parses `key=value;property;..` into key and value.
fn parse(member: &[u8]) -> Option<(String, String)> {
    let member = member.split(|&byte| byte == b';').next()?;
    let equals = member.iter().position(|&byte| byte == b'=')?;
    let (key, value) = (trim(&member[..equals]), trim(&member[equals + 1..]));
    let valid = !key.is_empty() && key.iter().all(|&byte| is_token(byte));
    // Percent-encoding hides nothing from the check: `%` and digits are octets themselves.
    if !valid || !value.iter().all(|&byte| is_octet(byte)) {
        return None;
    }
    let key = String::from_utf8(key.to_vec()).ok()?;
    Some((key, percent_decode(value).decode_utf8_lossy().into_owned()))
}

/// Returns whether a member may have this key.
pub(crate) fn is_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(is_token)
}

/// Returns whether a byte may be in a `token` (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns whether a byte is a `baggage-octet`.
fn is_octet(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\",;\\".contains(&byte)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn extracted(values: &[&str]) -> Option<BTreeMap<String, String>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(BAGGAGE, value.parse().expect("a legal header value"));
        }
        let baggage = extract(&headers)?;
        let pairs = baggage.iter();
        Some(
            pairs
                .map(|(key, (value, _))| (key.to_string(), value.to_string()))
                .collect(),
        )
    }

    #[test]
    fn values_survive_any_number_of_hops_and_become_no_members() {
        let mut baggage = Baggage::new();
        let value = "a,b;c=\"d\"\\%2Cx=1\r\nä ";
        baggage.insert("key", value);
        baggage.insert("other", "1");
        for _ in 0..3 {
            let mut headers = HeaderMap::new();
            inject(&baggage, &mut headers);
            baggage = extract(&headers).expect("it is valid");
        }
        let text = |key: &str| baggage.get(key).map(ToString::to_string);
        assert_eq!(text("key").as_deref(), Some(value));
        assert_eq!(text("other").as_deref(), Some("1"));
        assert_eq!(baggage.len(), 2);
    }

    #[test]
    fn members_of_all_headers_are_taken_and_properties_are_not() {
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
        assert_eq!(extracted(&[]), None);
        assert_eq!(extracted(&["nonsense"]), None);
    }

    #[test]
    fn beyond_its_bounds_nothing_is_taken() {
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
}
