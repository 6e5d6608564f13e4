//! Durations of messaging operations.

use std::sync::{Arc, OnceLock};

use opentelemetry::metrics::{Histogram, Meter};

use crate::concurrent::table::{Inserted, Table};
use crate::semconv;
use crate::semconv::messaging::{Destination, Operation};

/// The maximum number of destinations in metrics. The number of queue names may be unbounded.
const MAX_DESTINATIONS: usize = 256;

/// The histograms of durations. Each is created at its first measurement, because an unused
/// histogram would be exported empty.
pub(crate) struct MessageDurations {
    meter: Meter,
    send: OnceLock<Histogram<f64>>,
    process: OnceLock<Histogram<f64>>,
    destinations: Table<Arc<Destination>, ()>,
}

impl MessageDurations {
    pub(crate) fn new(meter: Meter) -> Self {
        Self {
            meter,
            send: OnceLock::new(),
            process: OnceLock::new(),
            destinations: Table::new(MAX_DESTINATIONS),
        }
    }

    /// Records the duration of an operation in seconds.
    pub(crate) fn record(
        &self,
        operation: Operation,
        destination: &Arc<Destination>,
        error: Option<&'static str>,
        seconds: f64,
    ) {
        let is_known = self.destinations.get(&**destination).is_some()
            || !matches!(
                self.destinations.insert(destination.clone(), ()),
                Inserted::Full(())
            );
        let attributes = if is_known {
            destination.metric_attributes(operation, error)
        } else {
            destination.other().metric_attributes(operation, error)
        };
        self.histogram(operation).record(seconds, &attributes);
    }

    fn histogram(&self, operation: Operation) -> &Histogram<f64> {
        let histogram = match operation {
            Operation::Send => &self.send,
            Operation::Process => &self.process,
        };
        histogram.get_or_init(|| {
            let (name, description) = operation.metric();
            self.meter
                .f64_histogram(name)
                .with_description(description)
                .with_unit("s")
                .with_boundaries(semconv::BUCKETS_IN_SECONDS.to_vec())
                .build()
        })
    }
}
