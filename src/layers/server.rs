//! The layer for servers and the service that it makes.

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

/// Layer that records each request to a server: one span, the request metrics, and a response
/// header with the trace id.
///
/// It wraps any Tower service over [`http::Request`]: an axum router or a single route, a tonic
/// server, a service of your own.
///
/// # When a span starts, when it ends, what is recorded
///
/// The span starts when the request reaches the layer. Its parent is the span that the request's
/// `traceparent` header names. Without one, or with one that is not valid, it is the span that is
/// current then, such as that of an outer layer; where there is none, a new trace begins. An outer
/// span in the trace of the header is the parent, too. Where a span is current that is not that of
/// the request, such as one of a whole connection, say
/// [`without_outer_span`](Self::without_outer_span).
/// The span is current in the context of everything that the inner service does for the request,
/// also while the response's body is streamed and while what was cancelled is dropped. A body that
/// says by itself that it is at its end is dropped without it.
///
/// The span ends with the last frame of the response's body, and metrics are recorded at the same
/// time with the same duration:
///
/// | what happens | `error.type` | span status |
/// |---|---|---|
/// | the response is sent, its status below 500 | | unset |
/// | the response has a status of 500 or more, however its body ends | the status | error |
/// | the client goes away before the response is complete | `cancelled` | unset |
/// | the body ends before its `content-length` | `body_incomplete` | error |
/// | the body fails after a good head | the error's cause or type | error |
/// | the inner service gives an error | the error's cause or type | error |
/// | the handler panics | `panic` | error |
///
/// A `cancelled` request has an `error.type` although its span's status is not error. To leave such
/// requests out of an error rate, exclude the value in the query, such as
/// `error_type!~"|cancelled"` in PromQL, or leave it out here:
/// [`without_cancelled_error_type`](Self::without_cancelled_error_type).
///
/// The attributes are those of the OpenTelemetry [HTTP conventions] 1.45; a gRPC call, told by its
/// content type, has those of the [RPC conventions] instead and ends with its trailers. The message
/// of a call that fails is the description of the span's status; that of an error of the inner
/// service is not recorded.
///
/// `url.path` is the path that the client asked for, also in a layer on a nested router; hooks see it,
/// too. `url.scheme` is `http` unless [`with_scheme`](Self::with_scheme) or a trusted proxy says
/// otherwise.
///
/// `http.route` is known where axum has matched a route before the request reaches the layer, as
/// it has in a layer that was added with `Router::layer` or `Router::route_layer`, and where
/// [`with_route`](Self::with_route) tells it.
///
#[doc = include_str!("error_types.md")]
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
#[derive(Clone, Default)]
#[must_use = "a layer does nothing until it is added to a service"]
pub struct TelemetryLayer {
    /// Shared with all services of the layer: axum makes one for each route and connection.
    shared: Arc<Shared>,
}

shared_setters!(
    TelemetryLayer,
    "url.query",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER"
);

impl TelemetryLayer {
    /// Takes no span that is current when a request comes for its parent: only the headers of the
    /// request name one.
    ///
    /// For services that run inside of a span of another kind, such as that of a connection; all its
    /// requests would be in one trace.
    pub fn without_outer_span(self) -> Self {
        self.with(|options| options.outer_span = false)
    }

    /// Sets the route of each request, `http.route` on spans and metrics, for routers other than axum's
    /// ([HTTP spans]). Where `route` returns `None`, it is the route that axum has matched, if any.
    ///
    /// A route is a template, such as `/users/{id}`: never return the path. It is cut to 1,024 bytes, and
    /// past the 2,000 series that the SDK keeps of a metric, requests are counted together.
    ///
    /// ```
    /// use tower_telemetry::TelemetryLayer;
    ///
    /// // The router of the service inside, or a copy of it.
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

    /// Sets how far the trace context of requests is trusted. [`Trust::Continue`] by default,
    /// which is for services that the public cannot reach.
    ///
    /// ```
    /// use tower_telemetry::{layers::Trust, TelemetryLayer};
    ///
    /// let layer = TelemetryLayer::new().with_trust(Trust::Link);
    /// ```
    pub fn with_trust(self, trust: Trust) -> Self {
        self.with(|options| options.trust = TrustOption::Always(trust))
    }

