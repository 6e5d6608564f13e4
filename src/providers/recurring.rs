//! Bound series of the instruments that handler code uses by name.
//!
//! OpenTelemetry's SDK hashes, sorts and looks up the attributes at each measurement. The series of
//! attributes that recur are therefore kept bound, and found by one hash of the name and the
//! attributes.
//!
//! A series stays bound at most until the next collection. The exported points are thus the same as
//! without bound series: with delta temporality, the SDK frees a series without measurements, and
//! a bound series would keep its place. A series that is bound when its instrument is full would
//! record to the overflow series forever, even when other series have been freed.

use std::hash::Hasher;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use opentelemetry::{KeyValue, Value};
use rustc_hash::FxHasher;

use crate::attribute_set;
use crate::concurrent::table::{Inserted, Table};
use crate::providers::collections::{CollectionHook, Collections};
use crate::providers::registry::{BoundInstrument, Instrument, MAX_INSTRUMENTS, Measurement};
use crate::providers::series_budget::SDK_SERIES;

/// The maximum number of sets of attributes, of all instruments.
const MAX_SETS: usize = 4096;

/// The maximum number of attributes of a set.
const MAX_ATTRIBUTES: usize = 16;

/// The maximum length of the keys and texts of a set, in bytes.
const MAX_TEXT: usize = 512;

/// The number of hashes of sets that were used once.
const SEEN: usize = 1024;

/// The series of attributes that recur.
#[derive(Default)]
pub(crate) struct Recurring {
    kept: OnceLock<Kept>,
}

struct Kept {
    /// The hashes of sets that were used once. A later hash may replace an earlier one.
    seen: Box<[AtomicU64]>,
    /// The series by the hash of their set.
    series: Table<u64, Arc<RecurringSeries>>,
    /// The number of series by instrument.
    counts: Table<String, AtomicUsize>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            seen: (0..SEEN).map(|_| AtomicU64::new(0)).collect(),
            series: Table::new(MAX_SETS),
            counts: Table::new(MAX_INSTRUMENTS),
        }
    }
}

/// The attributes of one measurement, and the name of its instrument.
#[derive(Clone, Copy)]
pub(crate) struct Set<'a> {
    pub(crate) name: &'a str,
    pub(crate) attributes: &'a [KeyValue],
    hash: u64,
}

impl<'a> Set<'a> {
    /// Returns a set that can be kept; `None` for other measurements. Without attributes, the SDK
    /// needs no look-up. Floats and arrays are rare, and NaN differs from itself.
    #[inline]
    pub(crate) fn of(name: &'a str, attributes: &'a [KeyValue]) -> Option<Self> {
        if attributes.is_empty() || attributes.len() > MAX_ATTRIBUTES {
            return None;
        }
        let mut hasher = FxHasher::default();
        hasher.write(name.as_bytes());
        for attribute in attributes {
            hasher.write(attribute.key.as_str().as_bytes());
            match &attribute.value {
                Value::Bool(value) => hasher.write_u8((*value).into()),
                Value::I64(value) => hasher.write_u64(value.cast_unsigned()),
                Value::String(value) => hasher.write(value.as_str().as_bytes()),
                _ => return None,
            }
        }
        Some(Self {
            name,
            attributes,
            hash: hasher.finish(),
        })
    }

    /// Returns whether the set takes little memory.
    fn is_small(&self) -> bool {
        let text = |one: &KeyValue| {
            let value = match &one.value {
                Value::String(value) => value.as_str().len(),
                _ => 0,
            };
            one.key.as_str().len() + value
        };
        self.attributes.iter().map(text).sum::<usize>() <= MAX_TEXT
    }
}

impl Recurring {
    /// Records a measurement to the bound series of a set. Returns `false` if there is none.
    #[inline]
    pub(crate) fn record(&self, set: &Set<'_>, measurement: Measurement) -> bool {
        let series = self.kept.get().and_then(|kept| kept.find(set));
        series.is_some_and(|series| series.record(measurement))
    }

