//! Where the requests with one set of attributes are recorded.

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
    /// Whether the bytes of the request's body were counted. A series that is bound is exported,
    /// also when nothing is recorded to it.
    pub(crate) counted: bool,
    pub(crate) scheme: Scheme,
    /// `None` where there was no answer to tell it.
    pub(crate) version: Option<Version>,
    /// A defined status.
    pub(crate) status: Option<StatusCode>,
    pub(crate) error: Option<ErrorType>,
    /// Attributes from hooks and the handler.
    pub(crate) extra: Vec<KeyValue>,
}

/// The key of a series among the series of one gRPC method.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct CallKey {
    pub(crate) code: rpc::Code,
    /// A defined status.
    pub(crate) status: Option<StatusCode>,
    pub(crate) error: Option<ErrorType>,
    /// Attributes from hooks and the handler.
    pub(crate) extra: Vec<KeyValue>,
}

/// The places where the requests with one set of attributes are recorded.
pub(crate) struct Series {
    pub(crate) basic: Option<(BoundCounter<u64>, BoundHistogram<f64>)>,
    pub(crate) seconds: Option<BoundHistogram<f64>>,
    pub(crate) request_size: Option<BoundHistogram<u64>>,
    pub(crate) response_size: Option<BoundHistogram<u64>>,
    /// `None` if no exporter of this crate reads them.
    pub(crate) exemplars: Option<Box<SeriesExemplars>>,
}

/// The measurements of a request.
#[derive(Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) duration: Duration,
    /// Bytes of the request's body, where they were counted.
    pub(crate) received: Option<u64>,
    /// Bytes of the response's body.
    pub(crate) sent: u64,
    /// `None` if the request is to be no exemplar.
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
