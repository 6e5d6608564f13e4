//! The first steps of server and client requests.

use std::borrow::Cow;
use std::time::{Instant, SystemTime};

use http::Uri;
use http::request::Parts;
use opentelemetry::trace::SpanKind;

use crate::concurrent::per_thread::PerThreadArc;
use crate::instruments::Route;
use crate::layer_state::LayerState;
use crate::layer_state::access_log::Entry;
use crate::layer_state::metric_attributes::RequestAttributes;
use crate::layer_state::options::Options;
use crate::layer_state::recorded_signals::RecordedSignals;
use crate::providers::start_span::NewSpan;
use crate::request::grpc_call::GrpcCall;
use crate::request::in_flight::{Http, InFlight};
use crate::request::received::Received;

/// The start times of a request and its span.
pub(super) struct Clock {
    start: Instant,
    start_time: Option<SystemTime>,
}

impl Clock {
    #[inline]
    pub(super) fn start(options: &Options) -> Self {
        Self {
            start: Instant::now(),
            // Read before the hooks, so that the span includes them. Without hooks, it is read only
            // if the span is sampled, because the system clock is slow to read.
            start_time: options.has_request_hooks().then(SystemTime::now),
        }
    }
}

/// A request between its arrival and the start of its span.
pub(super) struct StartingRequest<'a> {
    pub(super) state: &'a PerThreadArc<LayerState>,
    pub(super) call: Option<GrpcCall>,
    clock: Clock,
    /// The start time of the span; `None` if the span is not recorded.
    start_time: Option<SystemTime>,
    hooked: Option<RequestAttributes>,
    name: Option<Cow<'static, str>>,
    /// Whether a hook has named the span.
    pub(super) has_own_name: bool,
}

// Inlined everywhere, because the structs are large and each call copies them. This saves 34
// instructions per request if it is not sampled, and 51 if it is.
impl<'a> StartingRequest<'a> {
    /// Reads the gRPC call and runs the hooks. `uri` is the target after changes by routers.
    #[inline(always)]
    pub(super) fn new(
        state: &'a PerThreadArc<LayerState>,
        clock: Clock,
        request: &Parts,
        uri: &Uri,
    ) -> Self {
        let call = GrpcCall::of(request, uri, &state.instruments);
        let hooked = state.options.request_attributes(request);
        let name = state.options.span_name(request);
        Self {
            state,
            call,
            clock,
            start_time: None,
            hooked,
            has_own_name: name.is_some(),
            name,
        }
    }

    /// Sets the name, the kind and the start time of the span.
    #[inline(always)]
    pub(super) fn describe(&mut self, route: &Route, kind: SpanKind, span: &mut NewSpan) {
        span.name = match (self.name.take(), &self.call) {
            (Some(name), _) => name,
            (None, Some(call)) => call.span_name(),
            (None, None) => route.name.clone(),
        };
        span.kind = kind;
        let start_time = self.clock.start_time.unwrap_or_else(SystemTime::now);
        self.start_time = Some(start_time);
        span.start_time = start_time;
    }

    /// Adds captured headers and the attributes of hooks. Must be called after the crate's own
    /// attributes were added.
    #[inline(always)]
    pub(super) fn describe_rest(&mut self, request: &Parts, span: &mut NewSpan) {
        let headers = &self.state.request_headers;
        headers.read(&request.headers, |one| span.attributes.push(one));
        if let Some(hooked) = &mut self.hooked {
            hooked.span.drain(..).for_each(|one| span.set(one));
        }
    }

    /// Creates the record that exists until the request ends.
    #[inline(always)]
    pub(super) fn into_in_flight(
        self,
        signals: RecordedSignals,
        span_is_recording: bool,
        http: Http,
        received: Option<Received>,
        access: Option<Box<Entry>>,
    ) -> InFlight {
        InFlight {
            state: self.state.clone(),
            open: true,
            signals,
            span_is_recording,
            start: self.clock.start,
            start_time: self.start_time,
            status: None,
            sent: 0,
            received,
            extra: self.hooked.map_or_else(Vec::new, |hooked| hooked.metric),
            http,
            call: self.call,
            access,
        }
    }
}
