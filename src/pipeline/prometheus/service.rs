//! The service that answers Prometheus.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tokio::sync::{mpsc, oneshot};
use tower_service::Service;

use crate::pipeline::prometheus::exposition::Form;

/// How many may wait for metrics at a time.
pub(crate) const MAX_WAITING: usize = 16;

/// Somebody who waits for all metrics.
pub(crate) struct Scrape {
    pub(crate) form: Form,
    /// Gets `None` where the metrics cannot be collected.
    pub(crate) answer: oneshot::Sender<Option<Vec<u8>>>,
}

/// Answers with all metrics, as Prometheus or OpenMetrics text: to mount in an application of your own.
///
/// [`TelemetryGuard::prometheus`](crate::TelemetryGuard::prometheus) gives it. It answers GET and HEAD
/// at any path, since the router has chosen the path. The metrics are collected on a thread of their own,
/// so that no request waits for it. After the shutdown, where 16 others wait, and where an observable
/// callback has panicked, the status is 503.
///
/// Names and labels follow the specification ("Prometheus and OpenMetrics Compatibility"). Exponential
/// histograms have no form there, and are left out.
///
/// ```
/// use tower_telemetry::{Config, config::Exporter};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let telemetry = Config::from_vars(|_| None)
///     .with_metrics_exporters([Exporter::Prometheus])
///     .without_prometheus_server()
///     .build()?;
/// let metrics = telemetry.prometheus().expect("the exporter is chosen");
/// # #[cfg(feature = "axum")]
/// let app: axum::Router = axum::Router::new().route_service("/metrics", metrics);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PrometheusService {
    pub(crate) scrapes: mpsc::Sender<Scrape>,
    pub(crate) address: Arc<OnceLock<SocketAddr>>,
}

impl PrometheusService {
    /// Returns the address that is listened on; `None` where there is no listener, or not yet.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address.get().copied()
    }

    fn ask(&self, form: Form) -> Option<oneshot::Receiver<Option<Vec<u8>>>> {
        let (answer, text) = oneshot::channel();
        self.scrapes.try_send(Scrape { form, answer }).ok()?;
        Some(text)
    }
}

impl<B> Service<Request<B>> for PrometheusService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
            return Box::pin(async { Ok(response) });
        }
        let form = Form::accepted(request.headers());
        let text = self.ask(form);
        let is_head = request.method() == Method::HEAD;
        Box::pin(async move {
            let text = match text {
                Some(text) => text.await.ok().flatten(),
                None => None,
            };
            let Some(text) = text else {
                return Ok(status(StatusCode::SERVICE_UNAVAILABLE));
            };
            let length = HeaderValue::from(text.len());
            let text = if is_head { Vec::new() } else { text };
            let mut response = Response::new(Full::from(text));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, form.content_type());
            headers.insert(header::CONTENT_LENGTH, length);
            headers.insert(header::VARY, HeaderValue::from_static("accept"));
            Ok(response)
        })
    }
}

pub(crate) fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
