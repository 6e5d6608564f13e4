//! What a layer can be told, and what it makes of it.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use http::{Extensions, HeaderName, Uri, request, response};
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;

use crate::access_log::AccessLog;
use crate::generations;
use crate::handler_attributes;
use crate::propagation::{MayTell, Propagators, ResponseHeaders};
use crate::providers::MakeTracer;
use crate::request_body::Received;
use crate::room::{Room, SDK_SERIES};
use crate::semconv::http::{Scheme, Server, split_authority};
use crate::semconv::{self, NameError, SensitiveParameters, Side, TrustedProxies};

/// Attributes that a hook may put on one span.
const MAX_HOOK_ATTRIBUTES: usize = 64;

/// How far the trace context that comes with a request is trusted.
///
/// Whoever can send a request chooses it, and with it the trace that the request appears in, and
/// whether that is sampled. See [`TelemetryLayer::with_trust`](crate::TelemetryLayer::with_trust).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// The request continues the trace, with its sampling decision and its baggage.
    #[default]
    Continue,
    /// The request begins a trace of its own, with a link to the span that called.
    Link,
    /// The request begins a trace of its own.
    Ignore,
}

/// A set of metrics that a layer records; see
/// [`TelemetryLayer::with_metrics`](crate::TelemetryLayer::with_metrics).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricSet {
    /// `http.requests` and `http.duration`, of servers alone.
    Basic,
    /// `http.server.request.duration`, `http.server.active_requests` and
    /// `rpc.server.call.duration`, as the OpenTelemetry conventions have them; of a client those with
    /// `client` in place of `server`.
    Conventions,
    /// `http.server.response.body.size`, and with a
    /// [`RequestBodySizeLayer`](crate::RequestBodySizeLayer) `http.server.request.body.size`, in
    /// bytes that were really transferred; of a client likewise.
    BodySizes,
}

/// Attributes that a hook adds to a request.
///
/// They are added to the span alone, or to the metrics and the span: what tells one request from
/// another, such as an id, does not get onto a metric by accident.
#[derive(Debug, Default)]
pub struct RequestAttributes {
    pub(crate) span: Vec<KeyValue>,
    pub(crate) metric: Vec<KeyValue>,
}

impl RequestAttributes {
    /// Adds an attribute to the span. Of those from one hook, 64 are kept.
    pub fn add_to_span(&mut self, attribute: KeyValue) {
        if self.span.len() < MAX_HOOK_ATTRIBUTES {
            self.span.push(attribute);
        }
    }

    /// Adds an attribute with few values to the metrics of the request, and to its span.
    ///
    /// One with the same key takes its place. A request has 16 of them at most. On metrics a value is
    /// cut to 64 bytes, and past 64 values of one key, values become `_OTHER`. Keys that the layer has
    /// on its metrics itself keep the layer's values there.
    pub fn add_to_metrics(&mut self, attribute: KeyValue) {
        self.add_to_span(attribute.clone());
        handler_attributes::put(&mut self.metric, attribute);
    }
}

type Hook<H, T> = Arc<dyn Fn(&H) -> T + Send + Sync>;
type AttributesHook<H> = Arc<dyn Fn(&H, &mut RequestAttributes) + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) side: Side,
    pub(crate) tracers: Option<Arc<dyn MakeTracer>>,
    pub(crate) meters: Option<Arc<dyn MeterProvider + Send + Sync>>,
    /// Room in the instruments of these meters, which the clones of a layer share.
    pub(crate) room: Option<Arc<Room>>,
    /// Those of `init`, else those of the W3C, where none are named.
    pub(crate) propagators: Option<Propagators>,
    pub(crate) filter: Option<Hook<request::Parts, bool>>,
    pub(crate) span_name: Option<Hook<request::Parts, Option<Cow<'static, str>>>>,
    pub(crate) trust: TrustOption,
    /// Whether a span that is current when a request comes can be its parent.
    pub(crate) outer_span: bool,
    pub(crate) forced_traces: Option<Arc<RateLimit>>,
    pub(crate) request_attributes: Option<AttributesHook<request::Parts>>,
    pub(crate) response_attributes: Option<AttributesHook<response::Parts>>,
    /// Headers to capture; those of the environment, where none are named.
    pub(crate) captured_request: Option<Vec<HeaderName>>,
    pub(crate) captured_response: Option<Vec<HeaderName>>,
    pub(crate) response_headers: ResponseHeaders,
    pub(crate) metrics: Vec<MetricSet>,
    /// `None` where queries are not recorded at all.
    pub(crate) sensitive_parameters: Option<SensitiveParameters>,
    pub(crate) trusted_proxies: TrustedProxies,
    /// The scheme of the connections that requests come on.
    pub(crate) scheme: Scheme,
    /// Those of the environment, else those of the conventions, where none are named.
    pub(crate) known_methods: Option<Vec<String>>,
    pub(crate) grpc_methods: Vec<String>,
    /// Hooks that name errors, one for each type.
    pub(crate) error_types: Vec<Arc<dyn NameError>>,
    /// Whether a cancelled request has an `error.type`.
    pub(crate) cancelled_error_type: bool,
    /// The server of a client whose requests do not name it.
    pub(crate) server: Option<Uri>,
    /// Who is told of the trace; `None` for everybody.
    pub(crate) trace_targets: Option<Vec<Target>>,
    pub(crate) baggage_targets: Vec<Target>,
    pub(crate) access_log: Option<AccessLog>,
}

