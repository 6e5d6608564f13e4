//! Attributes that a handler adds to its own request.

use std::cell::{Cell, RefCell};

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, TraceContextExt};

use crate::current_context;
use crate::layer_state::metric_attributes::{MAX_METRIC_ATTRIBUTES, put_metric_attribute};

/// The request that runs on this thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CurrentRequest {
    /// No recorded request.
    Nothing,
    /// The request with this span. Its handler has added nothing since it was last entered.
    Request(SpanId),
    /// The request with this span. Its handler has added attributes, which are in `ADDED`.
    Added(SpanId),
}

thread_local! {
    // Separate from `ADDED`, because every request sets it, and most handlers add nothing.
    static CURRENT: Cell<CurrentRequest> = const { Cell::new(CurrentRequest::Nothing) };
    /// The attributes that were added to the outer requests on this thread and, last, to the
    /// current one.
    static ADDED: RefCell<Vec<Vec<KeyValue>>> = const { RefCell::new(Vec::new()) };
}

/// Makes the request with this span current; `None` for a request that is not recorded. Returns the
/// previous request, for [`leave`].
#[inline]
pub(crate) fn enter(span: Option<SpanId>) -> CurrentRequest {
    CURRENT.replace(match span {
        Some(span) => CurrentRequest::Request(span),
        None => CurrentRequest::Nothing,
    })
}

/// Restores the previous request, and returns the attributes that were added to this one.
#[inline]
pub(crate) fn leave(before: CurrentRequest) -> Option<Vec<KeyValue>> {
    match CURRENT.replace(before) {
        // Fails only when the thread is ending.
        CurrentRequest::Added(_) => ADDED.try_with(|cell| cell.borrow_mut().pop()).ok()?,
        CurrentRequest::Nothing | CurrentRequest::Request(_) => None,
    }
}

/// Adds attributes to the metrics and the span of the current request.
///
/// Use attributes with few values, such as a plan or a region, because each combination of values
/// is a separate series. A request has at most 16 of them, including the attributes of hooks. On
/// metrics, values are truncated to 64 bytes, and values beyond the first 64 of a key become
/// `_OTHER`.
///
/// Does nothing outside of the handler's own code, for example in a task that the handler spawned.
///
/// ```
/// use tower_telemetry::{add_request_attributes, attributes};
///
/// add_request_attributes(attributes! { "user.plan" => "free" });
/// ```
pub fn add_request_attributes(attributes: impl IntoIterator<Item = KeyValue>) {
    // Collected first, because the caller's iterator may call this function, or panic.
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
        // Set now if possible, so that attributes that are set later take precedence.
        if cx.span().span_context().span_id() == span {
            cx.span().set_attributes(attributes.iter().cloned());
        }
    });
    let _ = ADDED.try_with(|cell| {
        match cell.borrow_mut().last_mut() {
            // The usual case is one attribute.
            Some(added) if added.is_empty() && attributes.len() == 1 => *added = attributes,
            Some(added) => attributes
                .into_iter()
                .for_each(|one| put_metric_attribute(added, one)),
            None => {}
        }
    });
}
