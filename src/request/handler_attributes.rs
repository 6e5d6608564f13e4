//! Attributes that a handler puts on its own request.

use std::cell::{Cell, RefCell};

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, TraceContextExt};

use crate::current_context;
use crate::layer_state::metric_attributes::{MAX_METRIC_ATTRIBUTES, put_metric_attribute};

/// Which request runs on this thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CurrentRequest {
    /// None that is recorded.
    Nothing,
    /// One with this span, whose handler has added nothing since it went on.
    Request(SpanId),
    /// One with this span, whose handler has, to `ADDED`.
    Added(SpanId),
}

thread_local! {
    // Apart from what is added, because most handlers add nothing, and every request comes by.
    static CURRENT: Cell<CurrentRequest> = const { Cell::new(CurrentRequest::Nothing) };
    /// Attributes that were added to the request that runs, last, and to the requests that wait for it.
    static ADDED: RefCell<Vec<Vec<KeyValue>>> = const { RefCell::new(Vec::new()) };
}

/// Has what the handler adds belong to the request of this span, or to none that is recorded. Returns
/// what ran before, for [`leave`].
#[inline]
pub(crate) fn enter(span: Option<SpanId>) -> CurrentRequest {
    CURRENT.replace(match span {
        Some(span) => CurrentRequest::Request(span),
        None => CurrentRequest::Nothing,
    })
}

/// Goes back to the request before, and returns what was added to this one.
#[inline]
pub(crate) fn leave(before: CurrentRequest) -> Option<Vec<KeyValue>> {
    match CURRENT.replace(before) {
        // It fails where the thread is at its end, and has no request to run.
        CurrentRequest::Added(_) => ADDED.try_with(|cell| cell.borrow_mut().pop()).ok()?,
        CurrentRequest::Nothing | CurrentRequest::Request(_) => None,
    }
}

/// Puts attributes on the metrics and the span of the request that runs on this thread.
///
/// They are for what has few values, such as a plan or a region: each set of them is a series of
/// its own. A request takes 16 attributes, those of hooks included. On metrics a value is cut to 64
/// bytes, and past 64 values of one key, values become `_OTHER`.
///
/// It does nothing outside of the handler's own code, for instance in a task that it has spawned.
///
/// ```
/// use tower_telemetry::{add_request_attributes, attributes};
///
/// add_request_attributes(attributes! { "user.plan" => "free" });
/// ```
pub fn add_request_attributes(attributes: impl IntoIterator<Item = KeyValue>) {
    // Collected first: the caller's iterator may come back here, or panic.
    let attributes: Vec<_> = attributes.into_iter().take(MAX_METRIC_ATTRIBUTES).collect();
    let span = match CURRENT.get() {
        CurrentRequest::Nothing => return,
        CurrentRequest::Request(span) => {
            let began = ADDED.try_with(|cell| cell.borrow_mut().push(Vec::new()));
            if began.is_err() {
                return;
            }
            CURRENT.set(CurrentRequest::Added(span));
            span
        }
        CurrentRequest::Added(span) => span,
    };
    current_context::map(|cx| {
        // Written at once where that can be done: what is set later holds.
        if cx.span().span_context().span_id() == span {
            cx.span().set_attributes(attributes.iter().cloned());
        }
    });
    let _ = ADDED.try_with(|cell| {
        match cell.borrow_mut().last_mut() {
            // One attribute is the usual number.
            Some(added) if added.is_empty() && attributes.len() == 1 => *added = attributes,
            Some(added) => attributes
                .into_iter()
                .for_each(|one| put_metric_attribute(added, one)),
            None => {}
        }
    });
}
