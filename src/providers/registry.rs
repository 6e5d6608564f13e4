//! Instruments created by name in handler code.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter};

use crate::attribute_set;
use crate::concurrent::table::{Inserted, Table};
#[cfg(feature = "init")]
use crate::providers::bound::{Bind, BoundCounter, BoundGauge, BoundHistogram, BoundUpDownCounter};
use crate::semconv;

/// The maximum number of instruments that can be created by name.
pub(crate) const MAX_INSTRUMENTS: usize = 256;

/// The instruments that were created by name.
pub(crate) struct Registry {
    meter: Meter,
    /// Instruments by lowercase name.
    instruments: Table<String, Instrument>,
    /// Instruments by the other spellings of their names.
    spellings: Table<String, Instrument>,
    /// Names for which a warning was logged.
    refused: Table<String, ()>,
    /// Whether the warning about too many instruments was logged.
    overflow: AtomicBool,
}

#[derive(Clone)]
pub(crate) enum Instrument {
    Counter(Counter<u64>),
    UpDownCounter(UpDownCounter<i64>),
    Histogram(Histogram<f64>),
    Timer(Histogram<f64>),
    Gauge(Gauge<f64>),
}

/// The kind of an instrument: its name in log lines and its constructor.
pub(crate) struct Kind {
    name: &'static str,
    make: fn(&Meter, String, String) -> Instrument,
}

pub(crate) const COUNTER: Kind = Kind {
    name: "counter",
    make: |meter, name, description| {
        let counter = meter.u64_counter(name).with_description(description);
        Instrument::Counter(counter.build())
    },
};

pub(crate) const UP_DOWN_COUNTER: Kind = Kind {
    name: "counter that goes up and down",
    make: |meter, name, description| {
        let counter = meter
            .i64_up_down_counter(name)
            .with_description(description);
        Instrument::UpDownCounter(counter.build())
    },
};

pub(crate) const HISTOGRAM: Kind = Kind {
    name: "histogram",
    make: |meter, name, description| {
        let histogram = meter.f64_histogram(name).with_description(description);
        Instrument::Histogram(histogram.build())
    },
};

pub(crate) const TIMER: Kind = Kind {
    name: "histogram of seconds",
    make: |meter, name, description| {
        let histogram = meter.f64_histogram(name).with_description(description);
        let histogram = histogram
            .with_unit("s")
            .with_boundaries(semconv::BUCKETS_IN_SECONDS.to_vec());
        Instrument::Timer(histogram.build())
    },
};

pub(crate) const GAUGE: Kind = Kind {
    name: "gauge",
    make: |meter, name, description| {
        let gauge = meter.f64_gauge(name).with_description(description);
        Instrument::Gauge(gauge.build())
    },
};

/// A measurement of an instrument that was created by name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Measurement {
    /// For a counter.
    Count(u64),
    /// For an up-down counter.
    Change(i64),
    /// For a histogram.
    Value(f64),
    /// For a timer.
    Seconds(f64),
    /// For a gauge.
    Level(f64),
}

impl Measurement {
    pub(crate) fn kind(self) -> &'static Kind {
        match self {
            Self::Count(_) => &COUNTER,
            Self::Change(_) => &UP_DOWN_COUNTER,
            Self::Value(_) => &HISTOGRAM,
            Self::Seconds(_) => &TIMER,
            Self::Level(_) => &GAUGE,
        }
    }
}

/// An instrument that is bound to attributes.
#[cfg(feature = "init")]
pub(crate) enum BoundInstrument {
    Counter(BoundCounter<u64>),
    UpDownCounter(BoundUpDownCounter<i64>),
    Histogram(BoundHistogram<f64>),
    Timer(BoundHistogram<f64>),
    Gauge(BoundGauge<f64>),
}

#[cfg(feature = "init")]
impl BoundInstrument {
    /// Records a measurement. Returns `false` if the instrument is of another kind.
    #[inline]
    pub(crate) fn record(&self, measurement: Measurement) -> bool {
        match (self, measurement) {
            (Self::Counter(counter), Measurement::Count(n)) => counter.add(n),
            (Self::UpDownCounter(counter), Measurement::Change(delta)) => counter.add(delta),
            (Self::Histogram(histogram), Measurement::Value(value)) => histogram.record(value),
            (Self::Timer(histogram), Measurement::Seconds(value)) => histogram.record(value),
            (Self::Gauge(gauge), Measurement::Level(value)) => gauge.record(value),
            _ => return false,
        }
        true
    }
}

impl Instrument {
    /// Records a measurement. Returns `false` if the instrument is of another kind.
    pub(crate) fn record(&self, measurement: Measurement, attributes: &[KeyValue]) -> bool {
        let attributes = &attribute_set::unique(attributes);
        match (self, measurement) {
            (Self::Counter(counter), Measurement::Count(n)) => counter.add(n, attributes),
            (Self::UpDownCounter(counter), Measurement::Change(delta)) => {
                counter.add(delta, attributes);
            }
            (Self::Histogram(histogram), Measurement::Value(value))
            | (Self::Timer(histogram), Measurement::Seconds(value)) => {
                histogram.record(value, attributes);
            }
            (Self::Gauge(gauge), Measurement::Level(value)) => gauge.record(value, attributes),
            _ => return false,
        }
        true
    }

