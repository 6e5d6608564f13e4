//! The number of bytes that the service reads from a request body.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Extensions;

use crate::instruments::metric_set::MetricSet;

/// The number of bytes read from a request body so far.
#[derive(Clone)]
pub(crate) struct Received(Arc<AtomicU64>);

/// The value for a body that no layer counts.
const UNCOUNTED: u64 = u64::MAX;

impl Received {
    /// Adds a new count to the request if body sizes are recorded. Replaces a count that was copied
    /// from another request.
    #[inline]
    pub(crate) fn begin(metrics: &[MetricSet], extensions: &mut Extensions) -> Option<Self> {
        metrics.contains(&MetricSet::BodySizes).then(|| {
            let received = Self(Arc::new(AtomicU64::new(UNCOUNTED)));
            extensions.insert(received.clone());
            received
        })
    }

    /// Marks the body as counted.
    pub(crate) fn mark_as_counted(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Adds a number of bytes that the service has read.
    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the number of bytes that were read; `None` if no
    /// [`RequestBodySizeLayer`](crate::RequestBodySizeLayer) counts them.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let bytes = self.0.load(Ordering::Relaxed);
        (bytes != UNCOUNTED).then_some(bytes)
    }
}
