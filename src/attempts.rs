//! How often a request was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};

use http::{Extensions, Request};
use tower_layer::Layer;
use tower_service::Service;

/// Layer that has a request's attempts counted, where it is sent more than once.
///
/// It goes around what sends again, such as `tower::retry`, and
/// [`ClientTelemetryLayer`](crate::ClientTelemetryLayer) inside of that. Attempts after the first
/// then have the attribute `http.request.resend_count`, as long as the clones of a request that are
/// sent have its extensions.
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

/// Service made by [`AttemptsLayer`].
#[derive(Clone, Debug)]
pub struct CountAttempts<S> {
    inner: S,
}

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

/// Shared by all clones of a request.
#[derive(Clone, Default)]
pub(crate) struct Attempts(Arc<AtomicI64>);

impl Attempts {
    /// Counts an attempt, and says the how-manieth resend it is; `None` of the first.
    pub(crate) fn resends(extensions: &Extensions) -> Option<i64> {
        let before = extensions.get::<Self>()?.0.fetch_add(1, Ordering::Relaxed);
        (before > 0).then_some(before)
    }
}
