//! The client of a request according to headers of proxies: `Forwarded` (RFC 7239) and
//! `X-Forwarded-*`.
//!
//! Any client can send these headers. Each proxy appends one element to the list. With `n` trusted
//! proxies, the outermost of them appended the `n`th element from the end; earlier elements cannot
//! be trusted. Proxies pass unknown headers on, so only the configured headers are read.

use std::net::IpAddr;

use ::http::HeaderMap;
use ::http::header::{FORWARDED, HeaderName};

use crate::semconv::address::split_authority;
use crate::semconv::scheme::Scheme;

/// A header in which a proxy describes the client of a request.
///
/// Configured with
/// [`TelemetryLayer::with_forwarded_headers`](crate::TelemetryLayer::with_forwarded_headers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `Forwarded` (RFC 7239): the client's address, the scheme and the host.
    Forwarded,
    /// `X-Forwarded-For`: the client's address.
    XForwardedFor,
    /// `X-Forwarded-Proto`: the scheme.
    XForwardedProto,
    /// `X-Forwarded-Host`: the host.
    XForwardedHost,
}

/// The proxies that a layer trusts.
#[derive(Clone, Debug)]
pub(crate) struct TrustedProxies {
    /// The number of proxies in front of the service.
    pub(crate) count: usize,
    /// The headers that the proxies set.
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

/// The values that the outermost trusted proxy added.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Forwarded<'a> {
    pub(crate) client: Option<IpAddr>,
    pub(crate) scheme: Option<Scheme>,
    /// The host that the client called, with its port if it has one.
    pub(crate) authority: Option<&'a str>,
}

impl<'a> Forwarded<'a> {
    #[inline]
    pub(crate) fn from_headers(headers: &'a HeaderMap, proxies: &TrustedProxies) -> Self {
        if proxies.count == 0 {
            return Self::default();
        }
        Self::read(headers, proxies)
    }

    /// Returns the scheme from the proxy, or else the scheme of the connection. The request target
    /// is ignored, because a client can write any scheme there.
    #[inline]
    pub(crate) fn scheme_or(&self, connection: Scheme) -> Scheme {
        self.scheme.unwrap_or(connection)
    }

    fn read(headers: &'a HeaderMap, proxies: &TrustedProxies) -> Self {
        use ForwardedHeader::{Forwarded, XForwardedFor, XForwardedHost, XForwardedProto};
        let is_read = |header| proxies.headers.contains(&header);
        let trusted = |header, name| {
            let name = HeaderName::from_static(name);
            is_read(header).then(|| element(headers, &name, proxies.count))?
        };
        let forwarded = if is_read(Forwarded) {
            let element = quoted_element(headers, &FORWARDED, proxies.count);
            element.map(Self::parse).unwrap_or_default()
        } else {
            Self::default()
        };
        Self {
            client: forwarded
                .client
                .or_else(|| trusted(XForwardedFor, "x-forwarded-for").and_then(address)),
            scheme: forwarded
                .scheme
                .or_else(|| trusted(XForwardedProto, "x-forwarded-proto").and_then(Scheme::parse)),
            authority: forwarded
                .authority
                .or_else(|| trusted(XForwardedHost, "x-forwarded-host")),
        }
    }

    /// Parses one element of `Forwarded`: `for=..;proto=..;host=..`. A repeated parameter is
    /// ignored (RFC 7239, section 4).
    fn parse(element: &'a str) -> Self {
        let (mut node, mut proto, mut host) = (OnlyValue::None, OnlyValue::None, OnlyValue::None);
        for pair in split_outside_quotes(element, b';') {
            let Some((name, value)) = pair.split_once('=') else {
                continue;
            };
            let name = name.trim();
            if name.eq_ignore_ascii_case("for") {
                node.add(value);
            } else if name.eq_ignore_ascii_case("proto") {
                proto.add(value);
            } else if name.eq_ignore_ascii_case("host") {
                host.add(value);
            }
        }
        Self {
            client: node.value().and_then(address),
            scheme: proto.value().and_then(Scheme::parse),
            // None of these characters is valid in a host, so a client has injected them.
            authority: host
                .value()
                .filter(|host| !host.contains([',', ';', '=', '"', '\\', ' '])),
        }
    }
}

/// The value of a parameter that may occur only once.
enum OnlyValue<'a> {
    None,
    Value(&'a str),
    Several,
}

impl<'a> OnlyValue<'a> {
    fn add(&mut self, value: &'a str) {
        let value = value.trim();
        let quoted = value
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        *self = match self {
            Self::None => Self::Value(quoted.unwrap_or(value)),
            Self::Value(_) | Self::Several => Self::Several,
        };
    }

    fn value(&self) -> Option<&'a str> {
        match self {
            Self::Value(value) => Some(value),
            Self::None | Self::Several => None,
        }
    }
}

