//! The instruments of the layers, and the table of series that requests find theirs in.
//!
//! A series is bound to its attributes once, for each combination of them that occurs, and then
//! recorded to directly. Series are bounded, for each route and all together.

mod entries;
pub(crate) mod metric_set;
mod series;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};
use opentelemetry::{Key, KeyValue, Value};

use crate::concurrent::table::{Inserted, Table};
use crate::instruments::metric_set::MetricSet;
use crate::providers::bound::{Bind, BoundCounter, BoundHistogram};
use crate::providers::series_budget::Room;
use crate::semconv::{
    self, ErrorType, OTHER, Scheme, Server, Side, protocol_version, rpc, status_attribute,
};

use entries::{MethodEntry, Rooms};
pub(crate) use entries::{Peer, Route, RouteRef, intern};
pub(crate) use series::{CallKey, Measured, SeriesKey};
use series::{Series, SeriesSet};

/// Bounds of the tables. Methods that are declared have room besides.
const MAX_CALLS: usize = 2048;
const MAX_GRPC_METHODS: usize = 256;

/// Bounds of attributes that hooks and handlers put on metrics: their keys, the bytes of a value,
/// and the values of a key that are told apart.
const MAX_KEYS: usize = 32;
const MAX_VALUE: usize = 64;
const MAX_VALUES: usize = 64;

