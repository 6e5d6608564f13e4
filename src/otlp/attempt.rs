//! One attempt to send a message.

use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, HeaderName, Request};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};

use crate::config::settings::{Compression, Protocol};
use crate::otlp::answer::{AttemptError, GRPC_ENCODING, MAX_ANSWER, failed, grpc_message, refused};
use crate::otlp::client::OtlpClient;
use crate::otlp::messages;
use crate::semconv::rpc::Code;

impl OtlpClient {
    /// A message as it travels: compressed, and framed for gRPC.
    pub(crate) fn packed(&self, body: Vec<u8>) -> Bytes {
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

    pub(crate) async fn attempt(&self, body: Bytes) -> Result<Bytes, AttemptError> {
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

    pub(crate) fn rejected<Q: messages::Request>(&self, answer: Bytes) -> Option<(i64, String)> {
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
