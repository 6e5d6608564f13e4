//! The one record of a request in flight.
//!
//! It is made when the request arrives or is sent, and travels with the response's future into the
//! response's body. However a request ends, it ends in [`Carried::end`], once.

mod incoming;
mod outgoing;

use std::borrow::Cow;
use std::mem;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Buf;
use http::{HeaderMap, Method, StatusCode, Version, response};
use http_body::Frame;
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, ContextGuard, KeyValue};

use crate::call::Call;
use crate::handler_attributes::{self, Running};
use crate::instruments::{CallKey, Measured, Route, RouteRef, SeriesKey};
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
    /// What is left of the response's body, where its length is known. A server need not poll it
    /// further than that.
    remaining: Option<u64>,
    /// Whether the response's body has said that it has no frame left.
    body_ended: bool,
}

impl Carried {
    fn new(cx: Context, recording: Option<Recording>, transparent: bool) -> Box<Self> {
        Box::new(Self {
            cx,
            recording,
            transparent,
            remaining: None,
            body_ended: false,
        })
    }
}

struct Recording {
    recorder: Arc<Recorder>,
    /// False once its end has begun.
    open: bool,
    /// Whether the span takes attributes.
    span: bool,
    start: Instant,
    /// Where the span is recorded.
    start_time: Option<SystemTime>,
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

/// When it was `start`, by the other clock.
fn wall_clock_of(start: Instant) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(start.elapsed()).unwrap_or(now)
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

    /// Whether there is something to do for it.
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// A request that is not recorded, and has a context all the same.
    fn unrecorded_in(cx: Context) -> Self {
        Self(Some(Carried::new(cx, None, false)))
    }

    /// Makes the request current on this thread, until the guard is dropped. A panic that passes
    /// through it ends the request.
    #[inline]
    pub(crate) fn enter(&mut self) -> Option<Entered<'_>> {
        let carried = self.0.as_deref_mut()?;
        let outer =
            (!carried.transparent).then(|| handler_attributes::enter(carried.recording.is_some()));
        Some(Entered {
            _attached: carried.cx.clone().attach(),
            carried,
            outer,
            was_panicking: std::thread::panicking(),
        })
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
        let hooked = recorder.options.response_attributes(head);
        let span = cx.span();
        let add = |attribute| span.set_attribute(attribute);
        if recording.span {
            recorder.response_headers.read(&head.headers, add);
        }
        if let Some(hooked) = hooked {
            if recording.span {
                hooked.span.into_iter().for_each(add);
            }
            for attribute in hooked.metric {
                handler_attributes::put(&mut recording.extra, attribute);
            }
        }
        if is_server && cx.has_active_span() {
            let headers = &mut head.headers;
            recorder
                .options
                .response_headers
                .inject(span.span_context(), headers);
        }
    }

    /// Sees the body of the response, before it is read.
    pub(crate) fn on_body(&mut self, length: Option<u64>, is_end_stream: bool) {
        let Some(carried) = &mut self.0 else {
            return;
        };
        carried.remaining = length;
        carried.body_ended = is_end_stream;
        let Some(recording) = &carried.recording else {
            return;
        };
        let is_empty = length == Some(0) && !recording.awaits_trailers();
        if is_end_stream || is_empty || recording.ends_at_head() {
            carried.end(Outcome::Complete);
        }
    }

    /// Sees a frame of the response's body.
    pub(crate) fn on_frame(&mut self, frame: &Frame<impl Buf>, is_end_stream: bool) {
        let Some(carried) = &mut self.0 else {
            return;
        };
        carried.body_ended = is_end_stream;
        let Some(recording) = &mut carried.recording else {
            return;
        };
        if let Some(trailers) = frame.trailers_ref() {
            recording.on_trailers(trailers);
        }
        if let Some(data) = frame.data_ref() {
            let length = u64::try_from(data.remaining()).unwrap_or(u64::MAX);
            recording.on_data(data.chunk(), length);
            if let Some(remaining) = &mut carried.remaining {
                *remaining = remaining.saturating_sub(length);
            }
        }
        let is_all_sent = carried.remaining == Some(0) && !recording.awaits_trailers();
        if is_all_sent || is_end_stream || frame.is_trailers() {
            carried.end(Outcome::Complete);
        }
    }

    /// The response's body was read to its end.
    pub(crate) fn on_end(&mut self) {
        if let Some(carried) = &mut self.0 {
            carried.end(Outcome::Complete);
        }
    }

    /// Whether nothing is left of the response's body.
    pub(crate) fn has_whole_body(&self) -> bool {
        self.0.as_ref().is_none_or(|carried| carried.body_ended)
    }

    /// The service gave an error of type `E` in place of a response, or of the rest of its body.
    pub(crate) fn fail<E>(&mut self) {
        if let Some(carried) = &mut self.0 {
            carried.end(Outcome::Failed(ErrorType::of::<E>()));
        }
    }
}

impl Carried {
    fn end(&mut self, outcome: Outcome) {
        if let Some(recording) = &mut self.recording
            // Once, even if what is told of it panics.
            && mem::replace(&mut recording.open, false)
        {
            recording.finish(&self.cx, outcome);
            self.recording = None;
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

impl Drop for Carried {
    fn drop(&mut self) {
        let Some(recording) = &self.recording else {
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
    carried: &'a mut Carried,
    /// `None` where the handler's attributes are not those of this request.
    outer: Option<Running>,
    was_panicking: bool,
    _attached: ContextGuard,
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(outer) = self.outer
            && let Some(added) = handler_attributes::leave(outer)
            && let Some(recording) = &mut self.carried.recording
        {
            for attribute in added {
                handler_attributes::put(&mut recording.extra, attribute);
            }
        }
        if std::thread::panicking() && !self.was_panicking {
            // Not left to the request's own drop: whoever catches the panic drops the request
            // later, when the thread is no longer panicking.
            self.carried.give_up();
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
    /// Whether the response ends with its head, whatever its body says.
    fn ends_at_head(&self) -> bool {
        let Some(status) = self.status else {
            return false;
        };
        let has_body = match self.http.body {
            ResponseBodies::Never => false,
            ResponseBodies::Unsuccessful if status.is_success() => false,
            ResponseBodies::Unsuccessful | ResponseBodies::ByStatus => !matches!(
                status,
                StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            ),
        };
        !has_body
    }

    /// Whether the request is one whose trailers say how it ended.
    fn awaits_trailers(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.code.is_none())
    }

    /// Sees data of the response's body, of which `chunk` is the beginning.
    fn on_data(&mut self, chunk: &[u8], length: u64) {
        self.sent = self.sent.saturating_add(length);
        if let Some(call) = &mut self.call {
            match Code::in_web_trailers(chunk) {
                Some(code) => call.code = Some(code),
                None => call.answered = true,
            }
        }
    }

    fn on_trailers(&mut self, trailers: &HeaderMap) {
        if let Some(Call { code, .. }) = &mut self.call {
            *code = Code::in_headers(trailers).or(*code);
        }
    }

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
        if let Some(start_time) = self.start_time.filter(|_| self.span) {
            span.end_with_timestamp(start_time + duration);
        }
    }
}