/// Splits a text at separators outside of quoted strings (RFC 9110, section 5.6.4).
fn split_outside_quotes(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut quotes = Quotes::default();
    text.split(move |c: char| {
        let is_separator = !quotes.is_quoted && c == char::from(separator);
        // Characters outside of Latin-1 do not affect quoting.
        quotes.read(u8::try_from(c).unwrap_or(b' '));
        is_separator
    })
}

/// The state of quoting in a text that is read byte by byte.
#[derive(Default)]
struct Quotes {
    is_quoted: bool,
    is_escaped: bool,
}

impl Quotes {
    fn read(&mut self, byte: u8) {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' if self.is_quoted => self.is_escaped = true,
            b'"' => self.is_quoted = !self.is_quoted,
            _ => {}
        }
    }
}

/// Returns the same as [`element`], but ignores commas in quoted strings. A header with an unclosed
/// quote has no elements, because the quote may come from the client.
fn quoted_element<'a>(headers: &'a HeaderMap, name: &HeaderName, hops: usize) -> Option<&'a str> {
    let mut first = None;
    let mut left = hops;
    for value in headers.get_all(name).iter().rev() {
        let value = value.to_str().ok()?;
        let mut quotes = Quotes::default();
        value.bytes().for_each(|byte| quotes.read(byte));
        if quotes.is_quoted {
            return None;
        }
        let count = split_outside_quotes(value, b',').count();
        let mut elements = split_outside_quotes(value, b',').map(str::trim);
        if left <= count {
            return elements.nth(count - left);
        }
        left -= count;
        first = elements.next();
    }
    first
}

/// Returns the element at `hops` from the end of a list that may span several headers, or the first
/// element of a shorter list.
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

/// Parses an address, with or without a port. Returns `None` for `unknown` and obfuscated identifiers.
fn address(node: &str) -> Option<IpAddr> {
    node.parse()
        .ok()
        .or_else(|| split_authority(node)?.0.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_elements_of_trusted_proxies_are_used() {
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
                client: client.map(|client: &str| client.parse().expect("a valid address")),
                scheme,
                authority,
            };
            let proxies = TrustedProxies {
                count: hops,
                headers: ALL.to_vec(),
            };
            assert_eq!(Forwarded::from_headers(&map, &proxies), expected, "{case}");
        }
    }

    const ALL: [ForwardedHeader; 4] = [
        ForwardedHeader::Forwarded,
        ForwardedHeader::XForwardedFor,
        ForwardedHeader::XForwardedProto,
        ForwardedHeader::XForwardedHost,
    ];

    #[test]
    fn a_header_that_is_not_configured_is_ignored() {
        let mut map = HeaderMap::new();
        for (name, value) in [
            ("forwarded", "for=6.6.6.6;host=forwarded;proto=https"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "ws"),
            ("x-forwarded-host", "x"),
        ] {
            map.insert(name, value.parse().expect("a legal value"));
        }
        // The loop covers every set of headers.
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
            let found = Forwarded::from_headers(&map, &proxies);
            let client = found.client.map(|client| client.to_string());
            assert_eq!((client.as_deref(), found.scheme, found.authority), expected);
        }
        let default = TrustedProxies::default();
        assert_eq!(default.headers, [ALL[1], ALL[2]]);
    }

    #[test]
    fn text_that_a_client_injects_is_ignored() {
        // A proxy may copy the client's `Host` with or without the necessary quotes.
        for (header, client, host) in [
            (
                "for=1.1.1.1;host=\"a,for=6.6.6.6;proto=https;host=evil;x=y\"",
                Some("1.1.1.1"),
                None,
            ),
            (
                "for=1.1.1.1;host=\"a;for=6.6.6.6;b=c\"",
                Some("1.1.1.1"),
                None,
            ),
            (
                "for=1.1.1.1;host=\"a\\\";for=6.6.6.6\"",
                Some("1.1.1.1"),
                None,
            ),
            ("for=1.1.1.1;host=a;for=6.6.6.6", None, Some("a")),
            (
                "host=\"a:8080\";for=\"[2001:db8::1]:1\"",
                Some("2001:db8::1"),
                Some("a:8080"),
            ),
            // An unclosed quote from the client hides the element of the proxy: no client is
            // recorded.
            ("for=\"6.6.6.6, for=1.1.1.1", None, None),
            ("x=\", for=1.1.1.1;host=\"h\"", None, None),
            ("for=6.6.6.6, for=1.1.1.1", Some("1.1.1.1"), None),
        ] {
            let mut map = HeaderMap::new();
            map.insert(FORWARDED, header.parse().expect("a legal value"));
            let proxies = TrustedProxies {
                count: 1,
                headers: ALL.to_vec(),
            };
            let found = Forwarded::from_headers(&map, &proxies);
            let expected = client.map(|client: &str| client.parse().expect("a valid address"));
            assert_eq!(
                (found.client, found.authority),
                (expected, host),
                "{header}"
            );
        }
    }
}
