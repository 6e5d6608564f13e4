//! HTTP server spans and metrics.

use std::net::{IpAddr, SocketAddr};

use ::http::header::HeaderName;
use ::http::request::Parts;
use ::http::{Extensions, HeaderMap, StatusCode, Uri, Version};
use hyper_util::client::legacy::connect::HttpInfo;
use opentelemetry::{Array, KeyValue, StringValue, Value};

use crate::semconv::forwarded::Forwarded;
use crate::semconv::redact::lossy_text;
use crate::semconv::server_request::server_attributes;
use crate::semconv::{
    AttributeValue, HTTP_RESPONSE_STATUS_CODE, NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT, OTHER,
    Side, truncate,
};

/// Bounds, in bytes, of what a request can put into a span.
pub(crate) const MAX_METHOD: usize = 32;
pub(crate) const MAX_HOST: usize = 255;
/// Of what names a server, until its host is cut to the bound of that.
pub(crate) const MAX_AUTHORITY: usize = 1024;
pub(crate) const MAX_USER_AGENT: usize = 256;
pub(crate) const MAX_PATH: usize = 1024;
pub(crate) const MAX_QUERY: usize = 1024;

/// Bounds of a captured header: its values, and the bytes of each.
const MAX_HEADER_VALUES: usize = 8;
const MAX_HEADER_VALUE: usize = 256;

/// The known methods (HTTP spans, `http.request.method`), unless others are named in their place.
pub(crate) const KNOWN_METHODS: [&str; 10] = [
    "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE", "QUERY",
];

/// The name of a server span.
pub(crate) fn span_name(method: &'static str, route: Option<&str>) -> String {
    let method = if method == OTHER { "HTTP" } else { method };
    match route {
        Some(route) => format!("{method} {route}"),
        None => method.to_owned(),
    }
}

/// `url.scheme`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    #[default]
    Http,
    Https,
}

impl Scheme {
    /// The scheme that a trusted proxy names, else the one of the connection. The target of the request
    /// is not asked: a client can write any scheme there.
    #[inline]
    pub(crate) fn of(forwarded: &Forwarded<'_>, connection: Self) -> Self {
        forwarded.scheme.unwrap_or(connection)
    }

    /// Reads a scheme, also one of a WebSocket, which begins as a request. `None` for any other.
    pub(crate) fn parse(scheme: &str) -> Option<Self> {
        let is_one_of =
            |names: [&str; 2]| names.iter().any(|name| scheme.eq_ignore_ascii_case(name));
        if is_one_of(["https", "wss"]) {
            Some(Self::Https)
        } else if is_one_of(["http", "ws"]) {
            Some(Self::Http)
        } else {
            None
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// `network.protocol.version`
pub(crate) fn protocol_version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_09 => Some("0.9"),
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        Version::HTTP_3 => Some("3"),
        _ => None,
    }
}

/// `http.response.status_code`, as an attribute.
#[inline]
pub(crate) fn status_attribute(status: StatusCode) -> KeyValue {
    KeyValue::new(HTTP_RESPONSE_STATUS_CODE, i64::from(status.as_u16()))
}

/// Whether a status is an error: 5xx, or one that no RFC defines, and for a client 4xx too.
pub(crate) fn is_error(side: Side, status: StatusCode) -> bool {
    status.as_u16() >= if side == Side::Client { 400 } else { 500 }
}

/// Whether a status is one of a bounded set, fit for a metric.
#[inline]
pub(crate) fn is_defined(status: StatusCode) -> bool {
    status.as_u16() < 600
}

/// `http.route`: the template that axum's router matched.
#[inline]
pub(crate) fn route(extensions: &Extensions) -> Option<&str> {
    #[cfg(feature = "axum")]
    {
        extensions
            .get::<axum::extract::MatchedPath>()
            .map(axum::extract::MatchedPath::as_str)
    }
    #[cfg(not(feature = "axum"))]
    {
        let _ = extensions;
        None
    }
}

/// The address of the socket's other end, where the server put it into the request's extensions.
#[inline]
pub(crate) fn peer_address(extensions: &Extensions) -> Option<SocketAddr> {
    #[cfg(feature = "axum")]
    if let Some(info) = extensions.get::<axum::extract::ConnectInfo<SocketAddr>>() {
        return Some(info.0);
    }
    #[cfg(feature = "tonic")]
    if let Some(info) = extensions.get::<tonic::transport::server::TcpConnectInfo>() {
        return info.remote_addr();
    }
    let _ = extensions;
    None
}

/// The path of the request that the client has sent, where axum's router has taken a prefix off it.
#[inline]
pub(crate) fn original_uri(request: &Parts) -> Option<&Uri> {
    #[cfg(feature = "axum")]
    {
        let original = request.extensions.get::<axum::extract::OriginalUri>();
        original.map(|original| &original.0).filter(|original| {
            let (original, routed) = (original.path(), request.uri.path());
            // Without a prefix they share their text, which then need not be compared.
            !std::ptr::eq(original, routed) && original != routed
        })
    }
    #[cfg(not(feature = "axum"))]
    {
        let _ = request;
        None
    }
}

/// The values of a captured header; `None` where there is none that may be shown.
pub(crate) fn header_values(headers: &HeaderMap, name: &HeaderName) -> Option<Value> {
    let values: Vec<StringValue> = headers
        .get_all(name)
        .iter()
        .filter(|value| !value.is_sensitive())
        .take(MAX_HEADER_VALUES)
        .map(|value| {
            let text = lossy_text(value.as_bytes(), MAX_HEADER_VALUE);
            text.into_owned().into()
        })
        .collect();
    (!values.is_empty()).then_some(Value::Array(Array::String(values)))
}

/// `network.peer.address` and `network.peer.port`
pub(crate) fn peer_attributes(
    peer: SocketAddr,
    add: &mut impl FnMut(&'static str, AttributeValue<'_>),
) {
    let address = address_text(peer.ip());
    add(NETWORK_PEER_ADDRESS, AttributeValue::Text(&address));
    add(
        NETWORK_PEER_PORT,
        AttributeValue::Number(peer.port().into()),
    );
}

/// An address as text. A socket for both families shows an IPv4 address within an IPv6 one.
pub(crate) fn address_text(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

/// The address of the server's end of the connection that a client's response came on, as attributes,
/// where the client has put it into the response's extensions.
pub(crate) fn response_peer_attributes(extensions: &Extensions, add: &mut impl FnMut(KeyValue)) {
    if let Some(info) = extensions.get::<HttpInfo>() {
        peer_attributes(
            info.remote_addr(),
            &mut |key, fact| add(fact.attribute(key)),
        );
    }
}

/// `server.address`, no longer than it is kept.
pub(crate) fn truncated_host(host: &str) -> std::borrow::Cow<'_, str> {
    truncate(host, MAX_HOST)
}

/// The server that a client calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Server<'a> {
    pub(crate) host: &'a str,
    /// That of the scheme, where no other is named.
    pub(crate) port: u16,
}

