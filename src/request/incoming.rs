//! The start of a request to a server.

use std::mem;

use http::Uri;
use http::request::Parts;
use opentelemetry::trace::{Link, SpanContext, SpanKind};
use opentelemetry::{Context, KeyValue};

use crate::concurrent::per_thread::PerThreadArc;
use crate::instruments::Route;
use crate::layer_state::LayerState;
use crate::layer_state::options::{Options, Trust};
use crate::layer_state::recorded_signals::RecordedSignals;
use crate::propagation::{Extracted, with_state_text};
use crate::providers::start_span::{DescribeSpan, FirstAttributes, NewSpan, Parent, Started};
use crate::request::begin::{Clock, StartingRequest};
use crate::request::grpc_call::GrpcCall;
use crate::request::in_flight::{Http, ResponseBodies};
use crate::request::lifecycle::{ActiveRequest, RequestState};
use crate::request::received::Received;
use crate::request_headers::RequestHeaders;
use crate::semconv::Scheme;
use crate::semconv::http::matched_route;
use crate::semconv::{CapturedRequest, Forwarded, ServerRequest, UncapturedRequest, rpc};

impl ActiveRequest {
    /// Starts a request that is not recorded. Its context is still propagated.
    pub(crate) fn unrecorded(state: &LayerState, request: &Parts) -> Self {
        let headers = RequestHeaders::find_in(&request.headers);
        let mut extracted = state.propagators.extract(&headers);
        extracted.apply_trust(&state.options, request);
        Self::unrecorded_in(extracted.into_context(&state.root))
    }

    /// Starts a request while telemetry is switched off. Its context is still propagated.
    pub(crate) fn switched_off(options: &Options, request: &Parts) -> Self {
        let headers = RequestHeaders::find_in(&request.headers);
        let mut extracted = options.propagators().extract(&headers);
        if extracted.is_empty() {
            return Self::none();
        }
        extracted.apply_trust(options, request);
        Self::unrecorded_in(extracted.into_context(&Context::new()))
    }

    /// Starts a request that is recorded. `routed` is the URI after changes by routers.
    pub(crate) fn start_incoming(
        state: &PerThreadArc<LayerState>,
        request: &mut Parts,
        routed: Option<&Uri>,
        signals: RecordedSignals,
    ) -> Self {
        let options = &state.options;
        let clock = Clock::start(options);
        let headers = RequestHeaders::find_in(&request.headers);
        let mut extracted = state.propagators.extract(&headers);
        let links = extracted.apply_trust(options, request);
        let forwarded = Forwarded::from_headers(&request.headers, &options.trusted_proxies);
        let scheme = forwarded.scheme_or(options.scheme);
        let instruments = &state.instruments;
        let own_route = options.route(request);
        let matched = own_route.as_deref();
        let matched = matched.or_else(|| matched_route(&request.extensions));
        let route_ref = instruments.find_route(&request.method, matched);
        let route = instruments.route(&route_ref);
        let mut starting =
            StartingRequest::new(state, clock, request, routed.unwrap_or(&request.uri));
        let mut description = IncomingSpan {
            starting: &mut starting,
            request,
            route,
            headers: &headers,
            forwarded: &forwarded,
            scheme,
            links,
            claimed: None,
        };
        let Started { cx, is_recording } = if signals.traces {
            let cx = extracted.context_in(&state.root);
            let parent = Parent {
                cx: &cx,
                span_context: extracted.span_context.as_ref(),
            };
            state.tracer.start(parent, &mut description)
        } else {
            Started::without_span(extracted.into_context(&state.root))
        };
        let claimed = description.claimed;
        if let Some(call) = &mut starting.call {
            call.request = claimed;
        }
        let is_likely_call = |call: &GrpcCall| call.known || rpc::is_likely_call(request);
        let active = signals.metrics && !starting.call.as_ref().is_some_and(is_likely_call);
        if active {
            instruments.add_active(route, scheme, 1);
        }
        let http = Http {
            route: route_ref,
            scheme,
            version: Some(request.version),
            body: ResponseBodies::of(&request.method),
            active,
            has_own_name: starting.has_own_name,
        };
        let received = Received::begin(&options.metrics, &mut request.extensions);
        let log = options.access_log.as_ref();
        let access = log.and_then(|log| log.begin(request));
        let in_flight = starting.into_in_flight(signals, is_recording, http, received, access);
        Self(Some(RequestState::new(cx, Some(in_flight), false)))
    }
}

