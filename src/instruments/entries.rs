//! The entries for methods, routes and servers.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock, OnceLock};

use http::Method;
use opentelemetry::KeyValue;
use rustc_hash::FxHasher;

use crate::concurrent::table::{EntryRef, Inserted, Table};
use crate::instruments::series::SeriesKey;
use crate::instruments::series_set::SeriesSet;
use crate::providers::bound::BoundUpDownCounter;
use crate::providers::series_budget::{RouteBudget, SeriesBudget};
use crate::semconv::http::span_name;
use crate::semconv::{self, OTHER};

/// The maximum number of routes per method. It is larger than the number of series that an SDK
/// keeps per instrument, so an SDK would merge the series of further routes anyway.
const MAX_ROUTES: usize = 16_384;

/// The maximum number of servers per method of a client.
const MAX_PEERS: usize = 1024;

/// The maximum number of interned names.
const MAX_NAMES: usize = 2 * MAX_ROUTES;

/// The entry of one method.
pub(crate) struct MethodEntry {
    pub(crate) index: usize,
    pub(crate) method: &'static str,
    /// The method in the type that requests use.
    pub(crate) known: Option<Method>,
    /// The entry for requests without a route or without a server.
    pub(crate) unmatched: Route,
    /// The entry for servers beyond the maximum. Clients only.
    pub(crate) other: OnceLock<Route>,
    pub(crate) routes: Table<String, Route>,
    /// Entries by server. Clients only.
    pub(crate) peers: Table<Peer, Route>,
    /// The counters of active requests by scheme. Servers only.
    pub(crate) active: [OnceLock<BoundUpDownCounter<i64>>; 2],
}

/// A reference to a route: the index of its method, and its position. It is an index and not an
/// `Arc`, because all threads would contend for a shared reference count.
pub(crate) enum RouteRef {
    Unmatched(usize),
    Other(usize),
    Kept(usize, EntryRef),
    Peer(usize, EntryRef),
    /// A route beyond the maximum.
    Own(Box<Route>),
}

/// The entry of one method and route.
pub(crate) struct Route {
    /// `http.request.method`
    pub(crate) method: &'static str,
    /// `http.route`. Servers only.
    pub(crate) route: Option<Cow<'static, str>>,
    /// The server that is called. Clients only.
    pub(crate) peer: Option<Peer>,
    /// The name of spans.
    pub(crate) name: Cow<'static, str>,
    /// The index of the method's entry.
    pub(crate) method_index: usize,
    /// The counter of active requests. Clients only.
    pub(crate) active: OnceLock<BoundUpDownCounter<i64>>,
    /// `None` for a route beyond the maximum. Such routes share one series.
    pub(crate) series: Option<SeriesSet<SeriesKey>>,
}

/// The series budget of each route. The methods of a route share its budget, because a client can
/// choose the method.
pub(crate) struct RouteBudgets {
    budget: Arc<SeriesBudget>,
    unmatched: Arc<RouteBudget>,
    by_route: Table<String, Arc<RouteBudget>>,
}

impl RouteBudgets {
    pub(crate) fn new(budget: Arc<SeriesBudget>) -> Self {
        Self {
            unmatched: budget.route(),
            by_route: Table::new(MAX_ROUTES),
            budget,
        }
    }

    /// Returns the budget of a route, a server or a gRPC method.
    pub(crate) fn of(&self, route: Option<&str>) -> Arc<RouteBudget> {
        let Some(route) = route else {
            return self.unmatched.clone();
        };
        if let Some(budget) = self.by_route.get(route) {
            return budget.clone();
        }
        if self.by_route.is_full() {
            // No new budget is created, because it would not be stored and each request would
            // create another.
            return self.unmatched.clone();
        }
        let make = || self.budget.route();
        match self.by_route.get_or_insert_with(route, make) {
            Ok(budget) => budget.clone(),
            Err(budget) => budget,
        }
    }
}

/// The server that a client calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

impl Hash for Peer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_peer(&self.host, self.port, state);
    }
}

/// Hashes a host and a port. The case of the host does not matter.
fn hash_peer(host: &str, port: u16, state: &mut impl Hasher) {
    // The bit in which uppercase and lowercase letters differ. Setting it in other characters is
    // harmless, because it only causes collisions.
    const LOWER: u64 = 0x2020_2020_2020_2020;
    let (words, rest) = host.as_bytes().as_chunks::<8>();
    for word in words {
        state.write_u64(u64::from_ne_bytes(*word) | LOWER);
    }
    for byte in rest {
        state.write_u8(byte.to_ascii_lowercase());
    }
    state.write_u16(port);
}

impl Peer {
    fn is(&self, host: &str, port: u16) -> bool {
        // The case is usually the same, and this comparison is faster.
        let is_host = *self.host == *host || self.host.eq_ignore_ascii_case(host);
        self.port == port && is_host
    }

