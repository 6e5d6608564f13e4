//! How a request to a server begins.

use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use opentelemetry::Context;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::{Link, SpanContext, SpanKind, TraceContextExt};

use super::{ActiveRequest, Carried, Http, Recording, ResponseBodies, wall_clock_of};
use crate::call::Call;
use crate::options::{Options, Trust};
use crate::propagation::{Extracted, with_state};
use crate::providers::{NewSpan, Parent, Started};
use crate::recorder::Recorder;
use crate::request_body::Received;
use crate::semconv::http::{Scheme, route};
use crate::semconv::{Described, Forwarded, ServerRequest, rpc};

impl ActiveRequest {
    /// A request that is not recorded, whose context is passed on all the same.
    pub(crate) fn unrecorded(recorder: &Recorder, request: &Parts) -> Self {
        let extracted = recorder.propagators.extract(&request.headers);
        let begun = Begun::of(&recorder.root, &recorder.options, request, extracted);
        Self::unrecorded_in(begun.into_context())
    }

    /// The same, where telemetry is switched off.
    pub(crate) fn switched_off(options: &Options, request: &Parts) -> Self {
        let extracted = options.propagators().extract(&request.headers);
        if extracted.is_empty() {
            return Self::none();
        }
        let cx = Begun::of(&Context::new(), options, request, extracted).into_context();
        Self::unrecorded_in(cx)
    }

    pub(crate) fn start(recorder: &Arc<Recorder>, request: &Parts) -> Self {
        let start = Instant::now();
        let options = &recorder.options;
        let instruments = &recorder.instruments;
        let extracted = recorder.propagators.extract(&request.headers);
        let Begun {
            cx,
            span_context,
            link,
        } = Begun::of(&recorder.root, options, request, extracted);
        let forwarded = Forwarded::of(&request.headers, options.trusted_hops);
        let scheme = Scheme::of(request, &forwarded);
        let found = instruments.find_route(&request.method, route(&request.extensions));
        let route = instruments.route(&found);
        let call = Call::of(request, instruments);
        let mut hooked = options.request_attributes(request);
        let given_name = options.span_name(request);
        let named = given_name.is_some();
        let (mut link, mut given_name) = (link, given_name);
        // Read where it is needed: to read a clock takes long.
        let mut start_time = None;
        let mut describe = || {
            let described = || Described {
                method: route.method,
                route: route.route.clone(),
                scheme,
                forwarded,
                sensitive_parameters: options.sensitive_parameters.as_ref(),
            };
            let mut attributes = Vec::new();
            let mut add = |attribute| attributes.push(attribute);
            if let Some(call) = &call {
                rpc::request_attributes(request, &forwarded, &mut add);
                if call.known {
                    call.attributes(&mut add);
                }
            }
            recorder.request_headers.read(&request.headers, add);
            if let Some(hooked) = &mut hooked {
                attributes.append(&mut hooked.span);
            }
            NewSpan {
                name: given_name.take().unwrap_or_else(|| match &call {
                    Some(call) => call.span_name(),
                    None => route.name.clone(),
                }),
                kind: SpanKind::Server,
                start_time: Some(*start_time.insert(wall_clock_of(start))),
                link: link.take(),
                request: call
                    .is_none()
                    .then(|| ServerRequest::of(request, described())),
                attributes,
            }
        };
        let parent = Parent {
            cx: &cx,
            span_context,
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
            received: request.extensions.get::<Received>().cloned(),
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
        };
        Self(Some(Carried::new(cx, Some(recording), false)))
    }
}

/// What a request brings with it, as far as it is trusted.
struct Begun {
    /// Without the parent.
    cx: Context,
    /// The parent.
    span_context: Option<SpanContext>,
    /// To a span that is not to be the parent.
    link: Option<Link>,
}

impl Begun {
    fn of(root: &Context, options: &Options, request: &Parts, extracted: Extracted) -> Self {
        let Extracted {
            span_context,
            state,
            baggage,
        } = extracted;
        let trust = options.trust(request);
        let is_trusted = trust == Trust::Continue;
        let local = if options.outer_span { local() } else { None };
        let link = match &span_context {
            Some(span_context) if trust == Trust::Link => {
                Some(Link::with_context(span_context.clone()))
            }
            _ => None,
        };
        let parent = match (local, span_context) {
            (local, None) => local,
            (None, Some(remote)) => is_trusted.then(|| options.limit_forced(remote)),
            // An outer layer continues the trace that the request names.
            (Some(local), Some(remote)) if remote.trace_id() == local.trace_id() => {
                is_trusted.then(|| options.limit_forced(local))
            }
            (Some(_), Some(remote)) if is_trusted => Some(options.limit_forced(remote)),
            (local, Some(_)) => local,
        };
        let mut cx = match (&parent, state) {
            (Some(parent), Some(state)) if is_trusted => with_state(root, parent.trace_id(), state),
            _ => root.clone(),
        };
        if let Some(baggage) = baggage.filter(|_| is_trusted) {
            cx = cx.with_baggage(baggage);
        }
        Self {
            cx,
            span_context: parent,
            link,
        }
    }

    fn into_context(self) -> Context {
        match self.span_context {
            Some(parent) => self.cx.with_remote_span_context(parent),
            None => self.cx,
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
