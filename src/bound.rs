//! Instruments bound to attributes.
//!
//! OpenTelemetry's own bound instruments are faster, but an SDK in which they are not switched on
//! drops what is recorded through them. With the feature `init` they are; without it the SDK is
//! the application's, and the attributes are given anew at each recording.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, UpDownCounter};

/// An instrument that can be bound to attributes.
pub(crate) trait Bind {
    type Bound;

    fn bind_to(&self, attributes: &[KeyValue]) -> Self::Bound;
}

#[cfg(feature = "init")]
mod handles {
    use super::{Bind, Counter, Gauge, Histogram, KeyValue, UpDownCounter};

    pub(crate) use opentelemetry::metrics::{
        BoundCounter, BoundGauge, BoundHistogram, BoundUpDownCounter,
    };

    macro_rules! bind {
        ($($instrument:ident => $bound:ident;)*) => {
            $(impl<T> Bind for $instrument<T> {
                type Bound = $bound<T>;

                fn bind_to(&self, attributes: &[KeyValue]) -> $bound<T> {
                    self.bind(attributes)
                }
            })*
        };
    }

    bind! {
        Counter => BoundCounter;
        Gauge => BoundGauge;
        Histogram => BoundHistogram;
        UpDownCounter => BoundUpDownCounter;
    }
}

#[cfg(not(feature = "init"))]
mod handles {
    use super::{Bind, Counter, Gauge, Histogram, KeyValue, UpDownCounter};

    macro_rules! bind {
        ($($instrument:ident => $bound:ident, $record:ident;)*) => {
            $(pub(crate) struct $bound<T> {
                instrument: $instrument<T>,
                attributes: Box<[KeyValue]>,
            }

            impl<T: Clone> Bind for $instrument<T> {
                type Bound = $bound<T>;

                fn bind_to(&self, attributes: &[KeyValue]) -> $bound<T> {
                    $bound {
                        instrument: self.clone(),
                        attributes: attributes.into(),
                    }
                }
            }

            impl<T> $bound<T> {
                pub(crate) fn $record(&self, value: T) {
                    self.instrument.$record(value, &self.attributes);
                }
            })*
        };
    }

    bind! {
        Counter => BoundCounter, add;
        Gauge => BoundGauge, record;
        Histogram => BoundHistogram, record;
        UpDownCounter => BoundUpDownCounter, add;
    }
}

pub(crate) use handles::{BoundCounter, BoundGauge, BoundHistogram, BoundUpDownCounter};
