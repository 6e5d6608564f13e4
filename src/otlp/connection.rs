//! Connections to a receiver.

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::time::Instant;

use crate::config::error::InitError;
use crate::config::proxy::Proxy;
use crate::config::settings::Protocol;
use crate::otlp::connector::{Connector, Shared};
use crate::otlp::dial::{Dial, ProxyRoute, Route};
use crate::otlp::failure::{AttemptFailure, failure};
use crate::otlp::first_bytes::{ExpectedProtocol, NO_GRPC, protocol_hint};
use crate::otlp::http_client::{HttpClient, KEEP_ALIVE_INTERVAL};
use crate::otlp::trust;
use crate::stats::Failure;

pub(crate) use crate::otlp::trust::Tls;

const TCP_TIMEOUT: Duration = Duration::from_secs(3);

/// The properties of a connection. Signals with equal origins share connections.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Origin {
    pub(crate) scheme: Option<String>,
    pub(crate) authority: Option<String>,
    pub(crate) is_grpc: bool,
    pub(crate) tls: Tls,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) proxy: Option<Proxy>,
}

impl Origin {
    pub(crate) fn new(uri: &Uri, protocol: Protocol, tls: Tls) -> Self {
        Self {
            scheme: uri.scheme_str().map(str::to_owned),
            authority: uri.authority().map(|authority| authority.to_string()),
            is_grpc: protocol == Protocol::Grpc,
            tls,
            socket: None,
            proxy: None,
        }
    }

    /// Connects through a Unix socket or a proxy, instead of to the host itself.
    pub(crate) fn via(mut self, socket: Option<PathBuf>, proxy: Option<Proxy>) -> Self {
        self.socket = socket;
        self.proxy = proxy;
        self
    }

    fn is_https(&self) -> bool {
        self.scheme.as_deref() == Some("https")
    }

    /// Returns the proxy that forwards requests without a tunnel, if there is one.
    fn forwarder(&self) -> Option<&Proxy> {
        let is_forwarded = |proxy: &&Proxy| !proxy.is_socks() && !self.is_grpc && !self.is_https();
        self.proxy.as_ref().filter(is_forwarded)
    }

    fn route(&self) -> Result<Route, InitError> {
        #[cfg(unix)]
        if let Some(path) = &self.socket {
            return Ok(Route::Socket(path.clone()));
        }
        let Some(proxy) = &self.proxy else {
            return Ok(Route::Direct);
        };
        Ok(Route::Proxy(Box::new(ProxyRoute {
            proxy: proxy.clone(),
            forwards: self.forwarder().is_some(),
            #[cfg(feature = "tls")]
            tls: match proxy.uri.scheme_str() {
                Some("https") => Some(trust::proxy_tls_config()?),
                _ => None,
            },
        })))
    }
}

/// The connections to one receiver, shared by all signals that are sent there.
pub(crate) struct Connection {
    pub(crate) origin: Origin,
    connector: Connector,
    shared: Arc<Shared>,
    client: Mutex<HttpClient>,
}

impl Connection {
    pub(crate) fn new(origin: Origin) -> Result<Self, InitError> {
        let shared = Arc::new(Shared::default());
        let dial = Dial {
            route: origin.route()?,
            tcp: tcp(),
            reconnects: shared.reconnects.clone(),
            first: shared.raw.clone(),
        };
        let secured = trust::secured(&origin.tls, origin.is_https(), origin.is_grpc, dial)?;
        let connector = Connector {
            secured,
            shared: shared.clone(),
        };
        Ok(Self {
            client: Mutex::new(HttpClient::new(connector.clone(), origin.is_grpc)),
            connector,
            shared,
            origin,
        })
    }

    pub(crate) fn client(&self) -> HttpClient {
        locked(&self.client).clone()
    }

