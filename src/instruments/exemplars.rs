//! The exemplars of a series.

use std::sync::Arc;

use crate::providers::exemplars::{Origin, Reservoir};

/// The exemplar reservoirs of a series, one for each of its instruments.
pub(crate) struct SeriesExemplars {
    pub(crate) requests: Option<Arc<Reservoir>>,
    pub(crate) milliseconds: Option<Arc<Reservoir>>,
    pub(crate) seconds: Option<Arc<Reservoir>>,
    pub(crate) request_size: Option<Arc<Reservoir>>,
    pub(crate) response_size: Option<Arc<Reservoir>>,
}

impl SeriesExemplars {
    /// Keeps a request as an exemplar of all of its measurements: the duration in seconds, and the
    /// bytes of the request and the response.
    pub(crate) fn keep(&self, origin: &Origin, seconds: f64, received: Option<u64>, sent: u64) {
        if let Some(requests) = &self.requests {
            requests.keep(origin, 1.0, 1);
        }
        if let Some(histogram) = &self.milliseconds {
            let milliseconds = seconds * 1000.0;
            histogram.keep(origin, milliseconds, milliseconds.to_bits());
        }
        if let Some(histogram) = &self.seconds {
            histogram.keep(origin, seconds, seconds.to_bits());
        }
        if let (Some(histogram), Some(received)) = (&self.request_size, received) {
            histogram.keep(origin, received as f64, received);
        }
        if let Some(histogram) = &self.response_size {
            histogram.keep(origin, sent as f64, sent);
        }
    }
}
