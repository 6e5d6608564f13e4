//! The life of a request: the head and the frames of its response, and its end.
//!
//! The record is created when the request arrives or is sent. It moves with the response's future
//! into the response's body. Each request ends in [`RequestState::end`], exactly once.

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

/// A request in flight; `None` if there is nothing to do for it. Boxed, because the layers move it
/// many times.
pub(crate) struct ActiveRequest(pub(super) Option<Box<RequestState>>);

pub(super) struct RequestState {
    /// The context that is current while the service runs for this request.
    cx: Context,
    /// The id of the span in `cx`.
    span_id: SpanId,
    /// The span of `tracing` for the request.
    request_span: RequestSpan,
    /// `None` if the request is not recorded, and after it has ended.
    in_flight: Option<InFlight>,
    /// Whether attributes that handler code adds belong to another request.
    transparent: bool,
    /// The number of bytes left in the response body, if its length is known. A server may stop
    /// polling when it is zero.
    remaining: Option<u64>,
    /// Whether the length is from the head of the response.
    announced: bool,
    /// Whether the response body has reported that no frame is left.
    body_ended: bool,
}

impl RequestState {
    // Inlined, because the record is large and each call copies it.
    #[inline(always)]
    pub(super) fn new(cx: Context, in_flight: Option<InFlight>, transparent: bool) -> Box<Self> {
        // Written in place, because the record would otherwise be moved to the heap.
        let place = Box::new_uninit();
        let mut state = Box::write(
            place,
            Self {
                span_id: cx.span().span_context().span_id(),
                request_span: RequestSpan::default(),
                cx,
                in_flight,
                transparent,
                remaining: None,
                announced: false,
                body_ended: false,
            },
        );
        if request_span::is_wanted()
            && let Some(in_flight) = &state.in_flight
        {
            state.request_span = in_flight.open_span(&state.cx);
        }
        state
    }
}

impl ActiveRequest {
    /// Returns a request for which there is nothing to do.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Returns whether there is something to do for the request.
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Returns a request that is not recorded but has a context.
    pub(super) fn unrecorded_in(cx: Context) -> Self {
        Self(Some(RequestState::new(cx, None, false)))
    }

    /// Makes the request current on this thread until the guard is dropped. A panic in the meantime
    /// ends the request.
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

    /// Handles the head of the response, and injects the configured trace headers into it.
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
            in_flight.on_server_response(cx, head);
        } else {
            in_flight.on_client_response(cx, head);
        }
        let layer_state = &in_flight.state;
        let has_span = in_flight.signals.traces && cx.has_active_span();
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

    /// Handles the response body before it is read. `announced` is the length in the head, and
    /// `hinted` is the size hint of the body.
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

    /// Handles a frame of the response body.
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
        // An HTTP/1 server does not always poll again after the last byte. Over HTTP/2, an error
        // may still follow.
        let is_all_sent = state.remaining == Some(0)
            && !in_flight.awaits_trailers()
            && in_flight.ends_with_last_byte();
        if is_all_sent || is_end_stream || frame.is_trailers() {
            state.complete();
        }
    }

    /// Handles the end of the response body.
    pub(crate) fn on_end(&mut self) {
        if let Some(state) = &mut self.0 {
            state.complete();
        }
    }

    /// Returns whether no frame of the response body is left.
    pub(crate) fn has_whole_body(&self) -> bool {
        self.0.as_ref().is_none_or(|state| state.body_ended)
    }

    /// Handles an error that the service returned instead of a response or the rest of its body.
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

    /// Ends the request at the end of the response body, which may be shorter than announced.
    #[inline]
    fn complete(&mut self) {
        let is_short = self.announced && self.remaining != Some(0);
        // Only for HTTP, because a gRPC call has a status code.
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
        // A panic in the request's own code has already ended the request in `Entered`. A drop
        // because of another panic is like any other drop.
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

/// The guard of a request that is current, created by [`ActiveRequest::enter`].
pub(crate) struct Entered<'a> {
    state: &'a mut RequestState,
    /// The previous request on this thread; `None` if the request is transparent.
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
