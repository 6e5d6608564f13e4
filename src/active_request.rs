//! The one record of a request in flight.
//!
//! It is made when the request arrives, and travels with the response's future into the
//! response's body. However a request ends, it ends in [`ActiveRequest::end`], once.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, response};
use opentelemetry::trace::{SpanBuilder, SpanKind, Status, TraceContextExt};
use opentelemetry::{Context, ContextGuard, KeyValue};

use crate::instruments::{CallKey, Instruments, Route, SeriesKey, status_attribute};
use crate::propagation;
use crate::providers::{Providers, StartSpan, Started};
use crate::semconv::http::{Scheme, is_defined, protocol_version, request_attributes};
use crate::semconv::rpc::{self, Code};
use crate::semconv::{self, ErrorType, Protocol};

/// What requests are recorded with: made once for a layer, when its first request arrives.
pub(crate) struct Recorder {
    tracer: Arc<dyn StartSpan>,
    instruments: Instruments,
    /// Where the context of a request without a parent begins.
    root: Context,
}

impl Recorder {
    pub(crate) fn new(providers: &Providers, root: Context) -> Self {
        Self {
            tracer: providers.tracer(),
            instruments: Instruments::new(&providers.meter()),
            root,
        }
    }
}

/// A request in flight.
pub(crate) struct ActiveRequest {
    /// Current whenever code of the service runs for this request.
    cx: Option<Context>,
    /// `None` where the request is not recorded, and once it has ended.
    recording: Option<Recording>,
}

struct Recording {
    recorder: Arc<Recorder>,
    /// Whether the span takes attributes.
    span: bool,
    start: Instant,
    start_time: SystemTime,
    status: Option<StatusCode>,
    kind: Kind,
}

/// What is remembered of a request until it ends, by protocol.
enum Kind {
    Http {
        route: Arc<Route>,
        scheme: Scheme,
        version: Option<&'static str>,
        method: Method,
    },
    Grpc {
        /// As the request names it.
        method: String,
        /// From the wire, and thus not there when the client goes away.
        code: Option<Code>,
    },
}

/// How a request ended.
#[derive(Clone, Copy)]
enum Outcome {
    /// The response was handed over whole.
    Complete,
    /// The service gave an error in place of a response, or of the rest of its body.
    Failed(ErrorType),
    /// Whoever waited for the response gave it up.
    Cancelled,
}

impl ActiveRequest {
    /// A request of which nothing is known.
    pub(crate) fn none() -> Self {
        Self {
            cx: None,
            recording: None,
        }
    }

    /// A request that is not recorded, whose context is passed on all the same.
    pub(crate) fn unrecorded(request: &Parts) -> Self {
        let cx = propagation::extract(&request.headers)
            .map(|parent| Context::new().with_remote_span_context(parent));
        Self {
            cx,
            recording: None,
        }
    }

    pub(crate) fn start(recorder: &Arc<Recorder>, request: &Parts) -> Self {
        let start = Instant::now();
        let start_time = SystemTime::now();
        let parent = match propagation::extract(&request.headers) {
            Some(parent) => recorder.root.with_remote_span_context(parent),
            None => recorder.root.clone(),
        };
        let instruments = &recorder.instruments;
        let (kind, Started { cx, recording }) = match Protocol::of(request) {
            Protocol::Http => {
                let route = semconv::http::route(&request.extensions);
                let route = instruments.route(&request.method, route);
                let scheme = Scheme::of(request);
                instruments.active(&request.method, scheme).add(1);
                let span = server_span(route.name.clone(), start_time);
                let started = recorder.tracer.start(span, &parent, &|add| {
                    request_attributes(request, route.method, add);
                    if let Some(route) = route.attribute() {
                        add(route);
                    }
                });
                let kind = Kind::Http {
                    route,
                    scheme,
                    version: protocol_version(request.version),
                    method: request.method.clone(),
                };
                (kind, started)
            }
            Protocol::Grpc => {
                let method = rpc::method(request);
                let name = rpc::span_name(instruments.grpc_method(method));
                let span = server_span(name, start_time);
                let started = recorder.tracer.start(span, &parent, &|add| {
                    rpc::request_attributes(request, add);
                });
                let kind = Kind::Grpc {
                    method: method.to_owned(),
                    code: None,
                };
                (kind, started)
            }
        };
        Self {
            cx: Some(cx),
            recording: Some(Recording {
                recorder: recorder.clone(),
                span: recording,
                start,
                start_time,
                status: None,
                kind,
            }),
        }
    }

    /// Makes the request's context current on this thread, until the guard is dropped.
    pub(crate) fn attach(&self) -> Option<ContextGuard> {
        self.cx.clone().map(Context::attach)
    }