    /// Sets for each request how far its trace context is trusted.
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

    /// Lets requests that come in sampled force so many traces in each second; further ones are
    /// decided on as if they had come in not sampled. No limit by default.
    pub fn with_forced_trace_limit(self, per_second: u32) -> Self {
        self.with(|options| options.forced_traces = Some(Arc::new(RateLimit::new(per_second))))
    }

    /// Trusts that many proxies in front of the server: `client.address` and `url.scheme` are read from
    /// the elements that they have added to `X-Forwarded-For` and `X-Forwarded-Proto`. None by default.
    ///
    /// A proxy must append to these headers, or overwrite them. Proxies that write others are told with
    /// [`with_forwarded_headers`](Self::with_forwarded_headers).
    ///
    /// ```
    /// use tower_telemetry::TelemetryLayer;
    ///
    /// let layer = TelemetryLayer::new().with_trusted_proxies(1);
    /// ```
    pub fn with_trusted_proxies(self, count: usize) -> Self {
        self.with(|options| options.trusted_proxies.count = count)
    }

    /// Sets which headers the [trusted proxies](Self::with_trusted_proxies) write, in place of
    /// `X-Forwarded-For` and `X-Forwarded-Proto`.
    ///
    /// Name only headers that each of the proxies writes. Most pass on what they do not know: a header
    /// that is named here and not written by a proxy is what the client says, with its own address,
    /// scheme and host. Where `Forwarded` is named and has a value, that holds over the others.
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

    /// Sets the scheme of the connections that requests come on, `url.scheme` on spans and metrics.
    /// `http` by default.
    ///
    /// Set it where TLS ends in this process, as with `axum-server`, tonic's `tls_config` or a
    /// `TlsAcceptor`: the layer does not see the connection, and a client can write any scheme into the
    /// target of its request. The scheme that a [trusted proxy](Self::with_trusted_proxies) names holds
    /// over it. A scheme other than `http` and `https` is ignored, with a warning.
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

    /// Puts the trace id into another response header than `x-trace-id`.
    pub fn with_trace_id_header(self, name: HeaderName) -> Self {
        self.with(|options| options.response_headers.trace_id = Some(name))
    }

    /// Puts no header with the trace id alone into responses.
    pub fn without_trace_id_header(self) -> Self {
        self.with(|options| options.response_headers.trace_id = None)
    }

    /// Puts the header `traceresponse` into responses: `00-<trace id>-<span id>-<flags>`.
    pub fn with_traceresponse(self) -> Self {
        self.with(|options| options.response_headers.traceresponse = true)
    }

    /// Adds a metric `traceparent` to the header `Server-Timing` of responses, from which scripts
    /// in browsers can read it.
    pub fn with_server_timing(self) -> Self {
        self.with(|options| options.response_headers.server_timing = true)
    }

    /// Logs a line for each request when it ends. None by default.
    ///
    /// See [`AccessLog`] for what is in it. Requests that [`with_filter`](Self::with_filter) leaves
    /// out have none, nor has any where telemetry is switched off.
    pub fn with_access_log(self, log: AccessLog) -> Self {
        self.with(|options| options.access_log = Some(log))
    }

    /// Leaves `error.type` out where the client goes away before the response is complete.
    ///
    /// By default it is `cancelled` there, although the span's status is not error, which deviates
    /// from the [recording errors] conventions. Without it, such requests look like successful ones.
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

/// Service made by [`TelemetryLayer`].
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

/// Says in the extensions of a request that a layer has seen it.
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
    // Hooks and attributes are of the request that the client has sent. The service gets the URI that
    // its router has left.
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
    let wanted = state.wanted(head);
    if wanted.nothing() {
        return match head.extensions.get::<Seen>() {
            // The context of the layer that records it is current.
            Some(_) => ActiveRequest::none(),
            None => ActiveRequest::unrecorded(state, head),
        };
    }
    if head.extensions.insert(Seen).is_some() {
        warn_once!("a request passes two telemetry layers; the inner one does nothing");
        return ActiveRequest::none();
    }
    ActiveRequest::start_incoming(state, head, routed, wanted)
}

impl<S: fmt::Debug> fmt::Debug for Telemetry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
