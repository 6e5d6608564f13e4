//! What proxies say of a request: `Forwarded` (RFC 7239), else `X-Forwarded-For`, `-Proto` and
//! `-Host`.
//!
//! Anybody can send these headers. Each proxy adds one element at the end of the list, so of `n`
//! trusted proxies the first has added the `n`th element from the end; all before it is hearsay.

use std::net::IpAddr;

use ::http::HeaderMap;
use ::http::header::{FORWARDED, HeaderName};

use super::http::{Scheme, split_authority};

/// What the outermost trusted proxy says of the client.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Forwarded<'a> {
    pub(super) client: Option<IpAddr>,
    pub(super) scheme: Option<Scheme>,
    /// As the client has named the server, with the port.
    pub(super) authority: Option<&'a str>,
}

impl<'a> Forwarded<'a> {
    /// `hops` is the number of proxies in front of the server; of none, nothing is believed.
    #[inline]
    pub(crate) fn of(headers: &'a HeaderMap, hops: usize) -> Self {
        if hops == 0 {
            return Self::default();
        }
        if headers.contains_key(FORWARDED) {
            return match element(headers, &FORWARDED, hops) {
                Some(element) => Self::parse(element),
                None => Self::default(),
            };
        }
        let element = |name| element(headers, &HeaderName::from_static(name), hops);
        Self {
            client: element("x-forwarded-for").and_then(address),
            scheme: element("x-forwarded-proto").and_then(scheme),
            authority: element("x-forwarded-host"),
        }
    }

    /// One element of `Forwarded`: `for=..;proto=..;host=..`.
    fn parse(element: &'a str) -> Self {
        let mut forwarded = Self::default();
        for pair in element.split(';') {
            let Some((name, value)) = pair.split_once('=') else {
                continue;
            };
            let value = value.trim();
            // What needs quotes here, an IPv6 address or a port, has nothing in it to be escaped.
            let quoted = value
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'));
            let value = quoted.unwrap_or(value);
            let name = name.trim();
            if name.eq_ignore_ascii_case("for") {
                forwarded.client = address(value);
            } else if name.eq_ignore_ascii_case("proto") {
                forwarded.scheme = scheme(value);
            } else if name.eq_ignore_ascii_case("host") {
                forwarded.authority = Some(value);
            }
        }
        forwarded
    }
}

/// The element at `hops` from the end of a list that may span several headers; the first, where
/// there are fewer.
fn element<'a>(headers: &'a HeaderMap, name: &HeaderName, hops: usize) -> Option<&'a str> {
    let mut found = None;
    let mut left = hops;
    for value in headers.get_all(name).iter().rev() {
        for element in value.as_bytes().rsplit(|&byte| byte == b',') {
            found = std::str::from_utf8(element).ok().map(str::trim);
            left -= 1;
            if left == 0 {
                return found;
            }
        }
    }
    found
}

/// An address, with or without a port. `unknown` and obfuscated identifiers are none.
fn address(node: &str) -> Option<IpAddr> {
    node.parse()
        .ok()
        .or_else(|| split_authority(node)?.0.parse().ok())
}

fn scheme(proto: &str) -> Option<Scheme> {
    if proto.eq_ignore_ascii_case("https") {
        Some(Scheme::Https)
    } else if proto.eq_ignore_ascii_case("http") {
        Some(Scheme::Http)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_trusted_proxy_has_added_is_believed() {
        const LIST: &str = "for=6.6.6.6;host=evil;proto=https, for=1.1.1.1;host=real;proto=http";
        for (case, headers, hops, expected) in [
            (
                "no proxy is trusted",
                &[("forwarded", LIST)][..],
                0,
                (None, None, None),
            ),
            (
                "one",
                &[("forwarded", LIST)],
                1,
                (Some("1.1.1.1"), Some(Scheme::Http), Some("real")),
            ),
            (
                "two",
                &[("forwarded", LIST)],
                2,
                (Some("6.6.6.6"), Some(Scheme::Https), Some("evil")),
            ),
            (
                "more than there are",
                &[("forwarded", LIST)],
                9,
                (Some("6.6.6.6"), Some(Scheme::Https), Some("evil")),
            ),
            (
                "a list in two headers",
                &[
                    ("x-forwarded-for", "6.6.6.6"),
                    ("x-forwarded-for", "1.1.1.1"),
                ],
                1,
                (Some("1.1.1.1"), None, None),
            ),
            (
                "an IPv6 address with a port",
                &[("forwarded", "FOR=\"[2001:db8::1]:4711\"; Proto=HTTPS")],
                1,
                (Some("2001:db8::1"), Some(Scheme::Https), None),
            ),
            (
                "a bare IPv6 address",
                &[("x-forwarded-for", "2001:db8::1")],
                1,
                (Some("2001:db8::1"), None, None),
            ),
            (
                "no address",
                &[("forwarded", "for=unknown")],
                1,
                (None, None, None),
            ),
            (
                "an obfuscated one",
                &[("forwarded", "for=_hidden")],
                1,
                (None, None, None),
            ),
            (
                "another scheme",
                &[
                    ("x-forwarded-proto", "gopher"),
                    ("x-forwarded-host", "a:8080"),
                ],
                1,
                (None, None, Some("a:8080")),
            ),
            ("no list", &[("forwarded", "=;;=\"")], 1, (None, None, None)),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, value.parse().expect("a legal value"));
            }
            let (client, scheme, authority) = expected;
            let expected = Forwarded {
                client: client.map(|client: &str| client.parse().expect("an address")),
                scheme,
                authority,
            };
            assert_eq!(Forwarded::of(&map, hops), expected, "{case}");
        }
    }
}
