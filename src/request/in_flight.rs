//! A recorded request between its begin and its end.

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
use crate::layer_state::wanted::Wanted;
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
    /// False once its end has begun.
    pub(crate) open: bool,
    /// The signals that it is recorded in.
    pub(crate) wanted: Wanted,
    /// Whether the span takes attributes.
    pub(crate) span_is_recording: bool,
    pub(crate) start: Instant,
    /// Where the span is recorded.
    pub(crate) start_time: Option<SystemTime>,
    pub(crate) status: Option<StatusCode>,
    /// Bytes of the response's body that were handed over.
    pub(crate) sent: u64,
    /// Bytes of the request's body that were read, where body sizes are recorded.
    pub(crate) received: Option<Received>,
    /// Attributes of hooks and the handler, for the metrics and the span.
    pub(crate) extra: Vec<KeyValue>,
    pub(crate) http: Http,
    /// Where the request is a gRPC call, or claims to be.
    pub(crate) call: Option<GrpcCall>,
    /// The line of the access log.
    pub(crate) access: Option<Box<Entry>>,
}

/// The facts about a request over HTTP.
pub(crate) struct Http {
    pub(crate) route: RouteRef,
    pub(crate) scheme: Scheme,
    /// `None` where there is no answer yet to tell it.
    pub(crate) version: Option<Version>,
    pub(crate) body: ResponseBodies,
    /// Whether it is counted among the active requests.
    pub(crate) active: bool,
    /// Whether a hook has named the span.
    pub(crate) has_own_name: bool,
}

/// Which responses to a request have a body.
#[derive(Clone, Copy)]
pub(crate) enum ResponseBodies {
    /// Responses to most methods, except for some statuses.
    ByStatus,
    /// Responses to CONNECT that do not open a tunnel.
    Unsuccessful,
    /// No response to HEAD.
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
    /// Describes on its span a request that was taken for a gRPC call.
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
    /// Opens a span of `tracing` for the span of `cx`, unless the layer is to have none.
    #[cold]
    pub(crate) fn open_span(&self, cx: &Context) -> RequestSpan {
        if !self.state.options.tracing_span || !self.wanted.traces {
            return RequestSpan::default();
        }
        let instruments = &self.state.instruments;
        let route = instruments.route(&self.http.route);
        RequestSpan::open(cx, instruments.side, route.method, route.route.as_deref())
    }

    /// Whether the response ends with its head, whatever its body says.
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

    /// Whether nothing of the response can follow the last byte of its body.
    #[inline]
    pub(crate) fn ends_with_last_byte(&self) -> bool {
        self.http
            .version
            .is_none_or(|version| version < Version::HTTP_2)
    }

    /// Whether the request is one whose trailers say how it ended.
    #[inline]
    pub(crate) fn awaits_trailers(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.code.is_none())
    }

    /// Sees data of the response's body.
    pub(crate) fn on_data(&mut self, data: &impl Buf, length: u64) {
        self.sent = self.sent.saturating_add(length);
        if let Some(call) = &mut self.call {
            call.on_data(data);
            if self.failed_with_code() {
                self.keep_message_in_web_trailers();
            }
        }
    }

    /// Keeps the message of a call over gRPC-Web that has failed.
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

    /// Keeps the message of a call that has failed, from where its code is.
    fn keep_message_in(&mut self, headers: &HeaderMap) {
        if self.failed_with_code()
            && let Some(message) = headers.get(rpc::GRPC_MESSAGE)
        {
            self.keep_message(message.as_bytes());
        }
    }

    /// Whether the code of the call is an error, which the span is to have a message of.
    fn failed_with_code(&self) -> bool {
        let side = self.state.instruments.side;
        let code = self.call.as_ref().and_then(|call| call.code);
        self.span_is_recording && code.is_some_and(|code| code.is_error(side))
    }

    /// Keeps the message of a call that has failed, percent-encoded as it is in `grpc-message`.
    fn keep_message(&mut self, raw: &[u8]) {
        if let Some(call) = &mut self.call {
            let sensitive = self.state.options.sensitive_parameters.as_ref();
            call.message = Some(semconv::grpc_message(raw, sensitive).into());
        }
    }

    /// Sees the head of a server's response, which shows whether a request that claims to be a gRPC call
    /// is one.
    #[inline]
    pub(crate) fn on_answer(&mut self, cx: &Context, head: &response::Parts) {
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

    /// Records a request that claims to be a gRPC call as the request of HTTP that it is.
    pub(super) fn become_http(&mut self, cx: &Context) {
        self.set_active(true);
        let call = self.call.take();
        if let Some(request) = call.and_then(|call| call.request) {
            let route = self.state.instruments.route(&self.http.route);
            self.http.describe(&request, route, cx);
        }
    }

    /// Counts the request among the active ones of HTTP, or no longer.
    fn set_active(&mut self, active: bool) {
        let active = active && self.wanted.metrics;
        if mem::replace(&mut self.http.active, active) != active {
            let instruments = &self.state.instruments;
            let route = instruments.route(&self.http.route);
            instruments.add_active(route, self.http.scheme, if active { 1 } else { -1 });
        }
    }

    /// Sees the head of the response that a client gets.
    pub(crate) fn on_reply(&mut self, cx: &Context, head: &response::Parts) {
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
