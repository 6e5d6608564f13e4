//! OpenTelemetry's current context, where the thread still has one.
//!
//! OpenTelemetry keeps it in a thread-local, and panics where that is destroyed already. A future, a
//! body or a guard may be dropped so late: in a runtime that is itself in a thread-local.

use std::cell::Cell;
use std::mem;
use std::panic::catch_unwind;

use opentelemetry::{Context, ContextGuard};

/// Stands for the thread's context: made after it, and so destroyed before it.
struct Mark;

impl Drop for Mark {
    fn drop(&mut self) {
        STATE.set(State::Ends);
    }
}

/// The state of a thread.
#[derive(Clone, Copy, PartialEq)]
enum State {
    New,
    HasMark,
    /// Its context is destroyed, or soon will be.
    Ends,
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::New) };
    static MARK: Mark = const { Mark };
}

/// Whether the thread has a current context.
#[inline]
pub(crate) fn exists() -> bool {
    match STATE.get() {
        State::HasMark => true,
        State::New => begin(),
        State::Ends => false,
    }
}

/// Makes the context of the thread, and then its mark.
#[cold]
fn begin() -> bool {
    // It fails in a thread that comes here first when it ends, and had a context before.
    let exists = catch_unwind(|| Context::map_current(|_| ())).is_ok();
    let exists = exists && MARK.try_with(|_| ()).is_ok();
    STATE.set(if exists { State::HasMark } else { State::Ends });
    exists
}

/// A context that is current until this is dropped; nothing, where the thread has none.
pub(crate) struct Attached(Option<ContextGuard>);

/// Makes a context current on this thread.
#[inline]
pub(crate) fn attach(cx: &Context) -> Attached {
    Attached(attach_scoped(cx))
}

/// The same, with a guard that must not be kept where the thread may end before it is dropped.
#[inline]
pub(crate) fn attach_scoped(cx: &Context) -> Option<ContextGuard> {
    exists().then(|| cx.clone().attach())
}

impl Drop for Attached {
    #[inline]
    fn drop(&mut self) {
        let guard = self.0.take();
        if !exists() {
            // There is nothing left to restore.
            mem::forget(guard);
        }
    }
}

/// Calls `f` with the current context; with an empty one, where the thread has none.
#[inline]
pub(crate) fn map<T>(f: impl FnOnce(&Context) -> T) -> T {
    if exists() {
        Context::map_current(f)
    } else {
        f(&Context::new())
    }
}

/// Returns the current context; an empty one, where the thread has none.
#[inline]
pub(crate) fn get() -> Context {
    map(Context::clone)
}
