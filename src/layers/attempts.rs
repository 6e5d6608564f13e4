//! Counts the attempts to send a request.

use std::task::{Context, Poll};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use crate::layers::setters::inner_service;
use crate::request::attempts::Attempts;

/// Layer that counts the attempts to send a request.
///
/// Put it around a layer that retries, such as `tower::retry`, and
/// [`ClientTelemetryLayer`](crate::ClientTelemetryLayer) inside that layer. Every attempt after the
/// first then has the attribute `http.request.resend_count`. This requires that the retrying layer
/// keeps the extensions when it clones a request.
///
/// ```
/// use tower::{ServiceBuilder, retry::RetryLayer};
/// use tower_telemetry::{AttemptsLayer, ClientTelemetryLayer};
/// # #[derive(Clone)]
/// # struct MyPolicy;
///
/// let services = ServiceBuilder::new()
///     .layer(AttemptsLayer::new())
///     .layer(RetryLayer::new(MyPolicy))
///     .layer(ClientTelemetryLayer::new());
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "a layer does nothing until it is added to a service"]
pub struct AttemptsLayer(());

impl AttemptsLayer {
    /// Creates a layer.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<S> Layer<S> for AttemptsLayer {
    type Service = CountAttempts<S>;

    fn layer(&self, inner: S) -> CountAttempts<S> {
        CountAttempts { inner }
    }
}

/// Service created by [`AttemptsLayer`].
#[derive(Clone, Debug)]
pub struct CountAttempts<S> {
    inner: S,
}

inner_service!(CountAttempts);

impl<S, B> Service<Request<B>> for CountAttempts<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(Attempts::default());
        self.inner.call(request)
    }
}
