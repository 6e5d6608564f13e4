//! The client of a request as proxies name it, in `Forwarded` (RFC 7239) and `X-Forwarded-*`.
//!
//! Anybody can send these headers. Each proxy adds one element at the end of the list, so of `n`
//! trusted proxies the first has added the `n`th element from the end; all before it is hearsay. A
//! proxy passes headers on that it does not know, so only those are read that it is known to write.

use std::net::IpAddr;

use ::http::HeaderMap;
use ::http::header::{FORWARDED, HeaderName};

use super::http::{Scheme, split_authority};

/// A header in which a proxy names the client of a request, for
/// [`TelemetryLayer::with_forwarded_headers`](crate::TelemetryLayer::with_forwarded_headers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `Forwarded` (RFC 7239), with the client's address, the scheme and the host.
    Forwarded,
    /// `X-Forwarded-For`, with the client's address.
    XForwardedFor,
    /// `X-Forwarded-Proto`, with the scheme.
    XForwardedProto,
    /// `X-Forwarded-Host`, with the host.
    XForwardedHost,
}

/// The proxies that a layer trusts.
#[derive(Clone, Debug)]
pub(crate) struct TrustedProxies {
    /// How many there are.
    pub(crate) count: usize,
    /// The headers that they write.
    pub(crate) headers: Vec<ForwardedHeader>,
}

impl Default for TrustedProxies {
    fn default() -> Self {
        use ForwardedHeader::{XForwardedFor, XForwardedProto};
        Self {
            count: 0,
            headers: vec![XForwardedFor, XForwardedProto],
        }
    }
}

/// What the outermost trusted proxy says of the client.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Forwarded<'a> {
    pub(super) client: Option<IpAddr>,
    pub(super) scheme: Option<Scheme>,
    /// As the client has named the server, with the port.
    pub(super) authority: Option<&'a str>,
}

impl<'a> Forwarded<'a> {
    #[inline]
    pub(crate) fn of(headers: &'a HeaderMap, proxies: &TrustedProxies) -> Self {
        if proxies.count == 0 {
            return Self::default();
        }
        Self::read(headers, proxies)
    }

    fn read(headers: &'a HeaderMap, proxies: &TrustedProxies) -> Self {
        use ForwardedHeader::{Forwarded, XForwardedFor, XForwardedHost, XForwardedProto};
        let element = |header, name: &HeaderName| {
            let is_read = proxies.headers.contains(&header);
            is_read.then(|| element(headers, name, proxies.count))?
        };
        let of = |header, name| element(header, &HeaderName::from_static(name));
        let forwarded = element(Forwarded, &FORWARDED);
        let forwarded = forwarded.map(Self::parse).unwrap_or_default();
        Self {
            client: forwarded
                .client
                .or_else(|| of(XForwardedFor, "x-forwarded-for").and_then(address)),
            scheme: forwarded
                .scheme
                .or_else(|| of(XForwardedProto, "x-forwarded-proto").and_then(Scheme::parse)),
            authority: forwarded
                .authority
                .or_else(|| of(XForwardedHost, "x-forwarded-host")),
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
                forwarded.scheme = Scheme::parse(value);
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
            let proxies = TrustedProxies {
                count: hops,
                headers: ALL.to_vec(),
            };
            assert_eq!(Forwarded::of(&map, &proxies), expected, "{case}");
        }
    }

    const ALL: [ForwardedHeader; 4] = [
        ForwardedHeader::Forwarded,
        ForwardedHeader::XForwardedFor,
        ForwardedHeader::XForwardedProto,
        ForwardedHeader::XForwardedHost,
    ];

    #[test]
    fn a_header_that_no_proxy_writes_is_not_read() {
        let mut map = HeaderMap::new();
        for (name, value) in [
            ("forwarded", "for=6.6.6.6;host=forwarded;proto=https"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "ws"),
            ("x-forwarded-host", "x"),
        ] {
            map.insert(name, value.parse().expect("a legal value"));
        }
        // Every set of headers.
        for set in 0..16 {
            let headers: Vec<ForwardedHeader> = (0..4)
                .filter(|n| set & 1 << n != 0)
                .map(|n| ALL[n])
                .collect();
            let has = |header: ForwardedHeader| headers.contains(&header);
            let [forwarded, x_for, x_proto, x_host] = ALL;
            let expected = (
                has(forwarded)
                    .then_some("6.6.6.6")
                    .or(has(x_for).then_some("1.1.1.1")),
                has(forwarded)
                    .then_some(Scheme::Https)
                    .or(has(x_proto).then_some(Scheme::Http)),
                has(forwarded)
                    .then_some("forwarded")
                    .or(has(x_host).then_some("x")),
            );
            let proxies = TrustedProxies { count: 1, headers };
            let found = Forwarded::of(&map, &proxies);
            let client = found.client.map(|client| client.to_string());
            assert_eq!((client.as_deref(), found.scheme, found.authority), expected);
        }
        let default = TrustedProxies::default();
        assert_eq!(default.headers, [ALL[1], ALL[2]]);
    }

    #[test]
    fn a_websocket_has_the_scheme_of_its_request() {
        for (proto, expected) in [
            ("https", Some(Scheme::Https)),
            ("WSS", Some(Scheme::Https)),
            ("http", Some(Scheme::Http)),
            ("ws", Some(Scheme::Http)),
            ("gopher", None),
            ("", None),
        ] {
            assert_eq!(Scheme::parse(proto), expected, "{proto}");
        }
    }
}
