//! Whether log lines are written by threads of this crate.

use std::sync::atomic::{AtomicBool, Ordering};

static ARE_NOT_WANTED: AtomicBool = AtomicBool::new(false);

/// Has each thread write its own lines, and flushes the lines of this crate, if threads are not `wanted`.
#[cfg(feature = "init")]
pub(crate) fn want_threads(wanted: bool) {
    ARE_NOT_WANTED.store(!wanted, Ordering::SeqCst);
}

/// Whether threads of this crate write.
pub(crate) fn are_wanted() -> bool {
    !ARE_NOT_WANTED.load(Ordering::SeqCst)
}
