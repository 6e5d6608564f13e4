//! The number of times a request was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use http::Extensions;

/// The attempts of a request, shared by its clones.
#[derive(Clone, Default)]
pub(crate) struct Attempts(Arc<AtomicI64>);

impl Attempts {
    /// Counts this attempt and returns its resend number; `None` for the first attempt.
    pub(crate) fn resends(extensions: &Extensions) -> Option<i64> {
        let before = extensions.get::<Self>()?.0.fetch_add(1, Ordering::Relaxed);
        (before > 0).then_some(before)
    }
}