    /// Returns the connector, for a client with its own connection pool.
    #[cfg(feature = "opentelemetry-otlp")]
    pub(crate) fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// Replaces the client, so that later requests open a new connection. A connection without a
    /// response may be dead, and the kernel takes long to notice.
    pub(crate) fn renew(&self) {
        self.shared
            .reconnects
            .record_failure(Failure::Timeout, "no response in time");
        self.close();
    }

    /// Closes idle connections now, and the others after their requests.
    pub(crate) fn close(&self) {
        *locked(&self.client) = HttpClient::new(self.connector.clone(), self.origin.is_grpc);
    }

    /// Returns the end of the pause after the last failed connection; `None` if there is no pause.
    pub(crate) fn pause_until(&self) -> Option<Instant> {
        self.shared.reconnects.pause_until()
    }

    /// Records that the receiver, or a proxy in front of it, has responded.
    pub(crate) fn record_response(&self) {
        self.shared.reconnects.record_response();
    }

    /// Records the failure of a request that began at `start`, and returns its cause, with a hint
    /// if the port speaks another protocol.
    pub(crate) fn record_failure(
        &self,
        error: &(dyn Error + 'static),
        start: Instant,
    ) -> AttemptFailure {
        let mut found = failure(error);
        // A request that waits for another request's connection does not see why that one failed.
        if found.kind == Failure::Connection
            && let Some(last) = self.shared.failed_since(start)
        {
            found = last;
        }
        if !found.is_postponed {
            if let Some(hint) = self.hint_for(&found) {
                found.message = format!("{}; {hint}", found.message);
            }
            self.shared
                .reconnects
                .record_failure(found.kind, &found.message);
        }
        found
    }

    fn hint_for(&self, found: &AttemptFailure) -> Option<&'static str> {
        let expected = ExpectedProtocol {
            is_grpc: self.origin.is_grpc,
            is_tls: self.origin.is_https(),
        };
        // The TLS alert already shows that the receiver does not speak HTTP/2.
        if expected.is_grpc && found.message.contains("NoApplicationProtocol") {
            return Some(NO_GRPC);
        }
        protocol_hint(expected, &self.shared.raw.get(), &self.shared.plain.get())
            .filter(|_| matches!(found.kind, Failure::Connection | Failure::Tls))
    }

    /// Returns the proxy that forwards requests, and its `Proxy-Authorization`.
    pub(crate) fn forwarder(&self) -> Option<(&Proxy, Option<&HeaderValue>)> {
        let proxy = self.origin.forwarder()?;
        Some((proxy, proxy.basic.as_ref()))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    // The endpoint's scheme was checked when the configuration was read.
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(TCP_TIMEOUT));
    tcp.set_keepalive(Some(KEEP_ALIVE_INTERVAL));
    tcp.set_nodelay(true);
    tcp
}

#[cfg(test)]
mod tests {
    use std::io;

    use http_body_util::Full;
    use tokio::time::timeout;

    use super::*;

    fn connection(uri: &str) -> Connection {
        let uri = uri.parse().expect("a valid URI");
        let origin = Origin::new(&uri, Protocol::Grpc, Tls::default());
        Connection::new(origin).expect("the connection has no certificate file")
    }

    #[cfg(feature = "tls")]
    #[tokio::test(start_paused = true)]
    async fn connecting_to_a_silent_peer_times_out() {
        use crate::otlp::connector::CONNECT_TIMEOUT;

        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("the socket is bound");
        let uri = format!("https://{address}");
        let connector = connection(&uri).connector;
        let start = tokio::time::Instant::now();
        let connected = connector.connect(uri.parse().expect("a valid URI")).await;
        let Err(error) = connected else {
            panic!("the peer does not speak TLS");
        };
        assert_eq!(failure(&*error).kind, Failure::Timeout);
        assert!(start.elapsed() <= CONNECT_TIMEOUT + Duration::from_secs(1));
    }

