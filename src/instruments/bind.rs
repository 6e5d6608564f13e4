//! The attributes of series.

use opentelemetry::KeyValue;

use crate::instruments::entries::{Peer, Route};
use crate::instruments::recorders::{Kind, SeriesAttributes, overflow};
use crate::instruments::series::{CallKey, SeriesKey};
use crate::instruments::{CallEntry, Instruments};
use crate::semconv::protocol_version;
use crate::semconv::status_attribute;
use crate::semconv::{self, ErrorType, OTHER, Side, rpc};

impl Instruments {
    pub(super) fn describe_http(&self, route: &Route, key: &SeriesKey) -> SeriesAttributes {
        // Sorted by key like in the SDK, apart from `extra`.
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

    /// Describes the overflow series of a route.
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

    /// Describes the overflow series of a gRPC method.
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

/// Returns the attribute `rpc.method`.
fn method_attribute(method: Option<&'static str>) -> KeyValue {
    KeyValue::new(semconv::RPC_METHOD, method.unwrap_or(OTHER))
}
