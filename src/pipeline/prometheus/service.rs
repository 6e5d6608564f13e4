//! The service that responds to Prometheus scrapes.

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

/// The maximum number of scrapes that can wait at a time.
pub(crate) const MAX_WAITING: usize = 16;

/// A request for all metrics.
pub(crate) struct Scrape {
    pub(crate) form: Form,
    /// Receives `None` if the metrics cannot be collected.
    pub(crate) sender: oneshot::Sender<Option<Vec<u8>>>,
}

/// Service that responds with all metrics in Prometheus or OpenMetrics text format.
///
/// Obtain it from [`TelemetryGuard::prometheus`](crate::TelemetryGuard::prometheus) and mount it in
/// your application's router. It responds to GET and HEAD on any path, because the router has
/// already matched the path. Metrics are collected on a separate thread, so that a scrape does not
/// delay other requests. The status is 503 after shutdown, if 16 other scrapes are waiting, or if
/// an observable callback panics.
///
/// Names and labels follow the specification ("Prometheus and OpenMetrics Compatibility").
/// Exponential histograms have no representation in these formats and are omitted.
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
    /// Returns the address of the listener; `None` if there is no listener, or it has not started
    /// yet.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address.get().copied()
    }

    fn request_page(&self, form: Form) -> Option<oneshot::Receiver<Option<Vec<u8>>>> {
        let (sender, text) = oneshot::channel();
        self.scrapes.try_send(Scrape { form, sender }).ok()?;
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
        let text = self.request_page(form);
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
