//! Headers of OTLP requests.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::concurrent::caught::warn_once;
use crate::logs::emit_later;
use crate::providers::variables::ConfigWarning;

/// The maximum number of headers of a message. Receivers refuse larger heads.
pub(crate) const MAX_HEADERS: usize = 256;

/// Headers that describe the message or the connection (RFC 9110, sections 6 to 8 and 12; gRPC,
/// "Requests"). With a different value, the receiver would refuse the message.
const FRAMING: [&str; 21] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-timeout",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];

pub(crate) fn is_framing(name: &HeaderName) -> bool {
    FRAMING.contains(&name.as_str())
}

/// Returns the usable headers of those that were set in code with `origin`.
pub(crate) fn usable(
    origin: &str,
    mut headers: HeaderMap,
    warnings: &mut Vec<ConfigWarning>,
) -> HeaderMap {
    for name in FRAMING {
        if headers.remove(name).is_some() {
            warnings.push(ConfigWarning::new(origin, None, framing(name)));
        }
    }
    let mut usable = HeaderMap::new();
    let mut pairs = headers.iter();
    if !pairs.all(|(name, value)| add(&mut usable, name, value)) {
        warnings.push(ConfigWarning::new(origin, None, too_many()));
    }
    usable
}

/// Returns the warning for a framing header. Its name is one of [`FRAMING`], so it is not a secret.
pub(crate) fn framing(name: &str) -> String {
    format!("has {name}, which describes the message itself; it is ignored")
}

pub(crate) fn too_many() -> String {
    format!("has more than {MAX_HEADERS} headers; the others are ignored")
}

/// Adds a header and marks it as sensitive. Returns `false` if there are too many headers.
fn add(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) -> bool {
    let mut value = value.clone();
    value.set_sensitive(true);
    headers.len() < MAX_HEADERS && headers.try_append(name, value).is_ok()
}

/// A callback that returns headers for the next attempt to export.
#[derive(Clone)]
pub(crate) struct HeadersFrom(pub(crate) Arc<dyn Fn() -> HeaderMap + Send + Sync>);

impl HeadersFrom {
    /// Returns `fixed` with the callback's headers, which replace headers of the same names.
    /// Returns `fixed` unchanged if the callback panics.
    pub(crate) fn over(&self, fixed: &HeaderMap) -> HeaderMap {
        let mut headers = fixed.clone();
        let given = catch_unwind(AssertUnwindSafe(|| (self.0)())).unwrap_or_else(|_| {
            warn_of_panic();
            HeaderMap::new()
        });
        for name in given.keys().filter(|name| !is_framing(name)) {
            headers.remove(name);
            for value in given.get_all(name) {
                add(&mut headers, name, value);
            }
        }
        headers
    }
}

/// Warns about a callback that panicked, from a thread that no export waits for.
fn warn_of_panic() {
    emit_later(|| {
        warn_once!(
            "the callback of `with_headers_from` panicked; the message is sent without its headers"
        );
    });
}

impl fmt::Debug for HeadersFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a callback)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn a_callback_replaces_headers_by_name_except_framing_headers() {
        let fixed = map(&[("authorization", "old"), ("tenant", "1")]);
        let given = map(&[
            ("authorization", "new"),
            ("x-two", "1"),
            ("x-two", "2"),
            ("content-length", "0"),
            ("host", "elsewhere"),
        ]);
        let headers = HeadersFrom(Arc::new(move || given.clone())).over(&fixed);
        let expected = map(&[
            ("authorization", "new"),
            ("tenant", "1"),
            ("x-two", "1"),
            ("x-two", "2"),
        ]);
        assert_eq!(headers, expected);
        assert!(headers["authorization"].is_sensitive());
    }

    #[test]
    fn a_callback_that_panics_or_returns_too_many_headers_leaves_usable_headers() {
        let fixed = map(&[("authorization", "old")]);
        let panics = HeadersFrom(Arc::new(|| panic!("on purpose")));
        assert_eq!(panics.over(&fixed), fixed);
        let many = HeadersFrom(Arc::new(|| {
            let mut map = HeaderMap::new();
            for n in 0..20_000 {
                let name: HeaderName = format!("x-{n}").parse().expect("a legal name");
                map.append(name, HeaderValue::from_static("1"));
            }
            map
        }));
        assert_eq!(many.over(&fixed).len(), MAX_HEADERS);
    }
}
