//! Attributes that a handler puts on its own request.

use std::cell::Cell;
use std::mem::ManuallyDrop;

use opentelemetry::KeyValue;

/// Attributes that hooks and the handler can put on the metrics of one request.
const MAX_ATTRIBUTES: usize = 16;

thread_local! {
    /// The attributes that the request which runs on this thread has for its metrics; `None`
    /// where none runs that is recorded, as at the end of the thread. There is nothing to drop
    /// then, and what is never dropped costs less to reach.
    static ATTRIBUTES: Cell<ManuallyDrop<Option<Vec<KeyValue>>>> =
        const { Cell::new(ManuallyDrop::new(None)) };
}

/// Makes these the attributes of the request that runs on this thread, and returns those before.
pub(crate) fn swap(attributes: Option<Vec<KeyValue>>) -> Option<Vec<KeyValue>> {
    ManuallyDrop::into_inner(ATTRIBUTES.replace(ManuallyDrop::new(attributes)))
}

/// Puts attributes on the metrics and the span of the request that runs on this thread.
///
/// They are for what has few values, such as a plan or a region: each set of them is a series of
/// its own. A value is cut to 64 bytes, a request takes 16 attributes, those of
/// hooks included, and past 64
/// values of one key, values become `_OTHER`.
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
    let attributes: Vec<_> = attributes.into_iter().take(MAX_ATTRIBUTES).collect();
    let Some(mut kept) = swap(None) else {
        return;
    };
    for attribute in attributes {
        put(&mut kept, attribute);
    }
    swap(Some(kept));
}

/// Adds an attribute in place of one with its key, as long as there is room.
pub(crate) fn put(attributes: &mut Vec<KeyValue>, attribute: KeyValue) {
    attributes.retain(|one| one.key != attribute.key);
    if attributes.len() < MAX_ATTRIBUTES {
        attributes.push(attribute);
    }
}
