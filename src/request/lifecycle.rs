//! The life of a request: its head, its frames, and how it ends.
//!
//! The record is made when the request arrives or is sent, and travels with the response's future into the
//! response's body. However a request ends, it ends in [`RequestState::end`], once.

use std::mem;

use bytes::Buf;
use http::response;
use http_body::Frame;
use opentelemetry::trace::{SpanId, TraceContextExt};
use opentelemetry::{Context, ContextGuard};

use crate::attribute_set;
use crate::bridge::request_span::{self, RequestSpan};
use crate::current_context;
use crate::layer_state::metric_attributes::put_metric_attributes;
use crate::request::handler_attributes::{self, CurrentRequest};
use crate::request::in_flight::InFlight;
use crate::request::request_end::RequestEnd;
use crate::semconv::Side;

/// A request in flight; `None` where there is nothing to do for it. Boxed, because it is moved
/// again and again on its way through the layers.
pub(crate) struct ActiveRequest(pub(super) Option<Box<RequestState>>);

pub(super) struct RequestState {
    /// Current whenever code of the service runs for this request.
    cx: Context,
    /// The id of its span.
    span_id: SpanId,
    /// The span of `tracing` that stands for it.
    request_span: RequestSpan,
    /// `None` where the request is not recorded, and once it has ended.
    in_flight: Option<InFlight>,
    /// Whether the attributes that handler code adds are those of another request.
    transparent: bool,
    /// The bytes that are left of the response's body, if its length is known. A server need not poll it
    /// further than that.
    remaining: Option<u64>,
    /// Whether the head of the response announces that length.
    announced: bool,
    /// Whether the response's body has said that it has no frame left.
    body_ended: bool,
}

impl RequestState {
    // The record is large, and a call copies it once more.
    #[inline(always)]
    pub(super) fn new(cx: Context, in_flight: Option<InFlight>, transparent: bool) -> Box<Self> {
        let mut state = Box::new(Self {
            span_id: cx.span().span_context().span_id(),
            request_span: RequestSpan::default(),
            cx,
            in_flight,
            transparent,
            remaining: None,
            announced: false,
            body_ended: false,
        });
        if request_span::is_wanted()
            && let Some(in_flight) = &state.in_flight
        {
            state.request_span = in_flight.open_span(&state.cx);
        }
        state
    }
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
    pub(super) fn unrecorded_in(cx: Context) -> Self {
        Self(Some(RequestState::new(cx, None, false)))
    }

