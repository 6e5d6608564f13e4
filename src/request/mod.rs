//! The one record of a request in flight.
//!
//! It is made when the request arrives or is sent, and travels with the response's future into the
//! response's body. However a request ends, it ends in [`Carried::end`], once.

pub(crate) mod attempts;
pub(crate) mod failure;
pub(crate) mod grpc_call;
pub(crate) mod handler_attributes;
mod incoming;
mod outgoing;
pub(crate) mod received;
mod recording;

use std::mem;

use bytes::Buf;
use http::response;
use http_body::Frame;
use opentelemetry::trace::{SpanId, TraceContextExt};
use opentelemetry::{Context, ContextGuard};

use crate::attribute_set;
use crate::current_context;
use crate::layer_state::metric_attributes::put_metric_attribute;
use crate::request::handler_attributes::Running;
use crate::semconv::Side;

use failure::Failure;
use recording::{Http, Recording, ResponseBodies};

/// A request in flight; `None` where there is nothing to do for it. Boxed, because it is moved
/// again and again on its way through the layers.
pub(crate) struct ActiveRequest(Option<Box<Carried>>);

struct Carried {
    /// Current whenever code of the service runs for this request.
    cx: Context,
    /// The id of its span.
    span_id: SpanId,
    /// `None` where the request is not recorded, and once it has ended.
    recording: Option<Recording>,
    /// Whether the attributes that handler code adds are those of another request.
    transparent: bool,
    /// What is left of the response's body, where its length is known. A server need not poll it
    /// further than that.
    remaining: Option<u64>,
    /// Whether the head of the response announces that length.
    announced: bool,
    /// Whether the response's body has said that it has no frame left.
    body_ended: bool,
}

impl Carried {
    #[inline]
    fn new(cx: Context, recording: Option<Recording>, transparent: bool) -> Box<Self> {
        Box::new(Self {
            span_id: cx.span().span_context().span_id(),
            cx,
            recording,
            transparent,
            remaining: None,
            announced: false,
            body_ended: false,
        })
    }
}

/// How a request ended.
pub(crate) enum Outcome {
    /// The response was handed over whole.
    Complete,
    /// The body of the response ended before the length that its head announces.
    Incomplete,
    /// The service gave an error in place of a response, or of the rest of its body.
    Failed(Box<Failure>),
    /// A panic passed through the service.
    Panicked,
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
        let span = carried.recording.is_some().then_some(carried.span_id);
        let outer = (!carried.transparent).then(|| handler_attributes::enter(span));
        Some(Entered {
            _attached: current_context::attach_scoped(&carried.cx),
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
            attribute_set::write_as_crate(|| recorder.response_headers.read(&head.headers, add));
        }
        if let Some(hooked) = hooked {
            if recording.span {
                hooked.span.into_iter().for_each(add);
            }
            for attribute in hooked.metric {
                put_metric_attribute(&mut recording.extra, attribute);
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

    /// Sees the body of the response, before it is read: the length that the head announces, and
    /// the one that the body hints at.
    pub(crate) fn on_body(
        &mut self,
        announced: Option<u64>,
        hinted: Option<u64>,
        is_end_stream: bool,
    ) {
        let Some(carried) = &mut self.0 else {
            return;
        };
        let length = announced.or(hinted);
        carried.remaining = length;
        carried.announced = announced.is_some();
        carried.body_ended = is_end_stream;
        let Some(recording) = &carried.recording else {
            return;
        };
        if recording.ends_at_head() {
            carried.end(Outcome::Complete);
        } else if is_end_stream || length == Some(0) && !recording.awaits_trailers() {
            carried.complete();
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
            recording.on_data(data, length);
            if let Some(remaining) = &mut carried.remaining {
                *remaining = remaining.saturating_sub(length);
            }
        }
        // An HTTP/1 server need not poll once more; over HTTP/2 an error may still follow.
        let is_all_sent = carried.remaining == Some(0)
            && !recording.awaits_trailers()
            && recording.ends_with_last_byte();
        if is_all_sent || is_end_stream || frame.is_trailers() {
            carried.complete();
        }
    }

    /// The response's body was read to its end.
    pub(crate) fn on_end(&mut self) {
        if let Some(carried) = &mut self.0 {
            carried.complete();
        }
    }

    /// Whether nothing is left of the response's body.
    pub(crate) fn has_whole_body(&self) -> bool {
        self.0.as_ref().is_none_or(|carried| carried.body_ended)
    }

    /// The service gave an error in place of a response, or of the rest of its body.
    pub(crate) fn fail<E: 'static>(&mut self, error: &E) {
        if let Some(carried) = &mut self.0
            && let Some(recording) = &carried.recording
        {
            let failure = recording.failure(error);
            carried.end(Outcome::Failed(Box::new(failure)));
        }
    }
}

impl Carried {
    #[inline]
    fn end(&mut self, outcome: Outcome) {
        if let Some(recording) = &mut self.recording
            // Once, even if what is told of it panics.
            && mem::replace(&mut recording.open, false)
        {
            recording.finish(&self.cx, outcome);
            self.recording = None;
        }
    }

    /// The body of the response is at its end, which may be too early.
    #[inline]
    fn complete(&mut self) {
        let is_short = self.announced && self.remaining != Some(0);
        // A gRPC call has a status that says how it ended.
        let is_http = |recording: &Recording| recording.call.is_none();
        self.end(
            if is_short && self.recording.as_ref().is_some_and(is_http) {
                Outcome::Incomplete
            } else {
                Outcome::Complete
            },
        );
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        // Also where a panic is the reason: one that is the request's own has passed through its
        // `Entered`, and has ended it.
        let is_whole = self.remaining == Some(0)
            && self
                .recording
                .as_ref()
                .is_some_and(|one| !one.awaits_trailers());
        self.end(if is_whole {
            Outcome::Complete
        } else {
            Outcome::Cancelled
        });
    }
}

/// See [`ActiveRequest::enter`].
pub(crate) struct Entered<'a> {
    carried: &'a mut Carried,
    /// `None` where the handler's attributes are not those of this request.
    outer: Option<Running>,
    was_panicking: bool,
    _attached: Option<ContextGuard>,
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(outer) = self.outer
            && let Some(added) = handler_attributes::leave(outer)
            && let Some(recording) = &mut self.carried.recording
        {
            for attribute in added {
                put_metric_attribute(&mut recording.extra, attribute);
            }
        }
        if std::thread::panicking() && !self.was_panicking {
            self.carried.end(Outcome::Panicked);
        }
    }
}
