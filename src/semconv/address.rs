//! Addresses of servers and peers.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use ::http::{Extensions, Uri};
use hyper_util::client::legacy::connect::HttpInfo;
use opentelemetry::KeyValue;

use crate::semconv::names::{NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT, SERVER_ADDRESS, SERVER_PORT};
use crate::semconv::text::{MAX_HOST, truncate};
use crate::semconv::values::{AddAttribute, AttributeValue};

/// The server that a client calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Server<'a> {
    pub(crate) host: &'a str,
    /// The port in the URI, or the default port of the scheme.
    pub(crate) port: u16,
}

impl<'a> Server<'a> {
    /// Returns the server that a URI names.
    pub(crate) fn in_uri(uri: &'a Uri) -> Option<Self> {
        let (host, port) = split_authority(uri.authority()?.as_str())?;
        let is_secure = matches!(uri.scheme_str(), Some("https" | "wss"));
        let port = port.unwrap_or(if is_secure { 443 } else { 80 });
        Some(Self { host, port })
    }

    pub(crate) fn attributes(self, add: &mut impl FnMut(KeyValue)) {
        let add = &mut |key, value: AttributeValue<'_>| add(value.attribute(key));
        server_attributes(self.host, Some(self.port), add);
    }
}

/// Adds `server.address` and `server.port`.
#[inline]
pub(crate) fn server_attributes(host: &str, port: Option<u16>, to: &mut impl AddAttribute) {
    to.add(SERVER_ADDRESS, AttributeValue::Text(&truncated_host(host)));
    if let Some(port) = port {
        to.add(SERVER_PORT, AttributeValue::Number(port.into()));
    }
}

/// Returns a host within the bound of `server.address`.
pub(crate) fn truncated_host(host: &str) -> Cow<'_, str> {
    truncate(host, MAX_HOST)
}

/// Splits `user@host:port` into host and port. An IPv6 address loses its brackets.
///
/// The text may come from a header in any encoding, which `http::uri::Authority` would refuse.
pub(crate) fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host_port, colon) = without_user_and_colon(authority);
    let (host, port) = match (host_port.strip_prefix('['), colon) {
        (Some(rest), _) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':'))
        }
        (None, Some(colon)) => (&host_port[..colon], Some(&host_port[colon + 1..])),
        (None, None) => (host_port, None),
    };
    let port = port.and_then(|port| port.parse().ok());
    (!host.is_empty()).then_some((host, port))
}

/// Returns an authority without its user and password, and the position of the first colon in it.
fn without_user_and_colon(authority: &str) -> (&str, Option<usize>) {
    // One loop is faster than two, and than pattern searches in a text this short.
    let (mut start, mut colon) = (0, None);
    for (at, byte) in authority.bytes().enumerate() {
        if byte == b'@' {
            (start, colon) = (at + 1, None);
        } else if byte == b':' && colon.is_none() {
            colon = Some(at);
        }
    }
    (&authority[start..], colon.map(|colon| colon - start))
}

/// Returns an authority without its user and password.
pub(crate) fn without_user(authority: &str) -> &str {
    // A loop over bytes is faster than a pattern search in a text this short.
    let user = authority.bytes().rposition(|byte| byte == b'@');
    &authority[user.map_or(0, |at| at + 1)..]
}

/// Returns the peer's socket address, if the server stored it in the request's extensions.
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

/// Adds `network.peer.address` and `network.peer.port`.
pub(crate) fn peer_attributes(peer: SocketAddr, to: &mut impl AddAttribute) {
    let address = address_text(peer.ip());
    to.add(NETWORK_PEER_ADDRESS, AttributeValue::Text(&address));
    to.add(
        NETWORK_PEER_PORT,
        AttributeValue::Number(peer.port().into()),
    );
}

/// Adds the address of the server's end of a client connection, if the client stored it in the
/// response's extensions.
pub(crate) fn response_peer_attributes(extensions: &Extensions, add: &mut impl FnMut(KeyValue)) {
    if let Some(info) = extensions.get::<HttpInfo>() {
        let add = &mut |key, value: AttributeValue<'_>| add(value.attribute(key));
        peer_attributes(info.remote_addr(), add);
    }
}

/// Returns an address as text. An IPv4-mapped IPv6 address, as a dual-stack socket reports it, is
/// written as IPv4.
pub(crate) fn address_text(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_split_into_host_and_port() {
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
    fn a_server_has_the_port_of_its_scheme_unless_the_uri_names_one() {
        for (uri, expected) in [
            ("http://a/b", Some(("a", 80))),
            ("https://a/b", Some(("a", 443))),
            ("https://user@[::1]:8443/b", Some(("::1", 8443))),
            ("/b", None),
        ] {
            let uri = uri.parse().expect("a valid URI");
            let server = Server::in_uri(&uri).map(|server| (server.host, server.port));
            assert_eq!(server, expected);
        }
    }
}
