//! The instruments of the layers, and the table of series that requests find theirs in.
//!
//! A series is bound to its attributes once, for each combination of them that occurs, and then
//! recorded to directly. The table is bounded; what does not fit is bound each time.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use http::{Method, StatusCode};
use opentelemetry::KeyValue;
#[cfg(feature = "init")]
use opentelemetry::metrics::{BoundCounter, BoundHistogram, BoundUpDownCounter};
use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};

use crate::semconv::http::{METHODS, Scheme, method_index, span_name};
use crate::semconv::{self, ErrorType, rpc};
use crate::table::Table;
#[cfg(not(feature = "init"))]
use crate::unbound::{Bind, BoundCounter, BoundHistogram, BoundUpDownCounter};

/// Bounds of the tables. A route has few series: one for each status that its handler gives.
const MAX_ROUTES: usize = 1024;
const MAX_SERIES: usize = 128;
const MAX_CALLS: usize = 2048;
const MAX_GRPC_METHODS: usize = 256;
const MAX_NAMES: usize = 8192;

pub(crate) struct Instruments {
    requests: Counter<u64>,
    milliseconds: Histogram<f64>,
    http_seconds: Histogram<f64>,
    rpc_seconds: Histogram<f64>,
    active: UpDownCounter<i64>,
    methods: Vec<MethodEntry>,
    grpc_methods: Table<String, &'static str>,
    calls: Table<CallKey, Arc<Series>>,
}

/// What is known of the requests with one method.
struct MethodEntry {
    method: &'static str,
    unmatched: Arc<Route>,
    routes: Table<String, Arc<Route>>,
    /// Active requests, by scheme.
    active: [OnceLock<BoundUpDownCounter<i64>>; 2],
}

/// What is known of the requests with one method and route.
pub(crate) struct Route {
    /// `http.request.method`
    pub(crate) method: &'static str,
    /// `http.route`
    pub(crate) route: Option<Cow<'static, str>>,
    /// The name of the span.
    pub(crate) name: Cow<'static, str>,
    series: Table<SeriesKey, Arc<Series>>,
}

/// What tells the series of one route apart.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct SeriesKey {
    pub(crate) scheme: Scheme,
    pub(crate) version: Option<&'static str>,
    /// A defined status.
    pub(crate) status: Option<StatusCode>,
    pub(crate) error: Option<ErrorType>,
}

/// What tells the series of gRPC calls apart.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct CallKey {
    pub(crate) method: Option<&'static str>,
    pub(crate) code: rpc::Code,
    /// A defined status.
    pub(crate) status: Option<StatusCode>,
    pub(crate) error: Option<ErrorType>,
}

/// The places where the requests with one set of attributes are recorded.
pub(crate) struct Series {
    requests: BoundCounter<u64>,
    milliseconds: BoundHistogram<f64>,
    seconds: BoundHistogram<f64>,
}

impl Series {
    pub(crate) fn record(&self, duration: Duration) {
        self.requests.add(1);
        let seconds = duration.as_secs_f64();
        self.milliseconds.record(seconds * 1000.0);
        self.seconds.record(seconds);
    }
}

impl Instruments {
    pub(crate) fn new(meter: &Meter) -> Self {
        Self {
            requests: meter
                .u64_counter(semconv::HTTP_REQUESTS)
                .with_description("Number of HTTP server requests.")
                .with_unit("{request}")
                .build(),
            milliseconds: meter
                .f64_histogram(semconv::HTTP_DURATION)
                .with_description("Duration of HTTP server requests.")
                .with_unit("ms")
                .with_boundaries(semconv::MILLISECONDS.to_vec())
                .build(),
            http_seconds: meter
                .f64_histogram(semconv::HTTP_SERVER_REQUEST_DURATION)
                .with_description("Duration of HTTP server requests.")
                .with_unit("s")
                .with_boundaries(semconv::SECONDS.to_vec())
                .build(),
            rpc_seconds: meter
                .f64_histogram(semconv::RPC_SERVER_CALL_DURATION)
                .with_description("Measures the duration of inbound remote procedure calls (RPC).")
                .with_unit("s")
                .with_boundaries(semconv::SECONDS.to_vec())
                .build(),
            active: meter
                .i64_up_down_counter(semconv::HTTP_SERVER_ACTIVE_REQUESTS)
                .with_description("Number of active HTTP server requests.")
                .with_unit("{request}")
                .build(),
            methods: METHODS.into_iter().map(MethodEntry::new).collect(),
            grpc_methods: Table::new(MAX_GRPC_METHODS),
            calls: Table::new(MAX_CALLS),
        }
    }

    /// The entry of a method and route.
    pub(crate) fn route(&self, method: &Method, route: Option<&str>) -> Arc<Route> {
        let entry = &self.methods[method_index(method)];
        let Some(route) = route else {
            return entry.unmatched.clone();
        };
        match entry
            .routes
            .get_or_insert_with(route, || Arc::new(Route::new(entry.method, Some(route))))
        {
            Ok(route) | Err(route) => route,
        }
    }