    /// Guards a call into the service: a panic that passes through it ends the request.
    pub(crate) fn watch(&mut self) -> EndOnUnwind<'_> {
        EndOnUnwind(self)
    }

    /// Sees the head of the response, and writes the trace id into it.
    pub(crate) fn on_head(&mut self, head: &mut response::Parts) {
        let (Some(cx), Some(recording)) = (&self.cx, &mut self.recording) else {
            return;
        };
        recording.status = Some(head.status);
        if let Kind::Grpc { code, .. } = &mut recording.kind {
            *code = Code::in_headers(&head.headers);
        }
        if cx.has_active_span() {
            let trace_id = cx.span().span_context().trace_id();
            propagation::inject_trace_id(trace_id, &mut head.headers);
        }
    }

    /// Whether a response to this request ends with its head, whatever its body says.
    pub(crate) fn ends_at_head(&self) -> bool {
        let Some(Recording {
            status: Some(status),
            kind: Kind::Http { method, .. },
            ..
        }) = &self.recording
        else {
            return false;
        };
        *method == Method::HEAD
            || *method == Method::CONNECT && status.is_success()
            || matches!(
                *status,
                StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            )
    }

    /// Whether the request is one whose trailers say how it ended.
    pub(crate) fn awaits_trailers(&self) -> bool {
        let kind = self.recording.as_ref().map(|recording| &recording.kind);
        matches!(kind, Some(Kind::Grpc { code: None, .. }))
    }

    /// Sees the trailers of the response.
    pub(crate) fn on_trailers(&mut self, trailers: &HeaderMap) {
        if let Some(Recording {
            kind: Kind::Grpc { code, .. },
            ..
        }) = &mut self.recording
        {
            *code = Code::in_headers(trailers).or(*code);
        }
    }

    /// The response was handed over whole.
    pub(crate) fn complete(&mut self) {
        self.end(Outcome::Complete);
    }

    /// The service gave an error of type `E` in place of a response, or of the rest of its body.
    pub(crate) fn fail<E>(&mut self) {
        self.end(Outcome::Failed(ErrorType::of::<E>()));
    }

    fn end(&mut self, outcome: Outcome) {
        if let (Some(cx), Some(recording)) = (&self.cx, self.recording.take()) {
            recording.finish(cx, outcome);
        }
    }

    /// Nobody waits for the response any more, or nobody can.
    fn give_up(&mut self) {
        self.end(if std::thread::panicking() {
            Outcome::Failed(ErrorType::Name(semconv::PANIC))
        } else {
            Outcome::Cancelled
        });
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.give_up();
    }
}

fn server_span(name: impl Into<std::borrow::Cow<'static, str>>, start: SystemTime) -> SpanBuilder {
    SpanBuilder::from_name(name)
        .with_kind(SpanKind::Server)
        .with_start_time(start)
}

/// See [`ActiveRequest::watch`].
pub(crate) struct EndOnUnwind<'a>(&'a mut ActiveRequest);

impl EndOnUnwind<'_> {
    /// The call returned.
    pub(crate) fn returned(self) {
        std::mem::forget(self);
    }
}

impl Drop for EndOnUnwind<'_> {
    fn drop(&mut self) {
        // Not left to the request's own drop: whoever catches the panic drops the request later,
        // when the thread is no longer panicking.
        self.0.give_up();
    }
}

impl Recording {
    /// The last word on a request: its metrics and the end of its span.
    fn finish(&self, cx: &Context, outcome: Outcome) {
        let duration = self.start.elapsed();
        let error = match &self.kind {
            Kind::Http {
                route,
                scheme,
                version,
                method,
            } => {
                let error = match (outcome, self.status) {
                    (Outcome::Failed(error), _) => Some(error),
                    (Outcome::Cancelled, _) => Some(ErrorType::Name(semconv::CANCELLED)),
                    (Outcome::Complete, status) => status.and_then(ErrorType::of_status),
                };
                let key = SeriesKey {
                    scheme: *scheme,
                    version: *version,
                    status: self.status.filter(|status| is_defined(*status)),
                    error,
                };
                let instruments = &self.recorder.instruments;
                instruments.active(method, *scheme).add(-1);
                instruments.http(route, &key).record(duration);
                error
            }
            Kind::Grpc { method, code } => self.finish_call(cx, outcome, method, *code, duration),
        };
        if self.span {
            let span = cx.span();
            if let (Kind::Http { .. }, Some(status)) = (&self.kind, self.status) {
                span.set_attribute(status_attribute(status));
            }
            if let Some(error) = error {
                span.set_attribute(error.attribute());
                if !matches!(outcome, Outcome::Cancelled) {
                    span.set_status(Status::error(""));
                }
            }
            span.end_with_timestamp(self.start_time + duration);
        }
    }

    /// What is particular to the end of a gRPC call; returns its `error.type`.
    fn finish_call(
        &self,
        cx: &Context,
        outcome: Outcome,
        method: &str,
        code: Option<Code>,
        duration: Duration,
    ) -> Option<ErrorType> {
        let instruments = &self.recorder.instruments;
        let known = match code {
            // Only an answer of the server shows that it has the method.
            Some(code) if code.knows_method() => instruments.learn_grpc_method(method),
            _ => instruments.grpc_method(method),
        };
        let (code, error) = match (outcome, code, self.status) {
            (Outcome::Failed(error), _, _) => (Code::INTERNAL, Some(error)),
            (_, Some(code), _) => (code, None),
            (Outcome::Cancelled, None, _) => (Code::CANCELLED, None),
            (Outcome::Complete, None, Some(status)) => (Code::from_http_status(status), None),
            (Outcome::Complete, None, None) => (Code::UNKNOWN, None),
        };
        let error = error.or_else(|| code.is_server_error().then(|| ErrorType::Name(code.name())));
        let key = CallKey {
            method: known,
            code,
            status: self.status.filter(|status| is_defined(*status)),
            error,
        };
        instruments.call(&key).record(duration);
        if self.span {
            let span = cx.span();
            span.set_attribute(KeyValue::new(
                semconv::RPC_METHOD,
                known.unwrap_or(semconv::OTHER),
            ));
            if known.is_none() {
                let original = rpc::method_original(method);
                span.set_attribute(KeyValue::new(semconv::RPC_METHOD_ORIGINAL, original));
            }
            let name = code.name();
            span.set_attribute(KeyValue::new(semconv::RPC_RESPONSE_STATUS_CODE, name));
            span.update_name(rpc::span_name(known));
        }
        error
    }
}
