//! Exemplars: sample requests for the points of a metric (metrics SDK, "Exemplar").
//!
//! The points of OpenTelemetry's SDK do not support exemplars yet. The layers therefore store them
//! outside the SDK, and the exporter of [`init`](crate::init) adds them to the points. A request
//! writes only to atomics of its series. It takes no lock, and allocates memory only for the first
//! exemplar of a series.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanContext, SpanId, TraceId};

use crate::concurrent::caught::warn_once;
use crate::concurrent::latest::Latest;
use crate::concurrent::table::Table;

/// The maximum number of series with exemplars. A series takes less than a kilobyte.
pub(crate) const MAX_SERIES: usize = 4096;

/// The maximum number of exemplars per series. Further buckets of a histogram share the last place.
const MAX_PLACES: usize = 64;

/// The request that an exemplar refers to.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    /// Nanoseconds since the Unix epoch.
    time: u64,
    /// The high and the low half.
    trace_id: [u64; 2],
    span_id: u64,
}

impl Origin {
    // Not inlined, because unsampled requests run the caller, too.
    #[inline(never)]
    pub(crate) fn new(span: &SpanContext, end: SystemTime) -> Self {
        let end = end.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = end.as_secs().saturating_mul(1_000_000_000);
        let trace_id = u128::from_be_bytes(span.trace_id().to_bytes());
        Self {
            time: seconds.saturating_add(u64::from(end.subsec_nanos())),
            trace_id: [trace_id >> 64, trace_id].map(|half| half as u64),
            span_id: u64::from_be_bytes(span.span_id().to_bytes()),
        }
    }
}

/// The exemplars of a pipeline.
pub(crate) struct Exemplars {
    /// Whether requests outside sampled traces become exemplars as well.
    pub(crate) selects_all: bool,
    /// Configured bucket boundaries, by the name of the histogram.
    bounds: Vec<(String, Vec<f64>)>,
    series: Table<SeriesName, Arc<Reservoir>>,
    next: AtomicUsize,
}

/// The name of an instrument and the attributes of a series, sorted by key.
#[derive(Clone, PartialEq, Eq, Hash)]
struct SeriesName {
    instrument: Cow<'static, str>,
    attributes: Vec<KeyValue>,
}

impl SeriesName {
    fn new(instrument: Cow<'static, str>, mut attributes: Vec<KeyValue>) -> Self {
        attributes.sort_by(|a, b| a.key.cmp(&b.key));
        Self {
            instrument,
            attributes,
        }
    }
}

impl Exemplars {
    pub(crate) fn new(selects_all: bool, bounds: Vec<(String, Vec<f64>)>) -> Arc<Self> {
        Arc::new(Self {
            selects_all,
            bounds,
            series: Table::new(MAX_SERIES),
            next: AtomicUsize::new(0),
        })
    }

    /// Returns whether a request with this span becomes an exemplar.
    #[inline]
    pub(crate) fn selects(&self, span: &SpanContext) -> bool {
        self.selects_all || span.is_sampled()
    }

    /// Returns the exemplars of a series, with one place per bucket; `None` if there are too many
    /// series.
    pub(crate) fn reservoir(
        &self,
        instrument: &'static str,
        attributes: &[KeyValue],
        bounds: &[f64],
    ) -> Option<Arc<Reservoir>> {
        let name = SeriesName::new(instrument.into(), attributes.to_vec());
        let is_given = |(name, _): &&(String, _)| name.eq_ignore_ascii_case(instrument);
        let given = self.bounds.iter().find(is_given);
        let bounds = given.map_or(bounds, |(_, bounds)| bounds);
        let make = || {
            Arc::new(Reservoir {
                number: self.next.fetch_add(1, Ordering::Relaxed),
                bounds: bounds.into(),
                places: OnceLock::new(),
            })
        };
        if self.series.is_full() && self.series.get(&name).is_none() {
            warn_once!("exemplars are kept for {MAX_SERIES} series; further series have none");
            return None;
        }
        self.series.get_or_insert_with(&name, make).ok().cloned()
    }
}

/// The latest exemplars of a series.
pub(crate) struct Reservoir {
    number: usize,
    bounds: Box<[f64]>,
    /// The value's bits, the time, the trace id and the span id for each bucket. Allocated for the
    /// first exemplar, because most series have none if few traces are sampled.
    places: OnceLock<Box<[Latest<5>]>>,
}

impl Reservoir {
    /// Stores an exemplar for a value, replacing the previous one in its bucket. `bits` are the
    /// bits of the value in the instrument's type.
    #[inline]
    pub(crate) fn keep(&self, origin: &Origin, value: f64, bits: u64) {
        let places = self.places.get_or_init(|| self.make_places());
        // A linear search, because most requests are short and end in one of the first buckets.
        let is_above = |bound: &&f64| **bound < value;
        let bucket = self.bounds.iter().take_while(is_above).count();
        // The number of places equals the number of buckets, up to `MAX_PLACES`.
        if let Some(place) = places.get(bucket).or_else(|| places.last()) {
            let [high, low] = origin.trace_id;
            place.write([bits, origin.time, high, low, origin.span_id]);
        }
    }

