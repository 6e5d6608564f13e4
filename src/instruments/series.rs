//! Series, each of which records the requests with one set of attributes.

use std::time::Duration;

use http::{StatusCode, Version};
use opentelemetry::KeyValue;

use crate::instruments::exemplars::SeriesExemplars;
use crate::providers::bound::{BoundCounter, BoundHistogram};
use crate::providers::exemplars::Origin;
use crate::semconv::{ErrorType, Scheme, rpc};

/// The key of a series among the series of one route.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct SeriesKey {
    /// Whether the bytes of the request body were counted. It is part of the key, because a bound
    /// series is exported even if nothing is recorded to it.
    pub(crate) counted: bool,
    pub(crate) scheme: Scheme,
    /// `None` if a client got no response.
    pub(crate) version: Option<Version>,
    /// The status; `None` if there is none, or if it is not a defined status.
    pub(crate) status: Option<StatusCode>,
    pub(crate) error: Option<ErrorType>,
    /// The attributes from hooks and the handler.
    pub(crate) extra: Vec<KeyValue>,
}

/// The key of a series among the series of one gRPC method.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct CallKey {
    pub(crate) code: rpc::Code,
    /// The status; `None` if there is none, or if it is not a defined status.
    pub(crate) status: Option<StatusCode>,
    pub(crate) error: Option<ErrorType>,
    /// The attributes from hooks and the handler.
    pub(crate) extra: Vec<KeyValue>,
}

/// The bound instruments for the requests with one set of attributes.
pub(crate) struct Series {
    pub(crate) basic: Option<(BoundCounter<u64>, BoundHistogram<f64>)>,
    pub(crate) seconds: Option<BoundHistogram<f64>>,
    pub(crate) request_size: Option<BoundHistogram<u64>>,
    pub(crate) response_size: Option<BoundHistogram<u64>>,
    /// `None` if no exporter of this crate supports exemplars.
    pub(crate) exemplars: Option<Box<SeriesExemplars>>,
}

/// The measurements of a request.
#[derive(Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) duration: Duration,
    /// The number of bytes of the request body; `None` if they were not counted.
    pub(crate) received: Option<u64>,
    /// The number of bytes of the response body.
    pub(crate) sent: u64,
    /// The origin of the exemplars; `None` if the request must not become an exemplar.
    pub(crate) origin: Option<Origin>,
}

impl Series {
    #[inline]
    pub(crate) fn record(&self, measured: &Measured) {
        let seconds = measured.duration.as_secs_f64();
        if let Some((requests, milliseconds)) = &self.basic {
            requests.add(1);
            milliseconds.record(seconds * 1000.0);
        }
        if let Some(histogram) = &self.seconds {
            histogram.record(seconds);
        }
        if let (Some(histogram), Some(received)) = (&self.request_size, measured.received) {
            histogram.record(received);
        }
        if let Some(histogram) = &self.response_size {
            histogram.record(measured.sent);
        }
        if let (Some(origin), Some(exemplars)) = (&measured.origin, &self.exemplars) {
            exemplars.keep(origin, seconds, measured.received, measured.sent);
        }
    }
}
