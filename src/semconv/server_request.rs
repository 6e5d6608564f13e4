//! The part of a server's request that its span records.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use ::http::Version;
use ::http::header::HeaderValue;
use ::http::request::Parts;
use ::http::uri::Authority;

use crate::request_headers::RequestHeaders;
use crate::semconv::address::{
    address_text, peer_address, peer_attributes, server_attributes, split_authority,
};
use crate::semconv::forwarded::Forwarded;
use crate::semconv::names::{
    CLIENT_ADDRESS, HTTP_REQUEST_METHOD, HTTP_REQUEST_METHOD_ORIGINAL, HTTP_ROUTE,
    NETWORK_PROTOCOL_VERSION, URL_PATH, URL_QUERY, URL_SCHEME, USER_AGENT_ORIGINAL,
};
use crate::semconv::redact::SensitiveParameters;
use crate::semconv::request_text::RequestText;
use crate::semconv::scheme::Scheme;
use crate::semconv::text::{
    MAX_AUTHORITY, MAX_PATH, MAX_USER_AGENT, bounded_bytes, lossy_text, truncate,
};
use crate::semconv::values::{AttributeValue, protocol_version};

/// The fields of a request that its span needs, captured when the request arrives.
#[derive(Clone)]
pub(crate) struct ServerRequest {
    method: &'static str,
    route: Option<Cow<'static, str>>,
    scheme: Scheme,
    version: Version,
    client: Option<IpAddr>,
    peer: Option<SocketAddr>,
    /// The captured pieces, unchanged: the authority may still contain a user.
    pub(crate) text: RequestText,
    lengths: Lengths,
}

/// The lengths of the pieces, in the order in which they are stored.
#[derive(Clone, Copy, Default)]
struct Lengths {
    path: u16,
    authority: u16,
    user_agent: u16,
    /// `None` if the request has no query, or if the query is not recorded.
    query: Option<u16>,
    original_method: u16,
}

impl ServerRequest {
    #[inline]
    pub(crate) fn new(
        method: &'static str,
        route: Option<Cow<'static, str>>,
        scheme: Scheme,
    ) -> Self {
        Self {
            method,
            route,
            scheme,
            version: Version::default(),
            client: None,
            peer: None,
            text: RequestText::default(),
            lengths: Lengths::default(),
        }
    }

    /// Captures the rest of a request. The query is captured only with `sensitive_parameters`.
    #[inline]
    pub(crate) fn read(
        &mut self,
        request: &Parts,
        headers: &RequestHeaders<'_>,
        forwarded: &Forwarded<'_>,
        sensitive_parameters: Option<&SensitiveParameters>,
    ) {
        self.version = request.version;
        self.client = forwarded.client;
        self.peer = peer_address(&request.extensions);
        let authority = authority(request, headers, forwarded).unwrap_or_default();
        let authority = authority.get(..MAX_AUTHORITY).unwrap_or(authority);
        let user_agent = headers.user_agent.map_or(&[][..], HeaderValue::as_bytes);
        let user_agent = bounded_bytes(user_agent, MAX_USER_AGENT);
        self.lengths.path = self
            .text
            .add(truncate(request.uri.path(), MAX_PATH).as_bytes());
        self.lengths.authority = self.text.add(authority);
        self.lengths.user_agent = self.text.add(user_agent);
        self.lengths.query = self.text.add_query(&request.uri, sensitive_parameters);
        self.lengths.original_method = self.text.add_original_method(self.method, request);
    }

    /// Adds the attributes of a server span that are known when the request arrives.
    pub(crate) fn attributes(&self, add: &mut impl FnMut(&'static str, AttributeValue<'_>)) {
        self.attributes_for_samplers(add);
        self.other_attributes(add);
    }

    /// Adds those of the attributes that a sampler may read.
    pub(crate) fn attributes_for_samplers(
        &self,
        add: &mut impl FnMut(&'static str, AttributeValue<'_>),
    ) {
        let mut pieces = self.text.pieces();
        let path = pieces.next(self.lengths.path);
        let server = split_authority(pieces.next(self.lengths.authority));
        let user_agent = pieces.next_bytes(self.lengths.user_agent);
        add(HTTP_REQUEST_METHOD, AttributeValue::name(self.method));
        add(URL_SCHEME, AttributeValue::name(self.scheme.as_str()));
        add(URL_PATH, AttributeValue::Text(path));
        if let Some(length) = self.lengths.query {
            add(URL_QUERY, AttributeValue::Text(pieces.next(length)));
        }
        if let Some((host, port)) = server {
            server_attributes(host, port, add);
        }
        if let Some(client) = self.client.or(self.peer.map(|peer| peer.ip())) {
            add(CLIENT_ADDRESS, AttributeValue::Text(&address_text(client)));
        }
        if !user_agent.is_empty() {
            let agent = lossy_text(user_agent, MAX_USER_AGENT);
            add(USER_AGENT_ORIGINAL, AttributeValue::Text(&agent));
        }
    }

    /// Adds the other attributes.
    pub(crate) fn other_attributes(&self, add: &mut impl FnMut(&'static str, AttributeValue<'_>)) {
        if self.lengths.original_method > 0 {
            let original = self.text.last_piece(self.lengths.original_method);
            add(HTTP_REQUEST_METHOD_ORIGINAL, AttributeValue::Text(original));
        }
        if let Some(peer) = self.peer {
            peer_attributes(peer, add);
        }
        if let Some(version) = protocol_version(self.version) {
            add(NETWORK_PROTOCOL_VERSION, AttributeValue::name(version));
        }
        if let Some(route) = &self.route {
            add(HTTP_ROUTE, AttributeValue::Name(route.clone()));
        }
    }
}

