//! Series, bound to their attributes.

use opentelemetry::KeyValue;

use crate::instruments::entries::{Peer, Route};
use crate::instruments::exemplars::SeriesExemplars;
use crate::instruments::series::{CallKey, Series, SeriesKey};
use crate::instruments::{CallEntry, Instruments, Names};
use crate::providers::bound::{Bind, BoundCounter, BoundHistogram};
use crate::semconv::protocol_version;
use crate::semconv::status_attribute;
use crate::semconv::{self, ErrorType, OTHER, Side, rpc};

impl Instruments {
    pub(super) fn bind_http(&self, route: &Route, key: &SeriesKey) -> Series {
        // In the order of their keys, as the SDK sorts them.
        let mut attributes: Vec<KeyValue> = Vec::with_capacity(6 + key.extra.len());
        attributes.extend(key.error.map(ErrorType::attribute));
        attributes.push(KeyValue::new(semconv::HTTP_REQUEST_METHOD, route.method));
        attributes.extend(key.status.map(status_attribute));
        attributes.extend(route.attribute());
        attributes.extend_from_slice(&key.extra);
        let basic = self.bind_basic(&attributes);
        let basic_attributes = attributes.clone();
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
        let series = Series {
            basic,
            seconds: conventions.map(|one| one.http_seconds.bind_to(&attributes)),
            request_size: sizes
                .filter(|_| key.counted)
                .map(|sizes| sizes.request.bind_to(&attributes)),
            response_size: sizes.map(|sizes| sizes.response.bind_to(&attributes)),
            exemplars: None,
        };
        let seconds = Names::of(self.side).http_seconds;
        self.with_exemplars(series, &basic_attributes, seconds, &attributes)
    }

    pub(super) fn bind_call(&self, entry: &CallEntry, key: &CallKey) -> Series {
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
        let series = Series {
            basic: self.bind_basic(&http),
            seconds: conventions.map(|one| one.rpc_seconds.bind_to(&call)),
            request_size: None,
            response_size: None,
            exemplars: None,
        };
        let seconds = Names::of(self.side).rpc_seconds;
        self.with_exemplars(series, &http, seconds, &call)
    }

    /// Binds the series for the requests of a route that there is no other room for.
    pub(super) fn bind_http_overflow(&self, route: &Route, counted: bool) -> Series {
        let mut attributes = vec![overflow()];
        match &route.peer {
            Some(peer) => attributes.extend(peer.attributes()),
            None => attributes.extend(route.attribute()),
        }
        let (conventions, sizes) = (self.conventions.as_ref(), self.sizes.as_ref());
        let series = Series {
            basic: self.bind_basic(&attributes),
            seconds: conventions.map(|one| one.http_seconds.bind_to(&attributes)),
            request_size: sizes
                .filter(|_| counted)
                .map(|sizes| sizes.request.bind_to(&attributes)),
            response_size: sizes.map(|sizes| sizes.response.bind_to(&attributes)),
            exemplars: None,
        };
        let seconds = Names::of(self.side).http_seconds;
        self.with_exemplars(series, &attributes, seconds, &attributes)
    }

    /// Binds the series for the calls of a method that there is no other room for.
    pub(super) fn bind_call_overflow(&self, entry: &CallEntry) -> Series {
        let mut attributes = vec![
            overflow(),
            method_attribute(entry.method),
            rpc::system_attribute(),
        ];
        attributes.extend(entry.peer.iter().flat_map(Peer::attributes));
        let conventions = self.conventions.as_ref();
        let series = Series {
            basic: self.bind_basic(&[overflow()]),
            seconds: conventions.map(|one| one.rpc_seconds.bind_to(&attributes)),
            request_size: None,
            response_size: None,
            exemplars: None,
        };
        let seconds = Names::of(self.side).rpc_seconds;
        self.with_exemplars(series, &[overflow()], seconds, &attributes)
    }

    /// Gives a series places for its exemplars: by the attributes of the basic metrics, and by the name of
    /// the duration and the attributes of the other metrics.
    fn with_exemplars(
        &self,
        series: Series,
        basic: &[KeyValue],
        seconds: &'static str,
        attributes: &[KeyValue],
    ) -> Series {
        let Some(exemplars) = &self.exemplars else {
            return series;
        };
        let find = |is_kept: bool, name, attributes: &[KeyValue], bounds: &[f64]| {
            let find = || exemplars.reservoir(name, attributes, bounds);
            is_kept.then(find).flatten()
        };
        let names = Names::of(self.side);
        let in_milliseconds = &semconv::BUCKETS_IN_MILLISECONDS;
        let (in_seconds, of_sizes) = (&semconv::BUCKETS_IN_SECONDS, &semconv::DEFAULT_BUCKETS);
        let is_basic = series.basic.is_some();
        let [request, response] =
            [&series.request_size, &series.response_size].map(Option::is_some);
        let exemplars = SeriesExemplars {
            requests: find(is_basic, semconv::HTTP_REQUESTS, basic, &[]),
            milliseconds: find(is_basic, semconv::HTTP_DURATION, basic, in_milliseconds),
            seconds: find(series.seconds.is_some(), seconds, attributes, in_seconds),
            request_size: find(request, names.request_size, attributes, of_sizes),
            response_size: find(response, names.response_size, attributes, of_sizes),
        };
        Series {
            exemplars: Some(Box::new(exemplars)),
            ..series
        }
    }

    pub(super) fn bind_basic(
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
