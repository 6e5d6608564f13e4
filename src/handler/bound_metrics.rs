//! Instruments of handler code that are bound to their attributes, for frequent measurements.

use std::borrow::Cow;
use std::fmt;

use opentelemetry::KeyValue;

use crate::attribute_set;
use crate::handler::metrics::{self, finite};
use crate::providers::bound::{self, Bind};
use crate::providers::generations::ByGeneration;
use crate::providers::registry::{COUNTER, GAUGE, HISTOGRAM, Instrument, Kind, UP_DOWN_COUNTER};

/// The series of a handle. It is bound at the first recording: a series without a recording would
/// be exported as zero.
struct Lazy<B> {
    name: Cow<'static, str>,
    description: Cow<'static, str>,
    attributes: Vec<KeyValue>,
    bound: ByGeneration<B>,
}

impl<B> Lazy<B> {
    fn new(
        name: impl Into<Cow<'static, str>>,
        description: impl Into<Cow<'static, str>>,
        attributes: impl Into<Vec<KeyValue>>,
    ) -> Self {
        Self {
            name: name.into(),
            description: description.into(),
            attributes: attributes.into(),
            bound: ByGeneration::default(),
        }
    }

    /// Returns the bound series, which is created at the first call. Returns `None` if telemetry is
    /// switched off or the name cannot be used.
    fn get(
        &self,
        kind: &Kind,
        bind: impl FnOnce(&Instrument, &[KeyValue]) -> Option<B>,
    ) -> Option<&B> {
        self.bound.get(|| {
            let mut bound = None;
            metrics::record(&self.name, &self.description, kind, |instrument| {
                bound = bind(instrument, &attribute_set::unique(&self.attributes));
                bound.is_some()
            });
            bound
        })
    }
}

macro_rules! handle {
    ($(#[$docs:meta])* $handle:ident, $bound:ty, $kind:ident, $instrument:ident) => {
        $(#[$docs])*
        pub struct $handle {
            lazy: Lazy<$bound>,
        }

        impl $handle {
            fn get(&self) -> Option<&$bound> {
                self.lazy.get(&$kind, |instrument, attributes| match instrument {
                    Instrument::$instrument(instrument) => Some(instrument.bind_to(attributes)),
                    _ => None,
                })
            }
        }

        impl fmt::Debug for $handle {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($handle))
                    .field("name", &self.lazy.name)
                    .finish_non_exhaustive()
            }
        }
    };
}

handle!(
    /// A counter bound to its attributes, created by [`bind_counter`].
    BoundCounter,
    bound::BoundCounter<u64>,
    COUNTER,
    Counter
);

handle!(
    /// An up-down counter bound to its attributes, created by [`bind_up_down_counter`].
    BoundUpDownCounter,
    bound::BoundUpDownCounter<i64>,
    UP_DOWN_COUNTER,
    UpDownCounter
);

handle!(
    /// A histogram bound to its attributes, created by [`bind_histogram`].
    BoundHistogram,
    bound::BoundHistogram<f64>,
    HISTOGRAM,
    Histogram
);

handle!(
    /// A gauge bound to its attributes, created by [`bind_gauge`].
    BoundGauge,
    bound::BoundGauge<f64>,
    GAUGE,
    Gauge
);

/// Binds a counter to its attributes, for code that counts very often.
///
/// The name and the attributes are looked up only at the first addition, and once more after a
/// later [`init`](crate::init). The handle then records to the providers of the first addition,
/// wherever it is used. [`increment_counter`](crate::increment_counter) describes names and limits.
///
/// ```
/// use tower_telemetry::{attributes, bind_counter};
///
/// let parsed = bind_counter("parser.lines", "Lines that were parsed.", attributes! {
///     "parser.format" => "csv",
/// });
/// for _ in "a\nb".lines() {
///     parsed.add(1);
/// }
/// ```
pub fn bind_counter(
    name: impl Into<Cow<'static, str>>,
    description: impl Into<Cow<'static, str>>,
    attributes: impl Into<Vec<KeyValue>>,
) -> BoundCounter {
    let lazy = Lazy::new(name, description, attributes);
    BoundCounter { lazy }
}

impl BoundCounter {
    /// Adds `n` to the counter.
    pub fn add(&self, n: u64) {
        if let Some(counter) = self.get() {
            counter.add(n);
        }
    }
}

/// Binds an up-down counter to its attributes, like [`bind_counter`].
///
/// ```
/// let open = tower_telemetry::bind_up_down_counter("pool.open", "Open connections.", []);
/// open.add(1);
/// open.add(-1);
/// ```
pub fn bind_up_down_counter(
    name: impl Into<Cow<'static, str>>,
    description: impl Into<Cow<'static, str>>,
    attributes: impl Into<Vec<KeyValue>>,
) -> BoundUpDownCounter {
    let lazy = Lazy::new(name, description, attributes);
    BoundUpDownCounter { lazy }
}

impl BoundUpDownCounter {
    /// Adds `delta`, which may be negative.
    pub fn add(&self, delta: i64) {
        if let Some(counter) = self.get() {
            counter.add(delta);
        }
    }
}

/// Binds a histogram to its attributes, like [`bind_counter`].
///
/// ```
/// let sizes = tower_telemetry::bind_histogram("parser.line.size", "Size of lines, in bytes.", []);
/// sizes.record(80.0);
/// ```
pub fn bind_histogram(
    name: impl Into<Cow<'static, str>>,
    description: impl Into<Cow<'static, str>>,
    attributes: impl Into<Vec<KeyValue>>,
) -> BoundHistogram {
    let lazy = Lazy::new(name, description, attributes);
    BoundHistogram { lazy }
}

impl BoundHistogram {
    /// Records a value, with the limits of
    /// [`record_histogram_value`](crate::record_histogram_value).
    pub fn record(&self, value: f64) {
        if let Some(value) = finite(value)
            && let Some(histogram) = self.get()
        {
            histogram.record(value);
        }
    }
}

/// Binds a gauge to its attributes, like [`bind_counter`].
///
/// ```
/// let waiting = tower_telemetry::bind_gauge("queue.length", "Jobs that wait.", []);
/// waiting.set(17.0);
/// ```
pub fn bind_gauge(
    name: impl Into<Cow<'static, str>>,
    description: impl Into<Cow<'static, str>>,
    attributes: impl Into<Vec<KeyValue>>,
) -> BoundGauge {
    let lazy = Lazy::new(name, description, attributes);
    BoundGauge { lazy }
}

impl BoundGauge {
    /// Sets the value, with the limits of [`set_gauge`](crate::set_gauge).
    pub fn set(&self, value: f64) {
        if let Some(value) = finite(value)
            && let Some(gauge) = self.get()
        {
            gauge.record(value);
        }
    }
}