    #[cold]
    fn make_places(&self) -> Box<[Latest<5>]> {
        let count = (self.bounds.len() + 1).min(MAX_PLACES);
        std::iter::repeat_with(Latest::default)
            .take(count)
            .collect()
    }
}

/// An exemplar to be exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exemplar {
    pub(crate) bits: u64,
    /// Nanoseconds since the Unix epoch.
    pub(crate) time: u64,
    /// Invalid if the request was outside a trace.
    pub(crate) trace_id: TraceId,
    pub(crate) span_id: SpanId,
}

/// Reads each exemplar once, for one exporter.
pub(crate) struct ExemplarReader {
    exemplars: Arc<Exemplars>,
    /// The versions already read, by the number of the series and of the place.
    read: Vec<Vec<u64>>,
    /// The previous versions of everything read since the last [`begin`](Self::begin).
    before: Vec<(usize, usize, u64)>,
}

impl ExemplarReader {
    pub(crate) fn new(exemplars: Arc<Exemplars>) -> Self {
        Self {
            exemplars,
            read: Vec::new(),
            before: Vec::new(),
        }
    }

    /// Starts a collection.
    pub(crate) fn begin(&mut self) {
        self.before.clear();
    }

    /// Marks everything read in this collection as unread, because it was not exported.
    pub(crate) fn mark_unread(&mut self) {
        for (series, place, version) in self.before.drain(..).rev() {
            self.read[series][place] = version;
        }
    }

    /// Reads the new exemplars of a series that belong to its point. The others are left for a
    /// later point.
    pub(crate) fn read(
        &mut self,
        instrument: &str,
        attributes: Vec<KeyValue>,
        fits: impl Fn(&Exemplar) -> bool,
    ) -> Vec<Exemplar> {
        let name = SeriesName::new(Cow::Owned(instrument.to_owned()), attributes);
        let Some(reservoir) = self.exemplars.series.get(&name) else {
            return Vec::new();
        };
        let Some(places) = reservoir.places.get() else {
            return Vec::new();
        };
        let series = reservoir.number;
        if self.read.len() <= series {
            self.read.resize_with(series + 1, Vec::new);
        }
        let read = &mut self.read[series];
        read.resize(places.len(), 0);
        let mut found = Vec::new();
        for (n, (place, read)) in places.iter().zip(read).enumerate() {
            let Some((version, [bits, time, high, low, span_id])) = place.read() else {
                continue;
            };
            let exemplar = Exemplar {
                bits,
                time,
                trace_id: TraceId::from(u128::from(high) << 64 | u128::from(low)),
                span_id: SpanId::from(span_id),
            };
            if version != *read && fits(&exemplar) {
                self.before.push((series, n, *read));
                *read = version;
                found.push(exemplar);
            }
        }
        found
    }
}

/// Whether this thread is searching for the exemplars behind a meter, and the result.
enum Search {
    Off,
    On(Option<Arc<Exemplars>>),
}

thread_local! {
    static SEARCH: RefCell<Search> = const { RefCell::new(Search::Off) };
}

/// Creates instruments and returns the exemplars of the pipeline that they record to.
///
/// A meter of an SDK does not reveal its pipeline. However, the SDK passes each new instrument to
/// the views of the pipeline, and a view of [`init`](crate::init) reports the exemplars.
pub(crate) fn create_with_exemplars<T>(create: impl FnOnce() -> T) -> (T, Option<Arc<Exemplars>>) {
    let replace = |search| SEARCH.try_with(|cell| cell.replace(search)).ok();
    replace(Search::On(None));
    let created = create();
    match replace(Search::Off) {
        Some(Search::On(found)) => (created, found),
        _ => (created, None),
    }
}

