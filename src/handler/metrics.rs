//! Metrics of handler code.

use std::borrow::Cow;
use std::time::Instant;

use opentelemetry::KeyValue;

use crate::attribute_set;
use crate::providers::registry::{Instrument, Kind, Measurement};
use crate::providers::scope;
use crate::providers::scope::Current;

/// The maximum absolute value. Larger values lose all precision, and their sum becomes infinite.
const MAX_VALUE: f64 = 1e18;

/// Adds one to a counter.
///
/// # Names
///
/// The instrument is created at the first use of its name, with the description of that call. It
/// exists until the program ends. Use a fixed set of names: after 256 names, a warning is logged
/// and nothing is recorded under new names. The same applies to an invalid name ([instrument name
/// syntax]) and to a name that was first used for another kind of instrument. Names that differ
/// only in case are the same name, and the first spelling is used.
///
/// The functions for metrics use the instrumentation scope `tower-telemetry.handlers`. The layers
/// use the scope `tower-telemetry`. A name that a layer also uses, such as `http.requests`, is
/// therefore a separate metric. The layer's `http.requests` counts each request once, at its end,
/// with its method, route and status. A backend that ignores scopes merges both metrics; choose
/// another name if that matters.
///
/// # Attributes
///
/// Use attributes with few values. After 2,000 combinations of attributes in one instrument, the
/// SDK records further ones in one series with the attribute `otel.metric.overflow`.
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

/// Adds `n` to a counter. See [`increment_counter`] for names and attributes.
///
/// ```
/// tower_telemetry::add_to_counter("mail.sent", "Messages handed to the relay.", 3, []);
/// ```
pub fn add_to_counter(name: &str, description: &str, n: u64, attributes: impl AsRef<[KeyValue]>) {
    measure(
        name,
        description,
        Measurement::Count(n),
        attributes.as_ref(),
    );
}

/// Adds to an up-down counter, such as the number of waiting jobs. `delta` may be negative. See
/// [`increment_counter`] for names and attributes.
///
/// Subtract with the same attributes as you add. Use [`set_gauge`] if the current value is known.
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
    let change = Measurement::Change(delta);
    measure(name, description, change, attributes.as_ref());
}

/// Records a value in a histogram. See [`increment_counter`] for names and attributes.
///
/// Ignores a value that is infinite or not a number. Values are clamped to ±10¹⁸.
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
        let value = Measurement::Value(value);
        measure(name, description, value, attributes.as_ref());
    }
}

/// Sets a gauge. See [`increment_counter`] for names and attributes.
///
/// Ignores a value that is infinite or not a number. Values are clamped to ±10¹⁸.
///
/// ```
/// tower_telemetry::set_gauge("queue.length", "Jobs that wait.", 17.0, []);
/// ```
pub fn set_gauge(name: &str, description: &str, value: f64, attributes: impl AsRef<[KeyValue]>) {
    if let Some(value) = finite(value) {
        let level = Measurement::Level(value);
        measure(name, description, level, attributes.as_ref());
    }
}

/// Starts a timer. When it is dropped, the elapsed time is recorded in a histogram, in seconds. See
/// [`increment_counter`] for names and attributes.
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

/// A running timer, created by [`start_timer`]. Records the elapsed time when it is dropped.
#[must_use = "the time ends when the timer is dropped; bind it to a name, `let _timer = ..`"]
pub struct Timer {
    /// `None` if telemetry is switched off, or if the timer was discarded.
    running: Option<RunningTimer>,
}

struct RunningTimer {
    /// The providers at the start, because the timer may end outside of its request.
    providers: Current,
    name: Cow<'static, str>,
    description: Cow<'static, str>,
    attributes: Vec<KeyValue>,
    start: Instant,
}

impl Timer {
    /// Adds an attribute that is not known at the start, such as an outcome. Replaces an attribute
    /// with the same key.
    pub fn add_attribute(&mut self, attribute: KeyValue) {
        if let Some(running) = &mut self.running {
            attribute_set::set(&mut running.attributes, attribute);
        }
    }

    /// Stops the timer without recording the time.
    pub fn discard(mut self) {
        self.running = None;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let elapsed = running.start.elapsed().as_secs_f64();
            running.providers.measure(
                &running.name,
                &running.description,
                Measurement::Seconds(elapsed),
                &running.attributes,
            );
        }
    }
}

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timer").finish_non_exhaustive()
    }
}

/// Records a measurement, unless telemetry is switched off.
#[inline]
fn measure(name: &str, description: &str, measurement: Measurement, attributes: &[KeyValue]) {
    if let Some(providers) = scope::current() {
        providers.measure(name, description, measurement, attributes);
    }
}

/// Passes the instrument with a name to `write`, unless telemetry is switched off.
pub(crate) fn record(
    name: &str,
    description: &str,
    kind: &Kind,
    write: impl FnOnce(&Instrument) -> bool,
) {
    if let Some(providers) = scope::current() {
        providers.with_instrument(name, description, kind, write);
    }
}

/// Returns the value within ±10¹⁸; `None` if it is infinite or not a number.
pub(crate) fn finite(value: f64) -> Option<f64> {
    value
        .is_finite()
        .then(|| value.clamp(-MAX_VALUE, MAX_VALUE))
}
