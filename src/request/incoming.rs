//! How a request to a server begins.

use std::mem;
use std::time::{Instant, SystemTime};

use http::Uri;
use http::request::Parts;
use opentelemetry::Context;
use opentelemetry::trace::{Link, SpanContext, SpanKind};

use crate::concurrent::per_thread::PerThreadArc;
use crate::layer_state::Recorder;
use crate::layer_state::options::{Options, Trust};
use crate::propagation::{Extracted, with_state_text};
use crate::providers::{NewSpan, Parent, Started};
use crate::request::grpc_call::Call;
use crate::request::received::Received;
use crate::request::{ActiveRequest, Carried, Http, Recording, ResponseBodies};
use crate::request_headers::RequestHeaders;
use crate::semconv::http::matched_route;
use crate::semconv::{CapturedRequest, Forwarded, ServerRequest, rpc};

impl ActiveRequest {
    /// A request that is not recorded, whose context is passed on all the same.
    pub(crate) fn unrecorded(recorder: &Recorder, request: &Parts) -> Self {
        let headers = RequestHeaders::find_in(&request.headers);
        let mut extracted = recorder.propagators.extract(&headers);
        extracted.settle(&recorder.options, request);
        Self::unrecorded_in(extracted.into_context(&recorder.root))
    }

    /// The same, where telemetry is switched off.
    pub(crate) fn switched_off(options: &Options, request: &Parts) -> Self {
        let headers = RequestHeaders::find_in(&request.headers);
        let mut extracted = options.propagators().extract(&headers);
        if extracted.is_empty() {
            return Self::none();
        }
        extracted.settle(options, request);
        Self::unrecorded_in(extracted.into_context(&Context::new()))
    }

    /// A request that is recorded. `routed` is the URI that its router has left, where that is another.
    pub(crate) fn start(
        recorder: &PerThreadArc<Recorder>,
        request: &mut Parts,
        routed: Option<&Uri>,
    ) -> Self {
        let start = Instant::now();
        let options = &recorder.options;
        // Without hooks it is read only where it is needed, which is soon: to read a clock takes long.
        let now = options.has_request_hooks().then(SystemTime::now);
        let instruments = &recorder.instruments;
        let headers = RequestHeaders::find_in(&request.headers);
        let mut extracted = recorder.propagators.extract(&headers);
        let mut links = extracted.settle(options, request);
        let cx = extracted.context_in(&recorder.root);
        let forwarded = Forwarded::from_headers(&request.headers, &options.trusted_proxies);
        let scheme = forwarded.scheme_or(options.scheme);
        let found = instruments.find_route(&request.method, matched_route(&request.extensions));
        let route = instruments.route(&found);
        let mut call = Call::of(request, routed.unwrap_or(&request.uri), instruments);
        let mut hooked = options.request_attributes(request);
        let mut given_name = options.span_name(request);
        let named = given_name.is_some();
        let mut start_time = None;
        let mut claimed = None;
        let mut describe = |new: &mut NewSpan| {
            new.name = given_name.take().unwrap_or_else(|| match &call {
                Some(call) => call.span_name(),
                None => route.name.clone(),
            });
            new.kind = SpanKind::Server;
            new.start_time = *start_time.insert(now.unwrap_or_else(SystemTime::now));
            new.links = mem::take(&mut links);
            let mut add = |attribute| new.attributes.push(attribute);
            if let Some(call) = &call {
                rpc::request_attributes(request, &headers, &forwarded, &mut add);
                if call.known {
                    call.attributes(&mut add);
                } else {
                    let kept = ServerRequest::new(route.method, route.route.clone(), scheme);
                    let kept = claimed.insert(Box::new(kept));
                    let sensitive = options.sensitive_parameters.as_ref();
                    kept.read(request, &headers, &forwarded, sensitive);
                }
            } else {
                let kept = ServerRequest::new(route.method, route.route.clone(), scheme);
                // Read where it stays, because it is large.
                if let CapturedRequest::Server(kept) =
                    new.request.insert(CapturedRequest::Server(kept))
                {
                    let sensitive = options.sensitive_parameters.as_ref();
                    kept.read(request, &headers, &forwarded, sensitive);
                }
            }
            recorder.request_headers.read(&request.headers, add);
            if let Some(hooked) = &mut hooked {
                hooked.span.drain(..).for_each(|one| new.set(one));
            }
        };
        let parent = Parent {
            cx: &cx,
            span_context: extracted.span_context.as_ref(),
        };
        let Started {
            cx,
            recording: span,
        } = recorder.tracer.start(parent, &mut describe);

        if let Some(call) = &mut call {
            call.request = claimed;
        }
        let is_likely_call = |call: &Call| call.known || rpc::is_likely_call(request);
        let active = !call.as_ref().is_some_and(is_likely_call);
        if active {
            instruments.add_active(route, scheme, 1);
        }
        let recording = Recording {
            recorder: recorder.clone(),
            open: true,
            span,
            start,
            start_time,
            status: None,
            sent: 0,
            received: Received::begin(&options.metrics, &mut request.extensions),
            extra: hooked.map_or_else(Vec::new, |hooked| hooked.metric),
            http: Http {
                route: found,
                scheme,
                version: Some(request.version),
                body: ResponseBodies::of(&request.method),
                active,
                named,
            },
            call,
            access: options
                .access_log
                .as_ref()
                .and_then(|log| log.begin(request)),
        };
        Self(Some(Carried::new(cx, Some(recording), false)))
    }
}

impl Extracted {
    /// Keeps what is trusted, and makes the span context that of the parent. Gives links to what is
    /// not to be the parent.
    #[inline]
    fn settle(&mut self, options: &Options, request: &Parts) -> Vec<Link> {
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
            // An outer layer continues the trace that the request names.
            Some(local) if names_span && trace_id(&local) == trace_id(self) => {
                if is_trusted {
                    self.follow(local);
                } else {
                    self.forget();
                }
            }
            Some(local) if !names_span || !is_trusted => self.follow(local),
            None if !is_trusted => self.forget(),
            _ => {}
        }
        if !is_trusted {
            self.baggage = None;
        }
        let is_local = !names_span && self.span_context.is_some();
        if is_trusted && !is_local && self.forces_sampling() && !options.may_force() {
            self.unforce();
        }
        links
    }
}
