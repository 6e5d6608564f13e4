//! One attempt to send a message.

use std::error::Error;
use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::write::GzEncoder;
use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::response::Parts;
use http::{HeaderMap, HeaderName, Request};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tokio::time::Instant;

use crate::config::settings::{Compression, Protocol};
use crate::otlp::client::OtlpClient;
use crate::otlp::first_bytes::{GRPC_ONLY, NO_GRPC, TLS_ONLY};
use crate::otlp::http_client::ResponseBody;
use crate::otlp::messages;
use crate::otlp::response::{
    self, AttemptError, GRPC_ENCODING, MAX_RESPONSE, Retry, failed, grpc_message, refused,
};
use crate::otlp::retention::Retention;
use crate::semconv::rpc::Code;

/// Headers that describe how a message is sent. A configured value would contradict the message,
/// and the receiver would refuse it.
const FRAMING: [HeaderName; 8] = [
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    GRPC_ENCODING,
];

/// The number of bytes that are compressed between two pauses, in about 0.4 ms. After each pause, the
/// encoder's tables must be loaded into the caches of the processor again.
const GZIP_PART: usize = 64 * 1024;

/// The maximum length of an error page that is searched for known texts, in bytes.
const MAX_PAGE: usize = 8 * 1024;

impl OtlpClient {
    /// Returns a message as it is sent: compressed, and framed for gRPC.
    pub(crate) fn compress_and_frame(&self, mut body: Vec<u8>, retention: &Retention) -> Bytes {
        let compresses = self.compression == Compression::Gzip;
        if compresses {
            body = gzip(&body, retention);
        }
        if self.protocol != Protocol::Grpc {
            return body.into();
        }
        let mut frame = BytesMut::with_capacity(5 + body.len());
        frame.put_u8(compresses.into());
        frame.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
        frame.put_slice(&body);
        frame.freeze()
    }

    pub(crate) async fn attempt(&self, body: Bytes) -> Result<Accepted, AttemptError> {
        self.post(body, self.request_headers()).await
    }