    /// Accepts connections and closes them.
    fn closing() -> std::net::SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("the socket is bound");
        std::thread::spawn(move || listener.incoming().for_each(drop));
        address
    }

    #[tokio::test(start_paused = true)]
    async fn connections_to_a_peer_that_closes_them_are_limited_for_all_signals_together() {
        const MINUTE: Duration = Duration::from_secs(60);

        let uri: Uri = format!("http://{}", closing())
            .parse()
            .expect("a valid URI");
        let connection = Arc::new(connection(&uri.to_string()));
        let made = Arc::new(Mutex::new(Vec::new()));
        let start = Instant::now();
        let signals = (0..3).map(|_| {
            let (connection, made, uri) = (connection.clone(), made.clone(), uri.clone());
            tokio::spawn(async move {
                while start.elapsed() < 3 * MINUTE {
                    let attempt_start = Instant::now();
                    match connection.connector.connect(uri.clone()).await {
                        Ok(_) => {
                            locked(&made).push(Instant::now());
                            let closed = io::Error::from(io::ErrorKind::ConnectionReset);
                            connection.record_failure(&closed, attempt_start);
                        }
                        Err(error) => drop(connection.record_failure(&*error, attempt_start)),
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        });
        for signal in signals.collect::<Vec<_>>() {
            signal.await.expect("the task does not panic");
        }
        let made = locked(&made);
        for start in made.iter() {
            let end = *start + MINUTE;
            let within = made.iter().filter(|one| (start..&end).contains(one));
            let count = within.count();
            assert!(count <= 15, "{count} in a minute");
        }
        assert!(
            made.len() >= 20,
            "the client stopped connecting after {}",
            made.len()
        );
    }

    #[tokio::test]
    async fn a_receiver_that_responds_and_closes_gets_a_connection_per_request() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback has free ports");
        let uri = format!(
            "http://{}",
            listener.local_addr().expect("the socket is bound")
        );
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                let _ = peer.read(&mut [0; 1024]).await;
                let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = peer.write_all(response).await;
            }
        });
        let origin = Origin::new(
            &uri.parse().expect("a valid URI"),
            Protocol::HttpProtobuf,
            Tls::default(),
        );
        let connection = Connection::new(origin).expect("the connection has no certificate file");
        for _ in 0..50 {
            let request = http::Request::post(&uri).body(Full::default());
            let request = request.expect("a valid request");
            let response = connection.client().request(request).await;
            assert!(response.is_ok(), "{:?}", response.err());
            connection.record_response();
        }
    }

    #[tokio::test]
    async fn a_request_that_waits_for_the_connection_of_another_fails_with_the_same_error() {
        // The socket is bound but does not listen, so the port refuses connections and stays
        // reserved.
        let held = tokio::net::TcpSocket::new_v4().expect("a socket can be created");
        let any = "127.0.0.1:0".parse().expect("a valid address");
        held.bind(any).expect("loopback has free ports");
        let uri = format!("http://{}", held.local_addr().expect("the socket is bound"));
        let connection = connection(&uri);
        let request = || {
            let request = http::Request::post(&uri).body(Full::default());
            let client = connection.client();
            Box::pin(async move { client.request(request.expect("a valid request")).await })
        };
        let start = Instant::now();
        let (first, second) = tokio::join!(request(), request());
        for response in [first, second] {
            let error = response.err().expect("the port refuses connections");
            assert_eq!(
                connection.record_failure(&*error, start).kind,
                Failure::Refused
            );
        }
        // The first request waits for the end of the pause, and is dropped before.
        let (mut first, mut second) = (request(), request());
        let start = Instant::now();
        for waiting in [&mut first, &mut second] {
            assert!(timeout(Duration::ZERO, waiting).await.is_err());
        }
        drop(first);
        let error = second.await.err().expect("the port refuses connections");
        let found = connection.record_failure(&*error, start);
        assert_eq!(found.kind, Failure::Refused, "{found:?}");
    }
}
