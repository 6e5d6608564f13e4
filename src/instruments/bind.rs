//! Series, bound to their attributes.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};

use crate::instruments::entries::{Peer, Route};
use crate::instruments::series::{CallKey, Series, SeriesKey};
use crate::instruments::{CallEntry, Instruments};
use crate::providers::bound::Bind;
use crate::semconv::protocol_version;
use crate::semconv::status_attribute;
use crate::semconv::{self, ErrorType, OTHER, Side, rpc};

/// The instruments that requests are recorded to when they end.
pub(super) struct Recorders {
    pub(super) basic: Option<(Counter<u64>, Histogram<f64>)>,
    pub(super) conventions: Option<Conventions>,
    pub(super) sizes: Option<Sizes>,
}

pub(super) struct Conventions {
    pub(super) http_seconds: Histogram<f64>,
    pub(super) rpc_seconds: Histogram<f64>,
    pub(super) active: UpDownCounter<i64>,
}

pub(super) struct Sizes {
    pub(super) request: Histogram<u64>,
    pub(super) response: Histogram<u64>,
}

/// The attributes that a series is bound to.
pub(super) struct SeriesAttributes {
    kind: Kind,
    /// Attributes of `http.requests` and `http.duration`.
    basic: Vec<KeyValue>,
    conventions: Vec<KeyValue>,
}

/// The requests that a series is for.
enum Kind {
    /// Requests of HTTP, and whether the bytes of their bodies were counted.
    Http { counted: bool },
    /// gRPC calls.
    Call,
}

impl Recorders {
    /// Binds a series to its attributes.
    pub(super) fn bind(&self, attributes: &SeriesAttributes) -> Series {
        let basic = |(requests, milliseconds): &(Counter<u64>, Histogram<f64>)| {
            let attributes = &attributes.basic;
            (
                requests.bind_to(attributes),
                milliseconds.bind_to(attributes),
            )
        };
        let seconds = |conventions: &Conventions| {
            let seconds = match attributes.kind {
                Kind::Http { .. } => &conventions.http_seconds,
                Kind::Call => &conventions.rpc_seconds,
            };
            seconds.bind_to(&attributes.conventions)
        };
        let counted = match attributes.kind {
            Kind::Http { counted } => Some(counted),
            Kind::Call => None,
        };
        let sizes = self.sizes.as_ref().zip(counted);
        Series {
            basic: self.basic.as_ref().map(basic),
            seconds: self.conventions.as_ref().map(seconds),
            request_size: sizes
                .filter(|(_, counted)| *counted)
                .map(|(sizes, _)| sizes.request.bind_to(&attributes.conventions)),
            response_size: sizes.map(|(sizes, _)| sizes.response.bind_to(&attributes.conventions)),
        }
    }
}

impl SeriesAttributes {
    /// Describes the series for the requests or calls of entries that no table has room for.
    pub(super) fn of_others(is_call: bool, counted: bool) -> Self {
        Self {
            kind: if is_call {
                Kind::Call
            } else {
                Kind::Http { counted }
            },
            basic: vec![overflow()],
            conventions: vec![overflow()],
        }
    }
}

impl Instruments {
    pub(super) fn describe_http(&self, route: &Route, key: &SeriesKey) -> SeriesAttributes {
        // In the order of their keys, as the SDK sorts them.
        let mut attributes: Vec<KeyValue> = Vec::with_capacity(6 + key.extra.len());
        attributes.extend(key.error.map(ErrorType::attribute));
        attributes.push(KeyValue::new(semconv::HTTP_REQUEST_METHOD, route.method));
        attributes.extend(key.status.map(status_attribute));
        attributes.extend(route.attribute());
        attributes.extend_from_slice(&key.extra);
        let basic = attributes.clone();
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
        SeriesAttributes {
            kind: Kind::Http {
                counted: key.counted,
            },
            basic,
            conventions: attributes,
        }
    }

    pub(super) fn describe_call(entry: &CallEntry, key: &CallKey) -> SeriesAttributes {
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
        SeriesAttributes {
            kind: Kind::Call,
            basic: http,
            conventions: call,
        }
    }

    /// Describes the series for the requests of a route that there is no other room for.
    pub(super) fn describe_http_overflow(route: &Route, counted: bool) -> SeriesAttributes {
        let mut attributes = vec![overflow()];
        match &route.peer {
            Some(peer) => attributes.extend(peer.attributes()),
            None => attributes.extend(route.attribute()),
        }
        SeriesAttributes {
            kind: Kind::Http { counted },
            basic: attributes.clone(),
            conventions: attributes,
        }
    }

    /// Describes the series for the calls of a method that there is no other room for.
    pub(super) fn describe_call_overflow(entry: &CallEntry) -> SeriesAttributes {
        let mut attributes = vec![
            overflow(),
            method_attribute(entry.method),
            rpc::system_attribute(),
        ];
        attributes.extend(entry.peer.iter().flat_map(Peer::attributes));
        SeriesAttributes {
            kind: Kind::Call,
            basic: vec![overflow()],
            conventions: attributes,
        }
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
