//! The current context of OpenTelemetry, on threads that still have one.
//!
//! OpenTelemetry stores it in a thread-local, and panics after the thread-local is destroyed. A future, a
//! body or a guard may be dropped that late, if the runtime is in a thread-local too.

use std::cell::Cell;
use std::mem;
use std::panic::catch_unwind;

use opentelemetry::{Context, ContextGuard};

/// A mark for the context of the thread: created after it, and so destroyed before it.
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

/// Returns whether the thread has a current context.
#[inline]
pub(crate) fn exists() -> bool {
    match STATE.get() {
        State::HasMark => true,
        State::New => begin(),
        State::Ends => false,
    }
}

/// Creates the context of the thread, and then its mark.
#[cold]
fn begin() -> bool {
    // This fails if the thread had a context before, and calls this function first when it ends.
    let exists = catch_unwind(|| Context::map_current(|_| ())).is_ok();
    let exists = exists && MARK.try_with(|_| ()).is_ok();
    STATE.set(if exists { State::HasMark } else { State::Ends });
    exists
}

/// A guard: a context is current until the guard is dropped. Empty on a thread without a context.
pub(crate) struct Attached(Option<ContextGuard>);

/// Makes a context current on this thread.
#[inline]
pub(crate) fn attach(cx: &Context) -> Attached {
    Attached(attach_scoped(cx))
}

/// Makes a context current, with a guard that must be dropped before the thread can end.
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

/// Calls `f` with the current context, or with an empty context on a thread without one.
#[inline]
pub(crate) fn map<T>(f: impl FnOnce(&Context) -> T) -> T {
    if exists() {
        Context::map_current(f)
    } else {
        f(&Context::new())
    }
}

/// Returns the current context, or an empty context on a thread without one.
#[inline]
pub(crate) fn get() -> Context {
    map(Context::clone)
}
