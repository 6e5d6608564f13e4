//! One OTLP export: cut to size, encode, send, judge the answer, try again where that can help.

use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::DecodePaddingMode::Indifferent;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use bytes::{BufMut, Bytes, BytesMut};
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, TE, USER_AGENT};
use http::{HeaderMap, HeaderName, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use prost::Message;
use tokio::time::{Instant, sleep, timeout};

use crate::config::settings::{Compression, Protocol};
use crate::otlp::connection::{self, Connection, MAX_QUIET};
use crate::otlp::messages;
use crate::otlp::outcome::Outcome;
use crate::semconv::{self, rpc::Code};
use crate::stats::Failure;

/// Receivers of gRPC take 4 MiB, unless told otherwise.
const MAX_MESSAGE: usize = 3584 * 1024;

/// An answer says little; a longer one is not from a receiver of telemetry.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Attempts at one export, and the pauses between them, doubled each time.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Sends the telemetry of one signal to its receiver.
pub(crate) struct OtlpClient {
    pub(crate) connection: Arc<Connection>,
    pub(crate) uri: Uri,
    pub(crate) protocol: Protocol,
    pub(crate) compression: Compression,
    pub(crate) headers: HeaderMap,
    /// For one message, all attempts together.
    pub(crate) timeout: Duration,
}

/// Why an attempt failed.
#[derive(Debug, PartialEq)]
struct AttemptError {
    failure: Failure,
    detail: String,
    retry: Retry,
}

#[derive(Debug, PartialEq)]
enum Retry {
    Never,
    Soon,
    /// Nothing may be sent before.
    After(Duration),
}

impl AttemptError {
    fn new(failure: Failure, detail: impl Into<String>, retry: Retry) -> Self {
        Self {
            failure,
            detail: detail.into(),
            retry,
        }
    }

    fn timeout() -> Self {
        Self::new(Failure::Timeout, "no answer in time", Retry::Never)
    }

    fn no_receiver(detail: &str) -> Self {
        Self::new(Failure::NoReceiver, detail, Retry::Never)
    }

    fn connection(error: &(dyn std::error::Error + 'static)) -> Self {
        let (failure, detail) = connection::failure(error);
        Self::new(failure, detail, Retry::Soon)
    }
}

impl OtlpClient {
    /// Sends a message, in parts where it is too large, and says what became of what it holds.
    pub(crate) async fn export<Q: messages::Request>(&self, message: Q) -> Outcome {
        let mut outcome = Outcome::default();
        let mut parts = vec![message];
        while let Some(mut part) = parts.pop() {
            let items = part.count();
            let count = items as u64;
            let Some(body) = self.encode(&part) else {
                if items > 1 {
                    parts.push(part.split_off(items / 2));
                    parts.push(part);
                } else {
                    let detail = format!(
                        "one alone is larger than {MAX_MESSAGE} bytes, or cannot be written"
                    );
                    outcome.lose(count, Failure::TooLarge, detail);
                }
                continue;
            };
            match self.send::<Q>(self.packed(body)).await {
                Ok((rejected, reason)) => {
                    let rejected = u64::try_from(rejected).unwrap_or(0).min(count);
                    let reason = semconv::truncate(&reason, 256);
                    outcome.exported += count - rejected;
                    if rejected > 0 {
                        let detail = format!("the receiver rejected some: {reason}");
                        outcome.lose(rejected, Failure::Rejected, detail);
                    } else if !reason.is_empty() {
                        outcome.warning = Some(reason.into_owned());
                    }
                }
                Err(error) => outcome.lose(count, error.failure, error.detail),
            }
        }
        outcome
    }

    /// Sends one message within the timeout, and says how many the receiver rejected of it.
    async fn send<Q: messages::Request>(&self, body: Bytes) -> Result<(i64, String), AttemptError> {
        let give_up = Instant::now() + MAX_QUIET;
        let mut budget = self.timeout;
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        let mut previous = None;
        loop {
            // It is the receiver who wants this; it does not use up the time for the export.
            self.connection.may_be_used().await;
            let start = Instant::now();
            let error = match timeout(budget, self.attempt(body.clone())).await {
                Ok(Ok(answer)) => {
                    return self.rejected::<Q>(answer).ok_or_else(|| {
                        AttemptError::no_receiver("the answer is not that of an OTLP receiver")
                    });
                }
                Ok(Err(error)) => error,
                // What little time was left proves nothing.
                Err(_) if budget < self.timeout / 2 && previous.is_some() => {
                    return Err(previous.unwrap_or_else(AttemptError::timeout));
                }
                Err(_) => {
                    self.connection.renew();
                    AttemptError::timeout()
                }
            };
            let wait = match error.retry {
                Retry::Never => return Err(error),
                Retry::Soon => pause + jitter(),
                Retry::After(quiet) => {
                    self.connection
                        .keep_quiet(quiet.max(pause).saturating_add(jitter()));
                    pause = (pause * 2).min(self.timeout);
                    if Instant::now() >= give_up {
                        return Err(error);
                    }
                    previous = Some(error);
                    continue;
                }
            };
            budget = budget.saturating_sub(start.elapsed());
            if attempt == ATTEMPTS || wait >= budget {
                return Err(error);
            }
            sleep(wait).await;
            budget = budget.saturating_sub(wait);
            attempt += 1;
            pause *= 2;
            previous = Some(error);
        }
    }

    /// `None` where the message is too large, or cannot be written.
    fn encode<Q: messages::Request>(&self, message: &Q) -> Option<Vec<u8>> {
        match self.protocol {
            Protocol::Grpc | Protocol::HttpProtobuf => message.encode(MAX_MESSAGE),
            #[cfg(feature = "http-json")]
            Protocol::HttpJson => message.to_json(MAX_MESSAGE),
        }
    }

    /// A message as it travels: compressed, and framed for gRPC.
    fn packed(&self, body: Vec<u8>) -> Bytes {
        let compresses = self.compression == Compression::Gzip;
        let body = if compresses { gzip(&body) } else { body };
        if self.protocol != Protocol::Grpc {
            return body.into();
        }
        let mut frame = BytesMut::with_capacity(5 + body.len());
        frame.put_u8(compresses.into());
        frame.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
        frame.put_slice(&body);
        frame.freeze()
    }

    async fn attempt(&self, body: Bytes) -> Result<Bytes, AttemptError> {
        let mut request = Request::post(self.uri.clone())
            .body(Full::new(body))
            .map_err(|error| AttemptError::no_receiver(&error.to_string()))?;
        *request.headers_mut() = self.request_headers();
        let response = self.connection.client().request(request).await;
        let (head, body) = response
            .map_err(|error| AttemptError::connection(&error))?
            .into_parts();
        if !head.status.is_success() {
            return Err(refused(head.status, &head.headers));
        }
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return AttemptError::no_receiver("the answer has no end");
            }
            AttemptError::connection(&*error)
        })?;
        if self.protocol != Protocol::Grpc {
            return Ok(body.to_bytes());
        }
        let trailers = body
            .trailers()
            .filter(|trailers| Code::in_headers(trailers).is_some());
        let trailers = trailers.unwrap_or(&head.headers).clone();
        match Code::in_headers(&trailers) {
            Some(code) if code.name() == "OK" => grpc_message(&body.to_bytes(), &head.headers),
            Some(code) => Err(failed(code, &trailers)),
            None => Err(AttemptError::no_receiver(
                "the answer is not that of a gRPC server",
            )),
        }
    }

    fn request_headers(&self) -> HeaderMap {
        const AGENT: &str = concat!("tower-telemetry/", env!("CARGO_PKG_VERSION"));
        let mut headers = self.headers.clone();
        let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
        set(USER_AGENT, AGENT);
        let encoding = match self.protocol {
            Protocol::Grpc => {
                set(TE, "trailers");
                if self.compression == Compression::Gzip {
                    // Some answer in the encoding of the request, whether it is asked for or not.
                    set(HeaderName::from_static("grpc-accept-encoding"), "gzip");
                }
                GRPC_ENCODING
            }
            _ => CONTENT_ENCODING,
        };
        let content_type = match self.protocol {
            Protocol::Grpc => "application/grpc",
            Protocol::HttpProtobuf => "application/x-protobuf",
            #[cfg(feature = "http-json")]
            Protocol::HttpJson => "application/json",
        };
        set(CONTENT_TYPE, content_type);
        if self.compression == Compression::Gzip {
            set(encoding, "gzip");
        }
        headers
    }

    fn rejected<Q: messages::Request>(&self, answer: Bytes) -> Option<(i64, String)> {
        match self.protocol {
            Protocol::Grpc | Protocol::HttpProtobuf => Q::rejected(answer),
            #[cfg(feature = "http-json")]
            Protocol::HttpJson => messages::rejected_in_json(&answer),
        }
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing to a vector does not fail.
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default()
}

fn grpc_message(frame: &Bytes, headers: &HeaderMap) -> Result<Bytes, AttemptError> {
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
fn refused(status: StatusCode, headers: &HeaderMap) -> AttemptError {
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
fn failed(code: Code, trailers: &HeaderMap) -> AttemptError {
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

/// Keeps clients that failed together from coming back together.
fn jitter() -> Duration {
    Duration::from_millis(RandomState::new().hash_one(()) % 100)
}
