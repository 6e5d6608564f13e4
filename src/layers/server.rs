//! The layer for servers and its service.

use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderName, Request, Response, Uri, request, uri};
use tower_layer::Layer;
use tower_service::Service;

use crate::concurrent::caught::warn_once;
use crate::concurrent::per_thread::PerThreadArc;
use crate::layer_state::access_log::AccessLog;
use crate::layer_state::options::{Trust, TrustOption};
use crate::layer_state::rate_limit::RateLimit;
use crate::layer_state::{LayerState, Shared};
use crate::layers::body::ResponseBody;
use crate::layers::future::ResponseFuture;
use crate::layers::setters::{inner_service, shared_setters};
use crate::request::ActiveRequest;
use crate::semconv::http::original_uri;
use crate::semconv::{ForwardedHeader, Scheme};

/// Layer that records each request to a server: it creates a span, records the request metrics, and
/// adds a response header with the trace id.
///
/// It wraps any Tower service over [`http::Request`]: an axum router or a single route, a tonic
/// server, or your own service.
///
/// # When a span starts and ends, and what is recorded
///
/// The span starts when the request reaches the layer. Its parent is the span in the request's
/// `traceparent` header. If the header is absent or invalid, the parent is the current span, such
/// as the span of an outer layer; without a current span, a new trace starts. If the current span
/// is in the trace of the header, the current span is the parent. If the current span does not
/// belong to the request, for example because it covers a whole connection, use
/// [`without_outer_span`](Self::without_outer_span).
///
/// The span is current while the inner service handles the request, including while the response
/// body is streamed and while a cancelled future or body is dropped. It is not current when a body
/// is dropped that has reported its end.
///
/// The span ends with the last frame of the response body. Metrics are recorded at the same time
/// with the same duration:
///
/// | event | `error.type` | span status |
/// |---|---|---|
/// | the response has a status below 500 and is sent | | unset |
/// | the response has a status of 500 or more, however its body ends | the status | error |
/// | the client disconnects before the response is complete | `cancelled` | unset |
/// | the body ends before its `content-length` | `body_incomplete` | error |
/// | the body fails after a status below 500 | the error's cause or type | error |
/// | the inner service returns an error | the error's cause or type | error |
/// | the handler panics | `panic` | error |
///
/// A `cancelled` request has an `error.type` although the status of its span is not error. To
/// exclude such requests from an error rate, exclude the value in the query, for example
/// `error_type!~"|cancelled"` in PromQL, or use
/// [`without_cancelled_error_type`](Self::without_cancelled_error_type).
///
/// The attributes follow the OpenTelemetry [HTTP conventions] 1.45. A gRPC call is recognised by
/// its content type. Its attributes follow the [RPC conventions] instead, and it ends with its
/// trailers. The message of a failed call is the description of the span's status. The message of
/// an error from the inner service is not recorded.
///
/// `url.path` is the path that the client requested, also for a layer on a nested router. Hooks see
/// the same path. `url.scheme` is `http` unless [`with_scheme`](Self::with_scheme) or a trusted
/// proxy sets it.
///
/// `http.route` is recorded if axum has matched a route before the request reaches the layer, which
/// is the case with `Router::layer` and `Router::route_layer`, or if
/// [`with_route`](Self::with_route) returns a route.
///
#[doc = include_str!("error_types.md")]
///
/// # Providers
///
/// Spans and metrics are recorded with the providers of [`init`](crate::init). Without `init`,
/// OpenTelemetry's global providers are used. Both are resolved when the first request arrives.
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
#[derive(Clone, Default)]
#[must_use = "a layer does nothing until it is added to a service"]
pub struct TelemetryLayer {
    /// Shared with all services of the layer, because axum creates one for each route and
    /// connection.
    shared: Arc<Shared>,
}

shared_setters!(
    TelemetryLayer,
    "url.query",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER"
);

impl TelemetryLayer {
    /// Ignores the current span when choosing the parent of a request. Only the headers of the
    /// request can name a parent.
    ///
    /// Use it for services that run in an unrelated span, such as the span of a connection, which
    /// would put all its requests in one trace.
    pub fn without_outer_span(self) -> Self {
        self.with(|options| options.outer_span = false)
    }

