//! The layer for clients and the service that it makes.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderName, Request, Response, Uri, request, response};
use opentelemetry::Context as TelemetryContext;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::metrics::MeterProvider;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt, Tracer, TracerProvider};
use tower_layer::Layer;
use tower_service::Service;

use crate::active_request::ActiveRequest;
use crate::body::ResponseBody;
use crate::bound;
use crate::current;
use crate::future::ResponseFuture;
use crate::options::{MetricSet, Options, RequestAttributes, Target, error_type_hook};
use crate::propagation::{Format, Propagators, has_beside, remove};
use crate::providers::TracersOf;
use crate::recorder::Shared;
use crate::semconv::{SensitiveParameters, Side};

/// Layer that records each request of a client: one span, the request metrics, and the trace
/// context in the headers of the request.
///
/// It wraps any Tower service over [`http::Request`] that sends requests: hyper-util's client, a
/// tonic `Channel`, a client of your own.
///
/// # What is recorded
///
/// The span is below the one that is current when the client is called. It starts before the
/// request is sent, and ends with the last frame of the response's body, or when that is dropped;
/// metrics are recorded at the same time with the same duration. Each attempt is a request of its
/// own: the layer goes inside of what retries or follows redirects, and [`AttemptsLayer`] around
/// what retries counts.
///
/// | what happens | `error.type` | span status |
/// |---|---|---|
/// | the response arrives, its status below 400 | | unset |
/// | its status is 400 or more | the status | error |
/// | there is no response, or its body fails | the error's cause or type | error |
/// | the body ends before its `content-length` | `body_incomplete` | error |
/// | the caller drops the future or the body | that of the status, if any | unset, or that of the status |
///
/// The values of `error.type` are those of
/// [`TelemetryLayer`](crate::TelemetryLayer#the-values-of-errortype). The messages of the error and
/// its sources are the description of the span's status, 256 bytes at most. In URLs in them user and
/// password are redacted, and the query as it is in `url.full`.
///
/// A gRPC call, told by its content type, fails with every status but OK, and has its message as
/// description; a call that is dropped is `CANCELLED`, and no error. A call that fails without a
/// status has the code that tonic's caller sees, with the feature `tonic`. Without it, errors of
/// hyper and h2 have the same codes, and others are `UNAVAILABLE` before the head of the response
/// and `INTERNAL` after it. Attributes and metrics are those of the conventions for [HTTP clients]
/// and [gRPC clients].
///
/// # Where context may go
///
/// `traceparent` and `tracestate` go to every server, unless
/// [`with_trace_targets`](Self::with_trace_targets) names some; baggage goes nowhere, unless
/// [`with_baggage_targets`](Self::with_baggage_targets) names some. What a request says of another
/// context, because it was copied from one that came in, is taken out. Where telemetry is suppressed,
/// as it is for what exports it, a request is left as it is.
///
/// # Providers
///
/// Spans and metrics go where [`init`](crate::init) sends them, or to OpenTelemetry's global
/// providers. Where a [`TelemetryLayer`](crate::TelemetryLayer) was given others, a client needs to
/// be given them too.
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
        Self::of(Options {
            side: Side::Client,
            ..Options::default()
        })
    }
}

impl ClientTelemetryLayer {
    /// Creates a layer with the default options.
    pub fn new() -> Self {
        Self::default()
    }

    fn of(options: Options) -> Self {
        let shared = Arc::new(Shared::new(options));
        Self { shared }
    }

    fn with(self, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = self.shared.options.clone();
        change(&mut options);
        Self::of(options)
    }

    /// Names the server, for requests that do not: a tonic `Channel` knows it, and the calls that
    /// it is given do not.
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

