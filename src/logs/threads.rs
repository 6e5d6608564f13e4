//! A switch for the threads that write log lines.

use std::sync::atomic::{AtomicBool, Ordering};

static ARE_NOT_WANTED: AtomicBool = AtomicBool::new(false);

/// Switches the threads on or off. Without them, each thread writes its own lines, and flushes emit the
/// events of this crate.
#[cfg(feature = "init")]
pub(crate) fn want_threads(wanted: bool) {
    ARE_NOT_WANTED.store(!wanted, Ordering::SeqCst);
}

/// Returns whether threads of this crate write log lines.
pub(crate) fn are_wanted() -> bool {
    !ARE_NOT_WANTED.load(Ordering::SeqCst)
}
