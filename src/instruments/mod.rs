//! The instruments of the layers, and the tables of their series.
//!
//! Each combination of attributes is bound to a series once. Requests then record directly to the
//! series. The number of routes is limited, and so is the number of series per route and in total.

mod bind;
mod entries;
mod exemplars;
mod extra_attributes;
mod late_series;
pub(crate) mod metric_set;
mod recorders;
mod series;
mod series_set;

use std::sync::{Arc, OnceLock};

use http::Method;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use crate::concurrent::table::Table;
use crate::instruments::metric_set::MetricSet;
use crate::providers::bound::Bind;
use crate::providers::collections::Collections;
use crate::providers::exemplars::{Exemplars, create_with_exemplars};
use crate::providers::series_budget::SeriesBudget;
use crate::semconv::Scheme;
use crate::semconv::Server;
use crate::semconv::{self, OTHER, Side, rpc};

use entries::{MethodEntry, RouteBudgets};
pub(crate) use entries::{Peer, Route, RouteRef, intern};
use extra_attributes::ExtraAttributes;
use late_series::LateSeries;
use recorders::{Conventions, Names, Recorders, SeriesAttributes, Sizes};
pub(crate) use series::{CallKey, Measured, SeriesKey};
use series_set::{Measuring, SeriesSet, warn_of_overflow};

/// The maximum number of combinations of gRPC method and server with series of their own.
const MAX_CALLS: usize = 16_384;
/// The maximum number of known gRPC methods, in addition to declared ones.
const MAX_GRPC_METHODS: usize = 256;

pub(crate) struct Instruments {
    pub(crate) side: Side,
    measuring: Measuring,
    /// `None` if no exporter of this crate supports exemplars.
    pub(crate) exemplars: Option<Arc<Exemplars>>,
    /// Entries by method. The last one is for unknown methods.
    methods: Vec<MethodEntry>,
    grpc_methods: Table<String, &'static str>,
    /// Series by method and, for clients, by server.
    calls: Table<CallEntry, SeriesSet<CallKey>>,
    budgets: RouteBudgets,
    extra: ExtraAttributes,
    /// The series for routes beyond the maximum, without and with counted request bodies.
    other_routes: [OnceLock<Arc<LateSeries>>; 2],
    /// The series for gRPC methods beyond the maximum.
    other_calls: OnceLock<Arc<LateSeries>>,
}

/// The server and the method of gRPC calls.
#[derive(Clone, PartialEq, Eq, Hash)]
struct CallEntry {
    peer: Option<Peer>,
    method: Option<&'static str>,
}

