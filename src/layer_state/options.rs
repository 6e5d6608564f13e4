//! The options of a layer, and their evaluation for a request.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use http::{HeaderName, Uri, request, response};

use crate::concurrent::caught::guarded;
use crate::instruments::metric_set::MetricSet;
use crate::layer_state::access_log::AccessLog;
use crate::layer_state::host_pattern::HostPattern;
use crate::layer_state::metric_attributes::RequestAttributes;
use crate::layer_state::rate_limit::RateLimit;
use crate::propagation::{Allowed, Propagators, ResponseHeaders};
use crate::providers::bound::Meters;
use crate::providers::generations;
use crate::providers::series_budget::{SDK_SERIES, SeriesBudget};
use crate::providers::start_span::MakeTracer;
use crate::semconv::Scheme;
use crate::semconv::Server;
use crate::semconv::{self, NameError, SensitiveParameters, Side, TrustedProxies};

/// How much the trace context of incoming requests is trusted.
///
/// The sender of a request chooses its context: the trace of the request, and whether the trace is
/// sampled. See [`TelemetryLayer::with_trust`](crate::TelemetryLayer::with_trust).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// The request continues the caller's trace, with its sampling decision and its baggage.
    #[default]
    Continue,
    /// The request starts a new trace, with a link to the caller's span.
    Link,
    /// The request starts a new trace.
    Ignore,
}

pub(crate) type Hook<H, T> = Arc<dyn Fn(&H) -> T + Send + Sync>;
type AttributesHook<H> = Arc<dyn Fn(&H, &mut RequestAttributes) + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) side: Side,
    pub(crate) tracers: Option<Arc<dyn MakeTracer>>,
    pub(crate) meters: Option<Meters>,
    /// The room for series in the instruments of these meters. Clones of a layer share it.
    pub(crate) budget: Option<Arc<SeriesBudget>>,
    /// `None` means the propagators of `init`, or W3C's without `init`.
    pub(crate) propagators: Option<Propagators>,
    pub(crate) filter: Option<Hook<request::Parts, bool>>,
    pub(crate) trace_filter: Option<Hook<request::Parts, bool>>,
    pub(crate) metric_filter: Option<Hook<request::Parts, bool>>,
    pub(crate) span_name: Option<Hook<request::Parts, Option<Cow<'static, str>>>>,
    /// The route of a request in a router other than axum's.
    pub(crate) route: Option<Hook<request::Parts, Option<Cow<'static, str>>>>,
    pub(crate) trust: TrustOption,
    /// Whether the current span can be the parent of a request.
    pub(crate) outer_span: bool,
    pub(crate) forced_traces: Option<Arc<RateLimit>>,
    pub(crate) request_attributes: Option<AttributesHook<request::Parts>>,
    pub(crate) response_attributes: Option<AttributesHook<response::Parts>>,
    /// The headers to capture; `None` means the headers from the environment.
    pub(crate) captured_request: Option<Vec<HeaderName>>,
    pub(crate) captured_response: Option<Vec<HeaderName>>,
    pub(crate) response_headers: ResponseHeaders,
    pub(crate) metrics: Vec<MetricSet>,
    /// `None` means that queries are not recorded.
    pub(crate) sensitive_parameters: Option<SensitiveParameters>,
    pub(crate) trusted_proxies: TrustedProxies,
    /// The scheme of the connections to the server.
    pub(crate) scheme: Scheme,
    /// `None` means the methods from the environment, or else of the conventions.
    pub(crate) known_methods: Option<Vec<String>>,
    pub(crate) grpc_methods: Vec<String>,
    /// The hooks that name errors, one per type.
    pub(crate) error_types: Vec<Arc<dyn NameError>>,
    /// Whether a cancelled request has an `error.type`.
    pub(crate) cancelled_error_type: bool,
    /// The server of client requests whose URI has no host.
    pub(crate) server: Option<Uri>,
    /// The hosts that receive trace context; `None` means all hosts.
    pub(crate) trace_targets: Option<Vec<HostPattern>>,
    pub(crate) baggage_targets: Vec<HostPattern>,
    pub(crate) access_log: Option<AccessLog>,
    /// Whether a request has a span of `tracing`, if a subscriber supports it.
    pub(crate) tracing_span: bool,
}

#[derive(Clone)]
pub(crate) enum TrustOption {
    Always(Trust),
    ByRequest(Hook<request::Parts, Trust>),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            side: Side::default(),
            tracers: None,
            meters: None,
            budget: None,
            propagators: None,
            filter: None,
            trace_filter: None,
            metric_filter: None,
            span_name: None,
            route: None,
            trust: TrustOption::Always(Trust::default()),
            outer_span: true,
            forced_traces: None,
            request_attributes: None,
            response_attributes: None,
            captured_request: None,
            captured_response: None,
            response_headers: ResponseHeaders::default(),
            metrics: vec![MetricSet::Basic, MetricSet::Conventions],
            sensitive_parameters: Some(SensitiveParameters::default()),
            trusted_proxies: TrustedProxies::default(),
            scheme: Scheme::default(),
            known_methods: None,
            grpc_methods: Vec::new(),
            error_types: Vec::new(),
            cancelled_error_type: true,
            server: None,
            trace_targets: None,
            baggage_targets: Vec::new(),
            access_log: None,
            tracing_span: true,
        }
    }
}

impl Options {
    /// Sets the meter provider.
    pub(crate) fn set_meters(&mut self, meters: Meters) {
        self.meters = Some(meters);
        self.budget = Some(SeriesBudget::new(SDK_SERIES));
    }

