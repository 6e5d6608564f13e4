//! The size of a request's body, as far as the service has read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Extensions;

use crate::instruments::metric_set::MetricSet;

/// The bytes of a request's body that were read so far.
#[derive(Clone)]
pub(crate) struct Received(Arc<AtomicU64>);

/// Stands for a body that no layer counts.
const UNCOUNTED: u64 = u64::MAX;

impl Received {
    /// Puts a new count into the request, if body sizes are recorded. A count that is there belongs to
    /// the request that this one is a copy of.
    #[inline]
    pub(crate) fn begin(metrics: &[MetricSet], extensions: &mut Extensions) -> Option<Self> {
        metrics.contains(&MetricSet::BodySizes).then(|| {
            let received = Self(Arc::new(AtomicU64::new(UNCOUNTED)));
            extensions.insert(received.clone());
            received
        })
    }

    /// Marks the body as counted.
    pub(crate) fn start(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Adds bytes that the service has read.
    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes that were read; `None` if no
    /// [`RequestBodySizeLayer`](crate::RequestBodySizeLayer) has seen the request.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let bytes = self.0.load(Ordering::Relaxed);
        (bytes != UNCOUNTED).then_some(bytes)
    }
}
