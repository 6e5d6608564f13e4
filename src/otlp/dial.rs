//! Connects to a receiver: over TCP, through a proxy, or over a Unix socket.

use std::error::Error;
use std::fmt;
use std::future::{Future, Ready, ready};
use std::io;
#[cfg(unix)]
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use crate::config::proxy::Proxy;
use crate::otlp::first_bytes::{FirstBytes, Watched};
use crate::otlp::reconnects::Reconnects;

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// A connection of any kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(crate) type Dialled = TokioIo<Watched<Box<dyn Stream>>>;

/// Connects to a receiver.
#[derive(Clone)]
pub(crate) struct Dial {
    pub(crate) route: Route,
    pub(crate) tcp: HttpConnector,
    pub(crate) reconnects: Arc<Reconnects>,
    /// The first bytes from the receiver, below TLS.
    pub(crate) first: FirstBytes,
}

/// The route of connections to a receiver.
#[derive(Clone)]
pub(crate) enum Route {
    Direct,
    #[cfg(unix)]
    Socket(PathBuf),
    Proxy(Box<ProxyRoute>),
}

#[derive(Clone)]
pub(crate) struct ProxyRoute {
    pub(crate) proxy: Proxy,
    /// Whether the proxy forwards each request, instead of opening a tunnel.
    ///
    /// Squid by default allows tunnels only to port 443, but forwards requests to nearly all ports;
    /// tinyproxy does both. So requests to `http` endpoints over HTTP/1 are forwarded. gRPC cannot
    /// be forwarded, because proxies do not forward HTTP/2 without TLS.
    pub(crate) forwards: bool,
    /// The TLS configuration for an `https` proxy.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

impl Service<Uri> for Dial {
    type Response = Dialled;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Dialled, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let mut dial = self.clone();
        Box::pin(async move {
            let reconnects = dial.reconnects.clone();
            let token = reconnects.may_connect().await?;
            let connection = match &dial.route {
                Route::Direct => over_tcp(&mut dial.tcp, uri.clone()).await,
                #[cfg(unix)]
                Route::Socket(path) => over_socket(path).await,
                Route::Proxy(route) => over_tcp(&mut dial.tcp, route.proxy.uri.clone()).await,
            };
            let stream = match connection {
                Ok(stream) => stream,
                Err(error) => {
                    return Err(match &dial.route {
                        Route::Proxy(route) => ProxyError::unreachable(&route.proxy, error).into(),
                        _ => error,
                    });
                }
            };
            token.keep();
            let (stream, connected) = match dial.route {
                Route::Proxy(route) => {
                    let connected = Connected::new().proxy(route.forwards);
                    (route.connect_through(stream, &uri).await?, connected)
                }
                _ => (stream, Connected::new()),
            };
            Ok(TokioIo::new(
                Watched::new(stream, &dial.first).with_properties_of(&connected),
            ))
        })
    }
}

async fn over_tcp(tcp: &mut HttpConnector, uri: Uri) -> Result<Box<dyn Stream>, BoxError> {
    Ok(Box::new(tcp.call(uri).await?.into_inner()))
}

#[cfg(unix)]
async fn over_socket(path: &std::path::Path) -> Result<Box<dyn Stream>, BoxError> {
    Ok(Box::new(tokio::net::UnixStream::connect(path).await?))
}

impl ProxyRoute {
    /// Opens a connection to the receiver through a connection to the proxy.
    async fn connect_through(
        self,
        stream: Box<dyn Stream>,
        uri: &Uri,
    ) -> Result<Box<dyn Stream>, BoxError> {
        let proxy = &self.proxy;
        #[cfg(feature = "tls")]
        let stream = match self.tls {
            None => stream,
            Some(tls) => {
                let ignored = FirstBytes::default();
                let mut connector = hyper_rustls::HttpsConnector::from((
                    ExistingConnection(Some(TokioIo::new(Watched::new(stream, &ignored)))),
                    tls,
                ));
                let stream = connector.call(proxy.uri.clone()).await;
                let stream = stream.map_err(|error| ProxyError::unreachable(proxy, error))?;
                Box::new(TokioIo::new(stream))
            }
        };
        if self.forwards {
            return Ok(stream);
        }
        let host = uri.host().unwrap_or("");
        let is_https = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let to = format!("{host}:{port}");
        // The URI has an explicit port. Without one, both connectors would use 443.
        let receiver = Uri::builder().scheme("http").authority(&*to);
        let receiver = receiver.path_and_query("/").build()?;
        let response = FirstBytes::default();
        let stream = Watched::new(stream, &response);
        let existing = ExistingConnection(Some(TokioIo::new(stream)));
        let refused = |error: BoxError| ProxyError {
            message: format!("the proxy {proxy} does not connect to {to}"),
            status: status(&response.get()),
            source: error,
        };
        let stream = if proxy.is_socks() {
            let mut socks = SocksV5::new(proxy.uri.clone(), existing);
            if let Some((name, password)) = proxy.user.clone() {
                socks = socks.with_auth(name, password);
            }
            let stream = socks.call(receiver).await;
            stream.map_err(|error| refused(error.into()))?
        } else {
            let mut tunnel = Tunnel::new(proxy.uri.clone(), existing);
            if let Some(credentials) = proxy.basic.clone() {
                tunnel = tunnel.with_auth(credentials);
            }
            let stream = tunnel.call(receiver).await;
            stream.map_err(|error| refused(error.into()))?
        };
        Ok(Box::new(stream.into_inner()))
    }
}

/// Returns the status code of an HTTP/1 status line.
fn status(response: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(response.strip_prefix(b"HTTP/1.")?.get(..5)?).ok()?;
    line.split(' ').nth(1)?.parse().ok()
}

/// The error of a proxy that cannot be reached, or that does not connect to the receiver.
#[derive(Debug)]
pub(crate) struct ProxyError {
    message: String,
    /// The HTTP status of the proxy's response.
    pub(crate) status: Option<u16>,
    source: BoxError,
}

impl ProxyError {
    fn unreachable(proxy: &Proxy, source: BoxError) -> Self {
        Self {
            message: format!("the proxy {proxy} cannot be reached"),
            status: None,
            source,
        }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.status {
            Some(407) => f.write_str(
                ": HTTP status 407, the proxy requires a user and a password in its URL",
            ),
            Some(status) => write!(f, ": HTTP status {status}"),
            None => Ok(()),
        }
    }
}

impl Error for ProxyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

/// A connector that returns one existing connection.
struct ExistingConnection<T>(Option<T>);

impl<T> Service<Uri> for ExistingConnection<T> {
    type Response = T;
    type Error = io::Error;
    type Future = Ready<io::Result<T>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(
            self.0
                .take()
                .ok_or_else(|| io::ErrorKind::NotConnected.into()),
        )
    }
}
