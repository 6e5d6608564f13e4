//! The instruments of requests, and the binding of series to attributes.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};

use crate::instruments::exemplars::SeriesExemplars;
use crate::instruments::series::Series;
use crate::providers::bound::Bind;
use crate::providers::exemplars::Exemplars;
use crate::semconv::{self, Side};

/// The instruments to which requests are recorded when they end.
pub(super) struct Recorders {
    pub(super) names: Names,
    pub(super) basic: Option<(Counter<u64>, Histogram<f64>)>,
    pub(super) conventions: Option<Conventions>,
    pub(super) sizes: Option<Sizes>,
    /// `None` if no exporter of this crate supports exemplars.
    pub(super) exemplars: Option<Arc<Exemplars>>,
}

/// The names of the instruments that the conventions define.
pub(super) struct Names {
    pub(super) http_seconds: &'static str,
    pub(super) rpc_seconds: &'static str,
    pub(super) active: &'static str,
    pub(super) request_size: &'static str,
    pub(super) response_size: &'static str,
}

impl Names {
    pub(super) const fn of(side: Side) -> Self {
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

pub(super) struct Conventions {
    pub(super) http_seconds: Histogram<f64>,
    pub(super) rpc_seconds: Histogram<f64>,
    pub(super) active: UpDownCounter<i64>,
}

pub(super) struct Sizes {
    pub(super) request: Histogram<u64>,
    pub(super) response: Histogram<u64>,
}

/// The attributes to which a series is bound.
pub(super) struct SeriesAttributes {
    pub(super) kind: Kind,
    /// The attributes of `http.requests` and `http.duration`.
    pub(super) basic: Vec<KeyValue>,
    pub(super) conventions: Vec<KeyValue>,
}

/// The kind of requests that a series records.
pub(super) enum Kind {
    /// HTTP requests, and whether the bytes of their bodies were counted.
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
        let series = Series {
            basic: self.basic.as_ref().map(basic),
            seconds: self.conventions.as_ref().map(seconds),
            request_size: sizes
                .filter(|(_, counted)| *counted)
                .map(|(sizes, _)| sizes.request.bind_to(&attributes.conventions)),
            response_size: sizes.map(|(sizes, _)| sizes.response.bind_to(&attributes.conventions)),
            exemplars: None,
        };
        let exemplars = self.exemplars_of(&series, attributes).map(Box::new);
        Series {
            exemplars,
            ..series
        }
    }

    /// Returns the exemplar reservoirs of a series.
    fn exemplars_of(
        &self,
        series: &Series,
        attributes: &SeriesAttributes,
    ) -> Option<SeriesExemplars> {
        let exemplars = self.exemplars.as_ref()?;
        let find = |is_kept: bool, name, attributes: &[KeyValue], bounds: &[f64]| {
            let find = || exemplars.reservoir(name, attributes, bounds);
            is_kept.then(find).flatten()
        };
        let (names, is_basic) = (&self.names, series.basic.is_some());
        let seconds = match attributes.kind {
            Kind::Http { .. } => names.http_seconds,
            Kind::Call => names.rpc_seconds,
        };
        let [request, response] =
            [&series.request_size, &series.response_size].map(Option::is_some);
        let in_milliseconds = &semconv::BUCKETS_IN_MILLISECONDS;
        let (in_seconds, of_sizes) = (&semconv::BUCKETS_IN_SECONDS, &semconv::DEFAULT_BUCKETS);
        let (basic, others) = (&attributes.basic, &attributes.conventions);
        Some(SeriesExemplars {
            requests: find(is_basic, semconv::HTTP_REQUESTS, basic, &[]),
            milliseconds: find(is_basic, semconv::HTTP_DURATION, basic, in_milliseconds),
            seconds: find(series.seconds.is_some(), seconds, others, in_seconds),
            request_size: find(request, names.request_size, others, of_sizes),
            response_size: find(response, names.response_size, others, of_sizes),
        })
    }
}

impl SeriesAttributes {
    /// Describes the series for routes or gRPC methods beyond the maximum.
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

/// Returns the attribute that marks an overflow series (Metrics SDK, "Overflow attribute").
pub(super) fn overflow() -> KeyValue {
    KeyValue::new(semconv::METRIC_OVERFLOW, true)
}