    #[cfg(feature = "init")]
    pub(crate) fn bind(&self, attributes: &[KeyValue]) -> BoundInstrument {
        match self {
            Self::Counter(counter) => BoundInstrument::Counter(counter.bind_to(attributes)),
            Self::UpDownCounter(counter) => {
                BoundInstrument::UpDownCounter(counter.bind_to(attributes))
            }
            Self::Histogram(histogram) => BoundInstrument::Histogram(histogram.bind_to(attributes)),
            Self::Timer(histogram) => BoundInstrument::Timer(histogram.bind_to(attributes)),
            Self::Gauge(gauge) => BoundInstrument::Gauge(gauge.bind_to(attributes)),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) => COUNTER.name,
            Self::UpDownCounter(_) => UP_DOWN_COUNTER.name,
            Self::Histogram(_) => HISTOGRAM.name,
            Self::Timer(_) => TIMER.name,
            Self::Gauge(_) => GAUGE.name,
        }
    }
}

enum Refusal {
    Name,
    Full,
}

impl Registry {
    pub(crate) fn new(meter: Meter) -> Self {
        Self {
            meter,
            instruments: Table::new(MAX_INSTRUMENTS),
            spellings: Table::new(MAX_INSTRUMENTS),
            refused: Table::new(MAX_INSTRUMENTS),
            overflow: AtomicBool::new(false),
        }
    }

    /// Returns the number of instruments.
    #[cfg(feature = "init")]
    pub(crate) fn len(&self) -> usize {
        self.instruments.len()
    }

    /// Calls `write` with the instrument of the given name, creating it if necessary. `write`
    /// returns `false` if the instrument is of another kind. If nothing is recorded, the reason is
    /// logged once per name.
    pub(crate) fn record(
        &self,
        name: &str,
        description: &str,
        kind: &Kind,
        write: impl FnOnce(&Instrument) -> bool,
    ) {
        match self.instrument(name, description, kind) {
            Ok(instrument) => {
                if !write(instrument) {
                    self.warn_about(name, || {
                        let first = instrument.kind();
                        format!(
                            "it is already a {first}, and nothing is recorded to it as a {}",
                            kind.name
                        )
                        .into()
                    });
                }
            }
            Err(Refusal::Name) => self.warn_about(name, || {
                "the name is invalid, and nothing is recorded under it; it must start with a letter and \
                 consist of at most 255 letters, digits and `_`, `.`, `-`, `/`"
                    .into()
            }),
            Err(Refusal::Full) => {
                if !self.overflow.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        target: "tower_telemetry",
                        metric = shown(name),
                        "there are {MAX_INSTRUMENTS} metrics already, and nothing is recorded under \
                         further names; use attributes for the parts of names that vary"
                    );
                }
            }
        }
    }

    fn instrument(
        &self,
        name: &str,
        description: &str,
        kind: &Kind,
    ) -> Result<&Instrument, Refusal> {
        // Most names are lowercase and are found at the first lookup.
        let known = self.instruments.get(name);
        if let Some(instrument) = known.or_else(|| self.spellings.get(name)) {
            return Ok(instrument);
        }
        if !is_valid(name) {
            return Err(Refusal::Name);
        }
        let key = name.to_ascii_lowercase();
        // Checked before the instrument is created, because the SDK never frees an instrument.
        if self.instruments.is_full() && self.instruments.get(&key).is_none() {
            return Err(Refusal::Full);
        }
        let instrument = self
            .instruments
            .get_or_insert_with(&*key, || {
                (kind.make)(&self.meter, name.to_owned(), description.to_owned())
            })
            .map_err(|_| Refusal::Full)?;
        if name != key {
            // If this table is full, the spelling is converted at each use.
            self.spellings.insert(name.to_owned(), instrument.clone());
        }
        Ok(instrument)
    }

    /// Logs why nothing is recorded under a name, once per name.
    fn warn_about(&self, name: &str, why: impl FnOnce() -> Cow<'static, str>) {
        if self.refused.get(name).is_none()
            && self.refused.insert(name.to_owned(), ()) == Inserted::New(&())
        {
            tracing::warn!(target: "tower_telemetry", metric = shown(name), "{}", why());
        }
    }
}

/// Returns whether a name follows the instrument name syntax of the metrics API.
fn is_valid(name: &str) -> bool {
    name.len() <= 255
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/'))
}

/// Returns a name in a form for log lines: shortened and without line breaks.
fn shown(name: &str) -> String {
    semconv::truncate(name, 64).escape_debug().to_string()
}
