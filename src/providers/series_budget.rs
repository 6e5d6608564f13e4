//! Room for series in the instruments of requests.
//!
//! An SDK keeps a fixed number of series of an instrument for the life of the process. A client can
//! choose the method, the version and often the status of a request. So that it cannot fill an
//! instrument, each route has room of its own, and only the rest is shared.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Series that a route has room for, whatever other routes do.
const OWN_SERIES: usize = 3;

/// The series that OpenTelemetry's SDK keeps of an instrument, unless told otherwise.
pub(crate) const SDK_SERIES: usize = 2000;

/// The room in the instruments of a meter provider.
#[derive(Debug)]
pub(crate) struct Room {
    /// Series that any route may take.
    shared: AtomicUsize,
    /// Routes that will have room of their own.
    routes: AtomicUsize,
}

impl Room {
    /// Divides room for `series`: a fifth is for routes, and the rest is shared.
    pub(crate) fn new(series: usize) -> Arc<Self> {
        // Besides its own series, a route has one for what finds no room.
        let routes = series / 5 / (OWN_SERIES + 1);
        Arc::new(Self {
            shared: AtomicUsize::new(series - routes * (OWN_SERIES + 1)),
            routes: AtomicUsize::new(routes),
        })
    }

    /// Returns the room of a new route. Past a number of routes there is only what is shared.
    pub(crate) fn route(self: &Arc<Self>) -> Arc<RouteRoom> {
        let own = if take_one(&self.routes) {
            OWN_SERIES
        } else {
            0
        };
        Arc::new(RouteRoom {
            own: AtomicUsize::new(own),
            room: self.clone(),
        })
    }
}

/// The room of one route.
#[derive(Debug)]
pub(crate) struct RouteRoom {
    own: AtomicUsize,
    room: Arc<Room>,
}

impl RouteRoom {
    /// Takes room for one series; false where there is none.
    pub(crate) fn take(&self) -> bool {
        take_one(&self.own) || take_one(&self.room.shared)
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
    fn a_route_has_room_when_others_have_taken_all_that_is_shared() {
        let room = Room::new(SDK_SERIES);
        let greedy = room.route();
        let mut taken = 0;
        while greedy.take() {
            taken += 1;
        }
        for _ in 1..100 {
            let route = room.route();
            let own = std::iter::repeat_with(|| route.take()).take_while(|taken| *taken);
            assert_eq!(own.take(100).count(), OWN_SERIES);
            taken += OWN_SERIES;
        }
        // With a series besides for each of the 100 routes, all is in use.
        assert_eq!(taken + 100, SDK_SERIES);
        assert!(!room.route().take(), "there are more routes than room");
    }
}
