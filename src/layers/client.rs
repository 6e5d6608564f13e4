//! The layer for clients and its service.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response, Uri, request};
use opentelemetry::Context as TelemetryContext;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::TraceContextExt;
use tower_layer::Layer;
use tower_service::Service;

use crate::current_context;
use crate::layer_state::Shared;
use crate::layer_state::host_pattern::HostPattern;
use crate::layer_state::options::Options;
use crate::layers::body::ResponseBody;
use crate::layers::future::ResponseFuture;
use crate::layers::setters::{inner_service, shared_setters};
use crate::propagation::{has_trace_extra, remove_forbidden};
use crate::request::ActiveRequest;
use crate::semconv::Side;

/// Layer that records each request of a client: it creates a span, records the request metrics, and
/// writes the trace context to the headers of the request.
///
/// It wraps any Tower service that sends an [`http::Request`]: hyper-util's client, a tonic
/// `Channel`, or your own client.
///
/// # What is recorded
///
/// The span is a child of the current span when the client is called. It starts before the request
/// is sent, and ends with the last frame of the response body or when the body is dropped. Metrics
/// are recorded at the same time with the same duration. Each attempt is a request of its own: put
/// the layer inside layers that retry or follow redirects. [`AttemptsLayer`] around the retries
/// counts the attempts.
///
/// | event | `error.type` | span status |
/// |---|---|---|
/// | the response has a status below 400 | | unset |
/// | the response has a status of 400 or more | the status | error |
/// | there is no response, or its body fails | the error's cause or type | error |
/// | the body ends before its `content-length` | `body_incomplete` | error |
/// | the caller drops the future or the body | from the status, if any | unset, or from the status |
///
/// The values of `error.type` are listed at
/// [`TelemetryLayer`](crate::TelemetryLayer#the-values-of-errortype). The messages of the error and
/// its sources are the description of the span's status, truncated to 256 bytes. In URLs in these
/// messages, user and password are redacted, and the query is redacted as in `url.full`.
///
/// A gRPC call is recognised by its content type. It fails with every status except OK, and its
/// message is the description of the span's status. A dropped call is `CANCELLED`, which is not an
/// error. With the feature `tonic`, a call that fails without a status has the code that tonic
/// returns to the caller. Without the feature, errors of hyper and h2 have the same codes, and
/// other errors are `UNAVAILABLE` before the head of the response and `INTERNAL` after it.
/// Attributes and metrics follow the conventions for [HTTP clients] and [gRPC clients].
///
/// # Which servers receive context
///
/// `traceparent` and `tracestate` are sent to every server, unless
/// [`with_trace_targets`](Self::with_trace_targets) restricts them. Baggage is sent only to servers
/// that [`with_baggage_targets`](Self::with_baggage_targets) allows. Headers with another context,
/// for example copied from an incoming request, are removed. While telemetry is suppressed, as it
/// is for exporters, requests are left unchanged.
///
/// # Providers
///
/// Spans and metrics are recorded with the providers of [`init`](crate::init), or with
/// OpenTelemetry's global providers. If a [`TelemetryLayer`](crate::TelemetryLayer) has its own
/// providers, set them on the client layer as well.
///
/// # Example
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Empty;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower::Layer;
/// use tower_telemetry::ClientTelemetryLayer;
///
/// # fn main() {
/// let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
/// let client = ClientTelemetryLayer::new().layer(client);
/// # }
/// ```
///
/// [`AttemptsLayer`]: crate::AttemptsLayer
/// [HTTP clients]: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
/// [gRPC clients]: https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
#[derive(Clone)]
#[must_use = "a layer does nothing until it is added to a service"]
pub struct ClientTelemetryLayer {
    shared: Arc<Shared>,
}

impl Default for ClientTelemetryLayer {
    fn default() -> Self {
        let options = Options {
            side: Side::Client,
            ..Options::default()
        };
        Self {
            shared: Arc::new(Shared::new(options)),
        }
    }
}

shared_setters!(
    ClientTelemetryLayer,
    "url.full",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT"
);

