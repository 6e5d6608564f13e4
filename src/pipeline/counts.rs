//! Counts of exported and lost telemetry, and log lines about losses.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use tokio::time::Instant;

use crate::concurrent::per_thread::PerThread;
use crate::config::settings::Signal;
use crate::logs::emit_later;
use crate::otlp::outcome::SendOutcome;
use crate::pipeline::hints::{hint, reason_and_hint};
use crate::stats::{Failure, SignalStats};

/// The counters behind [`SignalStats`].
#[derive(Default)]
pub(crate) struct Counters {
    /// Per thread, because it is incremented for every item.
    accepted: PerThread<CachePadded<AtomicU64>>,
    exported: AtomicU64,
    failed: AtomicU64,
    /// The items in `failed` that a receiver rejected.
    rejected: AtomicU64,
    /// Whether the exporter does not report how many items a receiver rejects.
    hides_rejected: AtomicBool,
    /// Items dropped because the queue was full.
    queue_full: AtomicU64,
    /// Items given up while they waited for another attempt.
    given_up: AtomicU64,
    failures: Mutex<Failures>,
}

#[derive(Default)]
struct Failures {
    last: Option<Failure>,
    /// The number of lost items per kind of failure. The map is bounded, because a response has
    /// fewer than a thousand status codes.
    lost: HashMap<Failure, u64>,
}