    /// Notes that a measurement of a set was recorded to an instrument without a bound series.
    /// Binds the series if the set recurs.
    pub(crate) fn note(
        &self,
        set: &Set<'_>,
        instrument: &Instrument,
        collections: Option<&Arc<Collections>>,
    ) {
        let kept = self.kept.get_or_init(Kept::default);
        let known = kept.find(set);
        if known.is_none() && !(kept.recurs(set) && set.is_small()) {
            return;
        }
        // During a collection, the SDK may be about to free series.
        if let Some(collections) = collections
            && let Some(begun) = collections.begun_if_idle()
            && let Some(series) = known.or_else(|| kept.insert(set))
        {
            series.bind(set, instrument, collections, begun);
        }
    }
}

impl Kept {
    #[inline]
    fn find(&self, set: &Set<'_>) -> Option<&Arc<RecurringSeries>> {
        self.series
            .get(&set.hash)
            .filter(|series| series.is_of(set))
    }

    /// Returns whether a set was used before. One that is used seldom, or once, may be forgotten.
    fn recurs(&self, set: &Set<'_>) -> bool {
        let place = usize::try_from(set.hash % SEEN as u64).unwrap_or_default();
        self.seen[place].swap(set.hash, Ordering::Relaxed) == set.hash
    }

    /// Adds a set, unless its instrument has no more series, there are too many sets, or another
    /// set has the same hash.
    fn insert(&self, set: &Set<'_>) -> Option<&Arc<RecurringSeries>> {
        if self.series.is_full() || self.series.get(&set.hash).is_some() {
            return None;
        }
        let count = self.counts.get_or_insert_with(set.name, Default::default);
        if count.ok()?.fetch_add(1, Ordering::Relaxed) >= SDK_SERIES {
            return None;
        }
        let series = Arc::new(RecurringSeries {
            name: set.name.into(),
            attributes: set.attributes.into(),
            bound: RwLock::default(),
            is_used: AtomicBool::new(true),
        });
        match self.series.insert(set.hash, series) {
            Inserted::New(series) => Some(series),
            // Another thread has just added it.
            Inserted::Present(_) | Inserted::Full(_) => None,
        }
    }
}

/// The series of a set that recurs.
struct RecurringSeries {
    name: Box<str>,
    attributes: Box<[KeyValue]>,
    /// `None` after each collection, until the series is bound again.
    bound: RwLock<Option<BoundInstrument>>,
    /// Whether the set was used again while it was not bound.
    is_used: AtomicBool,
}

impl RecurringSeries {
    /// Returns whether the set has the same name and the same attributes in the same order. Sets in
    /// another order have another `RecurringSeries`, which is bound to the same series of the SDK.
    #[inline]
    fn is_of(&self, set: &Set<'_>) -> bool {
        self.attributes.len() == set.attributes.len()
            && *self.name == *set.name
            && self.attributes.iter().zip(set.attributes).all(is_same)
    }

    #[inline]
    fn record(&self, measurement: Measurement) -> bool {
        // A thread that changes the series holds the lock only for a moment, but nobody waits for it.
        let bound = self.bound.try_read();
        bound.is_ok_and(|bound| bound.as_ref().is_some_and(|one| one.record(measurement)))
    }

    /// Binds the series until the next collection. `begun` is the number of collections so far.
    fn bind(
        self: &Arc<Self>,
        set: &Set<'_>,
        instrument: &Instrument,
        collections: &Collections,
        begun: u64,
    ) {
        if !self.is_used.swap(true, Ordering::Relaxed) {
            return;
        }
        // The series exists in the SDK, because a measurement was recorded just before. A new one
        // would be exported as zero.
        let new = instrument.bind(&attribute_set::unique(set.attributes));
        match self.bound.try_write() {
            Ok(mut bound) if bound.is_none() => {
                collections.add(self.clone());
                *bound = Some(new);
            }
            _ => return,
        }
        // A collection that began in between may have called `before_collection` too early.
        if collections.begun() != begun {
            self.before_collection(collections);
        }
    }
}

