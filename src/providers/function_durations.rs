//! How long the functions took that are measured.

use std::sync::OnceLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter};

use crate::concurrent::table::Table;
use crate::providers::bound::{Bind, BoundHistogram};
use crate::semconv;

/// Bound of the functions, with the ways in which they end. It is below that of the series of an
/// instrument, past which what is bound counts among the rest for good.
const MAX_ENDS: usize = 1024;

/// A function, and how it has ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FunctionEnd {
    /// The module or type that the function is in, and its name.
    pub(crate) function: (&'static str, &'static str),
    /// `error.type`
    pub(crate) error: Option<&'static str>,
}

impl FunctionEnd {
    fn attributes(self) -> Vec<KeyValue> {
        let (place, name) = self.function;
        let function = format!("{place}::{name}");
        let mut attributes = vec![KeyValue::new(semconv::CODE_FUNCTION_NAME, function)];
        let error = self.error;
        attributes.extend(error.map(|error| KeyValue::new(semconv::ERROR_TYPE, error)));
        attributes
    }
}

/// The histogram of durations. It is made when the first one is recorded, as is what is bound to it: else
/// it would be exported empty.
pub(crate) struct FunctionDurations {
    meter: Meter,
    histogram: OnceLock<Histogram<f64>>,
    by_end: Table<FunctionEnd, BoundHistogram<f64>>,
}

impl FunctionDurations {
    pub(crate) fn new(meter: Meter) -> Self {
        Self {
            meter,
            histogram: OnceLock::new(),
            by_end: Table::new(MAX_ENDS),
        }
    }

    /// Records how long a function took, in seconds.
    pub(crate) fn record(&self, end: FunctionEnd, seconds: f64) {
        let bind = || self.histogram().bind_to(&end.attributes());
        match self.by_end.get_or_insert_with(&end, bind) {
            Ok(histogram) => histogram.record(seconds),
            Err(histogram) => histogram.record(seconds),
        }
    }

    fn histogram(&self) -> &Histogram<f64> {
        self.histogram.get_or_init(|| {
            self.meter
                .f64_histogram(semconv::FUNCTION_DURATION)
                .with_description("Duration of function calls.")
                .with_unit("s")
                .with_boundaries(semconv::BUCKETS_IN_SECONDS.to_vec())
                .build()
        })
    }
}
