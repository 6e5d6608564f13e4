//! Detection of the collections of a meter provider.
//!
//! OpenTelemetry's SDK holds the lock of an instrument's series while it collects them, and a new
//! series has to wait for the lock. With 10,000 series, the wait takes milliseconds and would block
//! the worker of a request. So the measurements of a new series are kept while a collection may
//! run. They are recorded before the next collection reads any series, because an SDK first calls
//! the callbacks of observable instruments.

#[cfg(feature = "init")]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[cfg(feature = "init")]
use opentelemetry::metrics::Meter;

/// The longest expected duration of a collection. A collection of 10,000 series of three
/// instruments takes about 30 ms.
const MAX_DURATION: Duration = Duration::from_secs(1);

/// The maximum number of kept measurements.
const MAX_MEASUREMENTS: usize = 16_384;

/// The maximum number of callbacks in this process. An SDK keeps them as long as the meter
/// provider.
#[cfg(feature = "init")]
const MAX_CALLBACKS: usize = 1_000;

/// The name of the observable instrument whose callback detects collections. It never has a point,
/// so nothing is exported.
#[cfg(feature = "init")]
pub(crate) const COLLECTIONS: &str = "tower_telemetry.collections";

/// Work that is done once, before the next collection: it records kept measurements, or releases bound
/// series.
pub(crate) trait CollectionHook: Send + Sync {
    fn before_collection(&self, collections: &Collections);
}

/// The collections of a meter provider by all its readers.
pub(crate) struct Collections {
    created: Instant,
    /// The start of the last collection, in milliseconds since `created` plus 1; 0 before the first
    /// collection.
    last_start: AtomicU64,
    /// The number of collections that have begun.
    #[cfg(feature = "init")]
    begun: AtomicU64,
    /// Whether collections are detected.
    #[cfg(feature = "init")]
    are_detected: AtomicBool,
    hooks: Mutex<Vec<Arc<dyn CollectionHook>>>,
    measurements: AtomicUsize,
    /// Locked while kept measurements are recorded. A second reader has to wait for this.
    recording: Mutex<()>,
}

impl Collections {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            created: Instant::now(),
            last_start: AtomicU64::new(0),
            #[cfg(feature = "init")]
            begun: AtomicU64::new(0),
            #[cfg(feature = "init")]
            are_detected: AtomicBool::new(false),
            hooks: Mutex::default(),
            measurements: AtomicUsize::new(0),
            recording: Mutex::default(),
        })
    }

    /// Detects the collections of the meter's provider. If the provider calls no callbacks, or if a
    /// view drops the instrument, no collection is detected, and no measurement is kept.
    #[cfg(feature = "init")]
    pub(crate) fn watch(meter: &Meter) -> Arc<Self> {
        static CALLBACKS: AtomicUsize = AtomicUsize::new(0);
        let collections = Self::new();
        if CALLBACKS.fetch_add(1, Ordering::Relaxed) < MAX_CALLBACKS {
            let watched = collections.clone();
            meter
                .u64_observable_gauge(COLLECTIONS)
                .with_callback(move |_| watched.begin())
                .build();
            // A provider that will not call the callback has dropped it.
            let is_kept = Arc::strong_count(&collections) > 1;
            collections.are_detected.store(is_kept, Ordering::Relaxed);
        }
        collections
    }

    /// Returns a value that detects no collection. Without the SDK, binding an instrument takes no
    /// lock.
    #[cfg(not(feature = "init"))]
    pub(crate) fn watch(_: &opentelemetry::metrics::Meter) -> Arc<Self> {
        Self::new()
    }

    /// Records the start of a collection, and records all kept measurements before the collection
    /// reads them.
    #[cfg_attr(
        not(feature = "init"),
        allow(dead_code, reason = "no collection is seen without the feature")
    )]
    pub(crate) fn begin(&self) {
        let _recording = lock(&self.recording);
        // The time is stored first: a measurement that is kept from now on belongs to the next
        // collection.
        self.last_start.store(self.now(), Ordering::Release);
        #[cfg(feature = "init")]
        self.begun.fetch_add(1, Ordering::AcqRel);
        let hooks = std::mem::take(&mut *lock(&self.hooks));
        hooks.iter().for_each(|one| one.before_collection(self));
    }

    /// Returns whether to keep a measurement of a new series, because a collection may run. If so,
    /// room for it is reserved until [`release`](Self::release).
    pub(crate) fn reserve(&self) -> bool {
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let one_more = |kept| (kept < MAX_MEASUREMENTS).then_some(kept + 1);
        self.may_run() && self.measurements.fetch_update(set, fetch, one_more).is_ok()
    }

    /// Returns whether a collection may run.
    fn may_run(&self) -> bool {
        let last_start = self.last_start.load(Ordering::Acquire);
        let elapsed = Duration::from_millis(self.now().saturating_sub(last_start));
        last_start != 0 && elapsed < MAX_DURATION
    }

    /// Returns the number of collections that have begun.
    #[cfg(feature = "init")]
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Returns the number of collections that have begun; `None` if one may run, or if collections
    /// are not detected.
    #[cfg(feature = "init")]
    pub(crate) fn begun_if_idle(&self) -> Option<u64> {
        let begun = self.begun();
        let are_detected = self.are_detected.load(Ordering::Relaxed);
        (are_detected && !self.may_run()).then_some(begun)
    }

    /// Lets a test go on as if the last collection began long ago.
    #[cfg(all(test, feature = "init"))]
    pub(crate) fn rest(&self) {
        self.last_start.store(0, Ordering::Release);
    }

    /// Frees the room of measurements that have been recorded.
    pub(crate) fn release(&self, measurements: usize) {
        self.measurements.fetch_sub(measurements, Ordering::Relaxed);
    }

    /// Adds work to do before the next collection.
    pub(crate) fn add(&self, hook: Arc<dyn CollectionHook>) {
        lock(&self.hooks).push(hook);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_millis()).map_or(u64::MAX, |millis| millis + 1)
    }
}

/// Locks a mutex, also after a panic. The value is then still valid, because no change takes
/// several steps.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(AtomicUsize);

    impl CollectionHook for Count {
        fn before_collection(&self, collections: &Collections) {
            self.0.fetch_add(1, Ordering::Relaxed);
            collections.release(1);
        }
    }

    #[test]
    fn measurements_are_kept_after_a_collection_and_recorded_once() {
        let collections = Collections::new();
        assert!(!collections.reserve(), "no collection was seen");
        collections.begin();
        let waiting = Arc::new(Count(AtomicUsize::new(0)));
        assert!(collections.reserve());
        collections.add(waiting.clone());
        for _ in 0..2 {
            collections.begin();
            assert_eq!(waiting.0.load(Ordering::Relaxed), 1);
        }
    }

    #[test]
    fn long_after_a_collection_no_measurement_is_kept() {
        let collections = Arc::into_inner(Collections::new()).expect("there is one reference");
        let past = Instant::now().checked_sub(2 * MAX_DURATION);
        let collections = Collections {
            // The last collection began when `Collections` was created.
            last_start: AtomicU64::new(1),
            created: past.expect("the clock runs for longer"),
            ..collections
        };
        assert!(!collections.reserve());
    }

    #[test]
    fn the_measurements_that_are_kept_are_bounded() {
        let collections = Collections::new();
        collections.begin();
        let kept = std::iter::repeat_with(|| collections.reserve()).take_while(|kept| *kept);
        assert_eq!(kept.take(2 * MAX_MEASUREMENTS).count(), MAX_MEASUREMENTS);
        collections.release(1);
        assert!(collections.reserve());
        assert!(!collections.reserve());
    }
}
