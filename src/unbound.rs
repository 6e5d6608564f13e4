//! In place of bound instruments, where the SDK in use is not known to have them: an SDK without
//! them would drop what is recorded.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};

/// Instruments that can be bound to attributes.
pub(crate) trait Bind: Clone {
    fn bind(&self, attributes: &[KeyValue]) -> Bound<Self> {
        Bound {
            instrument: self.clone(),
            attributes: attributes.into(),
        }
    }
}

/// An instrument and the attributes to record with.
pub(crate) struct Bound<I> {
    instrument: I,
    attributes: Box<[KeyValue]>,
}

pub(crate) type BoundCounter<T> = Bound<Counter<T>>;
pub(crate) type BoundHistogram<T> = Bound<Histogram<T>>;
pub(crate) type BoundUpDownCounter<T> = Bound<UpDownCounter<T>>;

impl<T: Clone> Bind for Counter<T> {}
impl<T: Clone> Bind for Histogram<T> {}
impl<T: Clone> Bind for UpDownCounter<T> {}

impl<T> BoundCounter<T> {
    pub(crate) fn add(&self, value: T) {
        self.instrument.add(value, &self.attributes);
    }
}

impl<T> BoundHistogram<T> {
    pub(crate) fn record(&self, value: T) {
        self.instrument.record(value, &self.attributes);
    }
}

impl<T> BoundUpDownCounter<T> {
    pub(crate) fn add(&self, value: T) {
        self.instrument.add(value, &self.attributes);
    }
}
