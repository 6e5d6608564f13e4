//! The answer of a receiver: accepted, rejected, or a failure that may be retried.

use std::io::Read;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::DecodePaddingMode::Indifferent;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, StatusCode};
use prost::Message;

use crate::otlp::connection;
use crate::semconv::rpc::Code;
use crate::stats::Failure;

/// Bound of an answer, in bytes. A longer one is not from a receiver of telemetry.
pub(crate) const MAX_ANSWER: usize = 4 * 1024 * 1024;

pub(crate) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Why an attempt failed.
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
    /// Nothing may be sent before.
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
        Self::new(Failure::Timeout, "no answer in time", Retry::Never)
    }

    pub(crate) fn no_receiver(detail: &str) -> Self {
        Self::new(Failure::NoReceiver, detail, Retry::Never)
    }

    pub(crate) fn connection(error: &(dyn std::error::Error + 'static)) -> Self {
        let (failure, detail) = connection::failure(error);
        Self::new(failure, detail, Retry::Soon)
    }
}

pub(crate) fn grpc_message(frame: &Bytes, headers: &HeaderMap) -> Result<Bytes, AttemptError> {
    let message = || {
        let &[flag, a, b, c, d] = frame.first_chunk()?;
        let message = frame.slice(5..);
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        match flag {
            _ if message.len() != length => None,
            0 => Some(message),
            1 if headers.get(GRPC_ENCODING)? == "gzip" => {
                let limit = u64::try_from(MAX_ANSWER).ok()?;
                let mut plain = Vec::new();
                let mut decoder = GzDecoder::new(&*message).take(limit);
                decoder.read_to_end(&mut plain).ok()?;
                Some(plain.into())
            }
            _ => None,
        }
    };
    message().ok_or_else(|| AttemptError::no_receiver("the answer is not one gRPC message"))
}

/// What an HTTP status says (OTLP specification, "OTLP/HTTP Response").
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

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// What a gRPC status says (OTLP specification, "OTLP/gRPC Response").
pub(crate) fn failed(code: Code, trailers: &HeaderMap) -> AttemptError {
    let name = code.name();
    let asked = retry_delay(trailers);
    let retry = match (name, asked) {
        (
            "CANCELLED" | "DEADLINE_EXCEEDED" | "ABORTED" | "OUT_OF_RANGE" | "UNAVAILABLE"
            | "DATA_LOSS" | "RESOURCE_EXHAUSTED",
            Some(quiet),
        ) => Retry::After(quiet),
        // Exhausted for good, unless the receiver says when it may be tried again.
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

/// `google.rpc.RetryInfo` among the details of a status.
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
