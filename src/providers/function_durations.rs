//! Durations of measured functions.

use std::sync::OnceLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter};

use crate::concurrent::table::Table;
use crate::providers::bound::{Bind, BoundHistogram};
use crate::semconv;

/// The maximum number of combinations of a function and an `error.type`. It is below the number of
/// series per instrument: a bound instrument above that number would record to the overflow series
/// forever.
const MAX_ENDS: usize = 1024;

/// A function and how it ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FunctionEnd {
    /// The module or type that contains the function, and the function's name.
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

/// The histogram of durations. The histogram and its bound instruments are created at the first
/// measurement, because an unused instrument would be exported empty.
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

    /// Records the duration of a function in seconds.
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