/// Returns the server's authority, which may contain a user and a port. It comes from a trusted
/// proxy, else from `:authority` or an absolute-form target, else from `Host`. Only the authority
/// from a trusted proxy may contain non-ASCII characters, because any client can send a `Host` in
/// any encoding.
#[inline]
fn authority<'a>(
    request: &'a Parts,
    headers: &RequestHeaders<'a>,
    forwarded: &Forwarded<'a>,
) -> Option<&'a [u8]> {
    let text = forwarded
        .authority
        .or_else(|| request.uri.authority().map(Authority::as_str));
    text.map(str::as_bytes).or_else(|| {
        let host = headers.host.map(HeaderValue::as_bytes);
        host.filter(|host| host.is_ascii())
    })
}

/// Returns the host and the port of the server that a request names.
pub(crate) fn server<'a>(
    request: &'a Parts,
    headers: &RequestHeaders<'a>,
    forwarded: &Forwarded<'a>,
) -> Option<(&'a str, Option<u16>)> {
    let authority = authority(request, headers, forwarded)?;
    str::from_utf8(authority).ok().and_then(split_authority)
}

#[cfg(test)]
mod tests {
    use ::http::header::HOST;
    use opentelemetry::Value;

    use super::*;
    use crate::semconv;
    use crate::semconv::names::{OTHER, SERVER_ADDRESS, SERVER_PORT};
    use crate::semconv::text::MAX_HOST;

    /// Returns the recorded server address and port of a request with this head.
    fn server_of(
        uri: &str,
        host: &[u8],
        forwarded: &Forwarded<'_>,
    ) -> (Option<Value>, Option<Value>) {
        let request = ::http::Request::get(uri).header(HOST, host);
        let (request, ()) = request.body(()).expect("a valid request").into_parts();
        let headers = RequestHeaders::find_in(&request.headers);
        let mut kept = ServerRequest::new("GET", None, Scheme::Http);
        kept.read(&request, &headers, forwarded, None);
        let mut attributes = Vec::new();
        kept.attributes(&mut |key, value| attributes.push(value.attribute(key)));
        let value = |key: &str| {
            let mut attributes = attributes.iter();
            let found = attributes.find(|one| one.key.as_str() == key)?;
            Some(found.value.clone())
        };
        (value(SERVER_ADDRESS), value(SERVER_PORT))
    }

    #[test]
    fn the_attributes_for_samplers_are_apart() {
        use ::http::header::USER_AGENT;

        let request = ::http::Request::builder()
            .method("BREW")
            .uri("http://a.example:81/pots?milk=1")
            .header(USER_AGENT, "curl/8")
            .body(());
        let (request, ()) = request.expect("a valid request").into_parts();
        let headers = RequestHeaders::find_in(&request.headers);
        let mut kept = ServerRequest::new(OTHER, Some("/pots".into()), Scheme::Http);
        let sensitive = SensitiveParameters::default();
        kept.read(&request, &headers, &Forwarded::default(), Some(&sensitive));
        kept.peer = Some(SocketAddr::from(([192, 0, 2, 1], 2)));
        let keys = |read: &dyn Fn(&mut Vec<&'static str>)| {
            let mut keys = Vec::new();
            read(&mut keys);
            keys
        };
        let all = keys(&|keys| kept.attributes(&mut |key, _| keys.push(key)));
        let first = keys(&|keys| kept.attributes_for_samplers(&mut |key, _| keys.push(key)));
        let (expected, others): (Vec<&str>, Vec<&str>) = all
            .into_iter()
            .partition(|key| semconv::is_for_samplers(key));
        assert_eq!(first, expected);
        assert_eq!((first.len(), others.len()), (8, 5));
    }

    #[test]
    fn host_and_port_are_two_attributes_also_if_the_host_is_truncated() {
        let long = "h".repeat(300);
        let cut = format!("{}…", &long[..MAX_HOST - "…".len()]);
        let user = format!("http://{}@[2001:db8::1]:8080/", "u".repeat(250));
        for (uri, host, expected) in [
            ("/", &b"a.example"[..], Some(("a.example", None))),
            ("/", b"a.example:81", Some(("a.example", Some(81)))),
            ("/", b"[::1]:81", Some(("::1", Some(81)))),
            ("http://b.example/", b"a.example", Some(("b.example", None))),
            (&user, b"", Some(("2001:db8::1", Some(8080)))),
            (
                "/",
                format!("{long}:81").as_bytes(),
                Some((&*cut, Some(81))),
            ),
            ("/", b"\xc3\xa4.example", None),
            ("/", b"", None),
        ] {
            let (address, port) = expected.unzip();
            let expected = (
                address.map(|address| Value::from(address.to_owned())),
                port.flatten().map(|port: i64| Value::from(port)),
            );
            let of = server_of(uri, host, &Forwarded::default());
            assert_eq!(of, expected, "{uri} {host:?}");
        }
        let name = |authority| {
            let forwarded = Forwarded {
                authority: Some(authority),
                ..Forwarded::default()
            };
            let (address, _) = server_of("/", b"a.example", &forwarded);
            address.map(|address| address.to_string())
        };
        assert_eq!(name("bücher.example:81").as_deref(), Some("bücher.example"));
        let long = "h".repeat(MAX_AUTHORITY + 1);
        assert_eq!(name(&long).as_deref(), Some(&*cut));
    }
}