    /// Tells only these hosts which trace a request belongs to: `example.com`, `*.example.com` for
    /// all below it, `*` for all, each with a port where it is to be that one alone.
    ///
    /// It is looked at for each request that passes the layer, and for each hop of redirects that are
    /// followed around it. `reqwest` follows them below, and takes all headers along: where it
    /// matters, give its client `redirect::Policy::none()`.
    ///
    /// ```
    /// use tower_telemetry::ClientTelemetryLayer;
    ///
    /// let layer = ClientTelemetryLayer::new().with_trace_targets(["localhost", "*.internal"]);
    /// ```
    pub fn with_trace_targets<H: Into<String>>(self, hosts: impl IntoIterator<Item = H>) -> Self {
        let hosts = hosts.into_iter().map(|host| Target::new(&host.into()));
        let hosts = hosts.collect();
        self.with(|options| options.trace_targets = Some(hosts))
    }

    /// Sends baggage to these hosts, named and looked at as in
    /// [`with_trace_targets`](Self::with_trace_targets).
    pub fn with_baggage_targets<H: Into<String>>(self, hosts: impl IntoIterator<Item = H>) -> Self {
        let hosts = hosts.into_iter().map(|host| Target::new(&host.into()));
        let hosts = hosts.collect();
        self.with(|options| options.baggage_targets = hosts)
    }

    /// Sends the spans to `provider`, as
    /// [`TelemetryLayer::with_tracer_provider`](crate::TelemetryLayer::with_tracer_provider) does.
    pub fn with_tracer_provider<P>(self, provider: P) -> Self
    where
        P: TracerProvider + Send + Sync + 'static,
        P::Tracer: Send + Sync + 'static,
        <P::Tracer as Tracer>::Span: Send + Sync + 'static,
    {
        let tracers = Arc::new(TracersOf(provider));
        self.with(|options| options.tracers = Some(tracers))
    }

    /// Sends the metrics to `provider`, as
    /// [`TelemetryLayer::with_meter_provider`](crate::TelemetryLayer::with_meter_provider) does.
    pub fn with_meter_provider<P>(self, provider: P) -> Self
    where
        P: MeterProvider + Send + Sync + 'static,
    {
        self.with(|options| options.set_meters(bound::of_type(provider)))
    }

    /// Writes the context of requests with `propagator`, in place of W3C Trace Context and Baggage,
    /// or of what [`init`](crate::init) has set.
    pub fn with_propagator<P>(self, propagator: P) -> Self
    where
        P: TextMapPropagator + Send + Sync + 'static,
    {
        let propagators = Propagators::from_iter([Format::Other(Arc::new(propagator))]);
        self.with(|options| options.propagators = Some(propagators))
    }

    /// Records only the requests that `filter` wants. The others carry the context on.
    pub fn with_filter<F>(self, filter: F) -> Self
    where
        F: Fn(&request::Parts) -> bool + Send + Sync + 'static,
    {
        self.with(|options| options.filter = Some(Arc::new(filter)))
    }

    /// Names spans by `name`, which must give few names; `None` is the name by the conventions, the
    /// method.
    pub fn with_span_name<F>(self, name: F) -> Self
    where
        F: Fn(&request::Parts) -> Option<Cow<'static, str>> + Send + Sync + 'static,
    {
        self.with(|options| options.span_name = Some(Arc::new(name)))
    }

    /// Adds attributes from the head of each request.
    pub fn with_request_attributes<F>(self, attributes: F) -> Self
    where
        F: Fn(&request::Parts, &mut RequestAttributes) + Send + Sync + 'static,
    {
        self.with(|options| options.request_attributes = Some(Arc::new(attributes)))
    }

    /// Adds attributes from the head of each response.
    pub fn with_response_attributes<F>(self, attributes: F) -> Self
    where
        F: Fn(&response::Parts, &mut RequestAttributes) + Send + Sync + 'static,
    {
        self.with(|options| options.response_attributes = Some(Arc::new(attributes)))
    }

    /// Puts headers of requests on spans, as
    /// [`TelemetryLayer::with_captured_request_headers`](crate::TelemetryLayer::with_captured_request_headers)
    /// does; those of `OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST` by default.
    pub fn with_captured_request_headers(
        self,
        names: impl IntoIterator<Item = HeaderName>,
    ) -> Self {
        let names = names.into_iter().collect();
        self.with(|options| options.captured_request = Some(names))
    }

