//! Instruments bound to attributes.
//!
//! OpenTelemetry's own bound instruments are faster, but a provider without support for them drops
//! what they record. OpenTelemetry's SDK supports them with the feature `init`. Meter providers of
//! other or unknown types are wrapped. If they turn out not to support bound instruments, each
//! measurement passes the attributes again. Without the feature, all providers are used like this.

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
        provider: Arc::new(unknown::Meters(provider)),
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
mod unknown {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use opentelemetry::metrics::{
        BoundSyncInstrument, Counter, Gauge, Histogram, HistogramBuilder, InstrumentBuilder,
        InstrumentProvider, Meter, MeterProvider, SyncInstrument, UpDownCounter,
    };
    use opentelemetry::{InstrumentationScope, KeyValue};

    use super::{BoundCounter, BoundGauge, BoundHistogram, BoundUpDownCounter};

    /// A meter provider that may or may not support bound instruments. Without support, the bound
    /// instruments store the attributes themselves.
    pub(super) struct Meters(pub(super) Arc<dyn MeterProvider + Send + Sync>);

    impl MeterProvider for Meters {
        fn meter_with_scope(&self, scope: InstrumentationScope) -> Meter {
            Meter::new(Arc::new(Instruments {
                meter: self.0.meter_with_scope(scope),
            }))
        }
    }

    /// Whether an instrument is known to be an instrument that can be bound. A provider that wraps
    /// another one may have instruments of both kinds.
    #[derive(Default)]
    struct Support(AtomicBool);

    impl Support {
        /// Returns the result of `bind` if the instrument supports it.
        ///
        /// OpenTelemetry's API does not tell: without support, the result drops all measurements.
        /// However, an instrument with support keeps the attributes of a new series. The attributes
        /// are therefore passed with keys whose owners are counted.
        fn bind<B>(
            &self,
            attributes: &[KeyValue],
            bind: impl FnOnce(&[KeyValue]) -> B,
        ) -> Option<B> {
            if self.0.load(Ordering::Relaxed) {
                return Some(bind(attributes));
            }
            let keys = attributes.iter().map(|one| one.key.as_str().into());
            let keys: Vec<Arc<str>> = keys.collect();
            let copies = attributes.iter().zip(&keys);
            let copies = copies.map(|(one, key)| KeyValue::new(key.clone(), one.value.clone()));
            let copies: Vec<KeyValue> = copies.collect();
            let bound = bind(&copies);
            drop(copies);
            let is_supported = keys.iter().any(|key| Arc::strong_count(key) > 1);
            self.0.fetch_or(is_supported, Ordering::Relaxed);
            is_supported.then_some(bound)
        }
    }

    /// Creates synchronous instruments. Observable ones are not supported, because this crate does
    /// not use them here.
    struct Instruments {
        meter: Meter,
    }

    struct Bindable<I> {
        instrument: I,
        support: Support,
    }

    /// An instrument that the provider has bound.
    struct Bound<B>(B);

    /// An instrument of a provider without bound instruments.
    struct WithAttributes<I> {
        instrument: I,
        attributes: Box<[KeyValue]>,
    }

    macro_rules! instruments {
        ($($instrument:ident<$value:ty>, $bound:ident, $record:ident;)*) => {
            $(impl SyncInstrument<$value> for Bindable<$instrument<$value>> {
                fn measure(&self, value: $value, attributes: &[KeyValue]) {
                    self.instrument.$record(value, attributes);
                }

                fn bind(
                    &self,
                    attributes: &[KeyValue],
                ) -> Box<dyn BoundSyncInstrument<$value> + Send + Sync> {
                    let bind = |attributes: &[KeyValue]| self.instrument.bind(attributes);
                    match self.support.bind(attributes, bind) {
                        Some(bound) => Box::new(Bound(bound)),
                        None => Box::new(WithAttributes {
                            instrument: self.instrument.clone(),
                            attributes: attributes.into(),
                        }),
                    }
                }
            }

            impl BoundSyncInstrument<$value> for Bound<$bound<$value>> {
                fn measure(&self, value: $value) {
                    self.0.$record(value);
                }
            }

            impl BoundSyncInstrument<$value> for WithAttributes<$instrument<$value>> {
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
                requested: InstrumentBuilder<'_, $instrument<$value>>,
            ) -> $instrument<$value> {
                let mut builder = self.meter.$make(requested.name);
                builder.description = requested.description;
                builder.unit = requested.unit;
                $instrument::new(Arc::new(Bindable {
                    instrument: builder.build(),
                    support: Support::default(),
                }))
            })*
        };
    }