pub(crate) struct Instruments {
    pub(crate) side: Side,
    basic: Option<(Counter<u64>, Histogram<f64>)>,
    conventions: Option<Conventions>,
    sizes: Option<Sizes>,
    /// By method; the last is for those that are not known.
    methods: Vec<MethodEntry>,
    grpc_methods: Table<String, &'static str>,
    /// By server, of a client, and method.
    calls: Table<CallEntry, SeriesSet<CallKey>>,
    rooms: Rooms,
    /// Values of attributes from hooks and handlers, by key.
    values: Table<String, Table<String, ()>>,
    /// Whether it was said that there are too many.
    too_many_values: AtomicBool,
    /// Whether it was said that an attribute is one of the layer's own.
    own_key: AtomicBool,
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
                .with_boundaries(semconv::SECONDS.to_vec())
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
                .with_boundaries(semconv::MILLISECONDS.to_vec());
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
        let has_basic = side == Side::Server && sets.contains(&MetricSet::Basic);
        let instruments = Self {
            side,
            basic: has_basic.then(basic),
            conventions: sets.contains(&MetricSet::Conventions).then(conventions),
            sizes: sets.contains(&MetricSet::BodySizes).then(sizes),
            methods: methods.collect(),
            rooms,
            grpc_methods: Table::new(MAX_GRPC_METHODS + grpc_methods.len()),
            calls: Table::new(MAX_CALLS),
            values: Table::new(MAX_KEYS),
            too_many_values: AtomicBool::new(false),
            own_key: AtomicBool::new(false),
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
            // What is not kept takes no room: it would do so with each call.
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

    /// Makes the attributes of hooks and handlers fit for metrics. Those that the layer has itself on a
    /// metric cannot be replaced there, and are left out.
    pub(crate) fn fit(&self, attributes: Vec<KeyValue>) -> Vec<KeyValue> {
        let mut fit = Vec::with_capacity(attributes.len());
        for attribute in attributes {
            if semconv::is_metric_key(self.side, attribute.key.as_str()) {
                self.warn_of_own_key(&attribute.key);
            } else {
                fit.extend(self.bounded(attribute));
            }
        }
        // One set of attributes is one series, in whichever order they came.
        fit.sort_by(|a, b| a.key.cmp(&b.key));
        fit
    }

    fn warn_of_own_key(&self, key: &Key) {
        if !self.own_key.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "tower_telemetry",
                attribute = key.as_str(),
                "the layer has this attribute on its metrics itself, and keeps its own value there"
            );
        }
    }

    /// Makes an attribute from a hook or a handler fit for a metric: its value is short, and of
    /// those that vary without end most are put together. `None` where there are too many keys.
    fn bounded(&self, attribute: KeyValue) -> Option<KeyValue> {
        let KeyValue { key, value, .. } = attribute;
        let make = || Table::new(MAX_VALUES);
        let Ok(values) = self.values.get_or_insert_with(key.as_str(), make) else {
            self.tell_of_too_many_values(key.as_str());
            return None;
        };
        let text = value.as_str();
        let short = semconv::truncate(&text, MAX_VALUE);
        let known = values.get(&*short).is_some();
        if !known
            && (values.is_full()
                || matches!(
                    values.insert(short.clone().into_owned(), ()),
                    Inserted::Full(())
                ))
        {
            self.tell_of_too_many_values(key.as_str());
            return Some(KeyValue::new(key, OTHER));
        }
        if short.len() == text.len() {
            drop(text);
            return Some(KeyValue::new(key, value));
        }
        Some(KeyValue::new(key, Value::String(short.into_owned().into())))
    }

    fn tell_of_too_many_values(&self, attribute: &str) {
        if !self.too_many_values.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "tower_telemetry",
                attribute,
                "metric attributes of requests are for few values: past {MAX_VALUES} of one they \
                 become {OTHER}, and past {MAX_KEYS} attributes further ones are left out"
            );
        }
    }

    fn bind_http(&self, route: &Route, key: &SeriesKey) -> Series {
        // In the order of their keys, as the SDK sorts them.
        let mut attributes: Vec<KeyValue> = Vec::with_capacity(6 + key.extra.len());
        attributes.extend(key.error.map(ErrorType::attribute));
        attributes.push(KeyValue::new(semconv::HTTP_REQUEST_METHOD, route.method));
        attributes.extend(key.status.map(status_attribute));
        attributes.extend(route.attribute());
        attributes.extend_from_slice(&key.extra);
        let basic = self.bind_basic(&attributes);
        attributes.extend(
            key.version
                .and_then(protocol_version)
                .map(|version| KeyValue::new(semconv::NETWORK_PROTOCOL_VERSION, version)),
        );
        match &route.peer {
            Some(peer) => attributes.extend(peer.attributes()),
            None if self.side == Side::Client => {}
            None => attributes.push(KeyValue::new(semconv::URL_SCHEME, key.scheme.as_str())),
        }
        let (conventions, sizes) = (self.conventions.as_ref(), self.sizes.as_ref());
        Series {
            basic,
            seconds: conventions.map(|one| one.http_seconds.bind_to(&attributes)),
            request_size: sizes
                .filter(|_| key.counted)
                .map(|sizes| sizes.request.bind_to(&attributes)),
            response_size: sizes.map(|sizes| sizes.response.bind_to(&attributes)),
        }
    }

    fn bind_call(&self, entry: &CallEntry, key: &CallKey) -> Series {
        let error = key.error.map(ErrorType::attribute);
        let mut http = Vec::from_iter(error.clone());
        http.push(KeyValue::new(
            semconv::HTTP_REQUEST_METHOD,
            rpc::HTTP_METHOD,
        ));
        http.extend(key.status.map(status_attribute));
        http.extend_from_slice(&key.extra);
        let mut call = Vec::from_iter(error);
        call.push(method_attribute(entry.method));
        call.push(KeyValue::new(semconv::RPC_STATUS_CODE, key.code.name()));
        call.push(rpc::system_attribute());
        call.extend(entry.peer.iter().flat_map(Peer::attributes));
        call.extend_from_slice(&key.extra);
        let conventions = self.conventions.as_ref();
        Series {
            basic: self.bind_basic(&http),
            seconds: conventions.map(|one| one.rpc_seconds.bind_to(&call)),
            request_size: None,
            response_size: None,
        }
    }

    /// Binds the series for the requests of a route that there is no other room for.
    fn bind_http_overflow(&self, route: &Route, counted: bool) -> Series {
        let mut attributes = vec![overflow()];
        match &route.peer {
            Some(peer) => attributes.extend(peer.attributes()),
            None => attributes.extend(route.attribute()),
        }
        let (conventions, sizes) = (self.conventions.as_ref(), self.sizes.as_ref());
        Series {
            basic: self.bind_basic(&attributes),
            seconds: conventions.map(|one| one.http_seconds.bind_to(&attributes)),
            request_size: sizes
                .filter(|_| counted)
                .map(|sizes| sizes.request.bind_to(&attributes)),
            response_size: sizes.map(|sizes| sizes.response.bind_to(&attributes)),
        }
    }

    /// Binds the series for the calls of a method that there is no other room for.
    fn bind_call_overflow(&self, entry: &CallEntry) -> Series {
        let mut attributes = vec![
            overflow(),
            method_attribute(entry.method),
            rpc::system_attribute(),
        ];
        attributes.extend(entry.peer.iter().flat_map(Peer::attributes));
        let conventions = self.conventions.as_ref();
        Series {
            basic: self.bind_basic(&[overflow()]),
            seconds: conventions.map(|one| one.rpc_seconds.bind_to(&attributes)),
            request_size: None,
            response_size: None,
        }
    }

    fn bind_basic(
        &self,
        attributes: &[KeyValue],
    ) -> Option<(BoundCounter<u64>, BoundHistogram<f64>)> {
        let (requests, milliseconds) = self.basic.as_ref()?;
        Some((
            requests.bind_to(attributes),
            milliseconds.bind_to(attributes),
        ))
    }
}

/// The mark of a series that holds what the others have no room for (Metrics SDK, "Overflow
/// attribute").
fn overflow() -> KeyValue {
    KeyValue::new(semconv::METRIC_OVERFLOW, true)
}

/// `rpc.method`, as an attribute.
fn method_attribute(method: Option<&'static str>) -> KeyValue {
    KeyValue::new(semconv::RPC_METHOD, method.unwrap_or(OTHER))
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