/// A pattern of servers.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    hosts: Hosts,
    /// `None` for every port.
    port: Option<u16>,
}

#[derive(Clone, Debug)]
enum Hosts {
    All,
    One(String),
    /// All below a domain, which begins with its dot.
    Below(String),
}

impl Target {
    /// `example.com`, `*.example.com` for the hosts below it, or `*`, each perhaps with a port.
    pub(crate) fn new(pattern: &str) -> Self {
        let pattern = pattern.to_ascii_lowercase();
        // What has several colons and no brackets is an address alone.
        let is_address = pattern.parse::<std::net::Ipv6Addr>().is_ok();
        let split = split_authority(&pattern).filter(|_| !is_address);
        let (host, port) = split.unwrap_or((&pattern, None));
        let hosts = match host.strip_prefix('*') {
            Some("") => Hosts::All,
            Some(domain) if domain.starts_with('.') => Hosts::Below(domain.to_owned()),
            _ => Hosts::One(host.to_owned()),
        };
        Self { hosts, port }
    }

    fn matches(&self, server: Server<'_>) -> bool {
        let host = server.host.to_ascii_lowercase();
        let is_host = match &self.hosts {
            Hosts::All => true,
            Hosts::One(name) => host == *name,
            Hosts::Below(domain) => host.len() > domain.len() && host.ends_with(&**domain),
        };
        is_host && self.port.is_none_or(|port| port == server.port)
    }
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
            room: None,
            propagators: None,
            filter: None,
            span_name: None,
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
        }
    }
}

impl Options {
    /// Sets where metrics go.
    pub(crate) fn set_meters(&mut self, meters: Arc<dyn MeterProvider + Send + Sync>) {
        self.meters = Some(meters);
        self.room = Some(Room::new(SDK_SERIES));
    }

    /// Declares the gRPC methods of a `FileDescriptorSet`, besides those that are declared already.
    pub(crate) fn add_grpc_descriptors(&mut self, set: &[u8]) {
        match semconv::grpc_methods(set) {
            Some(methods) => self.grpc_methods.extend(methods),
            None => tracing::warn!(
                target: "tower_telemetry",
                bytes = set.len(),
                "with_grpc_descriptors: the bytes are no FileDescriptorSet; no methods are declared"
            ),
        }
    }

    /// The server that a request of a client goes to.
    pub(crate) fn server<'a>(&'a self, request: &'a request::Parts) -> Option<Server<'a>> {
        // Not by the header `Host`, which may be a copy of what a stranger has sent.
        Server::of(&request.uri).or_else(|| Server::of(self.server.as_ref()?))
    }

    /// What a server may be told. Who is not known is told nothing that not everybody may know.
    pub(crate) fn may_tell(&self, server: Option<Server<'_>>) -> MayTell {
        let is_among = |targets: &[Target]| {
            server.is_some_and(|server| targets.iter().any(|target| target.matches(server)))
        };
        let trace_targets = self.trace_targets.as_deref();
        MayTell {
            trace: trace_targets.is_none_or(is_among),
            baggage: is_among(&self.baggage_targets),
        }
    }

    /// Whether the filter wants a request recorded.
    #[inline]
    pub(crate) fn wants(&self, request: &request::Parts) -> bool {
        match &self.filter {
            Some(filter) => guarded(|| filter(request)).unwrap_or(true),
            None => true,
        }
    }

