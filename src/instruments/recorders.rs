//! The instruments of requests, and series that are bound to their attributes.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};

use crate::instruments::series::Series;
use crate::providers::bound::Bind;
use crate::semconv;

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
    pub(super) kind: Kind,
    /// Attributes of `http.requests` and `http.duration`.
    pub(super) basic: Vec<KeyValue>,
    pub(super) conventions: Vec<KeyValue>,
}

/// The requests that a series is for.
pub(super) enum Kind {
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

/// The mark of a series that holds what the others have no room for (Metrics SDK, "Overflow
/// attribute").
pub(super) fn overflow() -> KeyValue {
    KeyValue::new(semconv::METRIC_OVERFLOW, true)
}
