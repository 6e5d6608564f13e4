//! Opens connections to a receiver, with a timeout, and remembers why the last one failed.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};
use tower_service::Service;

use crate::otlp::dial::BoxError;
use crate::otlp::failure::{AttemptFailure, failure};
use crate::otlp::first_bytes::{FirstBytes, Watched};
use crate::otlp::reconnects::Reconnects;
use crate::otlp::trust::Secured;

/// The timeout for DNS, TCP and TLS together.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(6);

pub(crate) type Stream = TokioIo<Watched<TokioIo<<Secured as Service<Uri>>::Response>>>;

/// The state that all connections to a receiver share.
pub(crate) struct Shared {
    pub(crate) reconnects: Arc<Reconnects>,
    /// The first bytes from the receiver on the last connection, below TLS and above TLS.
    pub(crate) raw: FirstBytes,
    pub(crate) plain: FirstBytes,
    /// The time and the cause of the last connection failure.
    last: Mutex<Option<(Instant, AttemptFailure)>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            reconnects: Arc::new(Reconnects::new()),
            raw: FirstBytes::default(),
            plain: FirstBytes::default(),
            last: Mutex::new(None),
        }
    }
}

impl Shared {
    /// Returns the failure of the last connection, if it failed at `start` or later.
    pub(crate) fn failed_since(&self, start: Instant) -> Option<AttemptFailure> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, failure) = last.as_ref().filter(|(at, _)| *at >= start)?;
        Some(failure.clone())
    }
}

/// Opens connections, with a timeout.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) secured: Secured,
    pub(crate) shared: Arc<Shared>,
}

impl Connector {
    /// Opens a connection.
    pub(crate) async fn connect(&self, uri: Uri) -> Result<Stream, BoxError> {
        let mut connector = self.clone();
        poll_fn(|cx| connector.poll_ready(cx)).await?;
        connector.call(uri).await
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.secured.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.secured.call(uri);
        let shared = self.shared.clone();
        Box::pin(async move {
            let error = match timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(Ok(stream)) => {
                    let connected = stream.connected();
                    let stream = Watched::new(TokioIo::new(stream), &shared.plain);
                    return Ok(TokioIo::new(stream.with_properties_of(&connected)));
                }
                Ok(Err(error)) => error,
                Err(_) => io::Error::from(io::ErrorKind::TimedOut).into(),
            };
            let mut last = shared.last.lock().unwrap_or_else(PoisonError::into_inner);
            *last = Some((Instant::now(), failure(&*error)));
            Err(error)
        })
    }
}