    macro_rules! make_histogram {
        ($($make:ident: $value:ty;)*) => {
            $(fn $make(
                &self,
                requested: HistogramBuilder<'_, Histogram<$value>>,
            ) -> Histogram<$value> {
                let mut builder = self.meter.$make(requested.name);
                builder.description = requested.description;
                builder.unit = requested.unit;
                builder.boundaries = requested.boundaries;
                Histogram::new(Arc::new(Bindable {
                    instrument: builder.build(),
                    support: Support::default(),
                }))
            })*
        };
    }

    instruments! {
        Counter<u64>, BoundCounter, add;
        Counter<f64>, BoundCounter, add;
        UpDownCounter<i64>, BoundUpDownCounter, add;
        UpDownCounter<f64>, BoundUpDownCounter, add;
        Gauge<u64>, BoundGauge, record;
        Gauge<i64>, BoundGauge, record;
        Gauge<f64>, BoundGauge, record;
        Histogram<u64>, BoundHistogram, record;
        Histogram<f64>, BoundHistogram, record;
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

#[cfg(test)]
#[cfg(feature = "init")]
mod tests {
    use std::sync::Mutex;

    use opentelemetry::InstrumentationScope;
    use opentelemetry::metrics::{BoundSyncInstrument, InstrumentProvider, Meter, SyncInstrument};
    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
    use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};

    use super::*;

    fn scope() -> InstrumentationScope {
        InstrumentationScope::builder("test").build()
    }

    /// The number of attributes of each measurement; `None` for a measurement of a bound instrument.
    type Measured = Arc<Mutex<Vec<Option<usize>>>>;

    /// An instrument that supports bound instruments.
    struct WithBind(Measured);

    struct Bound(
        Measured,
        #[allow(dead_code, reason = "a series owns its attributes")] Vec<KeyValue>,
    );

    /// An instrument that does not support them.
    struct WithoutBind(Measured);

    fn note(measured: &Measured, attributes: Option<usize>) {
        measured.lock().expect("no test panics").push(attributes);
    }

    impl<T: Send + Sync> SyncInstrument<T> for WithBind {
        fn measure(&self, _: T, attributes: &[KeyValue]) {
            note(&self.0, Some(attributes.len()));
        }

        fn bind(&self, attributes: &[KeyValue]) -> Box<dyn BoundSyncInstrument<T> + Send + Sync> {
            Box::new(Bound(self.0.clone(), attributes.to_vec()))
        }
    }

    impl<T: Send + Sync> BoundSyncInstrument<T> for Bound {
        fn measure(&self, _: T) {
            note(&self.0, None);
        }
    }

    impl<T: Send + Sync> SyncInstrument<T> for WithoutBind {
        fn measure(&self, _: T, attributes: &[KeyValue]) {
            note(&self.0, Some(attributes.len()));
        }
    }

    struct Provider {
        /// Returns whether an instrument with this name supports it.
        supports_bind: fn(&str) -> bool,
        measured: Measured,
    }

    impl Provider {
        fn instrument<T: Send + Sync + 'static>(
            &self,
            name: &str,
        ) -> Arc<dyn SyncInstrument<T> + Send + Sync> {
            let measured = self.measured.clone();
            if (self.supports_bind)(name) {
                Arc::new(WithBind(measured))
            } else {
                Arc::new(WithoutBind(measured))
            }
        }
    }

    macro_rules! make {
        ($($make:ident: $builder:ident, $instrument:ident<$value:ty>;)*) => {
            $(fn $make(
                &self,
                requested: opentelemetry::metrics::$builder<'_, $instrument<$value>>,
            ) -> $instrument<$value> {
                $instrument::new(self.instrument(&requested.name))
            })*
        };
    }