    pub(crate) fn attributes(&self) -> [KeyValue; 2] {
        [
            KeyValue::new(semconv::SERVER_ADDRESS, self.host.clone()),
            KeyValue::new(semconv::SERVER_PORT, i64::from(self.port)),
        ]
    }
}

impl MethodEntry {
    pub(crate) fn new(index: usize, method: &'static str, budgets: &RouteBudgets) -> Self {
        Self {
            index,
            method,
            known: Method::from_bytes(method.as_bytes()).ok(),
            unmatched: Route::new(index, method, None, budgets.of(None)),
            other: OnceLock::new(),
            routes: Table::new(MAX_ROUTES),
            peers: Table::new(MAX_PEERS),
            active: Default::default(),
        }
    }
}

impl MethodEntry {
    /// Returns a route, creating it if it is missing.
    #[inline]
    pub(crate) fn route(&self, route: &str, budgets: &RouteBudgets) -> RouteRef {
        let find = || {
            self.routes
                .find(route)
                .map(|place| RouteRef::Kept(self.index, place))
        };
        find().unwrap_or_else(|| {
            let budget = budgets.of(Some(route));
            let made = Route::new(self.index, self.method, Some(route), budget);
            match self.routes.insert(route.to_owned(), made) {
                // Routes beyond the maximum share one series.
                Inserted::Full(made) => RouteRef::Own(Box::new(Route {
                    series: None,
                    ..made
                })),
                _ => find().unwrap_or(RouteRef::Unmatched(self.index)),
            }
        })
    }

    /// Returns the entry of a server, creating it if it is missing.
    pub(crate) fn peer(&self, host: &str, port: u16, budgets: &RouteBudgets) -> RouteRef {
        let mut hasher = FxHasher::default();
        hash_peer(host, port, &mut hasher);
        let hash = hasher.finish();
        let find = || {
            let place = self.peers.find_by_hash(hash, |peer| peer.is(host, port));
            place.map(|place| RouteRef::Peer(self.index, place))
        };
        find().unwrap_or_else(|| {
            let make = |host: String| {
                let peer = Peer {
                    host: host.into(),
                    port,
                };
                let budget = budgets.of(Some(&format!("{}:{port}", peer.host)));
                let route = Route::new(self.index, self.method, None, budget);
                let route = Route {
                    peer: Some(peer.clone()),
                    ..route
                };
                (peer, route)
            };
            let (peer, route) = make(host.to_ascii_lowercase());
            match self.peers.insert(peer, route) {
                // Servers beyond the maximum share one entry, because their number may be
                // unlimited.
                Inserted::Full(_) => {
                    self.other.get_or_init(|| make(OTHER.to_owned()).1);
                    RouteRef::Other(self.index)
                }
                _ => find().unwrap_or(RouteRef::Unmatched(self.index)),
            }
        })
    }
}

impl Route {
    pub(crate) fn new(
        method_index: usize,
        method: &'static str,
        route: Option<&str>,
        budget: Arc<RouteBudget>,
    ) -> Self {
        let name = span_name(method, route);
        let interned = intern(&name);
        Self {
            method,
            route: route.map(|route| match interned {
                Some(name) => Cow::Borrowed(&name[name.len() - route.len()..]),
                None => Cow::Owned(route.to_owned()),
            }),
            name: interned.map_or(Cow::Owned(name), Cow::Borrowed),
            peer: None,
            method_index,
            active: OnceLock::new(),
            series: Some(SeriesSet::new(budget)),
        }
    }

    /// Returns the attributes of the active requests of a client.
    pub(crate) fn client_attributes(&self) -> Vec<KeyValue> {
        let mut attributes = vec![KeyValue::new(semconv::HTTP_REQUEST_METHOD, self.method)];
        attributes.extend(self.peer.iter().flat_map(Peer::attributes));
        attributes
    }

    /// Returns the attribute `http.route`.
    pub(crate) fn attribute(&self) -> Option<KeyValue> {
        let route = self.route.clone()?;
        Some(KeyValue::new(semconv::HTTP_ROUTE, route))
    }
}

/// Returns a copy of `name` that lives as long as the process, so that spans use it without a copy.
///
/// Names belong to routes and methods, so their number is usually fixed. Returns `None` beyond the
/// maximum.
pub(crate) fn intern(name: &str) -> Option<&'static str> {
    static NAMES: LazyLock<Table<String, &'static str>> = LazyLock::new(|| Table::new(MAX_NAMES));
    if let Some(interned) = NAMES.get(name) {
        return Some(*interned);
    }
    if NAMES.is_full() {
        return None;
    }
    let interned = NAMES.get_or_insert_with(name, || Box::leak(Box::from(name)));
    interned.ok().copied()
}