    /// Sends a message with these headers and reads the response.
    pub(crate) async fn post(
        &self,
        body: Bytes,
        headers: HeaderMap,
    ) -> Result<Accepted, AttemptError> {
        let mut request = Request::post(self.uri.clone())
            .body(Full::new(body))
            .map_err(|error| AttemptError::no_receiver(&error.to_string()))?;
        *request.headers_mut() = headers;
        let start = Instant::now();
        let failed_connection = |error: &(dyn Error + 'static)| {
            AttemptError::connection(self.connection.record_failure(error, start))
        };
        let response = self.connection.client().request(request).await;
        let (head, body) = response
            .map_err(|error| failed_connection(&*error))?
            .into_parts();
        self.connection.record_response();
        let is_grpc_response = has_type(&head.headers, "application/grpc");
        if !head.status.is_success() {
            return Err(self.refused(&head, body).await);
        }
        let body = Limited::new(body, MAX_RESPONSE).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return AttemptError::no_receiver("the response is too long");
            }
            failed_connection(&*error)
        })?;
        if self.protocol != Protocol::Grpc {
            if is_grpc_response {
                let error = AttemptError::no_receiver("the response comes from a gRPC server");
                return Err(error.with_hint(GRPC_ONLY));
            }
            return Ok(Accepted {
                headers: head.headers,
                body: body.to_bytes(),
            });
        }
        let trailers = body
            .trailers()
            .filter(|trailers| Code::in_headers(trailers).is_some());
        let trailers = trailers.unwrap_or(&head.headers).clone();
        match Code::in_headers(&trailers) {
            Some(code) if code.name() == "OK" => Ok(Accepted {
                body: grpc_message(&body.to_bytes(), &head.headers)?,
                headers: head.headers,
            }),
            Some(code) => Err(failed(code, &trailers)),
            None => {
                let error =
                    AttemptError::no_receiver("the response does not come from a gRPC server");
                let hint = (!is_grpc_response).then_some(NO_GRPC);
                Err(hint.into_iter().fold(error, AttemptError::with_hint))
            }
        }
    }

    /// Returns the failure for an unsuccessful status, with a hint on what to try.
    async fn refused(&self, head: &Parts, body: ResponseBody) -> AttemptError {
        let mut error = refused(head.status, &head.headers);
        let is_grpc_response = has_type(&head.headers, "application/grpc");
        // A gateway in front of a gRPC receiver uses none of these statuses.
        let is_unknown = [400, 404, 405, 415, 505].contains(&head.status.as_u16());
        match self.protocol {
            Protocol::Grpc if is_unknown && !is_grpc_response => error = error.with_hint(NO_GRPC),
            Protocol::Grpc => {}
            _ if is_grpc_response => error = error.with_hint(GRPC_ONLY),
            _ if head.status == 400 && self.uri.scheme_str() == Some("http") => {
                // Servers respond so to plain HTTP on a TLS port.
                let page = Limited::new(body, MAX_PAGE).collect().await;
                let page = page.map(|page| page.to_bytes()).unwrap_or_default();
                let page = String::from_utf8_lossy(&page);
                let words = ["HTTPS port", "HTTPS server", "SSL-enabled server port"];
                if words.iter().any(|words| page.contains(words)) {
                    error = error.with_hint(TLS_ONLY);
                }
            }
            _ => {}
        }
        if let Some((proxy, _)) = self.connection.forwarder() {
            error.detail = match head.status.as_u16() {
                407 => format!("the proxy {proxy} requires a user and a password in its URL"),
                _ => format!("{} through the proxy {proxy}", error.detail),
            };
            // Proxies respond so if they cannot reach the receiver. Receivers send no HTML.
            if head.status == 500 && has_type(&head.headers, "text/html") {
                error.retry = Retry::Soon;
            }
        }
        error
    }

    /// Returns the configured headers, without those that describe how a message is sent.
    pub(crate) fn configured_headers(&self) -> HeaderMap {
        let mut headers = match &self.headers_from {
            Some(callback) => callback.over(&self.headers),
            None => self.headers.clone(),
        };
        for name in &FRAMING {
            headers.remove(name);
        }
        headers
    }

    pub(crate) fn request_headers(&self) -> HeaderMap {
        const AGENT: &str = concat!("tower-telemetry/", env!("CARGO_PKG_VERSION"));
        let mut headers = self.configured_headers();
        let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
        set(USER_AGENT, AGENT);
        let encoding = match self.protocol {
            Protocol::Grpc => {
                set(TE, "trailers");
                if self.compression == Compression::Gzip {
                    // Some receivers compress the response as the request, even without this
                    // header.
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
        if let Some((_, Some(credentials))) = self.connection.forwarder() {
            headers.insert(PROXY_AUTHORIZATION, credentials.clone());
        }
        headers
    }

    pub(crate) fn rejected<Q: messages::Request>(
        &self,
        response: Accepted,
    ) -> Option<(i64, String)> {
        match self.protocol {
            Protocol::Grpc => Q::rejected(response.body),
            _ => response::rejected::<Q>(&response.headers, response.body),
        }
    }
}

/// The response of a receiver that accepted a message.
#[derive(Clone)]
pub(crate) struct Accepted {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

fn has_type(headers: &HeaderMap, content_type: &str) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(content_type.as_bytes()))
}

fn gzip(body: &[u8], retention: &Retention) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for part in body.chunks(GZIP_PART) {
        retention.pause();
        // Writing to a `Vec` cannot fail.
        let _ = encoder.write_all(part);
    }
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use flate2::read::GzDecoder;
    use opentelemetry_proto::tonic::collector::metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    };
    use prost::Message;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::proxy::Proxy;
    use crate::otlp::connection::{Connection, Origin, Tls};
    use crate::otlp::retries::{Retries, RetryPolicy};
    use crate::stats::Failure;

    fn client(uri: &str, protocol: Protocol, proxy: Option<Proxy>) -> OtlpClient {
        let uri: http::Uri = uri.parse().expect("a valid URI");
        let origin = Origin::new(&uri, protocol, Tls::default()).via(None, proxy);
        OtlpClient {
            connection: Arc::new(
                Connection::new(origin).expect("the connection has no certificate file"),
            ),
            uri,
            protocol,
            compression: Compression::None,
            headers: HeaderMap::new(),
            headers_from: None,
            timeout: Duration::from_secs(10),
            retries: Retries::new(Duration::from_secs(60)),
        }
    }

    /// Responds to each connection with fixed bytes, once the client has sent its first bytes.
    async fn serve(response: Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has free ports");
        let address = listener.local_addr().expect("the socket is bound");
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                let response = response.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    let _ = peer.read(&mut buffer).await;
                    let _ = peer.write_all(&response).await;
                    while let Ok(1..) = peer.read(&mut buffer).await {}
                });
            }
        });
        address
    }

    fn response(head: &str, body: &[u8]) -> Vec<u8> {
        let head = format!("HTTP/1.1 {head}content-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    }

    /// Sends a message, and returns how many items were rejected, or the failure.
    async fn send(client: &OtlpClient) -> Result<i64, AttemptError> {
        let message = client.compress_and_frame(vec![1, 2, 3], &Retention::default());
        let response = client.attempt(message).await?;
        let rejected = client.rejected::<ExportMetricsServiceRequest>(response);
        let rejected = rejected.ok_or_else(|| AttemptError::no_receiver("not a response"))?;
        Ok(rejected.0)
    }

    #[tokio::test]
    async fn configured_framing_headers_are_left_out() {
        for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
            let mut client = client("http://receiver.example/", protocol, None);
            let plain = client.request_headers();
            for name in FRAMING {
                client.headers.insert(name, HeaderValue::from_static("0"));
            }
            assert_eq!(client.request_headers(), plain, "{protocol:?}");
            let key = HeaderValue::from_static("secret");
            client.headers.insert("x-key", key.clone());
            assert_eq!(client.request_headers()["x-key"], key);
        }
    }

    #[test]
    fn other_threads_run_while_a_long_message_is_compressed() {
        let body = vec![0; 2 * GZIP_PART + 1];
        let retention = Retention::default();
        let compressed = gzip(&body, &retention);
        assert_eq!(retention.take_pauses(), 3);
        let mut decompressed = Vec::new();
        let mut decoder = GzDecoder::new(&*compressed);
        decoder
            .read_to_end(&mut decompressed)
            .expect("the output is gzip");
        assert_eq!(decompressed, body);
    }

    #[tokio::test]
    async fn other_threads_run_before_a_message_is_freed_and_before_it_is_sent() {
        let address = serve(response("200 OK\r\n", b"")).await;
        let client = client(&format!("http://{address}/"), Protocol::HttpProtobuf, None);
        let retention = Retention::default();
        let message = ExportMetricsServiceRequest::default();
        let outcome = client.export(message, RetryPolicy::IfTemporary, &retention);
        assert!(outcome.await.failure.is_none());
        assert_eq!(retention.take_pauses(), 2);
    }

    #[tokio::test]
    async fn every_success_status_counts_unless_the_body_is_a_web_page() {
        const PROTOBUF: &str = "content-type: application/x-protobuf\r\n";
        const JSON: &str = "content-type: application/json\r\n";
        const TEXT: &str = "content-type: text/plain; charset=utf-8\r\n";
        const HTML: &str = "content-type: text/html; charset=utf-8\r\n";
        const NONE: &str = "";
        let partial = ExportMetricsServiceResponse {
            partial_success: Some(ExportMetricsPartialSuccess {
                rejected_data_points: 3,
                error_message: "too old".to_owned(),
            }),
        };
        let partial = partial.encode_to_vec();
        let json = br#"{"partialSuccess":{"rejectedDataPoints":"3","errorMessage":"too old"}}"#;
        let snake = br#"{"partial_success":{"rejected_data_points":3}}"#;
        let nginx = b"<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to nginx!</title>\n";
        let login = b"\n  <html><body>Sign in</body></html>";
        let long = vec![b'a'; MAX_RESPONSE / 2];
        let table: Vec<(&str, &str, &[u8], Option<i64>)> = vec![
            // The Collector, Jaeger and Tempo respond with an empty message.
            ("200 OK", PROTOBUF, b"", Some(0)),
            ("200 OK", PROTOBUF, &partial, Some(3)),
            ("200 OK", PROTOBUF, b"\x0a\x00", Some(0)),
            (
                "200 OK",
                "content-type: application/protobuf\r\n",
                &partial,
                Some(3),
            ),
            (
                "200 OK",
                "content-type: application/octet-stream\r\n",
                &partial,
                Some(3),
            ),
            ("200 OK", NONE, &partial, Some(3)),
            ("202 Accepted", PROTOBUF, &partial, Some(3)),
            // The same in JSON, whatever the protocol.
            ("200 OK", JSON, br#"{"partialSuccess":{}}"#, Some(0)),
            ("200 OK", JSON, br#"{"partialSuccess":null}"#, Some(0)),
            ("200 OK", JSON, json, Some(3)),
            (
                "200 OK",
                "content-type: application/json; charset=utf-8\r\n",
                json,
                Some(3),
            ),
            ("200 OK", NONE, json, Some(3)),
            ("200 OK", TEXT, json, Some(3)),
            ("200 OK", JSON, snake, Some(3)),
            ("200 OK", PROTOBUF, json, Some(3)),
            // Prometheus, Loki and gateways respond with a status and a short text or nothing.
            ("200 OK", NONE, b"", Some(0)),
            ("202 Accepted", NONE, b"", Some(0)),
            ("202 Accepted", JSON, b"{}", Some(0)),
            ("200 OK", JSON, b"{ }\n", Some(0)),
            ("200 OK", JSON, b"[]", Some(0)),
            ("200 OK", JSON, b"null", Some(0)),
            ("200 OK", JSON, b"\"OK\"", Some(0)),
            ("200 OK", JSON, b"{broken", Some(0)),
            ("200 OK", JSON, br#"{"text":"Success","code":0}"#, Some(0)),
            ("200 OK", PROTOBUF, b"{}", Some(0)),
            ("200 OK", TEXT, b"ok", Some(0)),
            ("200 OK", TEXT, b"OK\n", Some(0)),
            ("200 OK", NONE, b"ok", Some(0)),
            ("200 OK", PROTOBUF, b"success", Some(0)),
            ("201 Created", TEXT, b"", Some(0)),
            ("200 OK", HTML, b"", Some(0)),
            // Responses of servers that are not receivers.
            ("200 OK", HTML, nginx, None),
            ("200 OK", HTML, b"ok", None),
            ("200 OK", TEXT, login, None),
            ("200 OK", NONE, nginx, None),
            ("200 OK", PROTOBUF, login, None),
            ("200 OK", PROTOBUF, b"\xff\xff\xff\xff", None),
            ("200 OK", TEXT, &long, None),
            ("200 OK", "content-type: application/grpc\r\n", b"", None),
            (
                "200 OK",
                "content-type: application/grpc\r\ngrpc-status: 12\r\n",
                b"",
                None,
            ),
        ];
        let protocols = [
            Protocol::HttpProtobuf,
            #[cfg(feature = "http-json")]
            Protocol::HttpJson,
        ];
        for protocol in protocols {
            for (status, content_type, body, expected) in &table {
                let mut forms = vec![(format!("{status}\r\n{content_type}"), body.to_vec())];
                if !body.is_empty() && body.len() < 1024 {
                    let head = format!("{status}\r\n{content_type}content-encoding: gzip\r\n");
                    forms.push((head, gzip(body, &Retention::default())));
                }
                for (head, body) in forms {
                    let case = format!("{protocol:?} {head} {:?}", body.get(..body.len().min(80)));
                    let address = serve(response(&head, &body)).await;
                    let client = client(&format!("http://{address}/v1/metrics"), protocol, None);
                    let found = send(&client).await;
                    match expected {
                        Some(rejected) => assert_eq!(found, Ok(*rejected), "{case}"),
                        None => {
                            let error = found.expect_err(&case);
                            assert_eq!(error.failure, Failure::NoReceiver, "{case}");
                        }
                    }
                }
            }
            let address = serve(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await;
            let client = client(&format!("http://{address}/v1/metrics"), protocol, None);
            assert_eq!(send(&client).await, Ok(0));
        }
    }

    #[tokio::test]
    async fn a_failure_at_a_port_of_another_protocol_names_the_protocol_to_try() {
        const SETTINGS: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0x40, 0];
        const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 50];
        let bad = || response("400 Bad Request\r\n", b"400 Bad Request");
        let page = |text: &str| response("400 Bad Request\r\n", text.as_bytes());
        let go = page("Client sent an HTTP request to an HTTPS server.\n");
        let nginx = page("<title>400 The plain HTTP request was sent to HTTPS port</title>");
        let no_tls = "this port does not speak TLS; try an http:// endpoint";
        let (grpc, http) = (Protocol::Grpc, Protocol::HttpProtobuf);
        for (scheme, protocol, bytes, hint) in [
            ("http", grpc, bad(), Some(NO_GRPC)),
            (
                "http",
                grpc,
                response("505 Not Supported\r\n", b""),
                Some(NO_GRPC),
            ),
            ("http", grpc, ALERT.to_vec(), Some(TLS_ONLY)),
            ("http", http, SETTINGS.to_vec(), Some(GRPC_ONLY)),
            ("http", http, ALERT.to_vec(), Some(TLS_ONLY)),
            ("http", http, go, Some(TLS_ONLY)),
            ("http", http, nginx, Some(TLS_ONLY)),
            ("https", grpc, bad(), Some(no_tls)),
            ("https", http, bad(), Some(no_tls)),
            ("https", grpc, SETTINGS.to_vec(), Some(no_tls)),
            ("https", http, SETTINGS.to_vec(), Some(no_tls)),
            ("http", http, bad(), None),
            ("http", http, b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec(), None),
        ] {
            if scheme == "https" && cfg!(not(feature = "tls")) {
                continue;
            }
            let case = format!("{protocol:?} over {scheme}, {bytes:?}");
            let address = serve(bytes).await;
            let client = client(&format!("{scheme}://{address}/v1/metrics"), protocol, None);
            let error = send(&client)
                .await
                .expect_err("the server is not a receiver");
            let has_hint = hint.is_some_and(|hint| error.detail.ends_with(hint));
            assert_eq!(has_hint, hint.is_some(), "{case}: {error:?}");
            assert_eq!(
                error.detail.contains("this port"),
                has_hint,
                "{case}: {error:?}"
            );
        }
    }

    #[tokio::test]
    async fn requests_that_share_a_connection_fail_with_the_same_cause() {
        // The frame SETTINGS, and GOAWAY with ENHANCE_YOUR_CALM.
        const GO_AWAY: &[u8] = &[
            0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0x40, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 11,
        ];
        const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 50];
        for bytes in [&response("400 Bad Request\r\n", b"")[..], ALERT, GO_AWAY] {
            let address = serve(bytes.to_vec()).await;
            let client = client(&format!("http://{address}/"), Protocol::Grpc, None);
            let all = tokio::join!(send(&client), send(&client), send(&client));
            let [first, others @ ..] = <[_; 3]>::from(all);
            assert_eq!(others.each_ref(), [&first; 2], "{bytes:?}");
            let error = first.expect_err("the server is not a receiver");
            assert!(!error.detail.contains("canceled"), "{error:?}");
        }
    }

    /// Serves HTTP/2 with the same response to every request.
    async fn serve_http_2(status: u16, content_type: &'static str) -> SocketAddr {
        use hyper::body::Incoming;
        use hyper::service::service_fn;
        use hyper_util::rt::{TokioExecutor, TokioIo};

        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has free ports");
        let address = listener.local_addr().expect("the socket is bound");
        tokio::spawn(async move {
            while let Ok((peer, _)) = listener.accept().await {
                let service = service_fn(move |_: Request<Incoming>| async move {
                    let response = http::Response::builder().status(status);
                    let response = response.header(CONTENT_TYPE, content_type);
                    response.body(Full::<Bytes>::default())
                });
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(peer), service),
                );
            }
        });
        address
    }

    #[tokio::test]
    async fn an_http_2_server_without_grpc_is_recognised() {
        for (status, content_type, has_hint) in [
            (404, "text/plain", true),
            (415, "application/json", true),
            (200, "text/plain", true),
            (404, "application/grpc", false),
            (200, "application/grpc", false),
            (503, "text/html", false),
            (401, "text/plain", false),
        ] {
            let address = serve_http_2(status, content_type).await;
            let client = client(
                &format!("http://{address}/x.y/Export"),
                Protocol::Grpc,
                None,
            );
            let error = send(&client)
                .await
                .expect_err("the server is not a receiver");
            let case = format!("{status} {content_type}: {error:?}");
            assert_eq!(error.detail.ends_with(NO_GRPC), has_hint, "{case}");
            // The server does not speak HTTP/1.
            let uri = format!("http://{address}/v1/metrics");
            let client = self::client(&uri, Protocol::HttpProtobuf, None);
            let error = send(&client)
                .await
                .expect_err("the server does not speak HTTP/1");
            assert!(error.detail.ends_with(GRPC_ONLY), "{error:?}");
        }
    }

    fn proxy(address: SocketAddr) -> Option<Proxy> {
        Some(Proxy::parse(&format!("http://user:secret@{address}")).expect("the proxy is valid"))
    }

    #[tokio::test]
    async fn a_failure_at_a_proxy_names_the_proxy_without_its_password() {
        for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
            for (status, words, retry) in [
                (407, "a user and a password in its URL", Retry::Never),
                (403, "403", Retry::Never),
                (429, "429", Retry::Soon),
                (502, "502", Retry::Soon),
                (500, "500", Retry::Soon),
            ] {
                let head = format!("{status} No\r\ncontent-type: text/html\r\n");
                let address = serve(response(&head, b"<html>")).await;
                let uri = "http://receiver.example:4318/v1/metrics";
                let client = client(uri, protocol, proxy(address));
                // Two signals: one opens the connection, the other waits for it.
                for error in <[_; 2]>::from(tokio::join!(send(&client), send(&client))) {
                    let error = error.expect_err("the proxy rejects the request");
                    let case = format!("{protocol:?} {status}: {error:?}");
                    assert_eq!(error.failure, Failure::HttpStatus(status), "{case}");
                    assert_eq!(error.retry, retry, "{case}");
                    let name = format!("the proxy http://{address}");
                    assert!(error.detail.contains(&name), "{case}");
                    assert!(error.detail.contains(words), "{case}");
                    assert!(!case.contains("secret"), "{case}");
                }
            }
            let closed = TcpListener::bind("127.0.0.1:0")
                .await
                .expect("loopback has free ports");
            let address = closed.local_addr().expect("the socket is bound");
            drop(closed);
            let client = client("http://receiver.example:4318/", protocol, proxy(address));
            let error = send(&client).await.expect_err("no proxy listens");
            assert_eq!(error.failure, Failure::Refused, "{error:?}");
            let words = format!("the proxy http://{address} cannot be reached");
            assert!(error.detail.contains(&words), "{error:?}");
        }
    }
}