#[inline]
fn is_same((a, b): (&KeyValue, &KeyValue)) -> bool {
    let is_same_value = match (&a.value, &b.value) {
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::I64(a), Value::I64(b)) => a == b,
        (Value::String(a), Value::String(b)) => is_same_text(a.as_str(), b.as_str()),
        _ => false,
    };
    is_same_value && is_same_text(a.key.as_str(), b.key.as_str())
}

/// Compares texts. Most are literals, which are at the same place.
#[inline]
fn is_same_text(a: &str, b: &str) -> bool {
    std::ptr::eq(a, b) || a == b
}

impl CollectionHook for RecurringSeries {
    fn before_collection(&self, _: &Collections) {
        self.is_used.store(false, Ordering::Relaxed);
        let mut bound = self.bound.write().unwrap_or_else(PoisonError::into_inner);
        *bound = None;
    }
}

#[cfg(test)]
#[path = "../../tests/it/support/reader.rs"]
mod reader;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry::{Array, StringValue};
    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, Sum};
    use opentelemetry_sdk::metrics::{Aggregation, SdkMeterProvider, Stream, Temporality};

    use super::reader::Reader;
    use super::*;
    use crate::providers::tracer::global_tracers;
    use crate::providers::{Providers, bound};

    impl Reader {
        /// Collects, and returns one line per point.
        fn points(&self) -> Vec<String> {
            let collected = self.collected();
            let metrics = collected.scope_metrics().flat_map(|scope| scope.metrics());
            let mut points: Vec<_> = metrics
                .flat_map(|metric| {
                    let points = points(metric.data()).into_iter();
                    points.map(|point| format!("{} {point}", metric.name()))
                })
                .collect();
            points.sort();
            points
        }

        /// Collects, and returns the sum of the counters.
        fn counted(&self) -> u64 {
            let collected = self.collected();
            let metrics = collected.scope_metrics().flat_map(|scope| scope.metrics());
            let sums = metrics.filter_map(|metric| match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => Some(sum),
                _ => None,
            });
            sums.flat_map(|sum| sum.data_points().map(|point| point.value()))
                .sum()
        }
    }

    fn points(data: &AggregatedMetrics) -> Vec<String> {
        fn line<'a>(
            attributes: impl Iterator<Item = &'a KeyValue>,
            value: impl std::fmt::Debug,
        ) -> String {
            let mut attributes: Vec<_> = attributes.map(|one| format!("{one:?}")).collect();
            attributes.sort();
            format!("{attributes:?} {value:?}")
        }
        fn sums<T: Copy + std::fmt::Debug>(sum: &Sum<T>) -> Vec<String> {
            let points = sum.data_points();
            points
                .map(|point| line(point.attributes(), point.value()))
                .collect()
        }
        match data {
            AggregatedMetrics::U64(MetricData::Sum(sum)) => sums(sum),
            AggregatedMetrics::I64(MetricData::Sum(sum)) => sums(sum),
            AggregatedMetrics::F64(MetricData::Gauge(gauge)) => gauge
                .data_points()
                .map(|point| line(point.attributes(), point.value()))
                .collect(),
            AggregatedMetrics::F64(MetricData::Histogram(histogram)) => histogram
                .data_points()
                .map(|point| {
                    let buckets: Vec<_> = point.bucket_counts().collect();
                    let range = (point.min(), point.max());
                    line(
                        point.attributes(),
                        (point.count(), point.sum(), range, buckets),
                    )
                })
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    fn sdk(readers: &[Reader], limit: usize) -> SdkMeterProvider {
        let mut builder = SdkMeterProvider::builder().with_view(move |_: &_| {
            let stream = Stream::builder().with_cardinality_limit(limit);
            stream.build().ok()
        });
        for reader in readers {
            builder = builder.with_reader(reader.clone());
        }
        builder.build()
    }

    fn providers(readers: &[Reader], limit: usize) -> Providers {
        let meters = bound::of_type(sdk(readers, limit));
        Providers::new(global_tracers(), meters, SDK_SERIES)
    }

    /// Returns providers that never bind a series.
    fn unbound(readers: &[Reader], limit: usize) -> Providers {
        let meters = bound::of_unknown_type(Arc::new(sdk(readers, limit)));
        Providers::new(global_tracers(), meters, SDK_SERIES)
    }

    fn count(providers: &Providers, name: &str, attributes: &[KeyValue]) {
        providers.measure(name, "", Measurement::Count(1), attributes);
    }

    /// Returns the number of sets that are kept, and of bound series.
    fn kept(providers: &Providers, sets: &[(&str, &[KeyValue])]) -> (usize, usize) {
        let Some(kept) = providers.recurring.kept.get() else {
            return (0, 0);
        };
        let is_bound = |(name, attributes): &(&str, &[KeyValue])| {
            let set = Set::of(name, attributes).and_then(|set| kept.find(&set));
            set.is_some_and(|series| series.bound.read().is_ok_and(|bound| bound.is_some()))
        };
        let bound = sets.iter().filter(|set| is_bound(set)).count();
        (kept.series.len(), bound)
    }

    /// Returns sets of attributes that are hard to tell apart, and some that are never kept.
    fn sets() -> Vec<Vec<KeyValue>> {
        let text = |key: &'static str, value: &'static str| KeyValue::new(key, value);
        let many = |count: usize| {
            let number = |n: usize| KeyValue::new(format!("k{n}"), n.to_string());
            (0..count).map(number).collect()
        };
        vec![
            vec![],
            vec![text("a", "1")],
            vec![KeyValue::new("a", 1)],
            vec![KeyValue::new("a", true)],
            vec![KeyValue::new("a", 1.0)],
            vec![KeyValue::new("a", f64::NAN)],
            vec![KeyValue::new("a", Value::Array(Array::I64(vec![1])))],
            vec![KeyValue::new(
                "a",
                Value::Array(vec![StringValue::from("1")].into()),
            )],
            vec![text("a1", "")],
            vec![text("", "a1")],
            vec![text("a", "1"), text("b", "2")],
            vec![text("b", "2"), text("a", "1")],
            vec![text("a", "1"), text("b", "2"), text("a", "3")],
            vec![text("a", "3"), text("b", "2")],
            vec![text("a", "1"), text("a", "1")],
            vec![KeyValue::new("a".to_owned(), "1".to_owned())],
            vec![text("otel.metric.overflow", "true")],
            vec![KeyValue::new("a", "x".repeat(MAX_TEXT))],
            many(MAX_ATTRIBUTES),
            many(MAX_ATTRIBUTES + 1),
        ]
    }

    /// A generator of the same numbers in each run.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            usize::try_from(self.0 >> 33).expect("31 bits") % limit
        }
    }

    #[test]
    fn points_are_the_same_as_without_bound_series() {
        let sets = sets();
        for temporality in [Temporality::Delta, Temporality::Cumulative] {
            for (limit, seed) in [(2, 1), (2, 2), (5, 3), (5, 4), (9, 5), (9, 6), (2000, 7)] {
                let readers = [(); 2].map(|()| Reader::new(temporality));
                let [reader, expected] = &readers;
                let recorded = providers(std::slice::from_ref(reader), limit);
                let plain = unbound(std::slice::from_ref(expected), limit);
                let mut numbers = Numbers(seed);
                let mut bound_at_once = 0;
                for step in 0..600 {
                    let attributes = &sets[numbers.below(sets.len())];
                    let number = numbers.below(9);
                    let value = f64::from(u32::try_from(number).expect("a small number"));
                    let (name, measurement) = [
                        ("counter", Measurement::Count(number as u64)),
                        ("Counter", Measurement::Count(number as u64)),
                        ("up.down", Measurement::Change(4 - number as i64)),
                        ("histogram", Measurement::Value(value)),
                        ("timer", Measurement::Seconds(value)),
                        ("gauge", Measurement::Level(value)),
                        ("counter", Measurement::Level(value)),
                    ][numbers.below(7)];
                    for _ in 0..1 + numbers.below(4) {
                        recorded.measure(name, "", measurement, attributes);
                        plain.measure(name, "", measurement, attributes);
                    }
                    let used = [(name, attributes.as_slice())];
                    bound_at_once += kept(&recorded, &used).1;
                    if numbers.below(12) == 0 {
                        for _ in 0..1 + numbers.below(3) {
                            let case = format!("{temporality:?}, {limit} series, step {step}");
                            assert_eq!(reader.points(), expected.points(), "{case}");
                        }
                        if numbers.below(4) != 0 {
                            recorded.collections().rest();
                        }
                    }
                }
                assert!(bound_at_once > 50, "{bound_at_once} of 600");
                assert_eq!(kept(&plain, &[]), (0, 0));
            }
        }
    }

    #[test]
    fn a_set_is_bound_when_it_recurs_and_until_the_next_collection() {
        let reader = Reader::new(Temporality::Delta);
        let providers = providers(std::slice::from_ref(&reader), SDK_SERIES);
        let attributes = [KeyValue::new("kind", "a")];
        let used = [("counter", &attributes[..])];
        count(&providers, "counter", &attributes);
        assert_eq!(kept(&providers, &used), (0, 0));
        count(&providers, "counter", &attributes);
        assert_eq!(kept(&providers, &used), (1, 1));
        count(&providers, "counter", &attributes);
        assert_eq!(reader.counted(), 3);
        for _ in 0..3 {
            count(&providers, "counter", &attributes);
            assert_eq!(kept(&providers, &used), (1, 0), "a collection may run");
        }
        providers.collections().rest();
        count(&providers, "counter", &attributes);
        assert_eq!(kept(&providers, &used), (1, 0), "it was used once");
        count(&providers, "counter", &attributes);
        assert_eq!(kept(&providers, &used), (1, 1));
        assert_eq!(reader.counted(), 5);
        assert_eq!(reader.points(), Vec::<String>::new());
    }

    #[test]
    fn a_provider_whose_collections_are_not_detected_binds_nothing() {
        let reader = Reader::new(Temporality::Cumulative);
        let providers = providers(std::slice::from_ref(&reader), SDK_SERIES);
        assert!(providers.collections.set(Collections::new()).is_ok());
        let attributes = [KeyValue::new("kind", "a")];
        for _ in 0..9 {
            count(&providers, "counter", &attributes);
        }
        assert_eq!(kept(&providers, &[]), (0, 0));
        assert_eq!(reader.counted(), 9);
    }

    #[test]
    fn with_a_view_that_drops_other_instruments_the_points_are_the_same() {
        let [reader, expected] = [(); 2].map(|()| Reader::new(Temporality::Delta));
        let sdk = |reader: &Reader| {
            let builder = SdkMeterProvider::builder().with_reader(reader.clone());
            let keeps = |instrument: &opentelemetry_sdk::metrics::Instrument| {
                let stream = Stream::builder().with_cardinality_limit(2);
                let stream = match instrument.name() {
                    "counter" => stream,
                    _ => stream.with_aggregation(Aggregation::Drop),
                };
                stream.build().ok()
            };
            builder.with_view(keeps).build()
        };
        let recorded = Providers::new(global_tracers(), bound::of_type(sdk(&reader)), SDK_SERIES);
        let meters = bound::of_unknown_type(Arc::new(sdk(&expected)));
        let plain = Providers::new(global_tracers(), meters, SDK_SERIES);
        for round in 0..20 {
            for n in 0..4 {
                let attributes = [KeyValue::new("n", (round / 5 + n) % 8)];
                for _ in 0..3 {
                    count(&recorded, "counter", &attributes);
                    count(&plain, "counter", &attributes);
                }
            }
            assert_eq!(reader.points(), expected.points(), "round {round}");
        }
    }

    #[test]
    fn sets_that_are_used_once_are_not_kept_and_others_are_bounded() {
        let reader = Reader::new(Temporality::Delta);
        let providers = providers(std::slice::from_ref(&reader), SDK_SERIES);
        let number = |n: i64| [KeyValue::new("user", n)];
        for n in 0..10_000 {
            count(&providers, "once", &number(n));
        }
        assert_eq!(kept(&providers, &[]), (0, 0));
        for name in ["a", "b", "c"] {
            for n in 0..3000 {
                for _ in 0..3 {
                    count(&providers, name, &number(n));
                }
            }
        }
        assert_eq!(kept(&providers, &[]), (MAX_SETS, 0));
        let per_name = |name: &str| {
            let kept = providers.recurring.kept.get().expect("sets are kept");
            let is_kept =
                |n: &i64| Set::of(name, &number(*n)).is_some_and(|set| kept.find(&set).is_some());
            (0..3000).filter(is_kept).count()
        };
        assert_eq!(["a", "b", "c"].map(per_name), [2000, 2000, 96]);
        assert_eq!(reader.counted(), 10_000 + 3 * 3 * 3000);
    }

    #[test]
    fn a_callback_of_the_application_may_count_during_a_collection() {
        let reader = Reader::new(Temporality::Cumulative);
        let meters = sdk(std::slice::from_ref(&reader), SDK_SERIES);
        let meter = opentelemetry::metrics::MeterProvider::meter(&meters, "application");
        let providers = Providers::new(global_tracers(), bound::of_type(meters), SDK_SERIES);
        let providers = Arc::new(providers);
        // Creating an instrument would wait for the collection.
        count(&providers, "counter", &[]);
        let in_callback = providers.clone();
        let gauge = meter.u64_observable_gauge("gauge").with_callback(move |_| {
            for _ in 0..5 {
                count(&in_callback, "counter", &[KeyValue::new("kind", "a")]);
            }
        });
        gauge.build();
        let (done, collected) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(reader.counted()));
        assert_eq!(collected.recv_timeout(Duration::from_secs(60)), Ok(6));
    }

    #[test]
    fn providers_do_not_share_series() {
        let readers = [(); 2].map(|()| Reader::new(Temporality::Cumulative));
        let both = [0, 1].map(|n| providers(&readers[n..=n], SDK_SERIES));
        let attributes = [KeyValue::new("kind", "a")];
        for _ in 0..5 {
            count(&both[0], "counter", &attributes);
            count(&both[1], "counter", &attributes);
            count(&both[1], "counter", &attributes);
        }
        assert_eq!(readers.map(|reader| reader.counted()), [5, 10]);
    }

    #[test]
    fn every_measurement_is_counted_once_while_two_readers_collect() {
        const THREADS: u64 = 4;
        const COUNTS: u64 = 20_000;
        for limit in [5, SDK_SERIES] {
            let readers = [Temporality::Delta, Temporality::Cumulative].map(Reader::new);
            let providers = providers(&readers, limit);
            let done = AtomicBool::new(false);
            let (deltas, total) = std::thread::scope(|scope| {
                let writers: Vec<_> = (0..THREADS)
                    .map(|_| {
                        scope.spawn(|| {
                            for n in 0..COUNTS {
                                count(&providers, "counter", &[KeyValue::new("n", (n % 8) as i64)]);
                                // Without it, no series is bound for a second.
                                providers.collections().rest();
                            }
                        })
                    })
                    .collect();
                let [deltas, totals] = [0, 1].map(|n| {
                    let (reader, done) = (&readers[n], &done);
                    scope.spawn(move || {
                        let mut counted = Vec::new();
                        while !done.load(Ordering::Acquire) {
                            counted.push(reader.counted());
                        }
                        counted.push(reader.counted());
                        counted
                    })
                });
                for writer in writers {
                    writer.join().expect("no thread panics");
                }
                done.store(true, Ordering::Release);
                let deltas = deltas.join().expect("no thread panics");
                let totals = totals.join().expect("no thread panics");
                (deltas.iter().sum::<u64>(), totals.last().copied())
            });
            assert_eq!((deltas, total), (THREADS * COUNTS, Some(THREADS * COUNTS)));
        }
    }
}
