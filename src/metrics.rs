//! Metrics of handler code.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter};

use crate::providers::{self, Current};
use crate::semconv;
use crate::table::{Inserted, Table};
use crate::unique;

/// Bound of the number of instruments that are created by name.
const MAX_INSTRUMENTS: usize = 256;

/// Larger values lose all precision, and a sum of them becomes infinite.
const MAX_VALUE: f64 = 1e18;

/// Adds one to a counter.
///
/// The instrument is created when its name is first used, with the description given then; it
/// stays until the program ends. Names are for a fixed set of things: past 256 of them the process
/// logs a warning and records no more under new ones. The same is done with a name that is not
/// valid ([instrument name syntax]), and with one that was used for another kind of instrument. Names
/// that differ in case alone are one name, spelled as it was first.
///
/// All of these instruments are in the instrumentation scope `tower-telemetry.handlers`, apart from
/// those of the layers. A name that a layer uses too, such as `http.requests`, is a metric of its own
/// here, with what the handler records: the layer's `http.requests` is in the scope
/// `tower-telemetry`, and counts each request once, when it has ended, with its method, route and
/// status. A backend that does not show scopes shows them as one; give yours a name of its own where
/// that matters.
///
/// Attributes are for few values: past 2,000 sets of them in one instrument, the SDK puts the rest
/// together in one, marked `otel.metric.overflow`.
///
/// ```
/// use tower_telemetry::{attributes, increment_counter};
///
/// increment_counter("cache.misses", "Look-ups that the cache had no answer to.", attributes! {
///     "cache.name" => "users",
/// });
/// ```
///
/// [instrument name syntax]: https://opentelemetry.io/docs/specs/otel/metrics/api/#instrument-name-syntax
pub fn increment_counter(name: &str, description: &str, attributes: impl AsRef<[KeyValue]>) {
    add_to_counter(name, description, 1, attributes);
}

/// Adds `n` to a counter; see [`increment_counter`] for what becomes of names.
///
/// ```
/// tower_telemetry::add_to_counter("mail.sent", "Messages handed to the relay.", 3, []);
/// ```
pub fn add_to_counter(name: &str, description: &str, n: u64, attributes: impl AsRef<[KeyValue]>) {
    record(name, description, &COUNTER, |instrument| match instrument {
        Instrument::Counter(counter) => {
            counter.add(n, &unique::of(attributes.as_ref()));
            true
        }
        _ => false,
    });
}

/// Adds to a counter that goes up and down, such as the number of jobs that wait: `delta` may be
/// negative. See [`increment_counter`] for what becomes of names.
///
/// Subtract with the attributes that were used to add. Use [`set_gauge`] where the whole value is known.
///
/// ```
/// use tower_telemetry::{add_to_up_down_counter, attributes};
///
/// let queue = attributes! { "queue.name" => "mail" };
/// add_to_up_down_counter("queue.jobs", "Jobs that wait.", 3, &queue);
/// add_to_up_down_counter("queue.jobs", "Jobs that wait.", -1, &queue);
/// ```
pub fn add_to_up_down_counter(
    name: &str,
    description: &str,
    delta: i64,
    attributes: impl AsRef<[KeyValue]>,
) {
    record(
        name,
        description,
        &UP_DOWN_COUNTER,
        |instrument| match instrument {
            Instrument::UpDownCounter(counter) => {
                counter.add(delta, &unique::of(attributes.as_ref()));
                true
            }
            _ => false,
        },
    );
}

/// Records a value in a histogram; see [`increment_counter`] for what becomes of names.
///
/// A value that is no number or infinite is left out; beyond 10¹⁸ it counts as that.
///
/// ```
/// tower_telemetry::record_histogram_value("upload.size", "Size of uploads, in MiB.", 1.5, []);
/// ```
pub fn record_histogram_value(
    name: &str,
    description: &str,
    value: f64,
    attributes: impl AsRef<[KeyValue]>,
) {
    if let Some(value) = bounded(value) {
        record(
            name,
            description,
            &HISTOGRAM,
            |instrument| match instrument {
                Instrument::Histogram(histogram) => {
                    histogram.record(value, &unique::of(attributes.as_ref()));
                    true
                }
                _ => false,
            },
        );
    }
}

/// Sets a gauge; see [`increment_counter`] for what becomes of names.
///
/// A value that is no number or infinite is left out; beyond 10¹⁸ it counts as that.
///
/// ```
/// tower_telemetry::set_gauge("queue.length", "Jobs that wait.", 17.0, []);
/// ```
pub fn set_gauge(name: &str, description: &str, value: f64, attributes: impl AsRef<[KeyValue]>) {
    if let Some(value) = bounded(value) {
        record(name, description, &GAUGE, |instrument| match instrument {
            Instrument::Gauge(gauge) => {
                gauge.record(value, &unique::of(attributes.as_ref()));
                true
            }
            _ => false,
        });
    }
}

