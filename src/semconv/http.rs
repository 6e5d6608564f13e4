//! HTTP conventions: span names, methods, routes and captured headers.

use ::http::header::HeaderName;
use ::http::request::Parts;
use ::http::{Extensions, HeaderMap, Uri};
use opentelemetry::{Array, StringValue, Value};

use crate::semconv::names::OTHER;
use crate::semconv::text::lossy_text;

/// Limits of a captured header: the number of values, and the bytes of each value.
const MAX_HEADER_VALUES: usize = 8;
const MAX_HEADER_VALUE: usize = 256;

/// The known methods (HTTP spans, `http.request.method`) by default.
pub(crate) const KNOWN_METHODS: [&str; 10] = [
    "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE", "QUERY",
];

/// Returns the name of a server span.
pub(crate) fn span_name(method: &'static str, route: Option<&str>) -> String {
    let method = if method == OTHER { "HTTP" } else { method };
    match route {
        Some(route) => format!("{method} {route}"),
        None => method.to_owned(),
    }
}

/// Returns `http.route`: the template that axum's router matched.
#[inline]
pub(crate) fn matched_route(extensions: &Extensions) -> Option<&str> {
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

/// Returns the URI that the client sent, if axum's router removed a prefix from its path.
#[inline]
pub(crate) fn original_uri(request: &Parts) -> Option<&Uri> {
    #[cfg(feature = "axum")]
    {
        let original = request.extensions.get::<axum::extract::OriginalUri>();
        original.map(|original| &original.0).filter(|original| {
            let (original, routed) = (original.path(), request.uri.path());
            // Without a prefix, both paths share their text, so the pointers are equal.
            !std::ptr::eq(original, routed) && original != routed
        })
    }
    #[cfg(not(feature = "axum"))]
    {
        let _ = request;
        None
    }
}

/// Returns the values of a captured header; `None` if there is no value that may be recorded.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_named_by_method_and_route() {
        assert_eq!(span_name("GET", Some("/a/{b}")), "GET /a/{b}");
        assert_eq!(span_name("GET", None), "GET");
        assert_eq!(span_name(OTHER, Some("/a")), "HTTP /a");
        assert_eq!(span_name(OTHER, None), "HTTP");
    }
}
