//! Sends requests to a receiver, over connections that are kept for later requests.
//!
//! The client of hyper-util would need the feature `http2` of that crate for gRPC. With this feature,
//! `axum::serve` accepts HTTP/2 in every program that contains this crate.

use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync;
use tokio::time::{Instant, timeout};

use crate::otlp::connector::Connector;
use crate::otlp::dial::BoxError;

pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum time for which an unused HTTP/1 connection is kept.
const MAX_IDLE: Duration = Duration::from_secs(90);
/// The maximum time that a request waits for the rest of an earlier response on its connection.
const MAX_REST: Duration = Duration::from_millis(50);

/// Sends requests to one receiver.
#[derive(Clone)]
pub(crate) struct HttpClient {
    connector: Connector,
    is_grpc: bool,
    kept: Arc<Kept>,
}

/// The connections for later requests.
#[derive(Default)]
struct Kept {
    http1: Mutex<Vec<(Instant, Http1)>>,
    http2: Mutex<Option<(Http2, EndError)>>,
    /// Held while an HTTP/2 connection is opened, so that all signals share one.
    opening: sync::Mutex<()>,
}

struct Http1 {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Whether a proxy forwards the requests. It needs the whole URI.
    is_forwarded: bool,
}

type Http2 = http2::SendRequest<Full<Bytes>>;

enum Sender {
    Http1(Http1),
    Http2(Http2),
}

/// The error with which a connection ended. A request that was not sent yet does not return it.
type EndError = Arc<OnceLock<Arc<hyper::Error>>>;

impl HttpClient {
    pub(crate) fn new(connector: Connector, is_grpc: bool) -> Self {
        Self {
            connector,
            is_grpc,
            kept: Arc::default(),
        }
    }

    /// Sends a request and returns the response. Must run in a tokio runtime.
    ///
    /// If a kept connection turns out to be closed before the request is sent, another connection is
    /// used.
    pub(crate) async fn request(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<ResponseBody>, BoxError> {
        let uri = request.uri().clone();
        while let Some(sender) = self.kept().await {
            match self.send(sender, request).await {
                Ok(response) => return Ok(response),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
            *request.uri_mut() = uri.clone();
            *locked(&self.kept.http2) = None;
        }
        let (sender, end_error) = self.open(uri).await?;
        let sent = self.send(sender, request).await;
        sent.map_err(|error| {
            let error = error.into_error();
            match end_error.get().filter(|_| error.is_canceled()) {
                Some(end_error) => end_error.clone().into(),
                None => error.into(),
            }
        })
    }

    /// Returns a kept connection that can send a request now.
    async fn kept(&self) -> Option<Sender> {
        if let Some((http2, _)) = self.kept_http2() {
            return Some(Sender::Http2(http2));
        }
        loop {
            let (since, mut http1) = locked(&self.kept.http1).pop()?;
            if since.elapsed() < MAX_IDLE
                && let Ok(Ok(())) = timeout(MAX_REST, http1.sender.ready()).await
            {
                return Some(Sender::Http1(http1));
            }
        }
    }

    fn kept_http2(&self) -> Option<(Http2, EndError)> {
        let kept = locked(&self.kept.http2).clone();
        kept.filter(|(sender, _)| !sender.is_closed())
    }

    /// Opens a connection, or returns the one that another request has opened in the meantime.
    async fn open(&self, uri: Uri) -> Result<(Sender, EndError), BoxError> {
        let end_error = EndError::default();
        let start = Instant::now();
        let _opening;
        if self.is_grpc {
            _opening = self.kept.opening.lock().await;
            if let Some((http2, end_error)) = self.kept_http2() {
                return Ok((Sender::Http2(http2), end_error));
            }
            if self.connector.shared.failed_since(start).is_some() {
                return Err(io::Error::other("the connection of another request failed").into());
            }
        }
        let stream = self.connector.connect(uri).await?;
        let connected = stream.inner().connected();
        let sender = if self.is_grpc || connected.is_negotiated_h2() {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            let builder = builder
                .timer(TokioTimer::new())
                .keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
            let (sender, connection) = builder.handshake(stream).await?;
            run(connection, &end_error);
            *locked(&self.kept.http2) = Some((sender.clone(), end_error.clone()));
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await?;
            run(connection, &end_error);
            Sender::Http1(Http1 {
                sender,
                is_forwarded: connected.is_proxied(),
            })
        };
        Ok((sender, end_error))
    }

    async fn send(
        &self,
        sender: Sender,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<ResponseBody>, TrySendError<Request<Full<Bytes>>>> {
        match sender {
            Sender::Http2(mut sender) => {
                let response = sender.try_send_request(request).await?;
                Ok(response.map(|incoming| ResponseBody {
                    incoming,
                    _connection: None,
                }))
            }
            Sender::Http1(mut http1) => {
                write_target(&mut request, http1.is_forwarded);
                let response = http1.sender.try_send_request(request).await?;
                Ok(response.map(|incoming| ResponseBody {
                    incoming,
                    _connection: Some(KeepOnDrop {
                        http1: Some(http1),
                        kept: self.kept.clone(),
                    }),
                }))
            }
        }
    }
}

/// Runs a connection in the background, until its sender is dropped or the peer closes it.
fn run<C>(connection: C, end_error: &EndError)
where
    C: Future<Output = Result<(), hyper::Error>> + Send + 'static,
{
    let end_error = end_error.clone();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            let _ = end_error.set(Arc::new(error));
        }
    });
}