/// The description of the span of a request to a server.
struct IncomingSpan<'a, 's> {
    starting: &'a mut StartingRequest<'s>,
    request: &'a Parts,
    route: &'a Route,
    headers: &'a RequestHeaders<'a>,
    forwarded: &'a Forwarded<'a>,
    scheme: Scheme,
    links: Vec<Link>,
    /// The request as an HTTP request, if it looks like a gRPC call to an unknown method.
    claimed: Option<Box<ServerRequest>>,
}

impl IncomingSpan<'_, '_> {
    fn http_request(&self) -> ServerRequest {
        ServerRequest::new(self.route.method, self.route.route.clone(), self.scheme)
    }

    /// Describes the span without its attributes.
    #[inline(always)]
    fn start_description(&mut self, span: &mut NewSpan) {
        self.starting.describe(self.route, SpanKind::Server, span);
        span.links = mem::take(&mut self.links);
    }

    #[inline]
    fn uncaptured(&self) -> UncapturedRequest<'_> {
        UncapturedRequest {
            method: self.route.method,
            route: self.route.route.as_ref(),
            scheme: self.scheme,
            request: self.request,
            headers: self.headers,
            forwarded: self.forwarded,
            sensitive_parameters: self.starting.state.options.sensitive_parameters.as_ref(),
        }
    }

    /// Reads the request into its final place, because it is large.
    #[inline]
    fn read_into(&self, kept: &mut ServerRequest) {
        let sensitive = self.starting.state.options.sensitive_parameters.as_ref();
        kept.read(self.request, self.headers, self.forwarded, sensitive);
    }
}

impl DescribeSpan for IncomingSpan<'_, '_> {
    fn describe(&mut self, span: &mut NewSpan) {
        self.start_description(span);
        let mut add = |attribute| span.attributes.push(attribute);
        match &self.starting.call {
            Some(call) => {
                rpc::request_attributes(self.request, self.headers, self.forwarded, &mut add);
                if call.known {
                    call.attributes(&mut add);
                } else {
                    let mut kept = Box::new(self.http_request());
                    self.read_into(&mut kept);
                    self.claimed = Some(kept);
                }
            }
            None => {
                let kept = CapturedRequest::Server(self.http_request());
                if let CapturedRequest::Server(kept) = span.request.insert(kept) {
                    self.read_into(kept);
                }
            }
        }
        self.starting.describe_rest(self.request, span);
    }

    fn describe_for_samplers(&mut self, span: &mut NewSpan) -> FirstAttributes {
        let mut first = FirstAttributes::for_request();
        if self.starting.call.is_some() {
            self.describe(span);
        } else {
            self.start_description(span);
            self.uncaptured().attributes_for_samplers(&mut first);
            self.starting.describe_rest(self.request, span);
        }
        first.take_from(span);
        first
    }

    fn other_attributes(&mut self, span: &mut NewSpan) -> Vec<KeyValue> {
        let mut attributes = span.room_for_other_attributes();
        if self.starting.call.is_none() {
            self.uncaptured().other_attributes(&mut attributes);
        }
        span.move_attributes(&mut attributes);
        attributes
    }
}

impl Extracted {
    /// Removes untrusted context, and sets the span context to the parent of the request's span.
    /// Returns the links of the request's span.
    #[inline]
    fn apply_trust(&mut self, options: &Options, request: &Parts) -> Vec<Link> {
        let mut links = Vec::new();
        let trust = options.trust(request);
        let is_trusted = trust == Trust::Continue;
        if trust == Trust::Link
            && let Some(remote) = &self.span_context
        {
            links.push(Link::with_context(with_state_text(
                remote,
                self.state.as_deref(),
            )));
        }
        let names_span = self.span_context.is_some();
        let local = if options.outer_span {
            Extracted::local()
        } else {
            None
        };
        let trace_id = |one: &Extracted| one.span_context.as_ref().map(SpanContext::trace_id);
        match local {
            // An outer layer already continues the trace in the request's headers.
            Some(local) if names_span && trace_id(&local) == trace_id(self) => {
                if is_trusted {
                    self.set_parent(local);
                } else {
                    self.clear_parent();
                }
            }
            Some(local) if !names_span || !is_trusted => self.set_parent(local),
            None if !is_trusted => self.clear_parent(),
            _ => {}
        }
        if !is_trusted {
            self.baggage = None;
        }
        let is_local = !names_span && self.span_context.is_some();
        if is_trusted && !is_local && self.forces_sampling() && !options.may_force_sampling() {
            self.clear_sampled();
        }
        links
    }
}