impl Counters {
    pub(crate) fn accept(&self, count: u64) {
        self.accepted
            .for_this_thread()
            .fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn count_dropped(&self) {
        self.queue_full.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> SignalStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Handled items are read first, because each of them was accepted before. The sum then
        // never exceeds `accepted`.
        let [exported, failed] = [&self.exported, &self.failed].map(get);
        let dropped = get(&self.queue_full) + get(&self.given_up);
        let hides_rejected = self.hides_rejected.load(Ordering::Relaxed);
        let accepted = self.accepted.iter().map(|count| get(count)).sum::<u64>();
        SignalStats {
            accepted,
            exported,
            failed,
            rejected: (!hides_rejected).then(|| get(&self.rejected)),
            dropped,
            waiting: accepted.saturating_sub(exported + failed + dropped),
            last_failure: self.failures().last,
        }
    }

    /// Marks the number of rejected items as unknown, because the exporter does not report it.
    #[cfg(feature = "opentelemetry-otlp")]
    pub(crate) fn hide_rejected(&self) {
        self.hides_rejected.store(true, Ordering::Relaxed);
    }

    /// Returns the final counts, with all waiting items counted as dropped.
    pub(crate) fn last_stats(&self) -> SignalStats {
        let stats = self.stats();
        SignalStats {
            dropped: stats.dropped + stats.waiting,
            waiting: 0,
            ..stats
        }
    }

    /// Counts an accepted item as failed without an attempt to send it.
    pub(crate) fn count_failed(&self, failure: Failure) {
        let mut outcome = SendOutcome::default();
        outcome.fail(1, failure, String::new());
        self.record_outcome(&outcome);
    }

    /// Uncounts `count` accepted items, because newer ones replace them. Must be called on the
    /// thread that accepted them.
    pub(crate) fn subtract_accepted(&self, count: u64) {
        self.accepted
            .for_this_thread()
            .fetch_sub(count, Ordering::Relaxed);
    }

    /// Returns the number of items that were dropped because the queue was full.
    pub(crate) fn queue_full(&self) -> u64 {
        self.queue_full.load(Ordering::Relaxed)
    }

    /// Returns the number of items that were handed to the exporter and lost, per kind of failure.
    pub(crate) fn lost_by_failure(&self) -> Vec<(Failure, u64)> {
        let failures = self.failures();
        failures
            .lost
            .iter()
            .map(|(kind, count)| (*kind, *count))
            .collect()
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record_outcome(&self, outcome: &SendOutcome) {
        let add = |counter: &AtomicU64, count| counter.fetch_add(count, Ordering::Relaxed);
        add(&self.exported, outcome.exported);
        add(&self.failed, outcome.failed);
        add(&self.rejected, outcome.rejected);
        add(&self.given_up, outcome.dropped);
        if let Some((failure, _)) = outcome.failure {
            let mut failures = self.failures();
            failures.last = Some(failure);
            *failures.lost.entry(failure).or_default() += outcome.failed + outcome.dropped;
        }
    }
}

/// A queue that metrics can observe.
pub(crate) trait ObservedQueue: Send + Sync {
    /// Returns the number of waiting items and the capacity.
    fn size_and_capacity(&self) -> [u64; 2];
}

/// Counts the outcomes of batches and logs when losses start and end. Each line is logged at most
/// once a minute.
pub(crate) struct Losses {
    signal: Signal,
    /// The receiver's name in log lines. It contains no secret.
    receiver: String,
    counters: Arc<Counters>,
    /// The number of lost items at the last check.
    lost: u64,
    /// The time at which a line of each kind was last logged.
    last_logged: HashMap<String, Instant>,
    /// The problem that was logged and whose end has not been logged yet.
    problem: Option<Problem>,
    /// Whether a line was logged because the receiver does not support this signal.
    has_logged_unsupported: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Problem {
    Waiting,
    Loss,
}

impl Losses {
    const LOG_INTERVAL: Duration = Duration::from_secs(60);

    /// A batch that waits for less time is not logged.
    const WAIT_BEFORE_LOG: Duration = Duration::from_secs(5);

    /// The same for a batch that a flush waits for. A shutdown may end the process before a longer
    /// wait is over.
    const FLUSH_WAIT_BEFORE_LOG: Duration = Duration::from_secs(1);

    pub(crate) fn new(signal: Signal, receiver: String, counters: Arc<Counters>) -> Self {
        Self {
            signal,
            receiver,
            counters,
            lost: 0,
            last_logged: HashMap::new(),
            problem: None,
            has_logged_unsupported: false,
        }
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Counts the outcome of a batch and logs a change.
    pub(crate) fn record_outcome(&mut self, outcome: SendOutcome) {
        self.counters.record_outcome(&outcome);
        let signal = self.signal.name();
        if let Some(warning) = outcome.warning
            && self.may_log("warning")
        {
            emit_later(move || {
                tracing::warn!(
                    target: "tower_telemetry",
                    warning,
                    "the receiver of {signal} sent a warning"
                );
            });
        }
        if self.log_losses(outcome.failure) {
            return;
        }
        let lost = self.lost;
        match self.problem.take_if(|_| outcome.exported > 0) {
            Some(Problem::Loss) => emit_later(move || {
                tracing::info!(
                    target: "tower_telemetry",
                    lost,
                    "telemetry is no longer lost: {signal} are exported again"
                );
            }),
            Some(Problem::Waiting) => emit_later(move || {
                tracing::info!(
                    target: "tower_telemetry",
                    lost,
                    "telemetry no longer waits: {signal} are exported again"
                );
            }),
            None => {}
        }
    }

    /// Records why the last attempt to send a batch failed. Logs it once the batch has waited for
    /// some time. The time is shorter if the batch is `flushed`.
    pub(crate) fn record_failure(
        &mut self,
        failure: Option<(Failure, String)>,
        waited: Duration,
        flushed: bool,
    ) {
        let Some((failure, reason)) = failure else {
            return;
        };
        self.counters.failures().last = Some(failure);
        let wait_before_log = match flushed {
            true => Self::FLUSH_WAIT_BEFORE_LOG,
            false => Self::WAIT_BEFORE_LOG,
        };
        if waited < wait_before_log || self.problem.is_some() || !self.may_log("waiting") {
            return;
        }
        let (signal, receiver) = (self.signal.name(), self.receiver.clone());
        let kind = failure.to_string();
        let (reason, hint) = reason_and_hint(failure, reason);
        emit_later(move || {
            tracing::warn!(
                target: "tower_telemetry",
                kind,
                reason,
                "telemetry waits: {signal} are kept and sent again, because {receiver} did not accept \
                 them; {hint}"
            );
        });
        self.problem = Some(Problem::Waiting);
    }

    /// Logs losses since the last call and returns whether there were any.
    pub(crate) fn log_losses(&mut self, failure: Option<(Failure, String)>) -> bool {
        let stats = self.counters.stats();
        let lost = stats.failed + stats.dropped;
        let more_is_lost = lost > self.lost;
        self.lost = lost;
        if !more_is_lost {
            return false;
        }
        let is_unsupported = matches!(
            failure,
            Some((
                Failure::HttpStatus(404 | 405 | 501) | Failure::GrpcStatus("UNIMPLEMENTED"),
                _
            ))
        );
        let usual_path = match failure {
            Some((Failure::HttpStatus(_), _)) => {
                format!(", usually with the path /v1/{}", self.signal.name())
            }
            _ => String::new(),
        };
        let (kind, reason, hint) = match failure {
            Some((failure, detail)) => {
                let (reason, hint) = reason_and_hint(failure, detail);
                (failure.to_string(), reason, hint)
            }
            None => {
                let hint = match self.counters.stats().last_failure {
                    Some(failure) => hint(failure),
                    None => "a larger queue holds more (Batch::with_max_queue_size)",
                };
                let reason = "the queue was full".to_owned();
                ("queue".to_owned(), reason, hint.to_owned())
            }
        };
        let (signal, receiver) = (self.signal.name(), self.receiver.clone());
        if is_unsupported {
            // A missing signal is a permanent state, so it is logged only once.
            if !std::mem::replace(&mut self.has_logged_unsupported, true) {
                let variable = self.signal.exporter_variable();
                emit_later(move || {
                    tracing::warn!(
                        target: "tower_telemetry",
                        lost,
                        kind,
                        receiver,
                        "telemetry is lost: the receiver does not accept {signal}; use an endpoint that \
                         accepts them{usual_path}, or set {variable}=none. This is logged only once"
                    );
                });
            }
        } else if self.may_log(&kind) {
            emit_later(move || {
                tracing::warn!(
                    target: "tower_telemetry",
                    lost,
                    kind,
                    reason,
                    "telemetry is lost: some {signal} were not exported to {receiver}; {hint}"
                );
            });
            self.problem = Some(Problem::Loss);
        }
        true
    }

    /// Returns whether a line of this kind may be logged now. If so, it counts as logged.
    fn may_log(&mut self, kind: &str) -> bool {
        let last_logged = self.last_logged.get(kind);
        let is_due =
            last_logged.is_none_or(|last_logged| last_logged.elapsed() >= Self::LOG_INTERVAL);
        if is_due {
            self.last_logged.insert(kind.to_owned(), Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// The log lines of a test.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .lock()
                .expect("the lock is not poisoned")
                .write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        /// Returns the lines since the last call.
        fn text(&self) -> String {
            crate::logs::flush_events(Duration::from_secs(20));
            let bytes = std::mem::take(&mut *self.0.lock().expect("the lock is not poisoned"));
            String::from_utf8(bytes).expect("the lines are UTF-8")
        }

        /// Returns the levels of the lines since the last call.
        fn levels(&self) -> Vec<String> {
            let text = self.text();
            let levels = text
                .lines()
                .filter_map(|line| line.split_whitespace().next());
            levels.map(str::to_owned).collect()
        }
    }

    /// Returns the lines logged on this thread until the guard is dropped.
    fn lines() -> (Lines, tracing::subscriber::DefaultGuard) {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_does_not_support_a_signal_is_logged_once() {
        for failure in [
            Failure::HttpStatus(404),
            Failure::HttpStatus(405),
            Failure::HttpStatus(501),
            Failure::GrpcStatus("UNIMPLEMENTED"),
        ] {
            let (lines, _subscriber) = lines();
            let mut losses = Losses::new(Signal::Logs, "the receiver".to_owned(), Arc::default());
            for _ in 0..3 {
                let mut outcome = SendOutcome::default();
                outcome.fail(1, failure, "refused".to_owned());
                losses.record_outcome(outcome);
                tokio::time::advance(Losses::LOG_INTERVAL).await;
            }
            let text = lines.text();
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(text.contains("OTEL_LOGS_EXPORTER=none"), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_start_and_the_end_of_losses_are_logged_at_most_once_a_minute() {
        let (lines, _subscriber) = lines();
        let counters = Arc::new(Counters::default());
        let mut losses = Losses::new(Signal::Traces, "the receiver".to_owned(), counters.clone());
        let good = || SendOutcome {
            exported: 1,
            ..SendOutcome::default()
        };
        let bad = || {
            let mut outcome = SendOutcome::default();
            outcome.fail(1, Failure::Refused, "refused".to_owned());
            outcome
        };
        losses.record_outcome(good());
        assert!(lines.levels().is_empty(), "nothing is lost");
        losses.record_outcome(bad());
        assert_eq!(lines.levels(), ["WARN"]);
        losses.record_outcome(bad());
        counters.count_dropped();
        losses.log_losses(None);
        assert_eq!(lines.levels(), ["WARN"], "a line of another kind is logged");
        counters.count_dropped();
        losses.log_losses(None);
        assert!(lines.levels().is_empty(), "a repeated line is not logged");
        losses.record_outcome(good());
        assert_eq!(lines.levels(), ["INFO"]);
        losses.record_outcome(good());
        losses.record_outcome(bad());
        losses.record_outcome(good());
        assert!(lines.levels().is_empty(), "a minute has not passed");
        tokio::time::advance(Losses::LOG_INTERVAL).await;
        counters.count_dropped();
        losses.log_losses(None);
        assert_eq!(lines.levels(), ["WARN"], "the queue is full while it waits");
        losses.record_outcome(good());
        assert_eq!(lines.levels(), ["INFO"]);
        let stats = counters.stats();
        assert_eq!((stats.exported, stats.failed, stats.dropped), (5, 3, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_about_a_loss_names_the_receiver_the_reason_and_a_hint() {
        let (lines, _subscriber) = lines();
        for (failure, hint) in [
            (Failure::Refused, "check that the receiver is running"),
            (Failure::Dns, "host name"),
            (Failure::HttpStatus(401), "OTEL_EXPORTER_OTLP_HEADERS"),
            (
                Failure::GrpcStatus("UNAUTHENTICATED"),
                "OTEL_EXPORTER_OTLP_HEADERS",
            ),
            (Failure::Connection, "4317"),
            (Failure::TooLarge, "record less"),
        ] {
            let receiver = "http://collector:4317 (grpc)".to_owned();
            let mut losses = Losses::new(Signal::Traces, receiver, Arc::default());
            let mut outcome = SendOutcome::default();
            outcome.fail(3, failure, "the reason".to_owned());
            losses.record_outcome(outcome);
            let text = lines.text();
            let kind = failure.to_string();
            let parts = [
                "traces",
                "http://collector:4317 (grpc)",
                "lost=3",
                "the reason",
                &kind,
                hint,
            ];
            for part in parts {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_is_logged_after_five_seconds_or_one_in_a_flush_and_its_end_once() {
        let (lines, _subscriber) = lines();
        for (wait, flushed) in [(5, false), (1, true)] {
            let mut losses = Losses::new(Signal::Logs, "the receiver".to_owned(), Arc::default());
            let refused = || Some((Failure::Refused, "refused".to_owned()));
            let mut record = |seconds, flushed| {
                losses.record_failure(refused(), Duration::from_secs(seconds), flushed);
            };
            record(4, false);
            record(0, true);
            assert!(lines.levels().is_empty(), "a short wait is not logged");
            record(wait, flushed);
            record(70, false);
            let text = lines.text();
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(text.contains("telemetry waits: logs are kept"), "{text}");
            for expected in [&["INFO"][..], &[]] {
                losses.record_outcome(SendOutcome {
                    exported: 1,
                    ..SendOutcome::default()
                });
                assert_eq!(lines.levels(), expected);
            }
        }
    }
}
