//! The start of a client's request.

use http::request::Parts;
use opentelemetry::trace::SpanKind;

use crate::concurrent::per_thread::PerThreadArc;
use crate::current_context;
use crate::instruments::Route;
use crate::layer_state::LayerState;
use crate::layer_state::recorded_signals::RecordedSignals;
use crate::providers::start_span::{DescribeSpan, NewSpan, Parent, Started};
use crate::request::attempts::Attempts;
use crate::request::begin::{Clock, StartingRequest};
use crate::request::in_flight::{Http, ResponseBodies};
use crate::request::lifecycle::{ActiveRequest, RequestState};
use crate::request::received::Received;
use crate::semconv::Scheme;
use crate::semconv::Server;
use crate::semconv::{CapturedRequest, ClientRequest};

impl ActiveRequest {
    /// Starts a request that is about to be sent, and injects its context into the headers.
    pub(crate) fn start_outgoing(
        state: &PerThreadArc<LayerState>,
        request: &mut Parts,
        signals: RecordedSignals,
    ) -> Self {
        let options = &state.options;
        let clock = Clock::start(options);
        let parent = state.with_providers(current_context::get());
        let server = options.server(request);
        let allowed = options.allowed(server);
        let route_ref = state.instruments.find_peer(&request.method, server);
        let route = state.instruments.route(&route_ref);
        let mut starting = StartingRequest::new(state, clock, request, &request.uri);
        let mut description = OutgoingSpan {
            starting: &mut starting,
            request,
            route,
            server,
            // Counts both sampled and unsampled attempts.
            resends: Attempts::resends(&request.extensions),
        };
        let Started { cx, is_recording } = if signals.traces {
            let parent = Parent {
                cx: &parent,
                span_context: None,
            };
            state.tracer.start(parent, &mut description)
        } else {
            Started::without_span(parent)
        };
        // The metrics of clients have no scheme.
        let scheme = Scheme::Http;
        let active = signals.metrics && starting.call.is_none();
        if active {
            state.instruments.add_active(route, scheme, 1);
        }
        let http = Http {
            route: route_ref,
            scheme,
            version: None,
            body: ResponseBodies::of(&request.method),
            active,
            has_own_name: starting.has_own_name,
        };
        let headers = &mut request.headers;
        state.propagators.inject(&cx, allowed, headers);
        let received = Received::begin(&options.metrics, &mut request.extensions);
        let in_flight = starting.into_in_flight(signals, is_recording, http, received, None);
        // Attributes that handler code adds belong to the request that the handler serves.
        Self(Some(RequestState::new(cx, Some(in_flight), true)))
    }
}

/// The description of the span of a client's request.
struct OutgoingSpan<'a, 's> {
    starting: &'a mut StartingRequest<'s>,
    request: &'a Parts,
    route: &'a Route,
    server: Option<Server<'a>>,
    resends: Option<i64>,
}

impl DescribeSpan for OutgoingSpan<'_, '_> {
    fn describe(&mut self, span: &mut NewSpan) {
        self.starting.describe(self.route, SpanKind::Client, span);
        let add = &mut |attribute| span.attributes.push(attribute);
        if let Some(call) = &self.starting.call {
            if let Some(server) = self.server {
                server.attributes(add);
            }
            // Otherwise added at the end, when the response shows whether the server has the
            // method.
            if call.known {
                call.attributes(add);
            }
        } else {
            let options = &self.starting.state.options;
            let kept = CapturedRequest::Client(ClientRequest::new(self.route.method, self.resends));
            // Read into its final place, because it is large.
            if let CapturedRequest::Client(kept) = span.request.insert(kept) {
                let sensitive = options.sensitive_parameters.as_ref();
                kept.read(
                    self.request,
                    self.server,
                    options.server.as_ref(),
                    sensitive,
                );
            }
        }
        self.starting.describe_rest(self.request, span);
    }
}
