//! Header values: the formats of ids, and optional whitespace.

use http::header::HeaderValue;
use opentelemetry::trace::SpanContext;

use crate::propagation::hex;

/// Returns the trace id as a header value.
pub(crate) fn trace_id_value(span_context: &SpanContext) -> HeaderValue {
    let text: [u8; 32] = hex::encode(span_context.trace_id().to_bytes());
    legal_value(&text)
}

/// Returns a span context as `00-<trace id>-<span id>-<flags>`.
pub(crate) fn traceparent_text(span_context: &SpanContext) -> [u8; 55] {
    let mut text = *b"00-????????????????????????????????-????????????????-??";
    let trace_id: [u8; 32] = hex::encode(span_context.trace_id().to_bytes());
    let span_id: [u8; 16] = hex::encode(span_context.span_id().to_bytes());
    let flags: [u8; 2] = hex::encode([span_context.trace_flags().to_u8()]);
    text[3..35].copy_from_slice(&trace_id);
    text[36..52].copy_from_slice(&span_id);
    text[53..].copy_from_slice(&flags);
    text
}

/// Returns a text of digits, letters and punctuation as a header value. Such a text is always
/// legal.
pub(crate) fn legal_value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static(""))
}

/// Removes optional whitespace (RFC 9110) from both ends.
pub(crate) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
