//! Queues of spans and log records, and limits of durations.

use std::time::Duration;

/// The queue and the batches of ended spans or of log records.
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

    /// Disables export between flushes.
    pub(crate) fn at_flushes_only(mut self) -> Self {
        self.schedule_delay = NEVER;
        self
    }

    /// Returns whether only flushes export items.
    pub(crate) fn is_at_flushes_only(self) -> bool {
        self.schedule_delay == NEVER
    }

    /// The maximum size of a queue and of a batch.
    pub(crate) const MAX_SIZE: usize = 1 << 20;

    /// Sets the maximum number of items in the queue, including items that are being sent or kept
    /// for another attempt. Defaults to 2048, and is limited to the range from 1 to 1,048,576.
    ///
    /// If the queue is full, a new item replaces the oldest message that is kept for another
    /// attempt. If there is no such message, the new item is dropped. Both losses are counted. The
    /// memory of the items is limited as well, to 8 KiB times this size. Threads reserve room in
    /// advance, in total at most an eighth of a batch, and part of that may stay unused.
    pub fn with_max_queue_size(mut self, size: usize) -> Self {
        self.max_queue_size = size.clamp(1, Self::MAX_SIZE);
        self
    }

    /// Sets the maximum number of items in one message. Defaults to 512, at least 1.
    pub fn with_max_export_batch_size(mut self, size: usize) -> Self {
        self.max_export_batch_size = size.clamp(1, Self::MAX_SIZE);
        self
    }

    /// Sets the maximum time that an item waits before it is exported. Defaults to 5 seconds for
    /// spans and 1 second for logs, and is limited to the range from 1 ms to one day.
    pub fn with_schedule_delay(mut self, delay: Duration) -> Self {
        self.schedule_delay = within_a_day(delay);
        self
    }

    /// Sets the timeout of one attempt to send a message. If the export timeout of the
    /// [`Config`](crate::Config) is shorter, it applies instead. Defaults to 30 seconds, and is
    /// limited to the range from 1 ms to one day.
    pub fn with_export_timeout(mut self, timeout: Duration) -> Self {
        self.export_timeout = within_a_day(timeout);
        self
    }
}

/// Limits a duration to the range from 1 ms to one day. Zero would cause a busy loop, and very long
/// durations would overflow.
pub(crate) fn within_a_day(time: Duration) -> Duration {
    time.clamp(Duration::from_millis(1), MAX_TIME)
}

/// A duration that never ends.
pub(crate) const NEVER: Duration = Duration::MAX;

/// The maximum of a configured duration.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);