impl Instruments {
    pub(crate) fn new(
        side: Side,
        meter: &Meter,
        sets: &[MetricSet],
        methods: impl Iterator<Item = &'static str>,
        grpc_methods: &[String],
        budget: Arc<SeriesBudget>,
        collections: Arc<Collections>,
    ) -> Self {
        let seconds = |name: &'static str, description: &str| {
            meter
                .f64_histogram(name)
                .with_description(description.to_owned())
                .with_unit("s")
                .with_boundaries(semconv::BUCKETS_IN_SECONDS.to_vec())
                .build()
        };
        let basic = || {
            let requests = meter
                .u64_counter(semconv::HTTP_REQUESTS)
                .with_description("Number of HTTP server requests.")
                .with_unit("{request}");
            let milliseconds = meter
                .f64_histogram(semconv::HTTP_DURATION)
                .with_description("Duration of HTTP server requests.")
                .with_unit("ms")
                .with_boundaries(semconv::BUCKETS_IN_MILLISECONDS.to_vec());
            (requests.build(), milliseconds.build())
        };
        let (word, rpc_description) = match side {
            Side::Server => (
                "server",
                "Measures the duration of inbound remote procedure calls (RPC).",
            ),
            Side::Client => (
                "client",
                "Measures the duration of outbound remote procedure calls (RPC).",
            ),
        };
        let names = Names::of(side);
        let conventions = || Conventions {
            http_seconds: seconds(
                names.http_seconds,
                &format!("Duration of HTTP {word} requests."),
            ),
            rpc_seconds: seconds(names.rpc_seconds, rpc_description),
            active: meter
                .i64_up_down_counter(names.active)
                .with_description(format!("Number of active HTTP {word} requests."))
                .with_unit("{request}")
                .build(),
        };
        let size = |name: &'static str, what: &str| {
            let description = format!("Size of HTTP {word} {what} bodies.");
            let histogram = meter.u64_histogram(name).with_description(description);
            histogram.with_unit("By").build()
        };
        let sizes = || Sizes {
            request: size(names.request_size, "request"),
            response: size(names.response_size, "response"),
        };
        let methods = methods.chain([OTHER]).enumerate();
        let budgets = RouteBudgets::new(budget);
        let methods = methods.map(|(index, method)| MethodEntry::new(index, method, &budgets));
        // `http.requests` and `http.duration` are metrics of servers.
        let has_basic = side == Side::Server && sets.contains(&MetricSet::Basic);
        let (recorders, exemplars) = create_with_exemplars(|| Recorders {
            names: Names::of(side),
            basic: has_basic.then(basic),
            conventions: sets.contains(&MetricSet::Conventions).then(conventions),
            sizes: sets.contains(&MetricSet::BodySizes).then(sizes),
            exemplars: None,
        });
        let recorders = Arc::new(Recorders {
            exemplars: exemplars.clone(),
            ..recorders
        });
        let instruments = Self {
            side,
            measuring: Measuring {
                recorders,
                collections,
            },
            exemplars,
            methods: methods.collect(),
            budgets,
            grpc_methods: Table::new(MAX_GRPC_METHODS + grpc_methods.len()),
            calls: Table::new(MAX_CALLS),
            extra: ExtraAttributes::default(),
            other_routes: Default::default(),
            other_calls: OnceLock::new(),
        };
        for method in grpc_methods {
            instruments.learn_grpc_method(method);
        }
        instruments
    }

    /// Finds the entry of a method and a route.
    #[inline]
    pub(crate) fn find_route(&self, method: &Method, route: Option<&str>) -> RouteRef {
        let entry = self.entry(method);
        match route {
            Some(route) => entry.route(route, &self.budgets),
            None => RouteRef::Unmatched(entry.index),
        }
    }

    /// Finds the entry of a method and the server that a client calls.
    pub(crate) fn find_peer(&self, method: &Method, server: Option<Server<'_>>) -> RouteRef {
        let entry = self.entry(method);
        match server {
            Some(Server { host, port }) => {
                entry.peer(&semconv::truncated_host(host), port, &self.budgets)
            }
            None => RouteRef::Unmatched(entry.index),
        }
    }

    #[inline]
    pub(crate) fn route<'a>(&'a self, route: &'a RouteRef) -> &'a Route {
        let (index, found) = match route {
            RouteRef::Own(route) => return route,
            RouteRef::Unmatched(index) => (*index, None),
            RouteRef::Other(index) => (*index, self.methods[*index].other.get()),
            RouteRef::Kept(index, place) => (*index, self.methods[*index].routes.at(*place)),
            RouteRef::Peer(index, place) => (*index, self.methods[*index].peers.at(*place)),
        };
        found.unwrap_or(&self.methods[index].unmatched)
    }

    #[inline]
    fn entry(&self, method: &Method) -> &MethodEntry {
        let known = &self.methods[..self.methods.len() - 1];
        let index = known
            .iter()
            .position(|entry| entry.known.as_ref() == Some(method))
            .unwrap_or(known.len());
        &self.methods[index]
    }

    /// Changes the number of active requests.
    #[inline]
    pub(crate) fn add_active(&self, route: &Route, scheme: Scheme, change: i64) {
        let Some(conventions) = &self.measuring.recorders.conventions else {
            return;
        };
        if self.side == Side::Client {
            let bind = || conventions.active.bind_to(&route.client_attributes());
            route.active.get_or_init(bind).add(change);
            return;
        }
        let entry = &self.methods[route.method_index];
        let counter = entry.active[scheme as usize].get_or_init(|| {
            conventions.active.bind_to(&[
                KeyValue::new(semconv::HTTP_REQUEST_METHOD, entry.method),
                KeyValue::new(semconv::URL_SCHEME, scheme.as_str()),
            ])
        });
        counter.add(change);
    }

    /// Records an HTTP request that ended.
    #[inline]
    pub(crate) fn record_http(&self, route: &Route, key: &SeriesKey, measured: &Measured) {
        let describe = || self.describe_http(route, key);
        let describe_overflow = || Self::describe_http_overflow(route, key.counted);
        match &route.series {
            Some(series) => {
                series.record(&self.measuring, key, measured, describe, describe_overflow);
            }
            None => {
                let others = &self.other_routes[usize::from(key.counted)];
                self.record_other(others, false, measured);
            }
        }
    }

    /// Records a request or a call to a series for routes or methods beyond the maximum.
    #[cold]
    fn record_other(&self, others: &OnceLock<Arc<LateSeries>>, is_call: bool, measured: &Measured) {
        warn_of_overflow();
        let make = || {
            let attributes = SeriesAttributes::of_others(is_call, measured.received.is_some());
            LateSeries::new(&self.measuring.recorders, attributes)
        };
        let collections = &self.measuring.collections;
        others.get_or_init(make).record(measured, collections);
    }

    /// Records a gRPC call that ended. `route` contains the server that a client called.
    pub(crate) fn record_call(
        &self,
        route: &Route,
        method: Option<&'static str>,
        key: &CallKey,
        measured: &Measured,
    ) {
        let peer = &route.peer;
        let entry = CallEntry {
            peer: peer.clone(),
            method,
        };
        let make = || {
            let host = peer.as_ref().map_or("", |peer| &*peer.host);
            let method = method.unwrap_or_default();
            SeriesSet::new(self.budgets.of(Some(&format!("{host} grpc {method}"))))
        };
        let describe = || Self::describe_call(&entry, key);
        let describe_overflow = || Self::describe_call_overflow(&entry);
        let kept = match self.calls.get(&entry) {
            None if !self.calls.is_full() => self.calls.get_or_insert_with(&entry, make).ok(),
            kept => kept,
        };
        match kept {
            Some(series) => {
                series.record(&self.measuring, key, measured, describe, describe_overflow);
            }
            None => self.record_other(&self.other_calls, true, measured),
        }
    }

    /// Returns the interned name of a gRPC method that the server is known to have.
    pub(crate) fn grpc_method(&self, method: &str) -> Option<&'static str> {
        self.grpc_methods.get(method).copied()
    }

    /// Stores a gRPC method that the server has, and returns its interned name. Returns `None` if
    /// the name is too long or there are too many methods.
    pub(crate) fn learn_grpc_method(&self, method: &str) -> Option<&'static str> {
        if let Some(known) = self.grpc_method(method) {
            return Some(known);
        }
        if self.grpc_methods.is_full() || method.len() > rpc::MAX_METHOD {
            return None;
        }
        let name = intern(method)?;
        let learned = self.grpc_methods.get_or_insert_with(method, || name);
        learned.ok().copied()
    }

    /// Applies the limits for metrics to attributes of hooks and handlers.
    pub(crate) fn apply_limits(&self, attributes: Vec<KeyValue>) -> Vec<KeyValue> {
        self.extra.apply_limits(self.side, attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learned_grpc_methods_are_limited_in_number_and_length() {
        let meter = opentelemetry::global::meter("test");
        let instruments = Instruments::new(
            Side::Server,
            &meter,
            &[],
            [].into_iter(),
            &[],
            SeriesBudget::new(100),
            Collections::watch(&meter),
        );
        let long = "m".repeat(rpc::MAX_METHOD + 1);
        assert_eq!(instruments.learn_grpc_method(&long), None);
        for n in 0..MAX_GRPC_METHODS {
            let method = format!("a.B/{n}");
            let learned = instruments.learn_grpc_method(&method);
            assert_eq!(learned, Some(method.as_str()));
        }
        assert_eq!(instruments.learn_grpc_method("a.B/more"), None);
        assert_eq!(instruments.learn_grpc_method("a.B/7"), Some("a.B/7"));
        assert_eq!(instruments.grpc_method("a.B/more"), None);
    }
}
