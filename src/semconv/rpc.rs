//! Conventions of gRPC spans and metrics (RPC conventions, stable).

use ::http::header::{CONTENT_TYPE, HeaderName, TE};
use ::http::request::Parts;
use ::http::{HeaderMap, Method, StatusCode, Uri, Version};
use opentelemetry::KeyValue;

use crate::request_headers::RequestHeaders;
use crate::semconv::address::{peer_address, peer_attributes, server_attributes};
use crate::semconv::forwarded::Forwarded;
use crate::semconv::http::matched_route;
use crate::semconv::names::{RPC_METHOD_ORIGINAL, RPC_SYSTEM_NAME};
use crate::semconv::server_request::server;
use crate::semconv::text::{prefix, truncate};
use crate::semconv::values::{AttributeValue, Side};

/// `rpc.system.name`
pub(crate) const SYSTEM: &str = "grpc";

/// The names are constants because parsing a header name is slow.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// `http.request.method` of every gRPC call.
pub(crate) const HTTP_METHOD: &str = "POST";

/// The maximum length of a method from a request, in bytes.
pub(crate) const MAX_METHOD: usize = 256;

/// Returns whether a request looks like a gRPC call: a POST with gRPC's content type to a path that
/// no HTTP route matches. tonic's routes are `/package.Service/{*rest}`.
#[inline]
pub(crate) fn is_call(request: &Parts) -> bool {
    request.method == Method::POST
        && has_grpc_content_type(&request.headers)
        && matched_route(&request.extensions).is_none_or(|route| {
            let last = route.rsplit('/').next();
            last.is_some_and(|last| last.starts_with("{*"))
        })
}