    /// Adds the gRPC methods of a `FileDescriptorSet` to the declared methods.
    pub(crate) fn add_grpc_descriptors(&mut self, set: &[u8]) {
        match semconv::grpc_methods(set) {
            Some(methods) => self.grpc_methods.extend(methods),
            None => tracing::warn!(
                target: "tower_telemetry",
                bytes = set.len(),
                    "with_grpc_descriptors: the bytes are not a FileDescriptorSet; no methods are declared"
            ),
        }
    }

    /// Returns the server of a client request.
    pub(crate) fn server<'a>(&'a self, request: &'a request::Parts) -> Option<Server<'a>> {
        // The header `Host` is not used, because it may be a copy from an untrusted request.
        Server::in_uri(&request.uri).or_else(|| Server::in_uri(self.server.as_ref()?))
    }

    /// Returns the context that a server may receive. An unknown server receives only what all
    /// servers may receive.
    pub(crate) fn allowed(&self, server: Option<Server<'_>>) -> Allowed {
        let is_among = |patterns: &[HostPattern]| {
            server.is_some_and(|server| patterns.iter().any(|pattern| pattern.matches(server)))
        };
        let trace_targets = self.trace_targets.as_deref();
        Allowed {
            trace: trace_targets.is_none_or(is_among),
            baggage: is_among(&self.baggage_targets),
        }
    }

    #[inline]
    pub(crate) fn span_name(&self, request: &request::Parts) -> Option<Cow<'static, str>> {
        let hook = self.span_name.as_ref()?;
        guarded(|| hook(request))?
    }

    /// Returns the route from a hook, truncated because it may be text from a client.
    #[inline]
    pub(crate) fn route(&self, request: &request::Parts) -> Option<Cow<'static, str>> {
        let hook = self.route.as_ref()?;
        let route = guarded(|| hook(request))??;
        if route.len() > semconv::MAX_PATH {
            return Some(
                semconv::truncate(&route, semconv::MAX_PATH)
                    .into_owned()
                    .into(),
            );
        }
        Some(route).filter(|route| !route.is_empty())
    }

    #[inline]
    pub(crate) fn trust(&self, request: &request::Parts) -> Trust {
        match &self.trust {
            TrustOption::Always(trust) => *trust,
            // If the hook panics, the request is not trusted.
            TrustOption::ByRequest(hook) => guarded(|| hook(request)).unwrap_or(Trust::Ignore),
        }
    }

    /// Returns whether another request may force its trace to be sampled, and counts it.
    #[inline]
    pub(crate) fn may_force_sampling(&self) -> bool {
        let limit = self.forced_traces.as_ref();
        limit.is_none_or(|limit| limit.allows())
    }

    /// Returns whether application code runs for a request before its span is created. The span
    /// includes the duration of that code.
    #[inline]
    pub(crate) fn has_request_hooks(&self) -> bool {
        self.span_name.is_some()
            || self.route.is_some()
            || self.request_attributes.is_some()
            || self.propagators.is_some()
            || matches!(self.trust, TrustOption::ByRequest(_))
    }

    /// Returns the attributes from the request hook; `None` if there is no hook.
    #[inline]
    pub(crate) fn request_attributes(&self, head: &request::Parts) -> Option<RequestAttributes> {
        hooked(self.request_attributes.as_ref()?, head)
    }

    /// Returns the attributes from the response hook; `None` if there is no hook.
    #[inline]
    pub(crate) fn response_attributes(&self, head: &response::Parts) -> Option<RequestAttributes> {
        hooked(self.response_attributes.as_ref()?, head)
    }

    pub(crate) fn propagators(&self) -> &Propagators {
        let own = self.propagators.as_ref();
        own.unwrap_or_else(|| generations::propagators())
    }
}

/// A hook that names errors of type `E`.
struct TypedErrorHook<E, F> {
    name: F,
    error: PhantomData<fn(&E)>,
}

/// Creates a hook from a function that names errors of one type.
pub(crate) fn error_type_hook<E: Error + 'static>(
    name: impl Fn(&E) -> Option<&'static str> + Send + Sync + 'static,
) -> Arc<dyn NameError> {
    Arc::new(TypedErrorHook {
        name,
        error: PhantomData,
    })
}

impl<E, F> NameError for TypedErrorHook<E, F>
where
    E: Error + 'static,
    F: Fn(&E) -> Option<&'static str> + Send + Sync,
{
    fn reveal<'a>(&self, error: &'a dyn Any) -> Option<&'a (dyn Error + 'static)> {
        let boxed = || error.downcast_ref::<Box<E>>().map(|error| &**error);
        let shared = || error.downcast_ref::<Arc<E>>().map(|error| &**error);
        let error = error.downcast_ref::<E>().or_else(boxed).or_else(shared);
        error.map(|error| error as _)
    }

    fn name(&self, error: &(dyn Error + 'static)) -> Option<&'static str> {
        let error = error.downcast_ref::<E>()?;
        guarded(|| (self.name)(error))?
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("metrics", &self.metrics)
            .field("response_headers", &self.response_headers)
            .field("trusted_proxies", &self.trusted_proxies)
            .finish_non_exhaustive()
    }
}

/// Returns the attributes that a hook adds. If it panics, the attributes added before are returned.
fn hooked<H>(hook: &AttributesHook<H>, head: &H) -> Option<RequestAttributes> {
    let mut added = RequestAttributes::default();
    guarded(|| hook(head, &mut added));
    Some(added)
}
