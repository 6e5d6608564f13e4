//! The sizes of request bodies, counted as the service reads them.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::layers::setters::inner_service;
use crate::request::received::Received;

/// Layer that counts the bytes of request bodies as the service reads them, for the metric
/// `http.server.request.body.size`.
///
/// Put it inside a [`TelemetryLayer`](crate::TelemetryLayer) that records
/// [`MetricSet::BodySizes`](crate::layers::MetricSet::BodySizes). It is a separate layer because it
/// changes the type of the request body.
///
/// ```
/// use axum::{Router, routing::post};
/// use tower_telemetry::{layers::MetricSet, RequestBodySizeLayer, TelemetryLayer};
///
/// let app: Router = Router::new()
///     .route("/upload", post(async |body: String| body))
///     .layer(RequestBodySizeLayer::new())
///     .layer(TelemetryLayer::new().with_metrics([MetricSet::Conventions, MetricSet::BodySizes]));
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "a layer does nothing until it is added to a service"]
pub struct RequestBodySizeLayer;

impl RequestBodySizeLayer {
    /// Creates the layer.
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for RequestBodySizeLayer {
    type Service = RequestBodySize<S>;

    fn layer(&self, inner: S) -> RequestBodySize<S> {
        RequestBodySize { inner }
    }
}

/// Service created by [`RequestBodySizeLayer`].
#[derive(Clone, Debug)]
pub struct RequestBodySize<S> {
    inner: S,
}

inner_service!(RequestBodySize);

impl<S, B> Service<Request<B>> for RequestBodySize<S>
where
    S: Service<Request<RequestBody<B>>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let received = request.extensions_mut().remove::<Received>();
        if let Some(received) = &received {
            received.mark_as_counted();
        }
        self.inner
            .call(request.map(|inner| RequestBody { inner, received }))
    }
}

pin_project! {
    /// Request body of the inner service of [`RequestBodySize`], which passes on the frames of the
    /// body.
    pub struct RequestBody<B> {
        #[pin]
        inner: B,
        received: Option<Received>,
    }
}

impl<B: Body> Body for RequestBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if let (Some(Ok(frame)), Some(received)) = (&frame, this.received)
            && let Some(data) = frame.data_ref()
        {
            let length = u64::try_from(data.remaining()).unwrap_or(u64::MAX);
            received.add(length);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}