/// Measures time, and records it in a histogram when the timer is dropped, in seconds; see
/// [`increment_counter`] for what becomes of names.
///
/// ```
/// use tower_telemetry::{attributes, start_timer};
///
/// fn resize(image: &[u8]) -> usize {
///     let _timer = start_timer("image.resize.duration", "Time to resize an image.", attributes! {
///         "image.format" => "png",
///     });
///     image.len()
/// }
/// # resize(&[]);
/// ```
pub fn start_timer(
    name: impl Into<Cow<'static, str>>,
    description: impl Into<Cow<'static, str>>,
    attributes: impl Into<Vec<KeyValue>>,
) -> Timer {
    Timer {
        running: providers::current().map(|providers| Running {
            providers,
            name: name.into(),
            description: description.into(),
            attributes: attributes.into(),
            start: Instant::now(),
        }),
    }
}

/// Time that runs, see [`start_timer`].
#[must_use = "the time ends when the timer is dropped; bind it to a name, `let _timer = ..`"]
pub struct Timer {
    /// `None` where it is not to be recorded.
    running: Option<Running>,
}

struct Running {
    /// Those of the start: it may end outside of its request.
    providers: Current,
    name: Cow<'static, str>,
    description: Cow<'static, str>,
    attributes: Vec<KeyValue>,
    start: Instant,
}

impl Timer {
    /// Adds an attribute that is known only now, such as an outcome.
    pub fn add_attribute(&mut self, attribute: KeyValue) {
        if let Some(running) = &mut self.running {
            unique::set(&mut running.attributes, attribute);
        }
    }

    /// Ends the time without recording it.
    pub fn discard(mut self) {
        self.running = None;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let elapsed = running.start.elapsed().as_secs_f64();
            let (name, description) = (&running.name, &running.description);
            record_with(
                &running.providers,
                name,
                description,
                &TIMER,
                |instrument| match instrument {
                    Instrument::Timer(histogram) => {
                        histogram.record(elapsed, &unique::of(&running.attributes));
                        true
                    }
                    _ => false,
                },
            );
        }
    }
}

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timer").finish_non_exhaustive()
    }
}

pub(crate) fn bounded(value: f64) -> Option<f64> {
    value
        .is_finite()
        .then(|| value.clamp(-MAX_VALUE, MAX_VALUE))
}

/// The instruments that were created by name.
pub(crate) struct Registry {
    meter: Meter,
    /// By their names in lower case.
    instruments: Table<String, Instrument>,
    /// By other spellings of their names.
    spellings: Table<String, Instrument>,
    /// Names that were complained about.
    refused: Table<String, ()>,
    /// Whether it was said that there are too many.
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

/// How to make an instrument, and what to call its kind.
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

const TIMER: Kind = Kind {
    name: "histogram of seconds",
    make: |meter, name, description| {
        let histogram = meter.f64_histogram(name).with_description(description);
        let histogram = histogram
            .with_unit("s")
            .with_boundaries(semconv::SECONDS.to_vec());
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

impl Instrument {
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

/// Finds or makes the instrument and hands it to `write`, which says whether it is of its kind.
pub(crate) fn record(
    name: &str,
    description: &str,
    kind: &Kind,
    write: impl FnOnce(&Instrument) -> bool,
) {
    if let Some(providers) = providers::current() {
        record_with(&providers, name, description, kind, write);
    }
}

fn record_with(
    providers: &Current,
    name: &str,
    description: &str,
    kind: &Kind,
    write: impl FnOnce(&Instrument) -> bool,
) {
    let registry = &providers.functions;
    match registry.instrument(name, description, kind) {
        Ok(instrument) => {
            if !write(instrument) {
                registry.refuse(name, || {
                    let first = instrument.kind();
                    format!(
                        "it is a {first} already, and is not recorded to as a {}",
                        kind.name
                    )
                    .into()
                });
            }
        }
        Err(Refusal::Name) => registry.refuse(name, || {
            "the name is not valid, and nothing is recorded under it; it must begin with a letter \
             and have at most 255 letters, digits and `_`, `.`, `-`, `/`"
                .into()
        }),
        Err(Refusal::Full) => {
            if !registry.overflow.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    target: "tower_telemetry",
                    metric = shown(name),
                    "there are {MAX_INSTRUMENTS} metrics already, and nothing is recorded under \
                     further names; put what varies into attributes"
                );
            }
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

    fn instrument(
        &self,
        name: &str,
        description: &str,
        kind: &Kind,
    ) -> Result<&Instrument, Refusal> {
        // The usual spelling is that of the table.
        let known = self.instruments.get(name);
        if let Some(instrument) = known.or_else(|| self.spellings.get(name)) {
            return Ok(instrument);
        }
        if !is_valid(name) {
            return Err(Refusal::Name);
        }
        let key = name.to_ascii_lowercase();
        // Asked before one is made, because the SDK never lets go of an instrument.
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
            // Without room for it, it is looked up anew each time.
            self.spellings.insert(name.to_owned(), instrument.clone());
        }
        Ok(instrument)
    }

    /// Says once for each name why nothing is recorded under it.
    fn refuse(&self, name: &str, why: impl FnOnce() -> Cow<'static, str>) {
        if self.refused.get(name).is_none()
            && self.refused.insert(name.to_owned(), ()) == Inserted::New(&())
        {
            tracing::warn!(target: "tower_telemetry", metric = shown(name), "{}", why());
        }
    }
}

/// Instrument name syntax of the metrics API.
fn is_valid(name: &str) -> bool {
    name.len() <= 255
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/'))
}

/// A name as a log line can show it: short, and on one line.
fn shown(name: &str) -> String {
    crate::semconv::truncate(name, 64)
        .escape_debug()
        .to_string()
}