    /// Sets the function that returns the route of a request, `http.route` on spans and metrics,
    /// for routers other than axum's ([HTTP spans]). If `route` returns `None`, the route that axum
    /// has matched is used, if any.
    ///
    /// A route is a template such as `/users/{id}`. Never return the path itself. The route is
    /// truncated to 1,024 bytes. Requests beyond the 2,000 series that the SDK keeps per metric are
    /// aggregated.
    ///
    /// ```
    /// use tower_telemetry::TelemetryLayer;
    ///
    /// // The router of the inner service, or a copy of it.
    /// let mut router = matchit::Router::new();
    /// router.insert("/users/{id}", "/users/{id}").unwrap();
    /// let layer = TelemetryLayer::new().with_route(move |request| {
    ///     let matched = router.at(request.uri.path()).ok()?;
    ///     Some((*matched.value).into())
    /// });
    /// ```
    ///
    /// [HTTP spans]: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
    pub fn with_route(
        self,
        route: impl Fn(&request::Parts) -> Option<Cow<'static, str>> + Send + Sync + 'static,
    ) -> Self {
        self.with(|options| options.route = Some(Arc::new(route)))
    }

    /// Sets how much the trace context of requests is trusted. Defaults to [`Trust::Continue`],
    /// which suits services that the public cannot reach.
    ///
    /// ```
    /// use tower_telemetry::{layers::Trust, TelemetryLayer};
    ///
    /// let layer = TelemetryLayer::new().with_trust(Trust::Link);
    /// ```
    pub fn with_trust(self, trust: Trust) -> Self {
        self.with(|options| options.trust = TrustOption::Always(trust))
    }

    /// Sets a function that decides for each request how much its trace context is trusted.
    ///
    /// ```
    /// use tower_telemetry::{layers::Trust, TelemetryLayer};
    ///
    /// let layer = TelemetryLayer::new().with_trust_by_request(|request| {
    ///     if request.headers.contains_key("x-from-mesh") { Trust::Continue } else { Trust::Link }
    /// });
    /// ```
    pub fn with_trust_by_request(
        self,
        trust: impl Fn(&request::Parts) -> Trust + Send + Sync + 'static,
    ) -> Self {
        self.with(|options| options.trust = TrustOption::ByRequest(Arc::new(trust)))
    }

    /// Limits how many sampled incoming requests per second force their trace to be sampled. The
    /// sampler decides on further requests as if their parent were not sampled. No limit by
    /// default.
    pub fn with_forced_trace_limit(self, per_second: u32) -> Self {
        self.with(|options| options.forced_traces = Some(Arc::new(RateLimit::new(per_second))))
    }

    /// Sets the number of trusted proxies in front of the server. `client.address` and `url.scheme`
    /// are read from the elements that these proxies append to `X-Forwarded-For` and
    /// `X-Forwarded-Proto`. Defaults to 0.
    ///
    /// A proxy must append to these headers or overwrite them. If the proxies use other headers,
    /// set them with [`with_forwarded_headers`](Self::with_forwarded_headers).
    ///
    /// ```
    /// use tower_telemetry::TelemetryLayer;
    ///
    /// let layer = TelemetryLayer::new().with_trusted_proxies(1);
    /// ```
    pub fn with_trusted_proxies(self, count: usize) -> Self {
        self.with(|options| options.trusted_proxies.count = count)
    }

    /// Sets the headers that the [trusted proxies](Self::with_trusted_proxies) write. Defaults to
    /// `X-Forwarded-For` and `X-Forwarded-Proto`.
    ///
    /// List only headers that every proxy writes. Most proxies pass on unknown headers, so a listed
    /// header that a proxy does not write contains the address, the scheme and the host that the
    /// client chose. A value from `Forwarded` takes precedence over the other headers.
    ///
    /// ```
    /// use tower_telemetry::{layers::ForwardedHeader, TelemetryLayer};
    ///
    /// let layer = TelemetryLayer::new()
    ///     .with_trusted_proxies(1)
    ///     .with_forwarded_headers([ForwardedHeader::Forwarded]);
    /// ```
    pub fn with_forwarded_headers(
        self,
        headers: impl IntoIterator<Item = ForwardedHeader>,
    ) -> Self {
        self.with(|options| options.trusted_proxies.headers = headers.into_iter().collect())
    }

