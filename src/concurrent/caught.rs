//! Calls of application code that may panic, and warnings that are logged once.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Logs a warning once per process.
macro_rules! warn_once {
    ($($arg:tt)+) => {{
        static LOGGED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        if !LOGGED.swap(true, std::sync::atomic::Ordering::Relaxed) {
            tracing::warn!(target: "tower_telemetry", $($arg)+);
        }
    }};
}
pub(crate) use warn_once;

/// Runs a hook of the application. Returns `None`, and warns once, if the hook panics.
pub(crate) fn guarded<T>(hook: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(hook)).ok();
    if result.is_none() {
        warn_once!("a hook of the telemetry layer panicked; requests continue without it");
    }
    result
}

/// Runs application code. Returns `None` if it panics, and leaves the warning to the caller.
#[cfg(feature = "init")]
pub(crate) fn catch_panic<T>(code: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(code)).ok()
}

/// Runs code that logs. A panic in a subscriber must not end a thread of this crate.
#[cfg(any(feature = "init", feature = "logs"))]
pub(crate) fn without_panic(log: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(log));
}
