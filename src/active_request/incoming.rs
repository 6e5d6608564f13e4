//! How a request to a server begins.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::request::Parts;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::{Link, SpanBuilder, SpanContext, SpanKind, TraceContextExt};
use opentelemetry::{Context, KeyValue};

use super::{ActiveRequest, Http, Recording, SPAN_ATTRIBUTES};
use crate::call::Call;
use crate::options::{Options, RequestAttributes, Trust};
use crate::propagation::{Extracted, Propagators, with_state};
use crate::providers::Started;
use crate::recorder::Recorder;
use crate::request_body::Received;
use crate::semconv::http::{Described, Scheme, protocol_version, request_attributes, route};
use crate::semconv::{Forwarded, rpc};

impl ActiveRequest {
    /// A request that is not recorded, whose context is passed on all the same.
    pub(crate) fn unrecorded(recorder: &Recorder, request: &Parts) -> Self {
        let (cx, _) = parent(
            &recorder.root,
            &recorder.propagators,
            &recorder.options,
            request,
        );
        Self {
            cx: Some(cx),
            recording: None,
            transparent: false,
        }
    }

    /// The same, where telemetry is switched off.
    pub(crate) fn switched_off(options: &Options, request: &Parts) -> Self {
        let propagators = options.propagators();
        let (cx, _) = parent(&Context::new(), &propagators, options, request);
        Self {
            cx: (cx.has_active_span() || !cx.baggage().is_empty()).then_some(cx),
            recording: None,
            transparent: false,
        }
    }

    pub(crate) fn start(recorder: &Arc<Recorder>, request: &Parts) -> Self {
        let start = Instant::now();
        let start_time = SystemTime::now();
        let options = &recorder.options;
        let (parent, link) = parent(&recorder.root, &recorder.propagators, options, request);
        let forwarded = Forwarded::of(&request.headers, options.trusted_hops);
        let scheme = Scheme::of(request, &forwarded);
        let route = route(&request.extensions);
        let route = recorder.instruments.route(&request.method, route);
        let call = Call::of(request, &recorder.instruments);
        let mut hooked = RequestAttributes::default();
        options.request_attributes(request, &mut hooked);
        let given_name = options.span_name(request);
        let named = given_name.is_some();

        let name = given_name.unwrap_or_else(|| match &call {
            Some(call) => call.span_name(),
            None => route.name.clone(),
        });
        let mut span = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Server)
            .with_start_time(start_time);
        if let Some(link) = link {
            span = span.with_links(vec![link]);
        }
        let described = Described {
            method: route.method,
            scheme,
            forwarded,
            sensitive_parameters: options.sensitive_parameters.as_ref(),
        };
        let attributes = |add: &mut dyn FnMut(KeyValue)| {
            match &call {
                Some(call) => {
                    rpc::request_attributes(request, &described.forwarded, add);
                    if call.known {
                        call.attributes(add);
                    }
                }
                None => {
                    request_attributes(request, &described, add);
                    if let Some(route) = route.attribute() {
                        add(route);
                    }
                }
            }
            recorder.request_headers.read(&request.headers, add);
            for attribute in &hooked.span {
                add(attribute.clone());
            }
        };
        let tracer = &recorder.tracer;
        let Started {
            cx,
            recording: span,
        } = tracer.start(span, &parent, SPAN_ATTRIBUTES, &attributes);

        let active = call.is_none();
        if active {
            recorder.instruments.add_active(&route, scheme, 1);
        }
        Self {
            cx: Some(cx),
            recording: Some(Recording {
                recorder: recorder.clone(),
                span,
                start,
                start_time,
                status: None,
                sent: 0,
                received: request.extensions.get::<Received>().cloned(),
                extra: hooked.metric,
                http: Http {
                    route,
                    scheme,
                    version: protocol_version(request.version),
                    method: request.method.clone(),
                    active,
                    named,
                },
                call,
            }),
            transparent: false,
        }
    }
}

/// The context to start the span in, and a link to one that is not to be its parent.
fn parent(
    root: &Context,
    propagators: &Propagators,
    options: &Options,
    request: &Parts,
) -> (Context, Option<Link>) {
    let Extracted {
        span_context,
        state,
        baggage,
    } = propagators.extract(&request.headers);
    let trust = options.trust(request);
    let is_trusted = trust == Trust::Continue;
    let limited = |parent| options.limit_forced(parent);
    let local = if options.outer_span { local() } else { None };
    let same = |local: &SpanContext| {
        let remote = span_context.as_ref();
        remote.is_some_and(|remote| remote.trace_id() == local.trace_id())
    };
    let parent = match local {
        // An outer layer continues the trace that the request names.
        Some(local) if same(&local) => is_trusted.then(|| limited(local)),
        Some(local) if span_context.is_none() || !is_trusted => Some(local),
        _ if is_trusted => span_context.clone().map(limited),
        _ => None,
    };
    let state = state.filter(|_| is_trusted);
    let baggage = baggage.filter(|_| is_trusted);
    let link = span_context.filter(|_| trust == Trust::Link);
    let link = link.map(Link::with_context);
    let mut cx = match parent {
        Some(parent) => {
            let trace_id = parent.trace_id();
            let cx = root.with_remote_span_context(parent);
            match state {
                Some(state) => with_state(&cx, trace_id, state),
                None => cx,
            }
        }
        None => root.clone(),
    };
    if let Some(baggage) = baggage {
        cx = cx.with_baggage(baggage);
    }
    (cx, link)
}

/// The span that is current here, such as that of an outer layer.
fn local() -> Option<SpanContext> {
    Context::map_current(|cx| {
        let span = cx.span();
        let local = span.span_context();
        (local.is_valid() && !local.is_remote()).then(|| local.clone())
    })
}
