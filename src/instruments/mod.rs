//! The instruments of the layers, and the table of series that requests find theirs in.
//!
//! A series is bound to its attributes once, for each combination of them that occurs, and then
//! recorded to directly. Series are bounded, for each route and all together.

mod bind;
mod entries;
mod exemplars;
mod extra_attributes;
pub(crate) mod metric_set;
mod series;

use std::sync::Arc;

use http::Method;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};

use crate::concurrent::table::Table;
use crate::instruments::metric_set::MetricSet;
use crate::providers::bound::Bind;
use crate::providers::exemplars::{Exemplars, behind};
use crate::providers::series_budget::Room;
use crate::semconv::Scheme;
use crate::semconv::Server;
use crate::semconv::{self, OTHER, Side, rpc};

use entries::{MethodEntry, Rooms};
pub(crate) use entries::{Peer, Route, RouteRef, intern};
use extra_attributes::ExtraAttributes;
use series::SeriesSet;
pub(crate) use series::{CallKey, Measured, SeriesKey};

/// Bounds of the tables. Methods that are declared have room besides.
const MAX_CALLS: usize = 2048;
const MAX_GRPC_METHODS: usize = 256;

pub(crate) struct Instruments {
    pub(crate) side: Side,
    basic: Option<(Counter<u64>, Histogram<f64>)>,
    conventions: Option<Conventions>,
    sizes: Option<Sizes>,
    /// `None` if no exporter of this crate reads them.
    pub(crate) exemplars: Option<Arc<Exemplars>>,
    /// By method; the last is for those that are not known.
    methods: Vec<MethodEntry>,
    grpc_methods: Table<String, &'static str>,
    /// By server, of a client, and method.
    calls: Table<CallEntry, SeriesSet<CallKey>>,
    rooms: Rooms,
    extra: ExtraAttributes,
}

/// The server and the method of gRPC calls.
#[derive(Clone, PartialEq, Eq, Hash)]
struct CallEntry {
    peer: Option<Peer>,
    method: Option<&'static str>,
}

struct Conventions {
    http_seconds: Histogram<f64>,
    rpc_seconds: Histogram<f64>,
    active: UpDownCounter<i64>,
}

struct Sizes {
    request: Histogram<u64>,
    response: Histogram<u64>,
}

/// The names of the conventions' instruments.
struct Names {
    http_seconds: &'static str,
    rpc_seconds: &'static str,
    active: &'static str,
    request_size: &'static str,
    response_size: &'static str,
}

impl Names {
    const fn of(side: Side) -> Self {
        match side {
            Side::Server => Self {
                http_seconds: semconv::HTTP_SERVER_REQUEST_DURATION,
                rpc_seconds: semconv::RPC_SERVER_CALL_DURATION,
                active: semconv::HTTP_SERVER_ACTIVE_REQUESTS,
                request_size: semconv::HTTP_SERVER_REQUEST_BODY_SIZE,
                response_size: semconv::HTTP_SERVER_RESPONSE_BODY_SIZE,
            },
            Side::Client => Self {
                http_seconds: semconv::HTTP_CLIENT_REQUEST_DURATION,
                rpc_seconds: semconv::RPC_CLIENT_CALL_DURATION,
                active: semconv::HTTP_CLIENT_ACTIVE_REQUESTS,
                request_size: semconv::HTTP_CLIENT_REQUEST_BODY_SIZE,
                response_size: semconv::HTTP_CLIENT_RESPONSE_BODY_SIZE,
            },
        }
    }
}

impl Instruments {
    pub(crate) fn new(
        side: Side,
        meter: &Meter,
        sets: &[MetricSet],
        methods: impl Iterator<Item = &'static str>,
        grpc_methods: &[String],
        room: Arc<Room>,
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
        // They are of the requests to a server.
        let methods = methods.chain([OTHER]).enumerate();
        let rooms = Rooms::new(room);
        let methods = methods.map(|(index, method)| MethodEntry::new(index, method, &rooms));
        let methods = methods.collect();
        let has_basic = side == Side::Server && sets.contains(&MetricSet::Basic);
        let (instruments, exemplars) = behind(|| Self {
            side,
            basic: has_basic.then(basic),
            conventions: sets.contains(&MetricSet::Conventions).then(conventions),
            sizes: sets.contains(&MetricSet::BodySizes).then(sizes),
            exemplars: None,
            methods,
            rooms,
            grpc_methods: Table::new(MAX_GRPC_METHODS + grpc_methods.len()),
            calls: Table::new(MAX_CALLS),
            extra: ExtraAttributes::default(),
        });
        let instruments = Self {
            exemplars,
            ..instruments
        };
        for method in grpc_methods {
            instruments.learn_grpc_method(method);
        }
        instruments
    }

    /// Finds what is known of a method and route.
    #[inline]
    pub(crate) fn find_route(&self, method: &Method, route: Option<&str>) -> RouteRef {
        let entry = self.entry(method);
        match route {
            Some(route) => entry.route(route, &self.rooms),
            None => RouteRef::Unmatched(entry.index),
        }
    }

    /// Finds what is known of a method and the server that it is sent to.
    pub(crate) fn find_peer(&self, method: &Method, server: Option<Server<'_>>) -> RouteRef {
        let entry = self.entry(method);
        match server {
            Some(Server { host, port }) => {
                entry.peer(&semconv::truncated_host(host), port, &self.rooms)
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

    /// Adds to the number of active requests.
    #[inline]
    pub(crate) fn add_active(&self, route: &Route, scheme: Scheme, change: i64) {
        let Some(conventions) = &self.conventions else {
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
        let bind = || self.bind_http(route, key);
        let bind_overflow = || self.bind_http_overflow(route, key.counted);
        match &route.series {
            Some(series) => series.record(key, measured, bind, bind_overflow),
            None => bind().record(measured),
        }
    }

    /// Records a gRPC call that ended, to the server of `route`.
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
            SeriesSet::new(self.rooms.of(Some(&format!("{host} grpc {method}"))))
        };
        let bind = || self.bind_call(&entry, key);
        let bind_overflow = || self.bind_call_overflow(&entry);
        match self.calls.get(&entry) {
            Some(series) => series.record(key, measured, bind, bind_overflow),
            // An entry that is not kept takes no room: each call would take it again.
            None if self.calls.is_full() => bind().record(measured),
            None => match self.calls.get_or_insert_with(&entry, make) {
                Ok(series) => series.record(key, measured, bind, bind_overflow),
                Err(_) => bind().record(measured),
            },
        }
    }

    /// A gRPC method that the server is known to have.
    pub(crate) fn grpc_method(&self, method: &str) -> Option<&'static str> {
        self.grpc_methods.get(method).copied()
    }

    /// Remembers a gRPC method that the server has; `None` past the bounds.
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

    /// Returns the attributes of hooks and handlers as they fit on metrics.
    pub(crate) fn fit(&self, attributes: Vec<KeyValue>) -> Vec<KeyValue> {
        self.extra.fit(self.side, attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_methods_are_learned_up_to_their_bounds() {
        let meter = opentelemetry::global::meter("test");
        let instruments = Instruments::new(
            Side::Server,
            &meter,
            &[],
            [].into_iter(),
            &[],
            Room::new(100),
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