    impl InstrumentProvider for Provider {
        make! {
            u64_counter: InstrumentBuilder, Counter<u64>;
            f64_counter: InstrumentBuilder, Counter<f64>;
            i64_up_down_counter: InstrumentBuilder, UpDownCounter<i64>;
            f64_up_down_counter: InstrumentBuilder, UpDownCounter<f64>;
            u64_gauge: InstrumentBuilder, Gauge<u64>;
            i64_gauge: InstrumentBuilder, Gauge<i64>;
            f64_gauge: InstrumentBuilder, Gauge<f64>;
            u64_histogram: HistogramBuilder, Histogram<u64>;
            f64_histogram: HistogramBuilder, Histogram<f64>;
        }
    }

    impl MeterProvider for Provider {
        fn meter_with_scope(&self, _: InstrumentationScope) -> Meter {
            Meter::new(Arc::new(Provider {
                supports_bind: self.supports_bind,
                measured: self.measured.clone(),
            }))
        }
    }

    #[test]
    fn every_instrument_is_bound_by_the_provider_only_if_the_provider_can() {
        let attributes = [KeyValue::new("a", 1), KeyValue::new("b", "c")];
        for supports_bind in [true, false] {
            let expected = (!supports_bind).then_some(attributes.len());
            let measured = Measured::default();
            let provider = Provider {
                supports_bind: if supports_bind { |_| true } else { |_| false },
                measured: measured.clone(),
            };
            let meter = of_type(provider).meter_with_scope(scope());
            macro_rules! measure {
                ($($make:ident.$record:ident($value:expr);)*) => {
                    $(meter.$make("test").build().bind_to(&attributes).$record($value);)*
                };
            }
            measure! {
                u64_counter.add(1);
                f64_counter.add(1.0);
                i64_up_down_counter.add(1);
                f64_up_down_counter.add(1.0);
                u64_gauge.record(1);
                i64_gauge.record(1);
                f64_gauge.record(1.0);
                u64_histogram.record(1);
                f64_histogram.record(1.0);
            }
            let measured = measured.lock().expect("no test panics");
            assert_eq!(*measured, [expected; 9], "{supports_bind}");
        }
    }

    #[test]
    fn a_provider_may_have_instruments_with_and_without_support() {
        let attributes = [KeyValue::new("a", 1)];
        let measured = Measured::default();
        let meter = of_type(Provider {
            supports_bind: |name| name != "wrapped",
            measured: measured.clone(),
        });
        let meter = meter.meter_with_scope(scope());
        for name in ["plain", "wrapped", "plain", "wrapped"] {
            let counter = meter.u64_counter(name).build();
            counter.bind_to(&attributes).add(1);
            counter.bind_to(&attributes).add(1);
        }
        let measured = measured.lock().expect("no test panics");
        let (bound, with_attributes) = ([None; 2], [Some(1); 2]);
        assert_eq!(
            *measured,
            [bound, with_attributes, bound, with_attributes].concat()
        );
    }

    #[test]
    fn a_series_of_the_sdk_counts_however_often_and_wherever_it_is_bound() {
        let exporter = InMemoryMetricExporter::default();
        let sdk = SdkMeterProvider::builder()
            .with_reader(PeriodicReader::builder(exporter.clone()).build())
            .build();
        let attributes = [KeyValue::new("b", 1), KeyValue::new("a", 2)];
        for provider in [
            of_unknown_type(Arc::new(sdk.clone())),
            of_unknown_type(Arc::new(sdk.clone())),
            of_type(sdk.clone()),
        ] {
            let meter = provider.meter_with_scope(scope());
            let counter = meter.u64_counter("test").build();
            for attributes in [&attributes[..], &attributes[..], &[]] {
                counter.bind_to(attributes).add(1);
            }
        }
        sdk.force_flush().expect("the exporter takes everything");
        let exported = exporter.get_finished_metrics().expect("it is in memory");
        let metrics = exported.iter().flat_map(|one| one.scope_metrics());
        let mut counts: Vec<(usize, u64)> = metrics
            .flat_map(|one| one.metrics())
            .flat_map(|one| match one.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => sum.data_points(),
                other => panic!("{other:?}"),
            })
            .map(|point| (point.attributes().count(), point.value()))
            .collect();
        counts.sort_unstable();
        assert_eq!(counts, [(0, 3), (2, 6)]);
    }
}