    /// Makes the request current on this thread, until the guard is dropped. A panic that passes
    /// through it ends the request.
    #[inline]
    pub(crate) fn enter(&mut self) -> Option<Entered<'_>> {
        let state = self.0.as_deref_mut()?;
        let span = state.in_flight.is_some().then_some(state.span_id);
        let outer = (!state.transparent).then(|| handler_attributes::enter(span));
        let attached = current_context::attach_scoped(&state.cx);
        state.request_span.enter();
        Some(Entered {
            _attached: attached,
            state,
            outer,
            was_panicking: std::thread::panicking(),
        })
    }

    /// Sees the head of the response, and writes into it which trace it belongs to.
    pub(crate) fn on_head(&mut self, head: &mut response::Parts) {
        let Some(state) = &mut self.0 else {
            return;
        };
        let (cx, Some(in_flight)) = (&state.cx, &mut state.in_flight) else {
            return;
        };
        in_flight.status = Some(head.status);
        state.request_span.record_status(head.status);
        let is_server = in_flight.state.instruments.side == Side::Server;
        if is_server {
            in_flight.on_answer(cx, head);
        } else {
            in_flight.on_reply(cx, head);
        }
        let layer_state = &in_flight.state;
        let has_span = in_flight.wanted.traces && cx.has_active_span();
        let hooked = layer_state.options.response_attributes(head);
        let span = cx.span();
        let add = |attribute| span.set_attribute(attribute);
        if in_flight.span_is_recording {
            attribute_set::write_as_crate(|| layer_state.response_headers.read(&head.headers, add));
        }
        if let Some(hooked) = hooked {
            if in_flight.span_is_recording {
                hooked.span.into_iter().for_each(add);
            }
            put_metric_attributes(&mut in_flight.extra, hooked.metric);
        }
        if is_server && has_span {
            let headers = &mut head.headers;
            layer_state
                .options
                .response_headers
                .inject(span.span_context(), headers);
        }
    }

    /// Sees the body of the response, before it is read: the length that the head announces, and
    /// the one that the body hints at.
    pub(crate) fn on_body(
        &mut self,
        announced: Option<u64>,
        hinted: Option<u64>,
        is_end_stream: bool,
    ) {
        let Some(state) = &mut self.0 else {
            return;
        };
        let length = announced.or(hinted);
        state.remaining = length;
        state.announced = announced.is_some();
        state.body_ended = is_end_stream;
        let Some(in_flight) = &state.in_flight else {
            return;
        };
        if in_flight.ends_at_head() {
            state.end(RequestEnd::Complete);
        } else if is_end_stream || length == Some(0) && !in_flight.awaits_trailers() {
            state.complete();
        }
    }

    /// Sees a frame of the response's body.
    pub(crate) fn on_frame(&mut self, frame: &Frame<impl Buf>, is_end_stream: bool) {
        let Some(state) = &mut self.0 else {
            return;
        };
        state.body_ended = is_end_stream;
        let Some(in_flight) = &mut state.in_flight else {
            return;
        };
        if let Some(trailers) = frame.trailers_ref() {
            in_flight.on_trailers(trailers);
        }
        if let Some(data) = frame.data_ref() {
            let length = u64::try_from(data.remaining()).unwrap_or(u64::MAX);
            in_flight.on_data(data, length);
            if let Some(remaining) = &mut state.remaining {
                *remaining = remaining.saturating_sub(length);
            }
        }
        // An HTTP/1 server need not poll once more; over HTTP/2 an error may still follow.
        let is_all_sent = state.remaining == Some(0)
            && !in_flight.awaits_trailers()
            && in_flight.ends_with_last_byte();
        if is_all_sent || is_end_stream || frame.is_trailers() {
            state.complete();
        }
    }

    /// The response's body was read to its end.
    pub(crate) fn on_end(&mut self) {
        if let Some(state) = &mut self.0 {
            state.complete();
        }
    }

    /// Whether nothing is left of the response's body.
    pub(crate) fn has_whole_body(&self) -> bool {
        self.0.as_ref().is_none_or(|state| state.body_ended)
    }

    /// The service gave an error in place of a response, or of the rest of its body.
    pub(crate) fn fail<E: 'static>(&mut self, error: &E) {
        if let Some(state) = &mut self.0
            && let Some(in_flight) = &state.in_flight
        {
            let failure = in_flight.failure(error);
            state.end(RequestEnd::Failed(Box::new(failure)));
        }
    }
}

impl RequestState {
    #[inline]
    fn end(&mut self, end: RequestEnd) {
        if let Some(in_flight) = &mut self.in_flight
            // The flag is cleared first: a panic while recording must not end the request twice.
            && mem::replace(&mut in_flight.open, false)
        {
            in_flight.finish(&self.cx, end);
            self.in_flight = None;
        }
    }

    /// The body of the response is at its end, which may be too early.
    #[inline]
    fn complete(&mut self) {
        let is_short = self.announced && self.remaining != Some(0);
        // A gRPC call has a status that says how it ended.
        let is_http = |in_flight: &InFlight| in_flight.call.is_none();
        self.end(
            if is_short && self.in_flight.as_ref().is_some_and(is_http) {
                RequestEnd::Incomplete
            } else {
                RequestEnd::Complete
            },
        );
    }
}

impl Drop for RequestState {
    fn drop(&mut self) {
        // Also where a panic is the reason: one that is the request's own has passed through its
        // `Entered`, and has ended it.
        let is_whole = self.remaining == Some(0)
            && self
                .in_flight
                .as_ref()
                .is_some_and(|one| !one.awaits_trailers());
        self.end(if is_whole {
            RequestEnd::Complete
        } else {
            RequestEnd::Cancelled
        });
    }
}

/// See [`ActiveRequest::enter`].
pub(crate) struct Entered<'a> {
    state: &'a mut RequestState,
    /// `None` where the handler's attributes are not those of this request.
    outer: Option<CurrentRequest>,
    was_panicking: bool,
    _attached: Option<ContextGuard>,
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        self.state.request_span.exit();
        if let Some(outer) = self.outer
            && let Some(added) = handler_attributes::leave(outer)
            && let Some(in_flight) = &mut self.state.in_flight
        {
            put_metric_attributes(&mut in_flight.extra, added);
        }
        if std::thread::panicking() && !self.was_panicking {
            self.state.end(RequestEnd::Panicked);
        }
    }
}