impl Exemplars {
    /// Reports that an instrument of this pipeline is being created.
    pub(crate) fn report_instrument(self: &Arc<Self>) {
        let _ = SEARCH.try_with(|cell| {
            if let Search::On(found) = &mut *cell.borrow_mut() {
                *found = Some(self.clone());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{TraceFlags, TraceState};
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: [f64; 3] = [1.0, 2.0, 4.0];

    fn span(id: u64, flags: u8) -> SpanContext {
        let trace_id = TraceId::from(u128::from(id) << 64 | 7);
        let flags = TraceFlags::new(flags);
        SpanContext::new(trace_id, SpanId::from(id), flags, false, TraceState::NONE)
    }

    fn keep(exemplars: &Exemplars, reservoir: &Reservoir, id: u64, value: f64) {
        let time = UNIX_EPOCH + std::time::Duration::from_nanos(id);
        assert!(exemplars.selects(&span(id, 1)));
        let origin = Origin::new(&span(id, 1), time);
        reservoir.keep(&origin, value, value.to_bits());
    }

    fn a() -> Vec<KeyValue> {
        vec![KeyValue::new("b", true), KeyValue::new("a", 1)]
    }

    fn ids(found: &[Exemplar]) -> Vec<u64> {
        let ids = found.iter().map(|one| one.span_id.to_bytes());
        ids.map(u64::from_be_bytes).collect()
    }

    #[test]
    fn the_filter_decides_which_requests_are_exemplars() {
        for (selects_all, flags, expected) in [
            (false, 0, false),
            (false, 1, true),
            (false, 2, false),
            (false, 3, true),
            (true, 0, true),
            (true, 1, true),
        ] {
            let exemplars = Exemplars::new(selects_all, Vec::new());
            let selects = exemplars.selects(&span(5, flags));
            assert_eq!(selects, expected, "{selects_all} {flags}");
        }
    }

    proptest! {
        #[test]
        fn each_reader_gets_the_latest_exemplar_of_each_bucket_once(
            steps in prop::collection::vec((0..3_u8, 0.0..6.0_f64), 1..60),
        ) {
            let exemplars = Exemplars::new(false, Vec::new());
            let reservoir = exemplars.reservoir("x", &a(), &BOUNDS).expect("there is room");
            let mut readers = [(); 2].map(|()| ExemplarReader::new(exemplars.clone()));
            let mut latest = [[None; 4]; 2];
            for (id, (step, value)) in (1..).zip(steps) {
                let Some(n) = usize::from(step).checked_sub(1) else {
                    keep(&exemplars, &reservoir, id, value);
                    let bucket = BOUNDS.iter().filter(|bound| **bound < value).count();
                    for latest in &mut latest {
                        latest[bucket] = Some((id, value));
                    }
                    continue;
                };
                let expected = std::mem::take(&mut latest[n]);
                let expected: Vec<_> = expected.into_iter().flatten().collect();
                readers[n].begin();
                let mut attributes = a();
                attributes.reverse();
                let found = readers[n].read("x", attributes, |_| true);
                let found = found.iter().map(|one| (one.time, f64::from_bits(one.bits)));
                prop_assert_eq!(found.collect::<Vec<_>>(), expected);
            }
        }
    }

    #[test]
    fn an_exemplar_outside_the_interval_or_not_exported_is_read_again() {
        let exemplars = Exemplars::new(false, Vec::new());
        let reservoir = exemplars
            .reservoir("x", &a(), &BOUNDS)
            .expect("there is room");
        let mut reader = ExemplarReader::new(exemplars.clone());
        keep(&exemplars, &reservoir, 1, 0.5);
        keep(&exemplars, &reservoir, 2, 3.0);
        reader.begin();
        assert_eq!(ids(&reader.read("x", a(), |one| one.time > 1)), [2]);
        reader.begin();
        assert_eq!(ids(&reader.read("x", a(), |_| true)), [1]);
        reader.mark_unread();
        keep(&exemplars, &reservoir, 3, 5.0);
        reader.begin();
        assert_eq!(ids(&reader.read("x", a(), |_| true)), [1, 3]);
        assert_eq!(ids(&reader.read("x", a(), |_| true)), [0; 0]);
        assert_eq!(ids(&reader.read("y", a(), |_| true)), [0; 0]);
        assert_eq!(ids(&reader.read("x", Vec::new(), |_| true)), [0; 0]);
    }

    #[test]
    fn layers_that_record_to_one_series_share_its_exemplars_and_series_are_bounded() {
        let exemplars = Exemplars::new(false, vec![("X".to_owned(), vec![9.0; 1000])]);
        let first = exemplars
            .reservoir("x", &a(), &BOUNDS)
            .expect("there is room");
        for n in 1..MAX_SERIES {
            let n = i64::try_from(n).expect("the number is small");
            let attributes = [KeyValue::new("n", n)];
            assert!(exemplars.reservoir("x", &attributes, &[]).is_some());
        }
        assert!(exemplars.reservoir("y", &a(), &[]).is_none());
        let again = exemplars
            .reservoir("x", &a(), &[])
            .expect("the reservoir exists");
        assert!(Arc::ptr_eq(&first, &again));
        // Configured bounds are used, with at most `MAX_PLACES` places.
        keep(&exemplars, &first, 1, 100.0);
        assert_eq!(first.bounds.len(), 1000);
        assert_eq!(
            first.places.get().map(|places| places.len()),
            Some(MAX_PLACES)
        );
        let mut reader = ExemplarReader::new(exemplars.clone());
        assert_eq!(ids(&reader.read("x", a(), |_| true)), [1]);
    }

    #[test]
    fn exemplars_are_found_only_while_an_instrument_is_created() {
        let exemplars = Exemplars::new(false, Vec::new());
        exemplars.report_instrument();
        assert!(create_with_exemplars(|| ()).1.is_none());
        let (created, found) = create_with_exemplars(|| {
            exemplars.report_instrument();
            3
        });
        assert_eq!(created, 3);
        assert!(found.is_some_and(|found| Arc::ptr_eq(&found, &exemplars)));
        exemplars.report_instrument();
        assert_eq!(Arc::strong_count(&exemplars), 1);
    }
}
