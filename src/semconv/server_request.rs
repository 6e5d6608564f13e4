//! What a span says of a request to a server.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use ::http::header::{HOST, USER_AGENT};
use ::http::request::Parts;
use ::http::uri::Authority;
use opentelemetry::KeyValue;

use super::forwarded::Forwarded;
use super::http::{
    MAX_HOST, MAX_METHOD, MAX_PATH, MAX_QUERY, MAX_USER_AGENT, Scheme, peer, peer_attributes,
    protocol_version, split_authority,
};
use super::redact::{self, SensitiveParameters};
use super::{
    CLIENT_ADDRESS, HTTP_REQUEST_METHOD, HTTP_REQUEST_METHOD_ORIGINAL, HTTP_ROUTE,
    NETWORK_PROTOCOL_VERSION, OTHER, SERVER_ADDRESS, SERVER_PORT, URL_PATH, URL_QUERY, URL_SCHEME,
    USER_AGENT_ORIGINAL, truncate,
};

/// How to describe a request.
pub(crate) struct Described<'a> {
    /// `http.request.method`
    pub(crate) method: &'static str,
    /// `http.route`
    pub(crate) route: Option<Cow<'static, str>>,
    pub(crate) scheme: Scheme,
    pub(crate) forwarded: Forwarded<'a>,
    /// `None` where the query is not to be recorded.
    pub(crate) sensitive_parameters: Option<&'a SensitiveParameters>,
}

/// What is taken from a request when it arrives, so that its attributes can be made later, where
/// nobody waits for them.
#[derive(Clone, Debug)]
pub(crate) struct ServerRequest {
    method: &'static str,
    route: Option<Cow<'static, str>>,
    scheme: Scheme,
    version: Option<&'static str>,
    client: Option<IpAddr>,
    peer: Option<SocketAddr>,
    /// All of the following, one after the other.
    text: Vec<u8>,
    original_method: Piece,
    path: Piece,
    query: Piece,
    host: Piece,
    port: Option<u16>,
    user_agent: Piece,
}

/// Where in the text something is; `None` where the request does not have it.
type Piece = Option<(u16, u16)>;

/// Pieces of text that are put one after the other.
struct Text(Vec<u8>);

impl Text {
    fn add(&mut self, piece: &[u8]) -> Piece {
        let start = u16::try_from(self.0.len()).ok()?;
        self.0.extend_from_slice(piece);
        Some((start, u16::try_from(self.0.len()).ok()?))
    }
}

impl ServerRequest {
    pub(crate) fn of(request: &Parts, described: Described<'_>) -> Self {
        let path = truncate(request.uri.path(), MAX_PATH);
        let server = server(request, &described.forwarded);
        let host = server.map(|(host, _)| truncate(host, MAX_HOST));
        let user_agent = request.headers.get(USER_AGENT).and_then(|agent| {
            let agent = agent.as_bytes();
            // One byte more than is kept, which tells that it is cut.
            let agent = agent.get(..=MAX_USER_AGENT).unwrap_or(agent);
            agent.is_ascii().then_some(agent)
        });
        let length = path.len()
            + host.as_ref().map_or(0, |host| host.len())
            + user_agent.map_or(0, <[u8]>::len);
        let mut text = Text(Vec::with_capacity(length));
        let path = text.add(path.as_bytes());
        let host = host.and_then(|host| text.add(host.as_bytes()));
        let user_agent = user_agent.and_then(|agent| text.add(agent));
        let query = request.uri.query().zip(described.sensitive_parameters);
        let query = query.and_then(|(query, sensitive)| {
            text.add(redact::query(query, MAX_QUERY, sensitive).as_bytes())
        });
        let original_method = if described.method == OTHER {
            text.add(truncate(request.method.as_str(), MAX_METHOD).as_bytes())
        } else {
            None
        };
        let peer = peer(&request.extensions);
        Self {
            method: described.method,
            route: described.route,
            scheme: described.scheme,
            version: protocol_version(request.version),
            client: described.forwarded.client.or(peer.map(|peer| peer.ip())),
            peer,
            text: text.0,
            original_method,
            path,
            query,
            host,
            port: server.and_then(|(_, port)| port),
            user_agent,
        }
    }

