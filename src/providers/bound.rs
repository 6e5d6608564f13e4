//! Instruments bound to attributes.
//!
//! OpenTelemetry's own bound instruments are faster, but a provider without support for them drops
//! what they record. OpenTelemetry's SDK supports them with the feature `init`. Meter providers of
//! other or unknown types are wrapped, so that each measurement passes the attributes again.
//! Without the feature, all providers are used like this.

use std::sync::Arc;

use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, MeterProvider, UpDownCounter};
use opentelemetry::{InstrumentationScope, KeyValue};

/// A meter provider whose instruments can be bound.
#[derive(Clone)]
pub(crate) struct Meters {
    provider: Arc<dyn MeterProvider + Send + Sync>,
    /// Whether bound instruments are faster: they are those of the SDK.
    #[cfg(feature = "init")]
    pub(crate) are_fast_if_bound: bool,
}

impl Meters {
    pub(crate) fn meter_with_scope(&self, scope: InstrumentationScope) -> Meter {
        self.provider.meter_with_scope(scope)
    }
}

/// Returns a meter provider whose instruments can be bound.
pub(crate) fn of_type<P>(provider: P) -> Meters
where
    P: MeterProvider + Send + Sync + 'static,
{
    #[cfg(feature = "init")]
    if std::any::TypeId::of::<P>()
        == std::any::TypeId::of::<opentelemetry_sdk::metrics::SdkMeterProvider>()
    {
        return Meters {
            provider: Arc::new(provider),
            are_fast_if_bound: true,
        };
    }
    of_unknown_type(Arc::new(provider))
}

/// Like [`of_type`], for a provider that may or may not be the SDK's.
pub(crate) fn of_unknown_type(provider: Arc<dyn MeterProvider + Send + Sync>) -> Meters {
    Meters {
        #[cfg(feature = "init")]
        provider: Arc::new(unbound::Meters(provider)),
        #[cfg(not(feature = "init"))]
        provider,
        #[cfg(feature = "init")]
        are_fast_if_bound: false,
    }
}

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

#[cfg(feature = "init")]
mod unbound {
    use std::sync::Arc;

    use opentelemetry::metrics::{
        BoundSyncInstrument, Counter, Gauge, Histogram, HistogramBuilder, InstrumentBuilder,
        InstrumentProvider, Meter, MeterProvider, SyncInstrument, UpDownCounter,
    };
    use opentelemetry::{InstrumentationScope, KeyValue};

    /// A meter provider whose bound instruments store the attributes themselves.
    pub(super) struct Meters(pub(super) Arc<dyn MeterProvider + Send + Sync>);

    impl MeterProvider for Meters {
        fn meter_with_scope(&self, scope: InstrumentationScope) -> Meter {
            Meter::new(Arc::new(Instruments(self.0.meter_with_scope(scope))))
        }
    }

    /// Creates synchronous instruments. Observable ones are not supported, because this crate does
    /// not use them here.
    struct Instruments(Meter);

    struct Unbound<I>(I);

    struct Bound<I> {
        instrument: I,
        attributes: Box<[KeyValue]>,
    }

    macro_rules! instruments {
        ($($instrument:ident<$value:ty>, $record:ident;)*) => {
            $(impl SyncInstrument<$value> for Unbound<$instrument<$value>> {
                fn measure(&self, value: $value, attributes: &[KeyValue]) {
                    self.0.$record(value, attributes);
                }

                fn bind(
                    &self,
                    attributes: &[KeyValue],
                ) -> Box<dyn BoundSyncInstrument<$value> + Send + Sync> {
                    Box::new(Bound {
                        instrument: self.0.clone(),
                        attributes: attributes.into(),
                    })
                }
            }

            impl BoundSyncInstrument<$value> for Bound<$instrument<$value>> {
                fn measure(&self, value: $value) {
                    self.instrument.$record(value, &self.attributes);
                }
            })*
        };
    }

    macro_rules! make {
        ($($make:ident: $instrument:ident<$value:ty>;)*) => {
            $(fn $make(
                &self,
                asked: InstrumentBuilder<'_, $instrument<$value>>,
            ) -> $instrument<$value> {
                let mut builder = self.0.$make(asked.name);
                builder.description = asked.description;
                builder.unit = asked.unit;
                $instrument::new(Arc::new(Unbound(builder.build())))
            })*
        };
    }

    macro_rules! make_histogram {
        ($($make:ident: $value:ty;)*) => {
            $(fn $make(
                &self,
                asked: HistogramBuilder<'_, Histogram<$value>>,
            ) -> Histogram<$value> {
                let mut builder = self.0.$make(asked.name);
                builder.description = asked.description;
                builder.unit = asked.unit;
                builder.boundaries = asked.boundaries;
                Histogram::new(Arc::new(Unbound(builder.build())))
            })*
        };
    }

    instruments! {
        Counter<u64>, add;
        Counter<f64>, add;
        UpDownCounter<i64>, add;
        UpDownCounter<f64>, add;
        Gauge<u64>, record;
        Gauge<i64>, record;
        Gauge<f64>, record;
        Histogram<u64>, record;
        Histogram<f64>, record;
    }

    impl InstrumentProvider for Instruments {
        make! {
            u64_counter: Counter<u64>;
            f64_counter: Counter<f64>;
            i64_up_down_counter: UpDownCounter<i64>;
            f64_up_down_counter: UpDownCounter<f64>;
            u64_gauge: Gauge<u64>;
            i64_gauge: Gauge<i64>;
            f64_gauge: Gauge<f64>;
        }

        make_histogram! {
            u64_histogram: u64;
            f64_histogram: f64;
        }
    }
}

pub(crate) use handles::{BoundCounter, BoundGauge, BoundHistogram, BoundUpDownCounter};
