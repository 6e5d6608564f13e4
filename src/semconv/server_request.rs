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
use crate::semconv::request_text::{RequestText, original_method, recorded_query};
use crate::semconv::scheme::Scheme;
use crate::semconv::text::{
    MAX_AUTHORITY, MAX_PATH, MAX_USER_AGENT, bounded_bytes, header_text, lossy_text, truncate,
};
use crate::semconv::values::{AddAttribute, AttributeValue, protocol_version};

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
        let authority = pieces.next(self.lengths.authority);
        let user_agent = pieces.next_bytes(self.lengths.user_agent);
        let query = self.lengths.query.map(|length| pieces.next(length));
        ForSamplers {
            method: self.method,
            scheme: self.scheme,
            path,
            query,
            authority,
            client: self.client.or(self.peer.map(|peer| peer.ip())),
            user_agent: &lossy_text(user_agent, MAX_USER_AGENT),
        }
        .add_to(add);
    }

    /// Adds the other attributes.
    pub(crate) fn other_attributes(&self, add: &mut impl FnMut(&'static str, AttributeValue<'_>)) {
        let length = self.lengths.original_method;
        Others {
            original_method: (length > 0).then(|| self.text.last_piece(length)),
            peer: self.peer,
            version: self.version,
            route: self.route.as_ref(),
        }
        .add_to(add);
    }
}

/// A request whose span has the same attributes as that of a [`ServerRequest`], without a copy of
/// the text in between. For tracers that need the attributes at once.
pub(crate) struct UncapturedRequest<'a> {
    pub(crate) method: &'static str,
    pub(crate) route: Option<&'a Cow<'static, str>>,
    pub(crate) scheme: Scheme,
    pub(crate) request: &'a Parts,
    pub(crate) headers: &'a RequestHeaders<'a>,
    pub(crate) forwarded: &'a Forwarded<'a>,
    /// The query is recorded only with this value.
    pub(crate) sensitive_parameters: Option<&'a SensitiveParameters>,
}

impl UncapturedRequest<'_> {
    /// Adds the attributes that a sampler may read.
    #[inline]
    pub(crate) fn attributes_for_samplers(&self, to: &mut impl AddAttribute) {
        let uri = &self.request.uri;
        let client = || peer_address(&self.request.extensions).map(|peer| peer.ip());
        let user_agent = self.headers.user_agent;
        ForSamplers {
            method: self.method,
            scheme: self.scheme,
            path: &truncate(uri.path(), MAX_PATH),
            query: recorded_query(uri, self.sensitive_parameters).as_deref(),
            authority: authority_text(self.request, self.headers, self.forwarded),
            client: self.forwarded.client.or_else(client),
            user_agent: &user_agent.map_or(Cow::Borrowed(""), |agent| {
                header_text(agent, MAX_USER_AGENT)
            }),
        }
        .add_to(to);
    }

    /// Adds the other attributes.
    #[inline]
    pub(crate) fn other_attributes(&self, to: &mut impl AddAttribute) {
        Others {
            original_method: original_method(self.method, self.request).as_deref(),
            peer: peer_address(&self.request.extensions),
            version: self.request.version,
            route: self.route,
        }
        .add_to(to);
    }
}

/// The values of the attributes that a sampler may read.
struct ForSamplers<'a> {
    method: &'static str,
    scheme: Scheme,
    path: &'a str,
    query: Option<&'a str>,
    authority: &'a str,
    client: Option<IpAddr>,
    user_agent: &'a str,
}

impl ForSamplers<'_> {
    #[inline]
    fn add_to(&self, to: &mut impl AddAttribute) {
        to.add(HTTP_REQUEST_METHOD, AttributeValue::name(self.method));
        to.add(URL_SCHEME, AttributeValue::name(self.scheme.as_str()));
        to.add(URL_PATH, AttributeValue::Text(self.path));
        if let Some(query) = self.query {
            to.add(URL_QUERY, AttributeValue::Text(query));
        }
        if let Some((host, port)) = split_authority(self.authority) {
            server_attributes(host, port, to);
        }
        if let Some(client) = self.client {
            to.add(CLIENT_ADDRESS, AttributeValue::Text(&address_text(client)));
        }
        if !self.user_agent.is_empty() {
            to.add(USER_AGENT_ORIGINAL, AttributeValue::Text(self.user_agent));
        }
    }
}

/// The values of the other attributes.
struct Others<'a> {
    original_method: Option<&'a str>,
    peer: Option<SocketAddr>,
    version: Version,
    route: Option<&'a Cow<'static, str>>,
}

