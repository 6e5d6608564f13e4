//! A recorded request between its start and its end.

use std::mem;
use std::time::{Instant, SystemTime};

use bytes::Buf;
use http::{HeaderMap, Method, StatusCode, Version, response};
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, KeyValue};

use crate::attribute_set;
use crate::bridge::request_span::RequestSpan;
use crate::concurrent::per_thread::PerThreadArc;
use crate::instruments::{Route, RouteRef};
use crate::layer_state::LayerState;
use crate::layer_state::access_log::Entry;
use crate::layer_state::recorded_signals::RecordedSignals;
use crate::request::grpc_call::GrpcCall;
use crate::request::received::Received;
use crate::semconv::Scheme;
use crate::semconv::protocol_version;
use crate::semconv::response_peer_attributes;
use crate::semconv::rpc::{self, Code};
use crate::semconv::{self, ServerRequest};

/// The record of a request, until it ends.
pub(crate) struct InFlight {
    pub(crate) state: PerThreadArc<LayerState>,
    /// Whether the end has not begun yet.
    pub(crate) open: bool,
    /// The signals that the request is recorded in.
    pub(crate) signals: RecordedSignals,
    /// Whether the span is recorded.
    pub(crate) span_is_recording: bool,
    pub(crate) start: Instant,
    /// The start time of the span; `None` if the span is not recorded.
    pub(crate) start_time: Option<SystemTime>,
    pub(crate) status: Option<StatusCode>,
    /// The number of bytes of the response body that the service returned.
    pub(crate) sent: u64,
    /// The count of the bytes read from the request body; `None` if body sizes are not recorded.
    pub(crate) received: Option<Received>,
    /// Attributes of hooks and the handler, for the metrics and the span.
    pub(crate) extra: Vec<KeyValue>,
    pub(crate) http: Http,
    /// `None` if the request is certain not to be a gRPC call.
    pub(crate) call: Option<GrpcCall>,
    /// The line of the access log.
    pub(crate) access: Option<Box<Entry>>,
}

/// The facts about a request over HTTP.
pub(crate) struct Http {
    pub(crate) route: RouteRef,
    pub(crate) scheme: Scheme,
    /// The HTTP version; `None` before a client gets a response.
    pub(crate) version: Option<Version>,
    pub(crate) body: ResponseBodies,
    /// Whether the request is counted as an active HTTP request.
    pub(crate) active: bool,
    /// Whether a hook named the span.
    pub(crate) has_own_name: bool,
}

/// The responses to a request that have a body.
#[derive(Clone, Copy)]
pub(crate) enum ResponseBodies {
    /// All responses except those with some statuses.
    ByStatus,
    /// Responses that do not open a tunnel. The method is CONNECT.
    Unsuccessful,
    /// No response. The method is HEAD.
    Never,
}

impl ResponseBodies {
    pub(crate) fn of(method: &Method) -> Self {
        match *method {
            Method::HEAD => Self::Never,
            Method::CONNECT => Self::Unsuccessful,
            _ => Self::ByStatus,
        }
    }
}

impl Http {
    /// Describes an HTTP request on a span that was started for a gRPC call.
    fn describe(&self, request: &ServerRequest, route: &Route, cx: &Context) {
        let span = cx.span();
        // The span has some of these attributes from its start.
        attribute_set::write_as_crate(|| {
            request.attributes(&mut |key, fact| span.set_attribute(fact.attribute(key)));
        });
        if !self.has_own_name {
            span.update_name(route.name.clone());
        }
    }
}

impl InFlight {
    /// Opens a span of `tracing` for the span of `cx`, unless this is switched off.
    #[cold]
    pub(crate) fn open_span(&self, cx: &Context) -> RequestSpan {
        if !self.state.options.tracing_span || !self.signals.traces {
            return RequestSpan::default();
        }
        let instruments = &self.state.instruments;
        let route = instruments.route(&self.http.route);
        RequestSpan::open(cx, instruments.side, route.method, route.route.as_deref())
    }

    /// Returns whether the response has no body according to its method and status.
    #[inline]
    pub(crate) fn ends_at_head(&self) -> bool {
        let Some(status) = self.status else {
            return false;
        };
        let has_body = match self.http.body {
            ResponseBodies::Never => false,
            ResponseBodies::Unsuccessful if status.is_success() => false,
            ResponseBodies::Unsuccessful | ResponseBodies::ByStatus => {
                !status.is_informational()
                    && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            }
        };
        !has_body
    }

