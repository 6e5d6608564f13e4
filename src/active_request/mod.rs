//! The one record of a request in flight.
//!
//! It is made when the request arrives or is sent, and travels with the response's future into the
//! response's body. However a request ends, it ends in [`ActiveRequest::end`], once.

mod incoming;
mod outgoing;

use std::borrow::Cow;
use std::mem;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, Method, StatusCode, Version, response};
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, ContextGuard, KeyValue};

use crate::call::Call;
use crate::handler_attributes::{self, Running};
use crate::instruments::{CallKey, Measured, Route, RouteRef, SeriesKey};
use crate::options::RequestAttributes;
use crate::recorder::Recorder;
use crate::request_body::Received;
use crate::semconv::http::{
    Scheme, claimed_call_attributes, is_defined, protocol_version, status_attribute,
};
use crate::semconv::rpc::{self, Code};
use crate::semconv::{self, ErrorType, Side};

/// A request in flight; `None` where there is nothing to do for it. Boxed, because it is moved
/// again and again on its way through the layers.
pub(crate) struct ActiveRequest(Option<Box<Carried>>);

struct Carried {
    /// Current whenever code of the service runs for this request.
    cx: Context,
    /// `None` where the request is not recorded, and once it has ended.
    recording: Option<Recording>,
    /// Whether the attributes that handler code adds are those of another request.
    transparent: bool,
}

struct Recording {
    recorder: Arc<Recorder>,
    /// False once its end has begun.
    open: bool,
    /// Whether the span takes attributes.
    span: bool,
    start: Instant,
    start_time: SystemTime,
    status: Option<StatusCode>,
    /// Bytes of the response's body that were handed over.
    sent: u64,
    /// Bytes of the request's body that were read, where body sizes are recorded.
    received: Option<Received>,
    /// Attributes of hooks and the handler, for the metrics and the span.
    extra: Vec<KeyValue>,
    http: Http,
    /// Where the request is a gRPC call, or claims to be.
    call: Option<Call>,
}

/// What is remembered of a request over HTTP.
struct Http {
    route: RouteRef,
    scheme: Scheme,
    /// `None` where there is no answer yet to tell it.
    version: Option<Version>,
    body: ResponseBodies,
    /// Whether it is counted among the active requests.
    active: bool,
    /// Whether the name of the span is one that a hook has chosen.
    named: bool,
}

/// Which responses to a request have a body.
#[derive(Clone, Copy)]
enum ResponseBodies {
    /// Those to most methods, and not those with some statuses.
    ByStatus,
    /// To CONNECT, those that do not open a tunnel.
    Unsuccessful,
    /// To HEAD, none.
    Never,
}

