//! How a request to a server begins.

use std::borrow::Cow;
use std::mem;
use std::time::{Instant, SystemTime};

use http::request::Parts;
use opentelemetry::Context;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::{Link, SpanContext, SpanKind, TraceContextExt};

use super::{ActiveRequest, Carried, Http, Recording, ResponseBodies};
use crate::call::Call;
use crate::lanes::ByLane;
use crate::options::{Options, Trust};
use crate::propagation::{Extracted, with_state};
use crate::providers::{NewSpan, Parent, Started};
use crate::recorder::Recorder;
use crate::request_headers::RequestHeaders;
use crate::semconv::http::{Scheme, route};
use crate::semconv::{Forwarded, KeptRequest, ServerRequest, rpc};

impl ActiveRequest {
    /// A request that is not recorded, whose context is passed on all the same.
    pub(crate) fn unrecorded(recorder: &Recorder, request: &Parts) -> Self {
        let headers = RequestHeaders::of(&request.headers);
        let mut extracted = recorder.propagators.extract(&headers);
        extracted.settle(&recorder.options, request);
        Self::unrecorded_in(extracted.into_context(&recorder.root))
    }

    /// The same, where telemetry is switched off.
    pub(crate) fn switched_off(options: &Options, request: &Parts) -> Self {
        let headers = RequestHeaders::of(&request.headers);
        let mut extracted = options.propagators().extract(&headers);
        if extracted.is_empty() {
            return Self::none();
        }
        extracted.settle(options, request);
        Self::unrecorded_in(extracted.into_context(&Context::new()))
    }

    pub(crate) fn start(recorder: &ByLane<Recorder>, request: &mut Parts) -> Self {
        let start = Instant::now();
        let options = &recorder.options;
        // Without hooks it is read only where it is needed, which is soon: to read a clock takes long.
        let now = options.has_request_hooks().then(SystemTime::now);
        let instruments = &recorder.instruments;
        let headers = RequestHeaders::of(&request.headers);
        let mut extracted = recorder.propagators.extract(&headers);
        let mut links = extracted.settle(options, request);
        let cx = extracted.context_in(&recorder.root);
        let forwarded = Forwarded::of(&request.headers, options.trusted_hops);
        let scheme = Scheme::of(request, &forwarded);
        let found = instruments.find_route(&request.method, route(&request.extensions));
        let route = instruments.route(&found);
        let call = Call::of(request, instruments);
        let mut hooked = options.request_attributes(request);
        let mut given_name = options.span_name(request);
        let named = given_name.is_some();
        let mut start_time = None;
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
                }
            } else {
                let kept = ServerRequest::new(route.method, route.route.clone(), scheme);
                // Read where it stays, because it is large.
                if let KeptRequest::Server(kept) = new.request.insert(KeptRequest::Server(kept)) {
                    let sensitive = options.sensitive_parameters.as_ref();
                    kept.read(request, &headers, &forwarded, sensitive);
                }
            }
            recorder.request_headers.read(&request.headers, add);
            if let Some(hooked) = &mut hooked {
                new.attributes.append(&mut hooked.span);
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

        let active = call.is_none();
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
            received: options.count_received(&mut request.extensions),
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
        if !is_trusted {
            (self.state, self.baggage) = (None, None);
        }
        let local = if options.outer_span { local() } else { None };
        let parent = &mut self.span_context;
        let Some(remote) = parent else {
            if local.is_some() {
                *parent = local;
            }
            return links;
        };
        if trust == Trust::Link {
            links.push(Link::with_context(remote.clone()));
        }
        match local {
            // An outer layer continues the trace that the request names.
            Some(local) if local.trace_id() == remote.trace_id() => {
                *parent = is_trusted.then_some(local);
            }
            local if !is_trusted => *parent = local,
            _ => {}
        }
        if let Some(parent) = parent
            && is_trusted
        {
            options.limit_forced(parent);
        }
        links
    }

    /// The context of the request without the parent.
    #[inline]
    fn context_in<'a>(&mut self, root: &'a Context) -> Cow<'a, Context> {
        let mut cx = Cow::Borrowed(root);
        if let (Some(parent), Some(state)) = (&self.span_context, self.state.take()) {
            cx = Cow::Owned(with_state(&cx, parent.trace_id(), state));
        }
        if let Some(baggage) = self.baggage.take() {
            cx = Cow::Owned(cx.with_baggage(baggage));
        }
        cx
    }

    /// The context of a request that has no span.
    fn into_context(mut self, root: &Context) -> Context {
        let cx = self.context_in(root);
        match self.span_context {
            Some(parent) => cx.with_remote_span_context(parent),
            None => cx.into_owned(),
        }
    }
}

/// The span that is current here, such as that of an outer layer.
fn local() -> Option<SpanContext> {
    Context::map_current(|cx| {
        let span = cx.span();
        let local = span.span_context();
        (local.is_valid() && !local.is_remote()).then(|| local.clone())
    })
}