impl Others<'_> {
    #[inline]
    fn add_to(&self, to: &mut impl AddAttribute) {
        if let Some(original) = self.original_method {
            to.add(HTTP_REQUEST_METHOD_ORIGINAL, AttributeValue::Text(original));
        }
        if let Some(peer) = self.peer {
            peer_attributes(peer, to);
        }
        if let Some(version) = protocol_version(self.version) {
            to.add(NETWORK_PROTOCOL_VERSION, AttributeValue::name(version));
        }
        if let Some(route) = self.route {
            to.add(HTTP_ROUTE, AttributeValue::Name(route.clone()));
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
    let text = authority_without_host(request, forwarded);
    text.map(str::as_bytes).or_else(|| {
        let host = headers.host.map(HeaderValue::as_bytes);
        host.filter(|host| host.is_ascii())
    })
}

/// Returns the authority as text, at most [`MAX_AUTHORITY`] bytes of it; empty if there is none.
#[inline]
fn authority_text<'a>(
    request: &'a Parts,
    headers: &RequestHeaders<'a>,
    forwarded: &Forwarded<'a>,
) -> &'a str {
    // `to_str` returns the value if it is ASCII.
    let text = authority_without_host(request, forwarded)
        .or_else(|| headers.host?.to_str().ok())
        .unwrap_or_default();
    if text.len() <= MAX_AUTHORITY {
        return text;
    }
    text.get(..MAX_AUTHORITY).unwrap_or_default()
}

/// Returns the authority from a trusted proxy, or else from the request's target.
#[inline]
fn authority_without_host<'a>(request: &'a Parts, forwarded: &Forwarded<'a>) -> Option<&'a str> {
    let target = || request.uri.authority().map(Authority::as_str);
    forwarded.authority.or_else(target)
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
    fn an_uncaptured_request_has_the_same_attributes_in_the_same_order() {
        use ::http::header::USER_AGENT;

        let long = "ä".repeat(700);
        // The limit is in the middle of a character.
        let cut_inside = format!("x{long}");
        let long_host = format!("{}:81", "h".repeat(MAX_AUTHORITY));
        let long_agent = "agent ".repeat(50);
        let long_path = format!("/{}", "p".repeat(MAX_PATH));
        let sensitive = SensitiveParameters::default();
        let usual = (
            "GET",
            "/users/42?sig=1&a=2",
            &b"a.example:81"[..],
            &b"curl/8"[..],
            None,
        );
        let (method, uri, host, agent, authority) = usual;
        for (method, uri, host, agent, authority) in [
            usual,
            ("BREW", uri, host, agent, authority),
            (method, &long_path, host, agent, authority),
            (method, "http://user@[::1]:8080/", host, agent, authority),
            (method, uri, b"\xc3\xa4.example", agent, authority),
            (method, uri, b"", b"", authority),
            (method, uri, long_host.as_bytes(), agent, authority),
            (method, uri, host, b"caf\xe9 \xc3\xa9", authority),
            (method, uri, host, long_agent.as_bytes(), authority),
            (method, uri, host, long.as_bytes(), authority),
            (method, uri, host, agent, Some("b\u{fc}cher.example:81")),
            (method, uri, host, agent, Some(&*long)),
            (method, uri, host, agent, Some(&*cut_inside)),
        ] {
            let request = ::http::Request::builder().method(method).uri(uri);
            let request = request.header(HOST, host).header(USER_AGENT, agent);
            let (mut request, ()) = request.body(()).expect("a valid request").into_parts();
            #[cfg(feature = "axum")]
            {
                let peer = SocketAddr::from(([192, 0, 2, 1], 2));
                request.extensions.insert(axum::extract::ConnectInfo(peer));
            }
            request.version = Version::HTTP_2;
            let headers = RequestHeaders::find_in(&request.headers);
            let known = if method == "GET" { "GET" } else { OTHER };
            let route: Option<Cow<'static, str>> = Some("/users/{id}".into());
            for (client, sensitive_parameters) in [
                (None, Some(&sensitive)),
                (Some(IpAddr::from([192, 0, 2, 9])), None),
            ] {
                let forwarded = Forwarded {
                    client,
                    authority,
                    ..Forwarded::default()
                };
                let mut captured = ServerRequest::new(known, route.clone(), Scheme::Https);
                captured.read(&request, &headers, &forwarded, sensitive_parameters);
                let uncaptured = UncapturedRequest {
                    method: known,
                    route: route.as_ref(),
                    scheme: Scheme::Https,
                    request: &request,
                    headers: &headers,
                    forwarded: &forwarded,
                    sensitive_parameters,
                };
                let (mut expected, mut written) = (Vec::new(), Vec::new());
                captured.attributes_for_samplers(&mut |key, value| expected.add(key, value));
                uncaptured.attributes_for_samplers(&mut written);
                assert_eq!(written, expected);
                assert!(written.len() >= 4, "{written:?}");
                captured.other_attributes(&mut |key, value| expected.add(key, value));
                uncaptured.other_attributes(&mut written);
                assert_eq!(written, expected);
            }
        }
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
