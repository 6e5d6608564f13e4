//! A switch for the threads that write log lines.

use std::sync::atomic::{AtomicBool, Ordering};

static ARE_DISABLED: AtomicBool = AtomicBool::new(false);

/// Switches the threads on or off. Without them, each thread writes its own lines, and flushes emit the
/// events of this crate.
#[cfg(feature = "init")]
pub(crate) fn enable_threads(enabled: bool) {
    ARE_DISABLED.store(!enabled, Ordering::SeqCst);
}

/// Returns whether threads of this crate write log lines.
pub(crate) fn are_enabled() -> bool {
    !ARE_DISABLED.load(Ordering::SeqCst)
}