    /// Counts a request that is in flight, until the counter that is returned is told to.
    pub(crate) fn active(&self, method: &Method, scheme: Scheme) -> &BoundUpDownCounter<i64> {
        let entry = &self.methods[method_index(method)];
        entry.active[scheme as usize].get_or_init(|| {
            self.active.bind(&[
                KeyValue::new(semconv::HTTP_REQUEST_METHOD, entry.method),
                KeyValue::new(semconv::URL_SCHEME, scheme.as_str()),
            ])
        })
    }

    /// The series of an HTTP request that ended.
    pub(crate) fn http(&self, route: &Route, key: &SeriesKey) -> Arc<Series> {
        match route
            .series
            .get_or_insert_with(key, || Arc::new(self.bind_http(route, key)))
        {
            Ok(series) | Err(series) => series,
        }
    }

    /// The series of a gRPC call that ended.
    pub(crate) fn call(&self, key: &CallKey) -> Arc<Series> {
        match self
            .calls
            .get_or_insert_with(key, || Arc::new(self.bind_call(key)))
        {
            Ok(series) | Err(series) => series,
        }
    }

    /// A gRPC method that the server is known to have.
    pub(crate) fn grpc_method(&self, method: &str) -> Option<&'static str> {
        self.grpc_methods.get(method)
    }

    /// Remembers a gRPC method that the server has answered for; `None` past the bound.
    pub(crate) fn learn_grpc_method(&self, method: &str) -> Option<&'static str> {
        if let Some(known) = self.grpc_methods.get(method) {
            return Some(known);
        }
        if self.grpc_methods.is_full() {
            return None;
        }
        let name = intern(method)?;
        self.grpc_methods.get_or_insert_with(method, || name).ok()
    }

    fn bind_http(&self, route: &Route, key: &SeriesKey) -> Series {
        // In the order of their keys, as the SDK sorts them.
        let mut attributes: Vec<KeyValue> = Vec::with_capacity(6);
        attributes.extend(key.error.map(ErrorType::attribute));
        attributes.push(KeyValue::new(semconv::HTTP_REQUEST_METHOD, route.method));
        attributes.extend(key.status.map(status_attribute));
        attributes.extend(route.attribute());
        let requests = self.requests.bind(&attributes);
        let milliseconds = self.milliseconds.bind(&attributes);
        attributes.extend(
            key.version
                .map(|version| KeyValue::new(semconv::NETWORK_PROTOCOL_VERSION, version)),
        );
        attributes.push(KeyValue::new(semconv::URL_SCHEME, key.scheme.as_str()));
        Series {
            requests,
            milliseconds,
            seconds: self.http_seconds.bind(&attributes),
        }
    }

    fn bind_call(&self, key: &CallKey) -> Series {
        let error = key.error.map(ErrorType::attribute);
        let mut http = Vec::from_iter(error.clone());
        http.push(KeyValue::new(
            semconv::HTTP_REQUEST_METHOD,
            Method::POST.as_str().to_owned(),
        ));
        http.extend(key.status.map(status_attribute));
        let mut call = Vec::from_iter(error);
        call.push(KeyValue::new(
            semconv::RPC_METHOD,
            key.method.unwrap_or(semconv::OTHER),
        ));
        call.push(KeyValue::new(
            semconv::RPC_RESPONSE_STATUS_CODE,
            key.code.name(),
        ));
        call.push(rpc::system());
        Series {
            requests: self.requests.bind(&http),
            milliseconds: self.milliseconds.bind(&http),
            seconds: self.rpc_seconds.bind(&call),
        }
    }
}

impl MethodEntry {
    fn new(method: &'static str) -> Self {
        Self {
            method,
            unmatched: Arc::new(Route::new(method, None)),
            routes: Table::new(MAX_ROUTES),
            active: Default::default(),
        }
    }
}

impl Route {
    fn new(method: &'static str, route: Option<&str>) -> Self {
        let name = span_name(method, route);
        let interned = intern(&name);
        Self {
            method,
            route: route.map(|route| match interned {
                Some(name) => Cow::Borrowed(&name[name.len() - route.len()..]),
                None => Cow::Owned(route.to_owned()),
            }),
            name: interned.map_or(Cow::Owned(name), Cow::Borrowed),
            series: Table::new(MAX_SERIES),
        }
    }

    /// `http.route`, as an attribute.
    pub(crate) fn attribute(&self) -> Option<KeyValue> {
        let route = self.route.clone()?;
        Some(KeyValue::new(semconv::HTTP_ROUTE, route))
    }
}

/// `http.response.status_code`, as an attribute.
pub(crate) fn status_attribute(status: StatusCode) -> KeyValue {
    KeyValue::new(
        semconv::HTTP_RESPONSE_STATUS_CODE,
        i64::from(status.as_u16()),
    )
}

/// Makes `name` live as long as the process, so that spans carry it without a copy.
///
/// Names are those of routes and methods, which a program has a fixed number of; `None` past the
/// bound.
fn intern(name: &str) -> Option<&'static str> {
    static NAMES: LazyLock<Table<String, &'static str>> = LazyLock::new(|| Table::new(MAX_NAMES));
    if let Some(interned) = NAMES.get(name) {
        return Some(interned);
    }
    if NAMES.is_full() {
        return None;
    }
    NAMES
        .get_or_insert_with(name, || Box::leak(Box::from(name)))
        .ok()
}