    #[inline]
    pub(crate) fn span_name(&self, request: &request::Parts) -> Option<Cow<'static, str>> {
        let hook = self.span_name.as_ref()?;
        guarded(|| hook(request))?
    }

    #[inline]
    pub(crate) fn trust(&self, request: &request::Parts) -> Trust {
        match &self.trust {
            TrustOption::Always(trust) => *trust,
            // Who cannot decide does not trust.
            TrustOption::ByRequest(hook) => guarded(|| hook(request)).unwrap_or(Trust::Ignore),
        }
    }

    /// Whether one more request may force its trace to be sampled; it counts.
    #[inline]
    pub(crate) fn may_force(&self) -> bool {
        let limit = self.forced_traces.as_ref();
        limit.is_none_or(|limit| limit.allows())
    }

    /// Whether code of the application is asked of a request before its span is started. How long that
    /// takes belongs to the span.
    #[inline]
    pub(crate) fn has_request_hooks(&self) -> bool {
        self.span_name.is_some()
            || self.request_attributes.is_some()
            || self.propagators.is_some()
            || matches!(self.trust, TrustOption::ByRequest(_))
    }

    /// Has the bytes of a request's body counted where it is read, if sizes are recorded. The count is
    /// not that of a request which this one may be a copy of.
    #[inline]
    pub(crate) fn count_received(&self, extensions: &mut Extensions) -> Option<Received> {
        self.metrics.contains(&MetricSet::BodySizes).then(|| {
            let received = Received::new();
            extensions.insert(received.clone());
            received
        })
    }

    /// `None` where there is no hook.
    #[inline]
    pub(crate) fn request_attributes(&self, head: &request::Parts) -> Option<RequestAttributes> {
        hooked(self.request_attributes.as_ref()?, head)
    }

    /// `None` where there is no hook.
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
struct NameOf<E, F> {
    name: F,
    error: PhantomData<fn(&E)>,
}

/// Makes a hook of a function that names errors of one type.
pub(crate) fn error_type_hook<E: Error + 'static>(
    name: impl Fn(&E) -> Option<&'static str> + Send + Sync + 'static,
) -> Arc<dyn NameError> {
    Arc::new(NameOf {
        name,
        error: PhantomData,
    })
}

impl<E, F> NameError for NameOf<E, F>
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

/// What a hook adds, also where it panics before its end.
fn hooked<H>(hook: &AttributesHook<H>, head: &H) -> Option<RequestAttributes> {
    let mut added = RequestAttributes::default();
    guarded(|| hook(head, &mut added));
    Some(added)
}

/// Runs a hook of the application. One that panics has said nothing.
pub(crate) fn guarded<T>(hook: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(hook)).ok();
    if result.is_none() {
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "tower_telemetry",
                "a hook of the telemetry layer panicked; requests go on without it"
            );
        }
    }
    result
}

/// So many in each second.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_second: u32,
    since: Instant,
    /// The second, and what was allowed in it.
    state: AtomicU64,
}

impl RateLimit {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            since: Instant::now(),
            state: AtomicU64::new(0),
        }
    }

    fn allows(&self) -> bool {
        self.allows_at(self.since.elapsed().as_secs())
    }

    fn allows_at(&self, second: u64) -> bool {
        let second = second & u64::from(u32::MAX);
        let next = |state: u64| {
            let count = if state >> 32 == second {
                state & u64::from(u32::MAX)
            } else {
                0
            };
            (count < u64::from(self.per_second)).then(|| (second << 32) + count + 1)
        };
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.state.fetch_update(set, fetch, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_or_all_below_a_domain() {
        for (pattern, host, expected) in [
            ("example.com", "example.com", true),
            ("Example.com", "EXAMPLE.COM", true),
            ("example.com", "a.example.com", false),
            ("example.com", "badexample.com", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "badexample.com", false),
            ("*.example.com", ".example.com", false),
            ("*", "example.com", true),
            ("::1", "::1", true),
            ("[::1]", "::1", true),
            ("[::1]:80", "::1", true),
            ("example.com:80", "example.com", true),
            ("example.com:81", "example.com", false),
            ("*:81", "example.com", false),
        ] {
            let server = Server { host, port: 80 };
            assert_eq!(
                Target::new(pattern).matches(server),
                expected,
                "{pattern} {host}"
            );
        }
    }

    #[test]
    fn a_rate_limit_starts_anew_each_second() {
        let limit = RateLimit::new(2);
        let allowed: Vec<_> = [0, 0, 0, 1, 1, 1, 5]
            .map(|second| limit.allows_at(second))
            .into();
        assert_eq!(allowed, [true, true, false, true, true, false, true]);
        assert!(!RateLimit::new(0).allows_at(3));
    }
}
