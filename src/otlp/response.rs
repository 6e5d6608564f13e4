//! The response of a receiver: accepted, rejected, or a failure that may be retried.

use std::io::Read;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::DecodePaddingMode::Indifferent;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, StatusCode};
use prost::Message;
use serde_json::Value;

use crate::otlp::failure::AttemptFailure;
use crate::otlp::messages;
use crate::semconv::rpc::Code;
use crate::stats::Failure;

/// The maximum length of a response in bytes. OTLP receivers send shorter responses.
pub(crate) const MAX_RESPONSE: usize = 4 * 1024 * 1024;

/// The maximum length of a response that is plain text, in bytes.
const MAX_TEXT: usize = 64 * 1024;

pub(crate) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// The reason why an attempt failed.
#[derive(Debug, PartialEq)]
pub(crate) struct AttemptError {
    pub(crate) failure: Failure,
    pub(crate) detail: String,
    pub(crate) retry: Retry,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Retry {
    Never,
    Soon,
    /// Retry after this time. Until then, nothing may be sent.
    After(Duration),
}

impl AttemptError {
    pub(crate) fn new(failure: Failure, detail: impl Into<String>, retry: Retry) -> Self {
        Self {
            failure,
            detail: detail.into(),
            retry,
        }
    }

    pub(crate) fn timeout() -> Self {
        Self::new(Failure::Timeout, "no response in time", Retry::Soon)
    }

    pub(crate) fn no_receiver(detail: &str) -> Self {
        Self::new(Failure::NoReceiver, detail, Retry::Never)
    }

    pub(crate) fn connection(found: AttemptFailure) -> Self {
        let retry = if found.is_final {
            Retry::Never
        } else {
            Retry::Soon
        };
        Self::new(found.kind, found.message, retry)
    }

    /// Appends a hint on what to try.
    pub(crate) fn with_hint(mut self, hint: &str) -> Self {
        self.detail = format!("{}; {hint}", self.detail);
        self
    }
}

/// Returns how many items a response rejects, and why; `None` if the response does not come from an
/// OTLP receiver.
///
/// The specification requires protobuf, or JSON for JSON. Receivers, gateways and proxies also
/// respond with nothing, `{}`, `ok`, or the other encoding. The status already means that the
/// message was accepted, so only web pages and undecodable bytes are refused.
pub(crate) fn rejected<Q: messages::Request>(
    headers: &HeaderMap,
    body: Bytes,
) -> Option<(i64, String)> {
    const NOTHING: (i64, String) = (0, String::new());

    let body = match headers.get(CONTENT_ENCODING) {
        Some(encoding) if encoding == "gzip" => gunzip(&body)?,
        _ => body,
    };
    let content_type = headers.get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or("").trim().to_ascii_lowercase();
    let is = |prefix: &str| content_type.starts_with(prefix);
    if is("application/grpc") {
        return None;
    }
    let text = body.trim_ascii();
    if text.is_empty() {
        return Some(NOTHING);
    }
    if is("text/html") || is("application/xhtml") || text.starts_with(b"<") {
        return None;
    }
    // No OTLP message begins with a brace: in protobuf, it would start a group.
    if text.starts_with(b"{")
        && let Ok(Value::Object(fields)) = serde_json::from_slice(text)
    {
        return Some(rejected_in_json(&fields));
    }
    if !is("text/")
        && !is("application/json")
        && let Some(rejected) = Q::rejected(body.clone())
    {
        return Some(rejected);
    }
    let is_text = std::str::from_utf8(text).is_ok_and(|text| {
        let is_odd = |letter: char| letter.is_control() && !letter.is_ascii_whitespace();
        !text.contains(is_odd)
    });
    (is_text && text.len() <= MAX_TEXT).then_some(NOTHING)
}

/// Reads a JSON response. Its fields are the same for all signals.
fn rejected_in_json(response: &serde_json::Map<String, Value>) -> (i64, String) {
    // Protobuf parsers accept both spellings of a name.
    fn field<'a>(of: &'a serde_json::Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
        names.iter().find_map(|name| of.get(*name))
    }

