//! A limit of events per second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Allows a limited number of events per second.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_second: u32,
    since: Instant,
    /// The current second in the upper half, and the number of events allowed in it in the lower
    /// half.
    state: AtomicU64,
}

impl RateLimit {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            since: Instant::now(),
            state: AtomicU64::new(0),
        }
    }

    pub(crate) fn allows(&self) -> bool {
        self.allows_at(self.since.elapsed().as_secs())
    }

    fn allows_at(&self, second: u64) -> bool {
        let second = second & u64::from(u32::MAX);
        let next = |state: u64| {
            let count = if state >> 32 == second {
                state & u64::from(u32::MAX)
            } else {
                0
            };
            (count < u64::from(self.per_second)).then(|| (second << 32) + count + 1)
        };
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.state.fetch_update(set, fetch, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_limit_resets_each_second() {
        let limit = RateLimit::new(2);
        let allowed: Vec<_> = [0, 0, 0, 1, 1, 1, 5]
            .map(|second| limit.allows_at(second))
            .into();
        assert_eq!(allowed, [true, true, false, true, true, false, true]);
        assert!(!RateLimit::new(0).allows_at(3));
    }
}
