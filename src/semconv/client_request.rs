//! The part of a client's request that its span records.

use ::http::Uri;
use ::http::request::Parts;

use crate::semconv::address::{Server, server_attributes, without_user};
use crate::semconv::names::{
    HTTP_REQUEST_METHOD, HTTP_REQUEST_METHOD_ORIGINAL, HTTP_REQUEST_RESEND_COUNT, URL_FULL,
};
use crate::semconv::redact::SensitiveParameters;
use crate::semconv::request_text::RequestText;
use crate::semconv::text::{MAX_AUTHORITY, MAX_HOST, MAX_PATH, truncate};
use crate::semconv::values::AttributeValue;

/// The fields of a request that its span needs, captured before the request is sent.
#[derive(Clone)]
pub(crate) struct ClientRequest {
    method: &'static str,
    /// The number of earlier attempts.
    resends: Option<i64>,
    /// The port of the server; `None` if the server is unknown.
    port: Option<u16>,
    /// Whether the URL contains a user. The user itself is not captured.
    has_credentials: bool,
    pub(crate) text: RequestText,
    lengths: Lengths,
}

/// The lengths of the pieces, in the order in which they are stored.
#[derive(Clone, Copy, Default)]
struct Lengths {
    host: u16,
    scheme: u16,
    /// Host and port of the URL.
    authority: u16,
    path: u16,
    /// `None` if the request has no query, or if the query is not recorded.
    query: Option<u16>,
    original_method: u16,
}

impl ClientRequest {
    #[inline]
    pub(crate) fn new(method: &'static str, resends: Option<i64>) -> Self {
        Self {
            method,
            resends,
            port: None,
            has_credentials: false,
            text: RequestText::default(),
            lengths: Lengths::default(),
        }
    }

    /// Captures the rest of a request to `server`. If the URI has no authority, the URL has the
    /// scheme and the authority of `base`. The query is captured only with `sensitive_parameters`.
    pub(crate) fn read(
        &mut self,
        request: &Parts,
        server: Option<Server<'_>>,
        base: Option<&Uri>,
        sensitive_parameters: Option<&SensitiveParameters>,
    ) {
        let uri = &request.uri;
        if let Some(Server { host, port }) = server {
            self.lengths.host = self.text.add(bounded_host(host).as_bytes());
            self.port = Some(port);
        }
        let named = uri.authority().map(|_| uri).or(base);
        if let Some(named) = named
            && let (Some(scheme), Some(authority)) = (named.scheme_str(), named.authority())
        {
            let authority = authority.as_str();
            let host = without_user(authority);
            self.has_credentials = host.len() < authority.len();
            self.lengths.scheme = self.text.add(scheme.as_bytes());
            self.lengths.authority = self.text.add(bounded_host(host).as_bytes());
        }
        self.lengths.path = self.text.add(truncate(uri.path(), MAX_PATH).as_bytes());
        self.lengths.query = self.text.add_query(&request.uri, sensitive_parameters);
        self.lengths.original_method = self.text.add_original_method(self.method, request);
    }

    /// Adds the attributes of a client span that a sampler may read.
    pub(crate) fn attributes_for_samplers(
        &self,
        add: &mut impl FnMut(&'static str, AttributeValue<'_>),
    ) {
        let mut pieces = self.text.pieces();
        let host = pieces.next(self.lengths.host);
        let scheme = pieces.next(self.lengths.scheme);
        let authority = pieces.next(self.lengths.authority);
        let path = pieces.next(self.lengths.path);
        let query = self.lengths.query.map(|length| pieces.next(length));
        if let Some(port) = self.port {
            server_attributes(host, Some(port), add);
        }
        add(HTTP_REQUEST_METHOD, AttributeValue::name(self.method));
        if !scheme.is_empty() {
            let credentials = if self.has_credentials {
                "REDACTED:REDACTED@"
            } else {
                ""
            };
            let host = truncate(authority, MAX_HOST);
            let mut url = [scheme, "://", credentials, &host, path, "", ""];
            if let Some(query) = query {
                (url[5], url[6]) = ("?", query);
            }
            add(URL_FULL, AttributeValue::Name(url.concat().into()));
        }
    }