impl ResponseBodies {
    fn of(method: &Method) -> Self {
        match *method {
            Method::HEAD => Self::Never,
            Method::CONNECT => Self::Unsuccessful,
            _ => Self::ByStatus,
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    /// The response was handed over whole.
    Complete,
    /// The service gave an error in place of a response, or of the rest of its body.
    Failed(ErrorType),
    /// Whoever waited for the response gave it up.
    Cancelled,
}

impl ActiveRequest {
    /// A request that is left alone.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// A request that is not recorded, and has a context all the same.
    fn unrecorded_in(cx: Context) -> Self {
        Self(Some(Box::new(Carried {
            cx,
            recording: None,
            transparent: false,
        })))
    }

    fn recording(&mut self) -> Option<&mut Recording> {
        self.0.as_mut()?.recording.as_mut()
    }

    /// Makes the request current on this thread, until the guard is dropped. A panic that passes
    /// through it ends the request.
    pub(crate) fn enter(&mut self) -> Entered<'_> {
        let was_panicking = std::thread::panicking();
        let Some(carried) = &self.0 else {
            return Entered {
                request: self,
                outer: None,
                was_panicking,
                _attached: None,
            };
        };
        let outer = (!carried.transparent)
            .then(|| handler_attributes::enter(carried.recording.is_some()));
        Entered {
            _attached: Some(carried.cx.clone().attach()),
            request: self,
            outer,
            was_panicking,
        }
    }

    /// Sees the head of the response, and writes into it which trace it belongs to.
    pub(crate) fn on_head(&mut self, head: &mut response::Parts) {
        let Some(carried) = &mut self.0 else {
            return;
        };
        let (cx, Some(recording)) = (&carried.cx, &mut carried.recording) else {
            return;
        };
        recording.status = Some(head.status);
        let is_server = recording.recorder.instruments.side == Side::Server;
        if is_server {
            recording.on_answer(cx, head);
        } else {
            recording.on_reply(cx, head);
        }
        let recorder = &recording.recorder;
        let mut hooked = RequestAttributes::default();
        recorder.options.response_attributes(head, &mut hooked);
        let span = cx.span();
        if recording.span {
            let mut add = |attribute| span.set_attribute(attribute);
            recorder.response_headers.read(&head.headers, &mut add);
            hooked.span.into_iter().for_each(add);
        }
        for attribute in hooked.metric {
            handler_attributes::put(&mut recording.extra, attribute);
        }
        if is_server && cx.has_active_span() {
            let headers = &mut head.headers;
            recorder
                .options
                .response_headers
                .inject(span.span_context(), headers);
        }
    }

    /// Whether a response to this request ends with its head, whatever its body says.
    pub(crate) fn ends_at_head(&self) -> bool {
        let Some(carried) = &self.0 else {
            return false;
        };
        let Some(Recording {
            status: Some(status),
            http: Http { body, .. },
            ..
        }) = &carried.recording
        else {
            return false;
        };
        matches!(body, ResponseBodies::Never)
            || matches!(body, ResponseBodies::Unsuccessful) && status.is_success()
            || matches!(
                *status,
                StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            )
    }

    /// Whether the request is one whose trailers say how it ended.
    pub(crate) fn awaits_trailers(&self) -> bool {
        let recording = self.0.as_ref().and_then(|one| one.recording.as_ref());
        let call = recording.and_then(|one| one.call.as_ref());
        call.is_some_and(|call| call.code.is_none())
    }

    /// Sees data of the response's body.
    pub(crate) fn on_data(&mut self, data: &impl bytes::Buf) {
        if let Some(recording) = self.recording() {
            let length = u64::try_from(data.remaining()).unwrap_or(u64::MAX);
            recording.sent = recording.sent.saturating_add(length);
            if let Some(call) = &mut recording.call {
                match Code::in_web_trailers(data.chunk()) {
                    Some(code) => call.code = Some(code),
                    None => call.answered = true,
                }
            }
        }
    }

    /// Sees the trailers of the response.
    pub(crate) fn on_trailers(&mut self, trailers: &HeaderMap) {
        let call = self.recording().and_then(|one| one.call.as_mut());
        if let Some(Call { code, .. }) = call {
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
        if let Some(carried) = &mut self.0
            && let Some(recording) = &mut carried.recording
            // Once, even if what is told of it panics.
            && mem::replace(&mut recording.open, false)
        {
            recording.finish(&carried.cx, outcome);
            carried.recording = None;
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
        let Some(recording) = self.recording() else {
            return;
        };
        match recording.recorder.instruments.side {
            // A panic of who waits for the answer is no failure of the request.
            Side::Client => self.end(Outcome::Cancelled),
            Side::Server => self.give_up(),
        }
    }
}

/// See [`ActiveRequest::enter`].
pub(crate) struct Entered<'a> {
    request: &'a mut ActiveRequest,
    /// `None` where the handler's attributes are not those of this request.
    outer: Option<Running>,
    was_panicking: bool,
    _attached: Option<ContextGuard>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(outer) = self.outer
            && let Some(added) = handler_attributes::leave(outer)
            && let Some(recording) = self.request.recording()
        {
            for attribute in added {
                handler_attributes::put(&mut recording.extra, attribute);
            }
        }
        if std::thread::panicking() && !self.was_panicking {
            // Not left to the request's own drop: whoever catches the panic drops the request
            // later, when the thread is no longer panicking.
            self.request.give_up();
        }
    }
}

impl Http {
    /// Describes on its span a request that was taken for a gRPC call.
    fn describe(&self, call: &Call, route: &Route, cx: &Context) {
        let span = cx.span();
        let mut add = |attribute| span.set_attribute(attribute);
        let version = self.version.and_then(protocol_version);
        claimed_call_attributes(route.method, self.scheme, &call.method, version, &mut add);
        if let Some(route) = route.attribute() {
            span.set_attribute(route);
        }
        if !self.named {
            span.update_name(route.name.clone());
        }
    }
}

impl Recording {
    /// Sees whether what claims to be a gRPC call is answered as one.
    fn on_answer(&mut self, cx: &Context, head: &response::Parts) {
        let Some(call) = &mut self.call else {
            return;
        };
        call.code = Code::in_headers(&head.headers);
        if call.code.is_some() || call.known {
            return;
        }
        if !rpc::has_grpc_content_type(&head.headers)
            && let Some(call) = self.call.take()
            && self.span
        {
            let route = self.recorder.instruments.route(&self.http.route);
            self.http.describe(&call, route, cx);
        }
    }