impl<'a> Server<'a> {
    /// The server that a URI names.
    pub(crate) fn in_uri(uri: &'a Uri) -> Option<Self> {
        let (host, port) = split_authority(uri.authority()?.as_str())?;
        let is_secure = matches!(uri.scheme_str(), Some("https" | "wss"));
        let port = port.unwrap_or(if is_secure { 443 } else { 80 });
        Some(Self { host, port })
    }

    pub(crate) fn attributes(self, add: &mut impl FnMut(KeyValue)) {
        let add = &mut |key, fact: AttributeValue<'_>| add(fact.attribute(key));
        server_attributes(self.host, Some(self.port), add);
    }
}

/// Host and port of `user@host:port`, an IPv6 address without its brackets.
pub(crate) fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    // Looked at byte by byte: to search so short a text takes longer.
    let bytes = authority.as_bytes();
    let user = bytes.iter().rposition(|byte| *byte == b'@');
    let host_port = &authority[user.map_or(0, |at| at + 1)..];
    let (host, port) = match host_port.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':'))
        }
        None => match host_port.bytes().position(|byte| byte == b':') {
            Some(colon) => (&host_port[..colon], Some(&host_port[colon + 1..])),
            None => (host_port, None),
        },
    };
    let port = port.and_then(|port| port.parse().ok());
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_gives_host_and_port_of_the_same_source() {
        for (authority, expected) in [
            ("example.com", Some(("example.com", None))),
            ("example.com:8080", Some(("example.com", Some(8080)))),
            (
                "user:secret@example.com:80",
                Some(("example.com", Some(80))),
            ),
            ("127.0.0.1:3000", Some(("127.0.0.1", Some(3000)))),
            ("[::1]", Some(("::1", None))),
            ("[::1]:3000", Some(("::1", Some(3000)))),
            ("example.com:99999", Some(("example.com", None))),
            ("example.com:", Some(("example.com", None))),
            (":80", None),
            ("[::1", None),
            ("", None),
        ] {
            assert_eq!(split_authority(authority), expected, "{authority}");
        }
    }

    #[test]
    fn a_server_has_the_port_of_its_scheme_unless_it_names_one() {
        for (uri, expected) in [
            ("http://a/b", Some(("a", 80))),
            ("https://a/b", Some(("a", 443))),
            ("https://user@[::1]:8443/b", Some(("::1", 8443))),
            ("/b", None),
        ] {
            let uri = uri.parse().expect("it is a URI");
            let server = Server::in_uri(&uri).map(|server| (server.host, server.port));
            assert_eq!(server, expected);
        }
    }

    #[test]
    fn a_span_is_named_by_method_and_route() {
        assert_eq!(span_name("GET", Some("/a/{b}")), "GET /a/{b}");
        assert_eq!(span_name("GET", None), "GET");
        assert_eq!(span_name(OTHER, Some("/a")), "HTTP /a");
        assert_eq!(span_name(OTHER, None), "HTTP");
    }
}
