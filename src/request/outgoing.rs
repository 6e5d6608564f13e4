//! How a request of a client begins.

use std::time::{Instant, SystemTime};

use http::request::Parts;
use opentelemetry::trace::SpanKind;

use crate::concurrent::per_thread::PerThreadArc;
use crate::current_context;
use crate::layer_state::Recorder;
use crate::providers::{NewSpan, Parent, Started};
use crate::request::attempts::Attempts;
use crate::request::grpc_call::Call;
use crate::request::received::Received;
use crate::request::{ActiveRequest, Carried, Http, Recording, ResponseBodies};
use crate::semconv::{CapturedRequest, ClientRequest, Scheme};

impl ActiveRequest {
    /// A request that goes out, as it is about to be sent.
    pub(crate) fn start_outgoing(recorder: &PerThreadArc<Recorder>, request: &mut Parts) -> Self {
        let start = Instant::now();
        let options = &recorder.options;
        // Without hooks it is read only where it is needed, which is soon: to read a clock takes long.
        let now = options.has_request_hooks().then(SystemTime::now);
        let parent = recorder.with_providers(current_context::get());
        let server = options.server(request);
        let allowed = options.allowed(server);
        let found = recorder.instruments.find_peer(&request.method, server);
        let route = recorder.instruments.route(&found);
        let call = Call::of(request, &request.uri, &recorder.instruments);
        // Counted whether it is sampled or not.
        let resends = Attempts::resends(&request.extensions);
        let mut hooked = options.request_attributes(request);
        let mut given_name = options.span_name(request);
        let named = given_name.is_some();
        let mut start_time = None;
        let mut describe = |new: &mut NewSpan| {
            new.name = given_name.take().unwrap_or_else(|| match &call {
                Some(call) => call.span_name(),
                None => route.name.clone(),
            });
            new.kind = SpanKind::Client;
            new.start_time = *start_time.insert(now.unwrap_or_else(SystemTime::now));
            let add = &mut |attribute| new.attributes.push(attribute);
            if let Some(call) = &call {
                if let Some(server) = server {
                    server.attributes(add);
                }
                // Whether it is a method is known when it was answered.
                if call.known {
                    call.attributes(add);
                }
            } else {
                let kept = ClientRequest::new(route.method, resends);
                // Read where it stays, because it is large.
                if let CapturedRequest::Client(kept) =
                    new.request.insert(CapturedRequest::Client(kept))
                {
                    let sensitive = options.sensitive_parameters.as_ref();
                    kept.read(request, server, options.server.as_ref(), sensitive);
                }
            }
            recorder.request_headers.read(&request.headers, add);
            if let Some(hooked) = &mut hooked {
                hooked.span.drain(..).for_each(|one| new.set(one));
            }
        };
        let parent = Parent {
            cx: &parent,
            span_context: None,
        };
        let Started {
            cx,
            recording: span,
        } = recorder.tracer.start(parent, &mut describe);
        let scheme = Scheme::Http;
        let active = call.is_none();
        if active {
            recorder.instruments.add_active(route, scheme, 1);
        }
        recorder
            .propagators
            .inject(&cx, allowed, &mut request.headers);
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
                version: None,
                body: ResponseBodies::of(&request.method),
                active,
                named,
            },
            call,
            access: None,
        };
        // The handler that sends it has attributes of its own.
        Self(Some(Carried::new(cx, Some(recording), true)))
    }
}
