//! Queues of spans and log records, and times.

use std::time::Duration;

/// How finished spans and log records wait for export.
///
/// ```
/// use std::time::Duration;
/// use tower_telemetry::{Config, config::Batch};
///
/// let batch = Batch::default()
///     .with_max_queue_size(8192)
///     .with_schedule_delay(Duration::from_secs(1));
/// let config = Config::from_env().with_span_batch(batch);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    pub(crate) max_queue_size: usize,
    pub(crate) max_export_batch_size: usize,
    pub(crate) schedule_delay: Duration,
    pub(crate) export_timeout: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            max_queue_size: 2048,
            max_export_batch_size: 512,
            schedule_delay: Duration::from_secs(5),
            export_timeout: Duration::from_secs(30),
        }
    }
}

impl Batch {
    /// Returns the default for log records.
    pub(crate) fn for_logs() -> Self {
        Self::default().with_schedule_delay(Duration::from_secs(1))
    }

    /// Leaves what waits to flushes.
    pub(crate) fn at_flushes_only(mut self) -> Self {
        self.schedule_delay = NEVER;
        self
    }

    /// Whether flushes alone export what waits.
    pub(crate) fn is_at_flushes_only(self) -> bool {
        self.schedule_delay == NEVER
    }

    /// Largest queue, and largest batch, that is accepted.
    pub(crate) const MAX_SIZE: usize = 1 << 20;

    /// How many wait at most, those included that are on their way or kept for another attempt. An item
    /// that finds no room takes that of the oldest message that is kept for another attempt, else it
    /// is dropped; both are counted. Default 2048, at least 1, at most 1,048,576. Their memory is bounded too, at 8 KiB for each
    /// that may wait. Threads take room beforehand, all together an eighth of a batch at most, of
    /// which some may stay unused.
    pub fn with_max_queue_size(mut self, size: usize) -> Self {
        self.max_queue_size = size.clamp(1, Self::MAX_SIZE);
        self
    }

    /// How many are sent in one message at most. Default 512, at least 1.
    pub fn with_max_export_batch_size(mut self, size: usize) -> Self {
        self.max_export_batch_size = size.clamp(1, Self::MAX_SIZE);
        self
    }

    /// How long they wait at most. Default 5 seconds for spans and 1 second for logs, from 1 ms to
    /// a day.
    pub fn with_schedule_delay(mut self, delay: Duration) -> Self {
        self.schedule_delay = within_a_day(delay);
        self
    }

    /// The bound of one attempt to send a message; the export timeout of the
    /// [`Config`](crate::Config) holds where it is shorter. Default 30 seconds, from 1 ms to a day.
    pub fn with_export_timeout(mut self, timeout: Duration) -> Self {
        self.export_timeout = within_a_day(timeout);
        self
    }
}

/// No time is zero, which would be a busy loop, nor one that arithmetic could not hold.
pub(crate) fn within_a_day(time: Duration) -> Duration {
    time.clamp(Duration::from_millis(1), MAX_TIME)
}

/// A time that does not come.
pub(crate) const NEVER: Duration = Duration::MAX;

/// Longest time that can be asked for: a day.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);
