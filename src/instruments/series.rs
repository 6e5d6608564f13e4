//! Where the requests with one set of attributes are recorded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{StatusCode, Version};
use opentelemetry::KeyValue;

use crate::concurrent::table::Chain;
use crate::instruments::exemplars::SeriesExemplars;
use crate::providers::bound::{BoundCounter, BoundHistogram};
use crate::providers::exemplars::Origin;
use crate::providers::series_budget::RouteRoom;
use crate::semconv::{ErrorType, Scheme, rpc};

/// Bound of the series of a route and a method, which are compared one by one. There are few, one for
/// each status that the handler gives.
const MAX_SERIES: usize = 512;

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

/// The series of a route and a method, or of a gRPC method.
pub(crate) struct SeriesSet<K> {
    kept: Chain<K, Series>,
    room: Arc<RouteRoom>,
    /// For the requests that there is no series for.
    overflow: OnceLock<Series>,
}

impl<K: Clone + Eq> SeriesSet<K> {
    pub(crate) fn new(room: Arc<RouteRoom>) -> Self {
        Self {
            kept: Chain::default(),
            room,
            overflow: OnceLock::new(),
        }
    }

    /// Records to the series of `key`, which is bound first where it is new and there is room.
    #[inline]
    pub(crate) fn record(
        &self,
        key: &K,
        measured: &Measured,
        bind: impl FnOnce() -> Series,
        bind_overflow: impl FnOnce() -> Series,
    ) {
        let has_room = |count| count < MAX_SERIES && self.room.take();
        let series = self.kept.get_or_insert_if(key, has_room, bind);
        let series = series.unwrap_or_else(|| {
            warn_of_overflow();
            self.overflow.get_or_init(bind_overflow)
        });
        series.record(measured);
    }
}

fn warn_of_overflow() {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            target: "tower_telemetry",
            "the metrics of requests have no room for more series: further ones of a route are \
             recorded together, marked otel.metric.overflow"
        );
    }
}
