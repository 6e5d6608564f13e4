//! Metrics of handler code.

use std::borrow::Cow;
use std::time::Instant;

use opentelemetry::KeyValue;

use crate::attribute_set;
use crate::providers::registry::{
    COUNTER, GAUGE, HISTOGRAM, Instrument, Kind, TIMER, UP_DOWN_COUNTER,
};
use crate::providers::scope;
use crate::providers::scope::Current;

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
            counter.add(n, &attribute_set::unique(attributes.as_ref()));
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
                counter.add(delta, &attribute_set::unique(attributes.as_ref()));
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
    if let Some(value) = finite(value) {
        record(
            name,
            description,
            &HISTOGRAM,
            |instrument| match instrument {
                Instrument::Histogram(histogram) => {
                    histogram.record(value, &attribute_set::unique(attributes.as_ref()));
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
    if let Some(value) = finite(value) {
        record(name, description, &GAUGE, |instrument| match instrument {
            Instrument::Gauge(gauge) => {
                gauge.record(value, &attribute_set::unique(attributes.as_ref()));
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
        running: scope::current().map(|providers| RunningTimer {
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
    running: Option<RunningTimer>,
}

struct RunningTimer {
    /// The providers at the start: the timer may end outside of its request.
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
            attribute_set::set(&mut running.attributes, attribute);
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
            running.providers.functions.record(
                &running.name,
                &running.description,
                &TIMER,
                |instrument| match instrument {
                    Instrument::Timer(histogram) => {
                        let attributes = attribute_set::unique(&running.attributes);
                        histogram.record(elapsed, &attributes);
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

/// Records with the instrument of a name, where telemetry is on.
pub(crate) fn record(
    name: &str,
    description: &str,
    kind: &Kind,
    write: impl FnOnce(&Instrument) -> bool,
) {
    if let Some(providers) = scope::current() {
        let registry = &providers.functions;
        registry.record(name, description, kind, write);
    }
}

/// Returns the value within ±10¹⁸; `None` if it is infinite or not a number.
pub(crate) fn finite(value: f64) -> Option<f64> {
    value
        .is_finite()
        .then(|| value.clamp(-MAX_VALUE, MAX_VALUE))
}
