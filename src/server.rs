//! The layer for servers and the service that it makes.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use http::{Request, Response};
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::{Tracer, TracerProvider};
use tower_layer::Layer;
use tower_service::Service;

use crate::active_request::{ActiveRequest, Recorder};
use crate::body::ResponseBody;
use crate::future::ResponseFuture;
use crate::options::Options;

/// Layer that records each request to a server: one span, the request metrics, and a response
/// header with the trace id.
///
/// It wraps any Tower service over [`http::Request`]: an axum router or a single route, a tonic
/// server, a service of your own.
///
/// # When a span starts, when it ends, what is recorded
///
/// The span starts when the request reaches the layer. Its parent is the span that the request's
/// `traceparent` header names; without one, or with one that is not valid, it begins a new trace.
/// The span is current in the context of everything that the inner service does for the request,
/// also while the response's body is streamed and while a cancelled handler is dropped.
///
/// The span ends with the last frame of the response's body, and metrics are recorded at the same
/// time with the same duration:
///
/// | what happens | `error.type` | span status |
/// |---|---|---|
/// | the response is sent, its status below 500 | | unset |
/// | the response is sent, its status 500 or more | the status | error |
/// | the client goes away before the response is complete | `cancelled` | unset |
/// | the body fails after a good head | the error's type | error |
/// | the inner service gives an error | the error's type | error |
/// | the handler panics | `panic` | error |
///
/// The attributes are those of the OpenTelemetry [HTTP conventions] 1.42; a gRPC call, told by its
/// content type, has those of the [RPC conventions] instead and ends with its trailers.
///
/// `http.route` is known where axum has matched a route before the request reaches the layer, as
/// it has in a layer that was added with `Router::layer` or `Router::route_layer`.
///
/// # Providers
///
/// Spans and metrics go where [`init`](crate::init) sends them. Without `init` they go to
/// OpenTelemetry's global providers. Both are looked up when the first request arrives.
///
/// # Example
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_telemetry::TelemetryLayer;
///
/// let app: Router = Router::new()
///     .route("/users/{id}", get(async || "Ada"))
///     .layer(TelemetryLayer::new());
/// ```
///
/// [HTTP conventions]: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
/// [RPC conventions]: https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
#[derive(Clone, Debug, Default)]
#[must_use = "a layer does nothing until it is added to a service"]
pub struct TelemetryLayer {
    options: Options,
}

impl TelemetryLayer {
    /// Creates a layer with the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends the spans to `provider`, those of the handler functions of this crate included.
    ///
    /// ```
    /// use opentelemetry_sdk::trace::SdkTracerProvider;
    /// use tower_telemetry::TelemetryLayer;
    ///
    /// let provider = SdkTracerProvider::builder().build();
    /// let layer = TelemetryLayer::new().with_tracer_provider(provider.clone());
    /// ```
    pub fn with_tracer_provider<P>(mut self, provider: P) -> Self
    where
        P: TracerProvider + Send + Sync + 'static,
        P::Tracer: Send + Sync + 'static,
        <P::Tracer as Tracer>::Span: Send + Sync + 'static,
    {
        self.options.set_tracer_provider(provider);
        self
    }

    /// Sends the metrics to `provider`, those of the handler functions of this crate included.
    ///
    /// ```
    /// use opentelemetry_sdk::metrics::SdkMeterProvider;
    /// use tower_telemetry::TelemetryLayer;
    ///
    /// let provider = SdkMeterProvider::builder().build();
    /// let layer = TelemetryLayer::new().with_meter_provider(provider.clone());
    /// ```
    pub fn with_meter_provider<P>(mut self, provider: P) -> Self
    where
        P: MeterProvider + Send + Sync + 'static,
    {
        self.options.set_meter_provider(provider);
        self
    }
}

impl<S> Layer<S> for TelemetryLayer {
    type Service = Telemetry<S>;

    fn layer(&self, inner: S) -> Telemetry<S> {
        Telemetry {
            inner,
            shared: Arc::new(Shared {
                options: self.options.clone(),
                recorder: OnceLock::new(),
            }),
        }
    }
}

/// Service made by [`TelemetryLayer`].
#[derive(Clone)]
pub struct Telemetry<S> {
    inner: S,
    shared: Arc<Shared>,
}

/// What all clones of a service have in common.
struct Shared {
    options: Options,
    /// Made when the first request arrives, so that the layer may be built before `init`.
    recorder: OnceLock<Option<Arc<Recorder>>>,
}

impl Shared {
    fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.recorder
            .get_or_init(|| self.options.recorder().map(Arc::new))
            .as_ref()
    }
}

impl<S, B, R> Service<Request<B>> for Telemetry<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: http_body::Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        let request = match self.shared.recorder() {
            Some(recorder) => ActiveRequest::start(recorder, &head),
            None => ActiveRequest::unrecorded(&head),
        };
        // Inner layers may start spans before they return their future.
        let _attached = request.attach();
        let inner = self.inner.call(Request::from_parts(head, body));
        ResponseFuture::new(inner, request)
    }
}

impl<S: fmt::Debug> fmt::Debug for Telemetry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