    /// The attributes of a server span that are known when the request arrives.
    pub(crate) fn attributes(&self, add: &mut impl FnMut(KeyValue)) {
        add(KeyValue::new(HTTP_REQUEST_METHOD, self.method));
        if let Some(original) = self.piece(self.original_method) {
            add(KeyValue::new(
                HTTP_REQUEST_METHOD_ORIGINAL,
                original.to_owned(),
            ));
        }
        add(KeyValue::new(URL_SCHEME, self.scheme.as_str()));
        if let Some(path) = self.piece(self.path) {
            add(KeyValue::new(URL_PATH, path.to_owned()));
        }
        if let Some(query) = self.piece(self.query) {
            add(KeyValue::new(URL_QUERY, query.to_owned()));
        }
        if let Some(host) = self.piece(self.host) {
            server_attributes(host, self.port, add);
        }
        if let Some(client) = self.client {
            add(KeyValue::new(CLIENT_ADDRESS, client.to_string()));
        }
        if let Some(peer) = self.peer {
            peer_attributes(peer, add);
        }
        if let Some(version) = self.version {
            add(KeyValue::new(NETWORK_PROTOCOL_VERSION, version));
        }
        if let Some(agent) = self.piece(self.user_agent) {
            let agent = truncate(agent, MAX_USER_AGENT).into_owned();
            add(KeyValue::new(USER_AGENT_ORIGINAL, agent));
        }
        if let Some(route) = &self.route {
            add(KeyValue::new(HTTP_ROUTE, route.clone()));
        }
    }

    /// The memory that it takes besides its own size.
    #[cfg(feature = "init")]
    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    fn piece(&self, piece: Piece) -> Option<&str> {
        let (start, end) = piece?;
        let piece = self.text.get(usize::from(start)..usize::from(end))?;
        str::from_utf8(piece).ok()
    }
}

/// The server that a request names, and its port: as a trusted proxy has it, else `:authority` or
/// the absolute form, else `Host`.
pub(super) fn server<'a>(
    request: &'a Parts,
    forwarded: &Forwarded<'a>,
) -> Option<(&'a str, Option<u16>)> {
    let authority = forwarded
        .authority
        .or_else(|| request.uri.authority().map(Authority::as_str))
        .or_else(|| request.headers.get(HOST)?.to_str().ok());
    split_authority(authority?)
}

/// `server.address` and `server.port`
pub(super) fn server_attributes(host: &str, port: Option<u16>, add: &mut impl FnMut(KeyValue)) {
    let host = truncate(host, MAX_HOST).into_owned();
    add(KeyValue::new(SERVER_ADDRESS, host));
    if let Some(port) = port {
        add(KeyValue::new(SERVER_PORT, i64::from(port)));
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::Value;

    use super::*;

    /// The attributes of a server, as they are made of a request with this head.
    fn server_of(uri: &str, host: &[u8]) -> (Option<Value>, Option<Value>) {
        let request = ::http::Request::get(uri).header(HOST, host);
        let (request, ()) = request.body(()).expect("it is a request").into_parts();
        let described = Described {
            method: "GET",
            route: None,
            scheme: Scheme::Http,
            forwarded: Forwarded::default(),
            sensitive_parameters: None,
        };
        let mut attributes = Vec::new();
        ServerRequest::of(&request, described).attributes(&mut |one| attributes.push(one));
        let value = |key: &str| {
            let mut attributes = attributes.iter();
            let found = attributes.find(|one| one.key.as_str() == key)?;
            Some(found.value.clone())
        };
        (value(SERVER_ADDRESS), value(SERVER_PORT))
    }

    #[test]
    fn host_and_port_stay_apart_until_they_are_attributes() {
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
            assert_eq!(server_of(uri, host), expected, "{uri} {host:?}");
        }
    }
}