    /// Adds the other attributes that are known before the request is sent.
    pub(crate) fn other_attributes(&self, add: &mut impl FnMut(&'static str, AttributeValue<'_>)) {
        if self.lengths.original_method > 0 {
            let original = self.text.last_piece(self.lengths.original_method);
            add(HTTP_REQUEST_METHOD_ORIGINAL, AttributeValue::Text(original));
        }
        if let Some(resends) = self.resends {
            add(HTTP_REQUEST_RESEND_COUNT, AttributeValue::Number(resends));
        }
    }
}

/// Returns the part of a host that is captured.
fn bounded_host(host: &str) -> &str {
    host.get(..MAX_AUTHORITY).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semconv::names::OTHER;

    /// Returns the attributes of a request as text.
    fn attributes(
        request: ::http::request::Builder,
        method: &'static str,
        base: Option<&Uri>,
        sensitive: Option<&SensitiveParameters>,
    ) -> Vec<String> {
        let (request, ()) = request.body(()).expect("a valid request").into_parts();
        let server = Server::in_uri(&request.uri).or_else(|| Server::in_uri(base?));
        let mut kept = ClientRequest::new(method, base.map(|_| 2));
        kept.read(&request, server, base, sensitive);
        let mut attributes = Vec::new();
        let mut add = |key, value: AttributeValue<'_>| {
            attributes.push(format!("{key}={}", value.attribute(key).value));
        };
        kept.attributes_for_samplers(&mut add);
        kept.other_attributes(&mut add);
        attributes
    }

    #[test]
    fn a_url_is_recorded_without_its_credentials() {
        let sensitive = SensitiveParameters::default();
        let url = |uri: &str, base: Option<&Uri>, sensitive| {
            let request = ::http::Request::get(uri);
            let attributes = attributes(request, "GET", base, sensitive);
            let url = attributes
                .iter()
                .find_map(|one| one.strip_prefix("url.full="));
            url.map(str::to_owned)
        };
        for (uri, expected) in [
            ("http://a/b?c=d", Some("http://a/b?c=d")),
            ("https://a:8443", Some("https://a:8443/")),
            (
                "https://user:secret@a/b?sig=secret&c=d",
                Some("https://REDACTED:REDACTED@a/b?sig=REDACTED&c=d"),
            ),
            ("/b", None),
            ("a:443", None),
        ] {
            assert_eq!(url(uri, None, Some(&sensitive)).as_deref(), expected);
        }
        assert_eq!(
            url("http://a/b?c=d", None, None).as_deref(),
            Some("http://a/b")
        );
        let base = "http://a/b?c=d".parse().expect("a valid URI");
        let of_base = url("/b?c=d", Some(&base), Some(&sensitive));
        assert_eq!(of_base.as_deref(), Some("http://a/b?c=d"));
        let long = format!("http://{}/b", "h".repeat(MAX_AUTHORITY + 1));
        let cut = format!("http://{}…/b", "h".repeat(MAX_HOST - "…".len()));
        assert_eq!(url(&long, None, None), Some(cut));
    }

    #[test]
    fn a_request_is_described_by_its_server_method_and_url() {
        let request = ::http::Request::builder().method("BREW");
        let request = request.uri("https://user@[::1]/pot");
        assert_eq!(
            attributes(request, OTHER, None, None),
            [
                "server.address=::1",
                "server.port=443",
                "http.request.method=_OTHER",
                "url.full=https://REDACTED:REDACTED@[::1]/pot",
                "http.request.method_original=BREW",
            ]
        );
        // A CONNECT request has no URL.
        let request = ::http::Request::connect("a:8443");
        assert_eq!(
            attributes(request, "CONNECT", None, None),
            [
                "server.address=a",
                "server.port=8443",
                "http.request.method=CONNECT",
            ]
        );
        let request = ::http::Request::get("/b");
        assert_eq!(
            attributes(request, "GET", None, None),
            ["http.request.method=GET"]
        );
        // A URI with an empty host is sent to the server of the client.
        let base = "http://a".parse().expect("a valid URI");
        let request = ::http::Request::get("http://:8080/b");
        assert_eq!(
            attributes(request, "GET", Some(&base), None),
            [
                "server.address=a",
                "server.port=80",
                "http.request.method=GET",
                "url.full=http://:8080/b",
                "http.request.resend_count=2",
            ]
        );
    }
}
