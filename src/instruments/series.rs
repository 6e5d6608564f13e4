//! Where the requests with one set of attributes are recorded.

use std::time::Duration;

use http::{StatusCode, Version};

use super::Peer;
use crate::bound::{BoundCounter, BoundHistogram};
use crate::semconv::http::Scheme;
use crate::semconv::{ErrorType, rpc};

/// Bound of the series of a route. It has few, one for each status that its handler gives.
pub(super) const MAX_SERIES: usize = 128;

/// What tells the series of one route apart.
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
}

/// What tells the series of gRPC calls apart.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct CallKey {
    pub(crate) peer: Option<Peer>,
    pub(crate) method: Option<&'static str>,
    pub(crate) code: rpc::Code,
    /// A defined status.
    pub(crate) status: Option<StatusCode>,
    pub(crate) error: Option<ErrorType>,
}

/// The places where the requests with one set of attributes are recorded.
pub(crate) struct Series {
    pub(super) basic: Option<(BoundCounter<u64>, BoundHistogram<f64>)>,
    pub(super) seconds: Option<BoundHistogram<f64>>,
    pub(super) request_size: Option<BoundHistogram<u64>>,
    pub(super) response_size: Option<BoundHistogram<u64>>,
}

/// What was measured of a request.
pub(crate) struct Measured {
    pub(crate) duration: Duration,
    /// Bytes of the request's body, where they were counted.
    pub(crate) received: Option<u64>,
    /// Bytes of the response's body.
    pub(crate) sent: u64,
}

impl Series {
    #[inline]
    pub(super) fn record(&self, measured: &Measured) {
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
    }
}