impl ClientTelemetryLayer {
    /// Sets the server of requests whose URI has no host. For example, the calls of a tonic
    /// `Channel` do not contain the server, which only the channel has.
    ///
    /// ```
    /// use tower_telemetry::ClientTelemetryLayer;
    ///
    /// let uri = http::Uri::from_static("http://users.internal:50051");
    /// let layer = ClientTelemetryLayer::new().with_server(uri);
    /// ```
    pub fn with_server(self, server: Uri) -> Self {
        self.with(|options| options.server = Some(server))
    }

    /// Restricts trace context to these hosts: `example.com`, `*.example.com` for all its
    /// subdomains, or `*` for all hosts, each with an optional port.
    ///
    /// The hosts are checked for each request that passes the layer, including each hop if
    /// redirects are followed around the layer. `reqwest` follows redirects below the layer and
    /// keeps all headers; to prevent that, configure its client with `redirect::Policy::none()`.
    ///
    /// ```
    /// use tower_telemetry::ClientTelemetryLayer;
    ///
    /// let layer = ClientTelemetryLayer::new().with_trace_targets(["localhost", "*.internal"]);
    /// ```
    pub fn with_trace_targets<H: Into<String>>(self, hosts: impl IntoIterator<Item = H>) -> Self {
        let hosts = hosts.into_iter().map(|host| HostPattern::new(&host.into()));
        let hosts = hosts.collect();
        self.with(|options| options.trace_targets = Some(hosts))
    }

    /// Sends baggage to these hosts, in the syntax of
    /// [`with_trace_targets`](Self::with_trace_targets).
    pub fn with_baggage_targets<H: Into<String>>(self, hosts: impl IntoIterator<Item = H>) -> Self {
        let hosts = hosts.into_iter().map(|host| HostPattern::new(&host.into()));
        let hosts = hosts.collect();
        self.with(|options| options.baggage_targets = hosts)
    }
}

impl ClientTelemetryLayer {
    /// Starts a request and writes its context into the head.
    #[cfg(feature = "reqwest")]
    pub(crate) fn send(&self, head: &mut request::Parts) -> ActiveRequest {
        start(&self.shared, head)
    }
}

impl<S> Layer<S> for ClientTelemetryLayer {
    type Service = ClientTelemetry<S>;

    fn layer(&self, inner: S) -> ClientTelemetry<S> {
        ClientTelemetry {
            inner,
            shared: self.shared.clone(),
        }
    }
}

/// Service created by [`ClientTelemetryLayer`].
#[derive(Clone)]
pub struct ClientTelemetry<S> {
    inner: S,
    shared: Arc<Shared>,
}

inner_service!(ClientTelemetry);

impl<S, B, R> Service<Request<B>> for ClientTelemetry<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: 'static,
    R: http_body::Body,
    R::Error: 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let mut request = start(&self.shared, &mut head);
        let entered = request.enter();
        let inner = self.inner.call(Request::from_parts(head, body));
        drop(entered);
        ResponseFuture::new(inner, request)
    }
}

/// Starts a request and writes its context into the head.
fn start(shared: &Shared, head: &mut request::Parts) -> ActiveRequest {
    if current_context::map(TelemetryContext::is_telemetry_suppressed) {
        return ActiveRequest::none();
    }
    let state = shared.state();
    let signals = state.map(|state| (state, state.recorded_signals(head)));
    match signals {
        Some((state, signals)) if !signals.is_empty() => {
            ActiveRequest::start_outgoing(state, head, signals)
        }
        _ => {
            let propagators = match state {
                Some(state) => &state.propagators,
                None => shared.options.propagators(),
            };
            let cx = current_context::get();
            let allowed = shared.options.allowed(shared.options.server(head));
            if cx.has_active_span() || !cx.baggage().is_empty() || has_trace_extra(&cx) {
                propagators.inject(&cx, allowed, &mut head.headers);
            } else {
                // There is no context that could replace the present headers.
                remove_forbidden(&mut head.headers, allowed);
            }
            ActiveRequest::none()
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for ClientTelemetry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTelemetry")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