    /// Returns whether nothing can follow the last byte of the response body.
    #[inline]
    pub(crate) fn ends_with_last_byte(&self) -> bool {
        self.http
            .version
            .is_none_or(|version| version < Version::HTTP_2)
    }

    /// Returns whether the result of the request is expected in the trailers.
    #[inline]
    pub(crate) fn awaits_trailers(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.code.is_none())
    }

    /// Handles data of the response body.
    pub(crate) fn on_data(&mut self, data: &impl Buf, length: u64) {
        self.sent = self.sent.saturating_add(length);
        if let Some(call) = &mut self.call {
            call.on_data(data);
            if self.failed_with_code() {
                self.keep_message_in_web_trailers();
            }
        }
    }

    /// Keeps the message of a gRPC-Web call that failed.
    fn keep_message_in_web_trailers(&mut self) {
        let web = self.call.as_mut().and_then(|call| call.web.as_mut());
        if let Some(message) = web.and_then(|web| web.take_message()) {
            self.keep_message(&message);
        }
    }

    pub(crate) fn on_trailers(&mut self, trailers: &HeaderMap) {
        if let Some(call) = &mut self.call
            && let Some(code) = Code::in_headers(trailers)
        {
            call.code = Some(code);
            self.keep_message_in(trailers);
        }
    }

    /// Keeps the message of a call that failed, from the headers with its code.
    fn keep_message_in(&mut self, headers: &HeaderMap) {
        if self.failed_with_code()
            && let Some(message) = headers.get(rpc::GRPC_MESSAGE)
        {
            self.keep_message(message.as_bytes());
        }
    }

    /// Returns whether the code of the call is an error and the span records its message.
    fn failed_with_code(&self) -> bool {
        let side = self.state.instruments.side;
        let code = self.call.as_ref().and_then(|call| call.code);
        self.span_is_recording && code.is_some_and(|code| code.is_error(side))
    }

    /// Keeps the message of a call that failed. `raw` is percent-encoded, as in `grpc-message`.
    fn keep_message(&mut self, raw: &[u8]) {
        if let Some(call) = &mut self.call {
            let sensitive = self.state.options.sensitive_parameters.as_ref();
            call.message = Some(semconv::grpc_message(raw, sensitive).into());
        }
    }

    /// Handles the head of a server's response, which shows whether a request that looks like a
    /// gRPC call is one.
    #[inline]
    pub(crate) fn on_server_response(&mut self, cx: &Context, head: &response::Parts) {
        let Some(call) = &mut self.call else {
            return;
        };
        call.on_head(&head.headers);
        if call.known || call.code.is_some() || rpc::has_grpc_content_type(&head.headers) {
            call.request = None;
            self.set_active(false);
            self.keep_message_in(&head.headers);
        } else {
            self.become_http(cx);
        }
    }

    /// Records a request that only looks like a gRPC call as an HTTP request.
    pub(super) fn become_http(&mut self, cx: &Context) {
        self.set_active(true);
        let call = self.call.take();
        if let Some(request) = call.and_then(|call| call.request) {
            let route = self.state.instruments.route(&self.http.route);
            self.http.describe(&request, route, cx);
        }
    }

    /// Sets whether the request is counted as an active HTTP request.
    fn set_active(&mut self, active: bool) {
        let active = active && self.signals.metrics;
        if mem::replace(&mut self.http.active, active) != active {
            let instruments = &self.state.instruments;
            let route = instruments.route(&self.http.route);
            instruments.add_active(route, self.http.scheme, if active { 1 } else { -1 });
        }
    }

    /// Handles the head of a client's response.
    pub(crate) fn on_client_response(&mut self, cx: &Context, head: &response::Parts) {
        match &mut self.call {
            Some(call) => {
                call.on_head(&head.headers);
                self.keep_message_in(&head.headers);
            }
            None => self.http.version = Some(head.version),
        }
        if !self.span_is_recording {
            return;
        }
        let span = cx.span();
        attribute_set::write_as_crate(|| {
            response_peer_attributes(&head.extensions, &mut |one| span.set_attribute(one));
            if let Some(version) = self.http.version.and_then(protocol_version) {
                let version = KeyValue::new(semconv::NETWORK_PROTOCOL_VERSION, version);
                span.set_attribute(version);
            }
        });
    }
}
