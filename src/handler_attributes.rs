//! Attributes that a handler puts on its own request.

use std::cell::{Cell, RefCell};

use opentelemetry::KeyValue;

/// Attributes that hooks and the handler can put on the metrics of one request.
const MAX_ATTRIBUTES: usize = 16;

/// Which request runs on this thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Running {
    /// None that is recorded.
    Nothing,
    /// One whose handler has added nothing since it went on.
    Request,
    /// One whose handler has, to `ADDED`.
    Added,
}

thread_local! {
    // Apart from what is added, because most handlers add nothing, and every request comes by.
    static RUNNING: Cell<Running> = const { Cell::new(Running::Nothing) };
    static ADDED: RefCell<Vec<KeyValue>> = const { RefCell::new(Vec::new()) };
}

/// A request that waits on this thread for one that is served inside of it.
pub(crate) struct Outer {
    running: Running,
    added: Vec<KeyValue>,
}

/// Has what the handler adds belong to another request, or to none that is recorded.
pub(crate) fn enter(recorded: bool) -> Outer {
    let running = RUNNING.replace(if recorded {
        Running::Request
    } else {
        Running::Nothing
    });
    Outer {
        running,
        added: take(running),
    }
}

/// Goes back to the request before, and returns what was added to this one.
pub(crate) fn leave(outer: Outer) -> Vec<KeyValue> {
    let added = take(RUNNING.replace(outer.running));
    if !outer.added.is_empty() {
        let _ = ADDED.try_with(|cell| cell.replace(outer.added));
    }
    added
}

fn take(running: Running) -> Vec<KeyValue> {
    match running {
        // It fails where the thread is at its end, and has no request to run.
        Running::Added => ADDED.try_with(RefCell::take).unwrap_or_default(),
        Running::Nothing | Running::Request => Vec::new(),
    }
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
    if RUNNING.get() == Running::Nothing {
        return;
    }
    RUNNING.set(Running::Added);
    let _ = ADDED.try_with(|cell| {
        let mut added = cell.borrow_mut();
        for attribute in attributes {
            put(&mut added, attribute);
        }
    });
}

/// Adds an attribute in place of one with its key, as long as there is room.
pub(crate) fn put(attributes: &mut Vec<KeyValue>, attribute: KeyValue) {
    attributes.retain(|one| one.key != attribute.key);
    if attributes.len() < MAX_ATTRIBUTES {
        attributes.push(attribute);
    }
}
