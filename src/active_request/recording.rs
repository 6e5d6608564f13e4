//! What is recorded of a request, and the last word on it.

use std::borrow::Cow;
use std::mem;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, Method, StatusCode, Version, response};
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};

use super::Outcome;
use crate::access_log::{End, Entry};
use crate::call::Call;
use crate::instruments::{CallKey, Measured, Route, RouteRef, SeriesKey};
use crate::lanes::ByLane;
use crate::recorder::Recorder;
use crate::request_body::Received;
use crate::semconv::http::{
    Scheme, claimed_call_attributes, is_defined, protocol_version, status_attribute,
};
use crate::semconv::rpc::{self, Code};
use crate::semconv::{self, ErrorType, Side};

/// What is recorded of a request, until it ends.
pub(super) struct Recording {
    pub(super) recorder: ByLane<Recorder>,
    /// False once its end has begun.
    pub(super) open: bool,
    /// Whether the span takes attributes.
    pub(super) span: bool,
    pub(super) start: Instant,
    /// Where the span is recorded.
    pub(super) start_time: Option<SystemTime>,
    pub(super) status: Option<StatusCode>,
    /// Bytes of the response's body that were handed over.
    pub(super) sent: u64,
    /// Bytes of the request's body that were read, where body sizes are recorded.
    pub(super) received: Option<Received>,
    /// Attributes of hooks and the handler, for the metrics and the span.
    pub(super) extra: Vec<KeyValue>,
    pub(super) http: Http,
    /// Where the request is a gRPC call, or claims to be.
    pub(super) call: Option<Call>,
    /// The line of the access log.
    pub(super) access: Option<Box<Entry>>,
}

/// What is remembered of a request over HTTP.
pub(super) struct Http {
    pub(super) route: RouteRef,
    pub(super) scheme: Scheme,
    /// `None` where there is no answer yet to tell it.
    pub(super) version: Option<Version>,
    pub(super) body: ResponseBodies,
    /// Whether it is counted among the active requests.
    pub(super) active: bool,
    /// Whether the name of the span is one that a hook has chosen.
    pub(super) named: bool,
}

/// Which responses to a request have a body.
#[derive(Clone, Copy)]
pub(super) enum ResponseBodies {
    /// Those to most methods, and not those with some statuses.
    ByStatus,
    /// To CONNECT, those that do not open a tunnel.
    Unsuccessful,
    /// To HEAD, none.
    Never,
}

impl ResponseBodies {
    pub(super) fn of(method: &Method) -> Self {
        match *method {
            Method::HEAD => Self::Never,
            Method::CONNECT => Self::Unsuccessful,
            _ => Self::ByStatus,
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
    #[inline]
    pub(super) fn ends_at_head(&self) -> bool {
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
    #[inline]
    pub(super) fn awaits_trailers(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.code.is_none())
    }

    /// Sees data of the response's body, of which `chunk` is the beginning.
    pub(super) fn on_data(&mut self, chunk: &[u8], length: u64) {
        self.sent = self.sent.saturating_add(length);
        if let Some(call) = &mut self.call {
            match Code::in_web_trailers(chunk) {
                Some(code) => call.code = Some(code),
                None => call.answered = true,
            }
        }
    }

    pub(super) fn on_trailers(&mut self, trailers: &HeaderMap) {
        if let Some(Call { code, .. }) = &mut self.call {
            *code = Code::in_headers(trailers).or(*code);
        }
    }

    /// Sees whether what claims to be a gRPC call is answered as one.
    #[inline]
    pub(super) fn on_answer(&mut self, cx: &Context, head: &response::Parts) {
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
    pub(super) fn on_reply(&mut self, cx: &Context, head: &response::Parts) {
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
    #[inline]
    pub(super) fn finish(&mut self, cx: &Context, outcome: Outcome) {
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
                if let (true, Some(status)) = (self.span, self.status) {
                    span.set_attribute(status_attribute(status));
                }
                error
            }
        };
        for attribute in extra {
            set(attribute);
        }
        if let Some(access) = self.access.take() {
            let code = |call: &Call| call.result(side, outcome, self.status).0.name();
            let end = End {
                method: route.method,
                route: route.route.as_deref(),
                status: self.status,
                code: self.call.as_ref().map(code),
                error: error.map(|error| error.attribute().value.to_string()),
                duration,
            };
            access.write(cx, &end);
        }
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
