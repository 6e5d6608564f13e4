//! The series budget of request instruments.
//!
//! An SDK keeps a fixed number of series per instrument for the lifetime of the process. A client
//! can choose the method, the version and often the status of a request. Each route therefore has a
//! budget of its own, so that one client cannot use up an instrument. Only the rest is shared.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of series reserved for each route.
const OWN_SERIES: usize = 3;

/// The number of series that OpenTelemetry's SDK keeps per instrument by default.
pub(crate) const SDK_SERIES: usize = 2000;

/// The series budget of a meter provider's instruments.
#[derive(Debug)]
pub(crate) struct SeriesBudget {
    /// The number of series left for any route.
    shared: AtomicUsize,
    /// The number of further routes that get a budget of their own.
    routes: AtomicUsize,
}

impl SeriesBudget {
    /// Divides a budget of `series`: a fifth is reserved for routes and the rest is shared.
    pub(crate) fn new(series: usize) -> Arc<Self> {
        // Each route needs one more series, for measurements that exceed its budget.
        let routes = series / 5 / (OWN_SERIES + 1);
        Arc::new(Self {
            shared: AtomicUsize::new(series - routes * (OWN_SERIES + 1)),
            routes: AtomicUsize::new(routes),
        })
    }

    /// Returns the budget of a new route. After a number of routes, new ones use only the shared
    /// budget.
    pub(crate) fn route(self: &Arc<Self>) -> Arc<RouteBudget> {
        let own = if take_one(&self.routes) {
            OWN_SERIES
        } else {
            0
        };
        Arc::new(RouteBudget {
            own: AtomicUsize::new(own),
            budget: self.clone(),
        })
    }
}

/// The series budget of one route.
#[derive(Debug)]
pub(crate) struct RouteBudget {
    own: AtomicUsize,
    budget: Arc<SeriesBudget>,
}

impl RouteBudget {
    /// Takes one series from the budget. Returns `false` if none is left.
    pub(crate) fn take(&self) -> bool {
        take_one(&self.own) || take_one(&self.budget.shared)
    }
}

fn take_one(left: &AtomicUsize) -> bool {
    let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
    left.fetch_update(set, fetch, |left| left.checked_sub(1))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_has_its_own_budget_when_the_shared_one_is_used_up() {
        let budget = SeriesBudget::new(SDK_SERIES);
        let greedy = budget.route();
        let mut taken = 0;
        while greedy.take() {
            taken += 1;
        }
        for _ in 1..100 {
            let route = budget.route();
            let own = std::iter::repeat_with(|| route.take()).take_while(|taken| *taken);
            assert_eq!(own.take(100).count(), OWN_SERIES);
            taken += OWN_SERIES;
        }
        // Each of the 100 routes uses one more series, so the total is the whole budget.
        assert_eq!(taken + 100, SDK_SERIES);
        assert!(!budget.route().take(), "the budget is used up");
    }
}
