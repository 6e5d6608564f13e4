//! One OTLP export: encode, send, judge the answer, try again where that can help.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, TE, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, sleep, timeout_at};

use super::config::Protocol;
use super::endpoint::Target;
use super::error::InitError;
use crate::semconv::rpc::Code;

#[cfg(feature = "tls")]
type Connector = hyper_rustls::HttpsConnector<HttpConnector>;
#[cfg(not(feature = "tls"))]
type Connector = HttpConnector;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer says little; a longer one is not from a receiver of telemetry.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Attempts at one export, and the pauses between them, doubled each time.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Sends the telemetry of one signal to its receiver.
pub(super) struct OtlpClient {
    client: Client<Connector, Full<Bytes>>,
    target: Target,
    headers: HeaderMap,
    timeout: Duration,
}

/// Why an export failed.
#[derive(Debug, PartialEq)]
pub(super) struct ExportError {
    pub(super) reason: String,
    retry: Retry,
}

#[derive(Debug, PartialEq)]
enum Retry {
    Never,
    /// After a pause of at least this.
    After(Duration),
}

impl ExportError {
    fn last(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            retry: Retry::Never,
        }
    }

    pub(super) fn panicked() -> Self {
        Self::last("the exporter panicked")
    }

    fn passing(reason: impl Into<String>, after: Duration) -> Self {
        Self {
            reason: reason.into(),
            retry: Retry::After(after),
        }
    }

    /// The connection failed; its own words say little, their sources more.
    fn connection(error: &dyn std::error::Error) -> Self {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            reason = format!("{reason}: {error}");
            source = error.source();
        }
        Self::passing(reason, Duration::ZERO)
    }
}

impl OtlpClient {
    pub(super) fn new(
        target: Target,
        headers: HeaderMap,
        timeout: Duration,
    ) -> Result<Self, InitError> {
        let connector = connector(&target)?;
        let client = Client::builder(TokioExecutor::new())
            .http2_only(target.protocol == Protocol::Grpc)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self {
            client,
            target,
            headers,
            timeout,
        })
    }

    /// Sends one message and returns the answer, within the timeout, all attempts together.
    pub(super) async fn export<Q, A>(&self, request: &Q) -> Result<A, ExportError>
    where
        Q: prost::Message,
        A: prost::Message + Default,
    {
        let body = match self.target.protocol {
            Protocol::Grpc => grpc_frame(request),
            Protocol::HttpProtobuf => request.encode_to_vec().into(),
        };
        let deadline = Instant::now() + self.timeout;
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let error = match timeout_at(deadline, self.attempt(body.clone())).await {
                Ok(Ok(answer)) => {
                    return A::decode(answer).map_err(|_| {
                        ExportError::last("the answer is not that of an OTLP receiver")
                    });
                }
                Ok(Err(error)) => error,
                Err(_) => return Err(ExportError::last("no answer in time")),
            };
            let Retry::After(at_least) = error.retry else {
                return Err(error);
            };
            let wait = at_least.max(pause).saturating_add(jitter());
            let left = deadline.saturating_duration_since(Instant::now());
            if attempt == ATTEMPTS || wait >= left {
                return Err(error);
            }
            sleep(wait).await;
            attempt += 1;
            pause *= 2;
        }
    }

    async fn attempt(&self, body: Bytes) -> Result<Bytes, ExportError> {
        let mut request = Request::post(self.target.uri.clone())
            .body(Full::new(body))
            .map_err(|error| ExportError::last(error.to_string()))?;
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        match self.target.protocol {
            Protocol::Grpc => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                headers.insert(TE, HeaderValue::from_static("trailers"));
            }
            Protocol::HttpProtobuf => {
                let content_type = HeaderValue::from_static("application/x-protobuf");
                headers.insert(CONTENT_TYPE, content_type);
            }
        }
        let response = self.client.request(request).await;
        let (head, body) = response
            .map_err(|error| ExportError::connection(&error))?
            .into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| ExportError::connection(&*error))?;
        if !head.status.is_success() {
            return Err(refused(head.status, &head.headers));
        }
        match self.target.protocol {
            Protocol::HttpProtobuf => Ok(body.to_bytes()),
            Protocol::Grpc => {
                let code = body.trailers().and_then(Code::in_headers);
                match code.or_else(|| Code::in_headers(&head.headers)) {
                    Some(code) if code.name() == "OK" => grpc_message(&body.to_bytes()),
                    Some(code) => Err(failed(code)),
                    None => Err(ExportError::last("the answer is not that of a gRPC server")),
                }
            }
        }
    }
}

const AGENT: &str = concat!("tower-telemetry/", env!("CARGO_PKG_VERSION"));

#[cfg(feature = "tls")]
fn connector(target: &Target) -> Result<Connector, InitError> {
    use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
    use rustls::{ClientConfig, RootCertStore, crypto::ring};

    // Named, because a program may well contain several providers.
    let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| InitError::RootCertificates(std::io::Error::other(error)))?;
    let tls = if target.uri.scheme_str() == Some("https") {
        tls.with_native_roots()
            .map_err(InitError::RootCertificates)?
    } else {
        tls.with_root_certificates(RootCertStore::empty())
    };
    let builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls.with_no_client_auth())
        .https_or_http();
    Ok(match target.protocol {
        Protocol::Grpc => builder.enable_http2().wrap_connector(tcp()),
        Protocol::HttpProtobuf => builder.enable_all_versions().wrap_connector(tcp()),
    })
}

#[cfg(not(feature = "tls"))]
fn connector(_: &Target) -> Result<Connector, InitError> {
    Ok(tcp())
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    // Whether `https` is allowed was decided when the endpoint was read.
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEP_ALIVE_INTERVAL));
    tcp.set_nodelay(true);
    tcp
}

/// A message as gRPC frames it: not compressed, and its length.
fn grpc_frame(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // It fails only where there is too little room.
    let _ = message.encode(&mut frame);
    frame.freeze()
}

fn grpc_message(frame: &Bytes) -> Result<Bytes, ExportError> {
    let length = match frame.get(..5) {
        Some(&[0, a, b, c, d]) => usize::try_from(u32::from_be_bytes([a, b, c, d])).ok(),
        _ => None,
    };
    match length {
        Some(length) if frame.len() == 5 + length => Ok(frame.slice(5..)),
        _ => Err(ExportError::last("the answer is not one gRPC message")),
    }
}

fn refused(status: StatusCode, headers: &HeaderMap) -> ExportError {
    let reason = format!("HTTP status {}", status.as_u16());
    match status.as_u16() {
        429 | 502 | 503 | 504 => {
            let seconds = headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.parse().ok());
            ExportError::passing(reason, Duration::from_secs(seconds.unwrap_or(0)))
        }
        _ => ExportError::last(reason),
    }
}

fn failed(code: Code) -> ExportError {
    let reason = format!("gRPC status {}", code.name());
    match code.name() {
        "CANCELLED" | "DEADLINE_EXCEEDED" | "ABORTED" | "OUT_OF_RANGE" | "UNAVAILABLE"
        | "DATA_LOSS" => ExportError::passing(reason, Duration::ZERO),
        _ => ExportError::last(reason),
    }
}

/// Keeps clients that failed together from coming back together.
fn jitter() -> Duration {
    Duration::from_millis(RandomState::new().hash_one(()) % 100)
}