    let partial = field(response, &["partialSuccess", "partial_success"]);
    let Some(Value::Object(partial)) = partial else {
        return (0, String::new());
    };
    let rejected = field(
        partial,
        &[
            "rejectedSpans",
            "rejectedDataPoints",
            "rejectedLogRecords",
            "rejected_spans",
            "rejected_data_points",
            "rejected_log_records",
        ],
    );
    // 64-bit numbers are strings in protobuf's JSON, but some receivers write numbers.
    let rejected = rejected.and_then(|number| match number {
        Value::String(text) => text.parse().ok(),
        number => number.as_i64(),
    });
    let reason = field(partial, &["errorMessage", "error_message"]).and_then(Value::as_str);
    (rejected.unwrap_or(0), reason.unwrap_or("").to_owned())
}

fn gunzip(packed: &[u8]) -> Option<Bytes> {
    let limit = u64::try_from(MAX_RESPONSE).ok()?;
    let mut plain = Vec::new();
    let mut decoder = GzDecoder::new(packed).take(limit);
    decoder.read_to_end(&mut plain).ok()?;
    Some(plain.into())
}

pub(crate) fn grpc_message(frame: &Bytes, headers: &HeaderMap) -> Result<Bytes, AttemptError> {
    let message = || {
        let &[flag, a, b, c, d] = frame.first_chunk()?;
        let message = frame.slice(5..);
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        match flag {
            _ if message.len() != length => None,
            0 => Some(message),
            1 if headers.get(GRPC_ENCODING)? == "gzip" => gunzip(&message),
            _ => None,
        }
    };
    message().ok_or_else(|| AttemptError::no_receiver("the response is not one gRPC message"))
}

/// Returns the failure for an HTTP status (OTLP specification, "OTLP/HTTP Response").
pub(crate) fn refused(status: StatusCode, headers: &HeaderMap) -> AttemptError {
    let retry = match status.as_u16() {
        429 | 502 | 503 | 504 => retry_after(headers).map_or(Retry::Soon, Retry::After),
        _ => Retry::Never,
    };
    let code = status.as_u16();
    AttemptError::new(
        Failure::HttpStatus(code),
        format!("HTTP status {code}"),
        retry,
    )
}

/// Returns the delay of `Retry-After`, which holds seconds or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Returns the failure for a gRPC status (OTLP specification, "OTLP/gRPC Response").
pub(crate) fn failed(code: Code, trailers: &HeaderMap) -> AttemptError {
    let name = code.name();
    let delay = retry_delay(trailers);
    let retry = match (name, delay) {
        (
            "CANCELLED" | "DEADLINE_EXCEEDED" | "ABORTED" | "OUT_OF_RANGE" | "UNAVAILABLE"
            | "DATA_LOSS" | "RESOURCE_EXHAUSTED",
            Some(delay),
        ) => Retry::After(delay),
        // The status is final, unless the receiver names a delay.
        ("RESOURCE_EXHAUSTED", None) => Retry::Never,
        (
            "CANCELLED" | "DEADLINE_EXCEEDED" | "ABORTED" | "OUT_OF_RANGE" | "UNAVAILABLE"
            | "DATA_LOSS",
            None,
        ) => Retry::Soon,
        _ => Retry::Never,
    };
    AttemptError::new(
        Failure::GrpcStatus(name),
        format!("gRPC status {name}"),
        retry,
    )
}

/// Returns the delay of `google.rpc.RetryInfo` in the details of a status.
fn retry_delay(trailers: &HeaderMap) -> Option<Duration> {
    #[derive(prost::Message)]
    struct Status {
        #[prost(message, repeated, tag = "3")]
        details: Vec<Any>,
    }
    #[derive(prost::Message)]
    struct Any {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes = "bytes", tag = "2")]
        value: Bytes,
    }
    #[derive(prost::Message)]
    struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        retry_delay: Option<Delay>,
    }
    #[derive(prost::Message)]
    struct Delay {
        #[prost(int64, tag = "1")]
        seconds: i64,
        #[prost(int32, tag = "2")]
        nanos: i32,
    }
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(Indifferent),
    );

    let details = trailers.get("grpc-status-details-bin")?;
    let status = Status::decode(&*BASE64.decode(details).ok()?).ok()?;
    let is_retry_info = |any: &&Any| any.type_url.ends_with("/google.rpc.RetryInfo");
    let info = status.details.iter().find(is_retry_info)?;
    let delay = RetryInfo::decode(&*info.value).ok()?.retry_delay?;
    let nanos = u32::try_from(delay.nanos)
        .ok()
        .filter(|n| *n < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(delay.seconds).ok()?, nanos))
}