/// Returns whether the content type is gRPC or the binary form of gRPC-Web.
pub(crate) fn has_grpc_content_type(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    let rest = value.as_bytes().strip_prefix(b"application/grpc");
    let rest = rest.map(|rest| rest.strip_prefix(b"-web").unwrap_or(rest));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Returns whether the content type is the binary form of gRPC-Web.
pub(crate) fn is_web(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc-web"))
}

/// Returns whether a request looks like a request of a gRPC client, apart from its content type.
pub(crate) fn is_likely_call(request: &Parts) -> bool {
    request.version >= Version::HTTP_2 && request.headers.get(TE).is_some_and(|te| te == "trailers")
}

/// Returns the called method, `package.Service/Method`. It may be one byte longer than
/// [`MAX_METHOD`], so that [`truncate`] marks the cut.
pub(crate) fn called_method(uri: &Uri) -> &str {
    let path = uri.path();
    let method = path.strip_prefix('/').unwrap_or(path);
    prefix(method, MAX_METHOD + 1)
}

/// Returns the method at the end of a path with a prefix; `None` without a prefix.
pub(crate) fn without_prefix(method: &str) -> Option<&str> {
    let mut slashes = method.rmatch_indices('/').map(|(at, _)| at);
    Some(&method[slashes.nth(1)? + 1..])
}

/// Returns `rpc.method_original` as an attribute.
pub(crate) fn original_method_attribute(method: &str) -> KeyValue {
    KeyValue::new(
        RPC_METHOD_ORIGINAL,
        truncate(method, MAX_METHOD).into_owned(),
    )
}

/// Adds the attributes of a server span that are known when the call arrives, and that HTTP
/// requests have too.
pub(crate) fn request_attributes(
    request: &Parts,
    headers: &RequestHeaders<'_>,
    forwarded: &Forwarded<'_>,
    add: &mut impl FnMut(KeyValue),
) {
    let add = &mut |key, value: AttributeValue<'_>| add(value.attribute(key));
    if let Some((host, port)) = server(request, headers, forwarded) {
        server_attributes(host, port, add);
    }
    if let Some(peer) = peer_address(&request.extensions) {
        peer_attributes(peer, add);
    }
}

/// Returns `rpc.system.name` as an attribute.
pub(crate) fn system_attribute() -> KeyValue {
    KeyValue::new(RPC_SYSTEM_NAME, SYSTEM)
}

/// The status of a gRPC call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Code(pub(crate) u8);

impl Code {
    const OK: Self = Self(0);
    pub(crate) const CANCELLED: Self = Self(1);
    pub(crate) const UNKNOWN: Self = Self(2);
    pub(crate) const INTERNAL: Self = Self(13);
    pub(crate) const PERMISSION_DENIED: Self = Self(7);
    pub(crate) const RESOURCE_EXHAUSTED: Self = Self(8);
    const UNIMPLEMENTED: Self = Self(12);
    pub(crate) const UNAVAILABLE: Self = Self(14);
    const UNAUTHENTICATED: Self = Self(16);

    const NAMES: [&'static str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];

    /// Returns the `grpc-status` of trailers, or of a trailers-only response.
    pub(crate) fn in_headers(headers: &HeaderMap) -> Option<Self> {
        Some(Self::parse(headers.get(GRPC_STATUS)?.as_bytes()))
    }

    /// Parses a `grpc-status`.
    pub(crate) fn parse(value: &[u8]) -> Self {
        match value {
            [digit @ b'0'..=b'9'] => Self(digit - b'0'),
            [b'1', digit @ b'0'..=b'6'] => Self(10 + digit - b'0'),
            _ => Self::UNKNOWN,
        }
    }

    /// Returns the code of a tonic status.
    #[cfg(feature = "tonic")]
    pub(crate) fn from_status(status: &tonic::Status) -> Self {
        // tonic's enum has the numbers of the protocol.
        u8::try_from(i32::from(status.code())).map_or(Self::UNKNOWN, Self)
    }

    /// Returns the code that clients derive from a response without `grpc-status`, such as a
    /// response of a middleware that does not support gRPC.
    pub(crate) fn from_http_status(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 | 502 | 503 | 504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }

    /// Returns `rpc.status_code`.
    pub(crate) fn name(self) -> &'static str {
        Self::NAMES[usize::from(self.0)]
    }

    /// Returns whether the code is an error. For a client, every code except OK is an error. For a
    /// server, UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS are
    /// errors.
    pub(crate) fn is_error(self, side: Side) -> bool {
        match side {
            Side::Server => matches!(self.0, 2 | 4 | 12 | 13 | 14 | 15),
            Side::Client => !self.is_ok(),
        }
    }

    pub(crate) fn is_ok(self) -> bool {
        self == Self::OK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(content_type: &str) -> Parts {
        let request = ::http::Request::post("/a.B/C").header(CONTENT_TYPE, content_type);
        request.body(()).expect("a valid request").into_parts().0
    }

    #[test]
    fn grpc_is_recognised_by_its_content_type() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", true),
            ("application/grpc-web+proto", true),
            ("application/grpc-web-text", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            assert_eq!(is_call(&request(content_type)), expected, "{content_type}");
        }
    }

    #[test]
    fn an_invalid_status_is_unknown() {
        for (value, expected) in [
            ("0", "OK"),
            ("1", "CANCELLED"),
            ("9", "FAILED_PRECONDITION"),
            ("16", "UNAUTHENTICATED"),
            ("17", "UNKNOWN"),
            ("00", "UNKNOWN"),
            ("-1", "UNKNOWN"),
            ("abc", "UNKNOWN"),
            ("", "UNKNOWN"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", value.parse().expect("a legal value"));
            let code = Code::in_headers(&headers).map(Code::name);
            assert_eq!(code, Some(expected), "{value:?}");
        }
        assert_eq!(Code::in_headers(&HeaderMap::new()), None);
    }

    #[test]
    fn only_the_codes_of_the_convention_are_errors_of_the_server() {
        let errors: Vec<_> = (0..17)
            .map(Code)
            .filter(|code| code.is_error(Side::Server))
            .map(Code::name)
            .collect();
        assert_eq!(
            errors,
            [
                "UNKNOWN",
                "DEADLINE_EXCEEDED",
                "UNIMPLEMENTED",
                "INTERNAL",
                "UNAVAILABLE",
                "DATA_LOSS"
            ]
        );
    }
}