    /// Puts headers of responses on spans; those of
    /// `OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE` by default.
    pub fn with_captured_response_headers(
        self,
        names: impl IntoIterator<Item = HeaderName>,
    ) -> Self {
        let names = names.into_iter().collect();
        self.with(|options| options.captured_response = Some(names))
    }

    /// Sets which sets of metrics are recorded; [`MetricSet::Basic`] is one of servers alone.
    pub fn with_metrics(self, sets: impl IntoIterator<Item = MetricSet>) -> Self {
        self.with(|options| options.metrics = sets.into_iter().collect())
    }

    /// Redacts the values of these query parameters in `url.full`, in place of those that the
    /// conventions list. Names are case-sensitive.
    pub fn with_sensitive_query_parameters<N: Into<String>>(
        self,
        names: impl IntoIterator<Item = N>,
    ) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        self.with(|options| options.sensitive_parameters = Some(SensitiveParameters::new(names)))
    }

    /// Records no query in `url.full`.
    pub fn without_query(self) -> Self {
        self.with(|options| options.sensitive_parameters = None)
    }

    /// Sets the methods that are known, as
    /// [`TelemetryLayer::with_known_methods`](crate::TelemetryLayer::with_known_methods) does.
    pub fn with_known_methods<N: Into<String>>(self, methods: impl IntoIterator<Item = N>) -> Self {
        let methods = methods.into_iter().map(Into::into).collect();
        self.with(|options| options.known_methods = Some(methods))
    }
}

impl ClientTelemetryLayer {
    /// Declares gRPC methods that are called, as `package.Service/Method`, so that they are named
    /// from their first call on. So are, with the feature `tonic`, those of its generated clients.
    /// Others have a name when they have been answered for, up to 256. Methods that were declared before
    /// stay.
    pub fn with_grpc_methods<N: Into<String>>(self, methods: impl IntoIterator<Item = N>) -> Self {
        let methods = methods.into_iter().map(Into::into);
        self.with(|options| options.grpc_methods.extend(methods))
    }

    /// Declares the gRPC methods of services from their descriptors, as
    /// [`TelemetryLayer::with_grpc_descriptors`](crate::TelemetryLayer::with_grpc_descriptors) does.
    pub fn with_grpc_descriptors(self, file_descriptor_set: &[u8]) -> Self {
        self.with(|options| options.add_grpc_descriptors(file_descriptor_set))
    }

    /// Names errors of type `E` for `error.type`, as
    /// [`TelemetryLayer::with_error_type`](crate::TelemetryLayer::with_error_type) does.
    pub fn with_error_type<E: Error + 'static>(
        self,
        name: impl Fn(&E) -> Option<&'static str> + Send + Sync + 'static,
    ) -> Self {
        let hook = error_type_hook(name);
        self.with(|options| options.error_types.push(hook))
    }
}

impl fmt::Debug for ClientTelemetryLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTelemetryLayer")
            .field("options", &self.shared.options)
            .finish()
    }
}

impl ClientTelemetryLayer {
    /// Starts a request, and puts its context into the head.
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

/// Service made by [`ClientTelemetryLayer`].
#[derive(Clone)]
pub struct ClientTelemetry<S> {
    inner: S,
    shared: Arc<Shared>,
}

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

/// Starts a request, and puts its context into the head.
fn start(shared: &Shared, head: &mut request::Parts) -> ActiveRequest {
    if current::map(TelemetryContext::is_telemetry_suppressed) {
        return ActiveRequest::none();
    }
    let recorder = shared.recorder();
    match recorder {
        Some(recorder) if shared.options.wants(head) => {
            ActiveRequest::start_outgoing(recorder, head)
        }
        _ => {
            let propagators = match recorder {
                Some(recorder) => &recorder.propagators,
                None => shared.options.propagators(),
            };
            let cx = current::get();
            let may_tell = shared.options.may_tell(shared.options.server(head));
            if cx.has_active_span() || !cx.baggage().is_empty() || has_beside(&cx) {
                propagators.inject(&cx, may_tell, &mut head.headers);
            } else {
                // There is no context to put in place of what is there.
                remove(&mut head.headers, may_tell);
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
