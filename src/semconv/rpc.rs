//! gRPC server spans and metrics (RPC conventions, release candidate).

use ::http::header::CONTENT_TYPE;
use ::http::request::Parts;
use ::http::{HeaderMap, Method, StatusCode};
use opentelemetry::KeyValue;

use super::http::{peer, peer_attributes, server_attributes};
use super::{RPC_SYSTEM_NAME, truncate};

/// `rpc.system.name`
const SYSTEM: &str = "grpc";

/// Bound, in bytes, of `rpc.method_original`.
const MAX_METHOD: usize = 256;

/// Whether a request is a gRPC call: a POST with gRPC's content type (gRPC-Web has its own), to
/// a path that no route of an HTTP API claims. tonic's routes are `/package.Service/{*rest}`.
pub(super) fn is_grpc(request: &Parts) -> bool {
    request.method == Method::POST
        && has_grpc_content_type(&request.headers)
        && super::http::route(&request.extensions).is_none_or(|route| {
            route
                .rsplit('/')
                .next()
                .is_some_and(|last| last.starts_with("{*"))
        })
}

fn has_grpc_content_type(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    value
        .as_bytes()
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The name of a span: the method, or the system where the method is not known.
pub(crate) fn span_name(method: Option<&'static str>) -> &'static str {
    method.unwrap_or(SYSTEM)
}

/// The method that a request names, `package.Service/Method`.
pub(crate) fn method(request: &Parts) -> &str {
    let path = request.uri.path();
    path.strip_prefix('/').unwrap_or(path)
}

/// `rpc.method_original`
pub(crate) fn method_original(method: &str) -> String {
    truncate(method, MAX_METHOD).into_owned()
}

/// The attributes of a server span that are known when the call arrives.
pub(crate) fn request_attributes(request: &Parts, add: &mut dyn FnMut(KeyValue)) {
    add(KeyValue::new(RPC_SYSTEM_NAME, SYSTEM));
    server_attributes(request, add);
    if let Some(peer) = peer(&request.extensions) {
        peer_attributes(peer, add);
    }
}

/// `rpc.system.name`, as an attribute.
pub(crate) fn system() -> KeyValue {
    KeyValue::new(RPC_SYSTEM_NAME, SYSTEM)
}

/// The status of a gRPC call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Code(u8);

impl Code {
    pub(crate) const CANCELLED: Self = Self(1);
    pub(crate) const UNKNOWN: Self = Self(2);
    pub(crate) const INTERNAL: Self = Self(13);
    const PERMISSION_DENIED: Self = Self(7);
    const UNIMPLEMENTED: Self = Self(12);
    const UNAVAILABLE: Self = Self(14);
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

    /// The `grpc-status` of trailers, or of a head that is trailers at the same time.
    pub(crate) fn in_headers(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get("grpc-status")?.as_bytes();
        let code = match value {
            [digit @ b'0'..=b'9'] => digit - b'0',
            [b'1', digit @ b'0'..=b'6'] => 10 + digit - b'0',
            _ => return Some(Self::UNKNOWN),
        };
        Some(Self(code))
    }

    /// What a client makes of an answer without `grpc-status`.
    pub(crate) fn from_http_status(status: StatusCode) -> Self {
        match status.as_u16() {
            400 | 431 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 | 502 | 503 | 504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }

    /// `rpc.response.status_code`
    pub(crate) fn name(self) -> &'static str {
        Self::NAMES[usize::from(self.0)]
    }

    /// Whether the code is an error of the server: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED,
    /// INTERNAL, UNAVAILABLE, DATA_LOSS.
    pub(crate) fn is_server_error(self) -> bool {
        matches!(self.0, 2 | 4 | 12 | 13 | 14 | 15)
    }

    /// Whether the answer shows that the server has the method.
    pub(crate) fn knows_method(self) -> bool {
        self != Self::UNIMPLEMENTED
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
    fn grpc_is_told_by_its_content_type() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&request(content_type)), expected, "{content_type}");
        }
    }

    #[test]
    fn a_status_is_read_or_unknown() {
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
            headers.insert("grpc-status", value.parse().expect("a valid value"));
            let code = Code::in_headers(&headers).map(Code::name);
            assert_eq!(code, Some(expected), "{value:?}");
        }
        assert_eq!(Code::in_headers(&HeaderMap::new()), None);
    }

    #[test]
    fn only_the_codes_of_the_convention_are_errors_of_the_server() {
        let errors: Vec<_> = (0..17)
            .map(Code)
            .filter(|code| code.is_server_error())
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