    /// Sets the scheme of the server's connections, `url.scheme` on spans and metrics. Defaults to
    /// `http`.
    ///
    /// Set it if this process terminates TLS, for example with `axum-server`, tonic's `tls_config`
    /// or a `TlsAcceptor`. The layer cannot see the connection, and a client can write any scheme
    /// into its request target. The scheme from a [trusted proxy](Self::with_trusted_proxies) takes
    /// precedence. A scheme other than `http` and `https` is ignored, with a warning.
    ///
    /// ```
    /// use http::uri::Scheme;
    /// use tower_telemetry::TelemetryLayer;
    ///
    /// let layer = TelemetryLayer::new().with_scheme(Scheme::HTTPS);
    /// ```
    #[allow(
        clippy::needless_pass_by_value,
        reason = "the usual argument is a constant"
    )]
    pub fn with_scheme(self, scheme: uri::Scheme) -> Self {
        let Some(scheme) = Scheme::parse(scheme.as_str()) else {
            tracing::warn!(
                target: "tower_telemetry",
                %scheme,
                "with_scheme: the scheme is neither http nor https; it is ignored"
            );
            return self;
        };
        self.with(|options| options.scheme = scheme)
    }

    /// Sets the response header for the trace id. Defaults to `x-trace-id`.
    pub fn with_trace_id_header(self, name: HeaderName) -> Self {
        self.with(|options| options.response_headers.trace_id = Some(name))
    }

    /// Disables the response header with the trace id.
    pub fn without_trace_id_header(self) -> Self {
        self.with(|options| options.response_headers.trace_id = None)
    }

    /// Adds the header `traceresponse` to responses: `00-<trace id>-<span id>-<flags>`.
    pub fn with_traceresponse(self) -> Self {
        self.with(|options| options.response_headers.traceresponse = true)
    }

    /// Adds a metric `traceparent` to the `Server-Timing` header of responses, which scripts in
    /// browsers can read.
    pub fn with_server_timing(self) -> Self {
        self.with(|options| options.response_headers.server_timing = true)
    }

    /// Logs a line for each request when it ends. Disabled by default.
    ///
    /// [`AccessLog`] describes the line. Requests that [`with_filter`](Self::with_filter) excludes
    /// are not logged, and no request is logged while telemetry is disabled.
    pub fn with_access_log(self, log: AccessLog) -> Self {
        self.with(|options| options.access_log = Some(log))
    }

    /// Omits `error.type` if the client disconnects before the response is complete.
    ///
    /// By default, it is `cancelled` in this case although the status of the span is not error,
    /// which deviates from the [recording errors] conventions. Without it, such requests look like
    /// successful requests.
    ///
    /// [recording errors]: https://opentelemetry.io/docs/specs/semconv/general/recording-errors/
    pub fn without_cancelled_error_type(self) -> Self {
        self.with(|options| options.cancelled_error_type = false)
    }
}

impl<S> Layer<S> for TelemetryLayer {
    type Service = Telemetry<S>;

    fn layer(&self, inner: S) -> Telemetry<S> {
        Telemetry {
            inner,
            shared: self.shared.clone(),
        }
    }
}

/// Service created by [`TelemetryLayer`].
#[derive(Clone)]
pub struct Telemetry<S> {
    inner: S,
    shared: Arc<Shared>,
}

inner_service!(Telemetry);

impl<S, B, R> Service<Request<B>> for Telemetry<S>
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
        // Inner layers may start spans before they return their future.
        let entered = request.enter();
        let inner = self.inner.call(Request::from_parts(head, body));
        drop(entered);
        ResponseFuture::new(inner, request)
    }
}

/// Marks a request that a layer has seen, in its extensions.
#[derive(Clone)]
struct Seen;

/// Starts a request.
fn start(shared: &Shared, head: &mut request::Parts) -> ActiveRequest {
    let Some(state) = shared.state() else {
        return ActiveRequest::switched_off(&shared.options, head);
    };
    let Some(original) = original_uri(head).cloned() else {
        return start_with(state, head, None);
    };
    // Hooks and attributes use the URI that the client sent. The inner service gets the URI as its
    // router changed it.
    let routed = mem::replace(&mut head.uri, original);
    let request = start_with(state, head, Some(&routed));
    head.uri = routed;
    request
}

#[inline]
fn start_with(
    state: &PerThreadArc<LayerState>,
    head: &mut request::Parts,
    routed: Option<&Uri>,
) -> ActiveRequest {
    let signals = state.recorded_signals(head);
    if signals.is_empty() {
        return match head.extensions.get::<Seen>() {
            // The context of the outer layer, which records the request, is current.
            Some(_) => ActiveRequest::none(),
            None => ActiveRequest::unrecorded(state, head),
        };
    }
    if head.extensions.insert(Seen).is_some() {
        warn_once!("a request passes through two telemetry layers; the inner one is ignored");
        return ActiveRequest::none();
    }
    ActiveRequest::start_incoming(state, head, routed, signals)
}

impl<S: fmt::Debug> fmt::Debug for Telemetry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