/// Writes the target of an HTTP/1 request: the header `host`, and the path or, for a proxy, the
/// whole URI (RFC 9112, sections 3.2.1 and 3.2.2).
fn write_target(request: &mut Request<Full<Bytes>>, is_forwarded: bool) {
    let uri = request.uri();
    let host = uri.host().unwrap_or_default();
    let default = if uri.scheme() == Some(&Scheme::HTTPS) {
        443
    } else {
        80
    };
    let host = match uri.port_u16().filter(|port| *port != default) {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let path = uri.path_and_query().cloned();
    if let Ok(host) = HeaderValue::try_from(host) {
        request.headers_mut().entry(HOST).or_insert(host);
    }
    if !is_forwarded {
        *request.uri_mut() = path.unwrap_or(PathAndQuery::from_static("/")).into();
    }
}

/// The body of a response. Its connection is kept for later requests when it is dropped.
pub(crate) struct ResponseBody {
    incoming: Incoming,
    _connection: Option<KeepOnDrop>,
}

struct KeepOnDrop {
    http1: Option<Http1>,
    kept: Arc<Kept>,
}

impl Drop for KeepOnDrop {
    fn drop(&mut self) {
        let kept = mem::take(&mut self.http1).filter(|http1| !http1.sender.is_closed());
        if let Some(http1) = kept {
            let mut kept = locked(&self.kept.http1);
            // The last connection is used first, so the others may never be used again.
            kept.retain(|(since, one)| since.elapsed() < MAX_IDLE && !one.sender.is_closed());
            kept.push((Instant::now(), http1));
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt;
    use hyper::server::conn::{http1, http2};
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::settings::Protocol;
    use crate::otlp::connection::{Connection, Origin, Tls};

    /// A server that counts its connections.
    struct Server {
        address: SocketAddr,
        connections: Arc<AtomicUsize>,
    }

    impl Server {
        async fn start<F: Future<Output = ()> + Send + 'static>(
            serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
        ) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await;
            let listener = listener.expect("loopback has free ports");
            let connections = Arc::new(AtomicUsize::new(0));
            let server = Self {
                address: listener.local_addr().expect("the listener has an address"),
                connections: connections.clone(),
            };
            tokio::spawn(async move {
                while let Ok((peer, _)) = listener.accept().await {
                    connections.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(peer));
                }
            });
            server
        }

        /// Responds with a status and a body.
        async fn responding(protocol: Protocol, status: u16, body: &'static str) -> Self {
            Self::start(move |peer| async move {
                let respond = service_fn(move |request: Request<Incoming>| async move {
                    let _ = request.into_body().collect().await;
                    Response::builder()
                        .status(status)
                        .body(Full::<Bytes>::from(body))
                });
                let peer = TokioIo::new(peer);
                let _ = match protocol {
                    Protocol::Grpc => {
                        let builder = http2::Builder::new(TokioExecutor::new());
                        builder.serve_connection(peer, respond).await
                    }
                    _ => http1::Builder::new().serve_connection(peer, respond).await,
                };
            })
            .await
        }

        fn client(&self, protocol: Protocol) -> HttpClient {
            let uri = self.uri("/");
            let origin = Origin::new(&uri, protocol, Tls::default());
            let connection = Connection::new(origin).expect("the client needs no file");
            connection.client()
        }

        fn uri(&self, path: &str) -> Uri {
            let uri = format!("http://{}{path}", self.address);
            uri.parse().expect("the address and the path are valid")
        }

        fn post(&self, path: &str) -> Request<Full<Bytes>> {
            let request = Request::post(self.uri(path)).body(Full::from("message"));
            request.expect("the request is valid")
        }

        fn connections(&self) -> usize {
            self.connections.load(Ordering::Relaxed)
        }
    }

    /// Sends a request, and returns the status of the response.
    async fn send(client: &HttpClient, server: &Server, reads_body: bool) -> u16 {
        let sent = client.request(server.post("/v1/traces")).await;
        let response = sent.expect("the server responds");
        let status = response.status().as_u16();
        if reads_body {
            let body = response.into_body().collect().await;
            body.expect("the server sends a body");
        }
        status
    }

    #[tokio::test]
    async fn requests_one_after_another_use_one_connection_whether_the_body_is_read_or_not() {
        for protocol in [Protocol::HttpProtobuf, Protocol::Grpc] {
            for (status, body) in [(200, ""), (200, "{}"), (503, "try again later")] {
                let server = Server::responding(protocol, status, body).await;
                let client = server.client(protocol);
                for n in 0..20 {
                    assert_eq!(send(&client, &server, n % 2 == 0).await, status);
                }
                let connections = server.connections();
                assert_eq!(connections, 1, "{protocol:?} {status} {body}");
            }
        }
    }

    #[tokio::test]
    async fn requests_at_once_share_a_connection_over_http_2_and_keep_several_over_http_1() {
        for (protocol, expected) in [(Protocol::HttpProtobuf, 1..=3), (Protocol::Grpc, 1..=1)] {
            let server = Server::responding(protocol, 200, "{}").await;
            let client = server.client(protocol);
            for _ in 0..5 {
                let send = || send(&client, &server, true);
                assert_eq!(tokio::join!(send(), send(), send()), (200, 200, 200));
            }
            let connections = server.connections();
            assert!(
                expected.contains(&connections),
                "{protocol:?} {connections}"
            );
        }
    }

    /// Reads a request with a body, and returns the lines of its head.
    async fn read_request<T: tokio::io::AsyncRead + Unpin>(
        peer: &mut BufReader<T>,
    ) -> Option<Vec<String>> {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            peer.read_line(&mut line)
                .await
                .ok()
                .filter(|read| *read > 0)?;
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let mut body = [0; "message".len()];
        let read = tokio::io::AsyncReadExt::read_exact(peer, &mut body).await;
        read.ok().map(|_| head)
    }

    #[tokio::test]
    async fn a_request_on_a_connection_that_the_peer_has_closed_is_sent_on_another() {
        let server = Server::start(|peer| async move {
            let mut peer = BufReader::new(peer);
            if read_request(&mut peer).await.is_some() {
                let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                let _ = peer.write_all(response).await;
            }
        })
        .await;
        let client = server.client(Protocol::HttpProtobuf);
        for expected in 1..=5 {
            assert_eq!(send(&client, &server, true).await, 200);
            assert_eq!(server.connections(), expected);
            // The connection's task removes it once it has read the end of the stream.
            while locked(&client.kept.http1)
                .iter()
                .any(|(_, one)| !one.sender.is_closed())
            {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_never_reads_the_rest_of_a_request_delays_the_next_one_briefly() {
        let server = Server::start(|peer| async move {
            let mut peer = peer;
            let response = b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n";
            let _ = peer.write_all(response).await;
            std::future::pending::<()>().await;
        })
        .await;
        let client = server.client(Protocol::HttpProtobuf);
        let large = Bytes::from(vec![0; 32 << 20]);
        for expected in 1..=3 {
            let mut request = server.post("/v1/traces");
            *request.body_mut() = Full::new(large.clone());
            let response = client.request(request).await.expect("the server responds");
            assert_eq!(response.status(), 413);
            assert_eq!(server.connections(), expected);
        }
    }

    #[tokio::test]
    async fn a_connection_is_not_used_again_after_90_seconds() {
        let server = Server::responding(Protocol::HttpProtobuf, 200, "").await;
        let client = server.client(Protocol::HttpProtobuf);
        for (pause, expected) in [(0, 1), (89, 1), (91, 2)] {
            for (since, _) in locked(&client.kept.http1).iter_mut() {
                *since -= Duration::from_secs(pause);
            }
            assert_eq!(send(&client, &server, true).await, 200);
            assert_eq!(server.connections(), expected, "{pause}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_only_requests_at_once_need_is_closed_after_90_seconds() {
        let server = Server::responding(Protocol::HttpProtobuf, 200, "{}").await;
        let client = server.client(Protocol::HttpProtobuf);
        let send_one = || send(&client, &server, true);
        assert_eq!(
            tokio::join!(send_one(), send_one(), send_one()),
            (200, 200, 200)
        );
        let kept = || locked(&client.kept.http1).len();
        assert_eq!(kept(), 3);
        for (since, _) in locked(&client.kept.http1).iter_mut().take(2) {
            *since -= Duration::from_secs(91);
        }
        assert_eq!(send_one().await, 200);
        assert_eq!((kept(), server.connections()), (1, 3));
    }

    #[test]
    fn the_target_of_a_request_is_the_path_or_for_a_proxy_the_whole_uri() {
        for (uri, is_forwarded, host, target) in [
            (
                "http://a.example/v1/traces?k=v",
                false,
                "a.example",
                "/v1/traces?k=v",
            ),
            ("http://a.example:4318", false, "a.example:4318", "/"),
            ("http://a.example:80/x", false, "a.example", "/x"),
            ("https://a.example:443/x", false, "a.example", "/x"),
            ("https://a.example:80/x", false, "a.example:80", "/x"),
            ("http://[::1]:4318/x", false, "[::1]:4318", "/x"),
            ("http://user:secret@a.example/x", false, "a.example", "/x"),
            (
                "http://a.example:4318/x",
                true,
                "a.example:4318",
                "http://a.example:4318/x",
            ),
        ] {
            let mut request = Request::post(uri).body(Full::default()).expect(uri);
            write_target(&mut request, is_forwarded);
            assert_eq!(request.headers()[HOST], host, "{uri}");
            assert_eq!(request.uri(), target, "{uri}");
        }
        let request = Request::post("http://a.example/").header(HOST, "b.example");
        let mut request = request.body(Full::default()).expect("the request is valid");
        write_target(&mut request, false);
        assert_eq!(request.headers()[HOST], "b.example");
    }
}