    /// Sees the head of what a server has answered to a client.
    fn on_reply(&mut self, cx: &Context, head: &response::Parts) {
        match &mut self.call {
            Some(call) => call.code = Code::in_headers(&head.headers),
            None => {
                self.http.version = Some(head.version);
                if let Some(version) = protocol_version(head.version).filter(|_| self.span) {
                    let version = KeyValue::new(semconv::NETWORK_PROTOCOL_VERSION, version);
                    cx.span().set_attribute(version);
                }
            }
        }
    }

    /// The last word on a request: its metrics and the end of its span.
    fn finish(&mut self, cx: &Context, outcome: Outcome) {
        let duration = self.start.elapsed();
        let instruments = &self.recorder.instruments;
        let side = instruments.side;
        let route = instruments.route(&self.http.route);
        if self.http.active {
            instruments.add_active(route, self.http.scheme, -1);
        }
        let extra = mem::take(&mut self.extra);
        let extra = if extra.is_empty() {
            extra
        } else {
            let extra = extra.into_iter();
            extra.filter_map(|one| instruments.bounded(one)).collect()
        };
        let measured = Measured {
            duration,
            received: self.received.as_ref().and_then(Received::bytes),
            sent: self.sent,
        };
        let status = self.status.filter(|status| is_defined(*status));
        let span = cx.span();
        let mut set = |attribute| {
            if self.span {
                span.set_attribute(attribute);
            }
        };
        let error = match &self.call {
            Some(call) => {
                let (code, error) = call.result(side, outcome, self.status);
                let known = call.learn(instruments);
                let key = CallKey {
                    peer: route.peer.clone(),
                    method: known,
                    code,
                    status,
                    error,
                };
                instruments.record_call(&key, &extra, &measured);
                if !call.known {
                    let known = Call {
                        method: known.map_or_else(|| call.method.clone(), Cow::Borrowed),
                        known: known.is_some(),
                        ..Call::default()
                    };
                    known.attributes(&mut set);
                    if self.span && !self.http.named {
                        span.update_name(known.span_name());
                    }
                }
                set(KeyValue::new(
                    semconv::RPC_RESPONSE_STATUS_CODE,
                    code.name(),
                ));
                error
            }
            None => {
                let of_status = |status| ErrorType::of_status(side, status);
                let error = match outcome {
                    Outcome::Failed(error) => Some(error),
                    Outcome::Cancelled if side == Side::Server => {
                        Some(ErrorType::Name(semconv::CANCELLED))
                    }
                    // A client need not read what it has no use for.
                    Outcome::Complete | Outcome::Cancelled => self.status.and_then(of_status),
                };
                let key = SeriesKey {
                    counted: measured.received.is_some(),
                    scheme: self.http.scheme,
                    version: self.http.version,
                    status,
                    error,
                };
                instruments.record_http(route, &key, &extra, &measured);
                if let Some(status) = self.status {
                    set(status_attribute(status));
                }
                error
            }
        };
        extra.into_iter().for_each(&mut set);
        if let Some(error) = error {
            set(error.attribute());
            // Nobody's server failed where the client went away.
            let is_cancelled = side == Side::Server && matches!(outcome, Outcome::Cancelled);
            if self.span && !is_cancelled {
                span.set_status(Status::error(""));
            }
        }
        if self.span {
            span.end_with_timestamp(self.start_time + duration);
        }
    }
}
