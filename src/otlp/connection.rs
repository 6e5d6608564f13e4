//! Connections to a receiver.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;
use tower_service::Service;

use crate::config::error::InitError;
use crate::config::settings::{PemFile, Protocol};
use crate::stats::Failure;

#[cfg(feature = "tls")]
type Secured = hyper_rustls::HttpsConnector<HttpConnector>;
#[cfg(not(feature = "tls"))]
type Secured = HttpConnector;

pub(crate) type HttpClient = Client<Connector, Full<Bytes>>;

const TCP_TIMEOUT: Duration = Duration::from_secs(3);
/// Name, TCP and TLS together. One that never answers must not be waited for in the background
/// either, and they would add up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(6);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What connections are made of; what has the same shares them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Origin {
    pub(crate) scheme: Option<String>,
    pub(crate) authority: Option<String>,
    pub(crate) is_grpc: bool,
    pub(crate) tls: Tls,
}

/// Who is trusted, and who we are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tls {
    /// In place of the platform's roots.
    pub(crate) certificate: Option<PemFile>,
    pub(crate) client_certificate: Option<PemFile>,
    pub(crate) client_key: Option<PemFile>,
}

impl Origin {
    pub(crate) fn new(uri: &Uri, protocol: Protocol, tls: Tls) -> Self {
        Self {
            scheme: uri.scheme_str().map(str::to_owned),
            authority: uri.authority().map(|authority| authority.to_string()),
            is_grpc: protocol == Protocol::Grpc,
            tls,
        }
    }
}

/// The connections to one receiver, shared by the signals that go there.
pub(crate) struct Connection {
    pub(crate) origin: Origin,
    connector: Connector,
    client: Mutex<HttpClient>,
}

impl Connection {
    pub(crate) fn new(origin: Origin) -> Result<Self, InitError> {
        let connector = Connector(secured(&origin)?);
        Ok(Self {
            client: Mutex::new(client(connector.clone(), origin.is_grpc)),
            connector,
            origin,
        })
    }

    pub(crate) fn client(&self) -> HttpClient {
        locked(&self.client).clone()
    }

    /// Has what comes connect anew: what gave no answer in time may be dead, and the kernel takes
    /// long to say so.
    pub(crate) fn renew(&self) {
        *locked(&self.client) = client(self.connector.clone(), self.origin.is_grpc);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn client(connector: Connector, is_grpc: bool) -> HttpClient {
    Client::builder(TokioExecutor::new())
        .http2_only(is_grpc)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .build(connector)
}

/// Makes connections, within a time.
#[derive(Clone)]
pub(crate) struct Connector(Secured);

impl Service<Uri> for Connector {
    type Response = <Secured as Service<Uri>>::Response;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            match timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(connected) => Ok(connected?),
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        })
    }
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    // Whether `https` is allowed was decided when the endpoint was read.
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(TCP_TIMEOUT));
    tcp.set_keepalive(Some(KEEP_ALIVE_INTERVAL));
    tcp.set_nodelay(true);
    tcp
}

#[cfg(not(feature = "tls"))]
fn secured(_: &Origin) -> Result<Secured, InitError> {
    Ok(tcp())
}

#[cfg(feature = "tls")]
fn secured(origin: &Origin) -> Result<Secured, InitError> {
    use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ClientConfig, RootCertStore, crypto::ring};

    fn certificates(file: &PemFile) -> Result<Vec<CertificateDer<'static>>, InitError> {
        let read = CertificateDer::pem_file_iter(&file.path).and_then(Iterator::collect);
        let read: Vec<_> = read.map_err(|error| InitError::pem(file, &error.to_string()))?;
        if read.is_empty() {
            return Err(InitError::pem(file, "there is no certificate in it"));
        }
        Ok(read)
    }

    let is_https = origin.scheme.as_deref() == Some("https");
    // Named, because a program may well contain several providers.
    let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| InitError::RootCertificates(io::Error::other(error)))?;
    let settings = &origin.tls;
    let tls = match &settings.certificate {
        _ if !is_https => tls.with_root_certificates(RootCertStore::empty()),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots
                    .add(certificate)
                    .map_err(|error| InitError::pem(file, &error.to_string()))?;
            }
            tls.with_root_certificates(roots)
        }
        None => tls
            .with_native_roots()
            .map_err(InitError::RootCertificates)?,
    };
    let tls = match (&settings.client_certificate, &settings.client_key) {
        _ if !is_https => tls.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(&key.path)
                .map_err(|error| InitError::pem(key, &error.to_string()))?;
            tls.with_client_auth_cert(certificates(certificate)?, private)
                .map_err(|error| InitError::pem(key, &error.to_string()))?
        }
        (None, None) => tls.with_no_client_auth(),
        (Some(one), None) | (None, Some(one)) => {
            let reason = "a client certificate and its key are needed together";
            return Err(InitError::pem(one, reason));
        }
    };
    let builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http();
    Ok(if origin.is_grpc {
        builder.enable_http2().wrap_connector(tcp())
    } else {
        builder.enable_all_versions().wrap_connector(tcp())
    })
}

/// What kind of failure an error of a connection is, and its words with those of its sources.
pub(crate) fn failure(error: &(dyn Error + 'static)) -> (Failure, String) {
    let mut kind = Failure::Connection;
    let mut words = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !words.contains(&text) {
            let separator = if words.is_empty() { "" } else { ": " };
            words = format!("{words}{separator}{text}");
        }
        if let Some(found) = kind_of(error, &text) {
            kind = found;
        }
        // What an `io::Error` wraps is not its source, but its source's parent.
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(|error| error.get_ref())
            .map(|wrapped| wrapped as &(dyn Error + 'static));
        next = wrapped.or_else(|| error.source());
    }
    (kind, words)
}

fn kind_of(error: &(dyn Error + 'static), text: &str) -> Option<Failure> {
    #[cfg(feature = "tls")]
    if error.is::<rustls::Error>() {
        return Some(Failure::Tls);
    }
    // The connector's error for it is private.
    if text.starts_with("dns error") {
        return Some(Failure::Dns);
    }
    match error.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::ConnectionRefused => Some(Failure::Refused),
        io::ErrorKind::TimedOut => Some(Failure::Timeout),
        _ => None,
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;

    fn connection(uri: &str) -> Connection {
        let uri = uri.parse().expect("it is a URI");
        let origin = Origin::new(&uri, Protocol::Grpc, Tls::default());
        Connection::new(origin).expect("it needs no file")
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_is_not_waited_for_without_end() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let uri = format!("https://{address}");
        let mut connector = connection(&uri).connector;
        let start = tokio::time::Instant::now();
        let connected = connector.call(uri.parse().expect("it is a URI")).await;
        let Err(error) = connected else {
            panic!("nobody speaks TLS there");
        };
        assert_eq!(failure(&*error).0, Failure::Timeout);
        assert!(start.elapsed() <= CONNECT_TIMEOUT + Duration::from_secs(1));
    }
}
