//! The time window for attempts, if nothing is sent between flushes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Attempts end this long before their flush, so that the flush can count their outcomes.
const MARGIN: Duration = Duration::from_millis(50);

/// Longer than any flush waits.
const FAR_FUTURE: Duration = Duration::from_secs(24 * 60 * 60);

/// Decides when attempts are allowed: always, or only during flushes.
#[derive(Clone, Default)]
pub(crate) struct Window(Option<Arc<Mutex<Instant>>>);

impl Window {
    /// Creates a window that is closed until a flush opens it.
    pub(crate) fn closed() -> Self {
        Self(Some(Arc::new(Mutex::new(Instant::now()))))
    }

    /// Opens the window for a flush of at most `timeout`. If several flushes run, the window closes
    /// with the last one.
    pub(crate) fn open_for(&self, timeout: Duration) {
        if let Some(mut end) = self.end() {
            let margin = MARGIN.min(timeout / 10);
            *end = (*end).max(Instant::now() + timeout - margin);
        }
    }

    /// Returns the time until which to wait for a flush; `None` if attempts are allowed now.
    pub(crate) fn closed_until(&self) -> Option<Instant> {
        let now = Instant::now();
        let end = *self.end()?;
        (end <= now).then(|| now + FAR_FUTURE)
    }

    /// Returns the time limit of an attempt that starts now, at most `timeout`.
    pub(crate) fn limit(&self, timeout: Duration) -> Duration {
        let left = self.end();
        let left = left.map(|end| end.saturating_duration_since(Instant::now()));
        left.map_or(timeout, |left| left.min(timeout))
    }

    fn end(&self) -> Option<MutexGuard<'_, Instant>> {
        let end = self.0.as_ref()?;
        Some(end.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn attempts_end_shortly_before_the_longest_flush() {
        let window = Window::closed();
        assert!(window.closed_until().is_some());
        window.open_for(5 * SECOND);
        // A shorter flush at the same time does not close the window earlier.
        window.open_for(SECOND);
        assert_eq!(window.closed_until(), None);
        assert_eq!(window.limit(10 * SECOND), 5 * SECOND - MARGIN);
        assert_eq!(window.limit(SECOND), SECOND);
        tokio::time::sleep(5 * SECOND).await;
        assert!(window.closed_until().is_some());
        assert_eq!(window.limit(SECOND), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_default_window_is_always_open() {
        let window = Window::default();
        assert_eq!(window.closed_until(), None);
        assert_eq!(window.limit(SECOND), SECOND);
    }
}
