//! OpenTelemetry's current context, on threads that still have one.
//!
//! OpenTelemetry stores it in a thread-local, and panics if it is used after the thread-local is
//! destroyed. If the runtime is in a thread-local too, futures, bodies and guards may be dropped
//! that late.

use std::cell::Cell;
use std::mem;
use std::panic::catch_unwind;

use opentelemetry::{Context, ContextGuard};

/// A marker that is created after the thread's context, and is therefore destroyed before it.
struct Mark;

impl Drop for Mark {
    fn drop(&mut self) {
        STATE.set(State::Ends);
    }
}

/// The state of a thread's context.
#[derive(Clone, Copy, PartialEq)]
enum State {
    New,
    HasMark,
    /// The context is destroyed or about to be.
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

/// Creates the thread's context, and then its marker.
#[cold]
fn begin() -> bool {
    // This fails on a thread that is ending and has not called this function before.
    let exists = catch_unwind(|| Context::map_current(|_| ())).is_ok();
    let exists = exists && MARK.try_with(|_| ()).is_ok();
    STATE.set(if exists { State::HasMark } else { State::Ends });
    exists
}

/// A guard that keeps a context current until it is dropped. Empty on a thread without a context.
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
            // Nothing is left to restore.
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
