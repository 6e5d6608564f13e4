//! What became of telemetry: counted, and said.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use tokio::time::Instant;

use crate::concurrent::per_thread::PerThread;
use crate::config::settings::Signal;
use crate::logs::tell;
use crate::otlp::outcome::SendOutcome;
use crate::stats::{Failure, SignalStats};

/// The counts behind [`SignalStats`].
#[derive(Default)]
pub(crate) struct Counters {
    /// By threads, because it is counted up with every item.
    accepted: PerThread<CachePadded<AtomicU64>>,
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    last_failure: Mutex<Option<Failure>>,
}

impl Counters {
    pub(crate) fn accept(&self, count: u64) {
        self.accepted
            .for_this_thread()
            .fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> SignalStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let last_failure = self.last_failure.lock();
        SignalStats {
            accepted: self.accepted.iter().map(|count| get(count)).sum(),
            exported: get(&self.exported),
            failed: get(&self.failed),
            dropped: get(&self.dropped),
            last_failure: *last_failure.unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// What became of all when nothing will be exported any more: what still waits is dropped.
    pub(crate) fn last_stats(&self) -> SignalStats {
        let stats = self.stats();
        SignalStats {
            dropped: stats.accepted.saturating_sub(stats.exported + stats.failed),
            ..stats
        }
    }
}

/// Counts what becomes of batches, and says when loss begins and when it ends, each at most once a
/// minute.
pub(crate) struct Losses {
    signal: Signal,
    counters: Arc<Counters>,
    /// What was lost when this last looked.
    lost: u64,
    /// When a line of each kind was last written.
    told: HashMap<String, Instant>,
    /// Whether it was said that loss has begun, and not yet that it has ended.
    losing: bool,
    /// Whether it was said that the receiver does not take this signal at all.
    told_unsupported: bool,
}

impl Losses {
    const PAUSE: Duration = Duration::from_secs(60);

    pub(crate) fn new(signal: Signal, counters: Arc<Counters>) -> Self {
        Self {
            signal,
            counters,
            lost: 0,
            told: HashMap::new(),
            losing: false,
            told_unsupported: false,
        }
    }

    /// Counts what became of a batch.
    pub(crate) fn settle(&mut self, outcome: SendOutcome) {
        let counters = &self.counters;
        counters
            .exported
            .fetch_add(outcome.exported, Ordering::Relaxed);
        counters.failed.fetch_add(outcome.failed, Ordering::Relaxed);
        if let Some((failure, _)) = outcome.failure {
            let last = counters.last_failure.lock();
            *last.unwrap_or_else(PoisonError::into_inner) = Some(failure);
        }
        let signal = self.signal.name();
        if let Some(warning) = outcome.warning
            && self.allowed("warning")
        {
            tell(
                move || tracing::warn!(target: "tower_telemetry", warning, "the receiver of {signal} warns"),
            );
        }
        if !self.look(outcome.failure) && self.losing {
            let lost = self.lost;
            tell(move || {
                tracing::info!(
                    target: "tower_telemetry",
                    lost,
                    "no more telemetry is lost: {signal} are exported again"
                );
            });
            self.losing = false;
        }
    }

    /// Says that more is lost than when this last looked, and returns whether it is.
    pub(crate) fn look(&mut self, failure: Option<(Failure, String)>) -> bool {
        let stats = self.counters.stats();
        let lost = stats.failed + stats.dropped;
        let more_is_lost = lost > self.lost;
        self.lost = lost;
        let is_unsupported = matches!(
            failure,
            Some((
                Failure::HttpStatus(404 | 405 | 501) | Failure::GrpcStatus("UNIMPLEMENTED"),
                _
            ))
        );
        let (kind, reason) = match failure {
            Some((failure, detail)) => (failure.to_string(), detail),
            None => ("queue".to_owned(), "the queue was full".to_owned()),
        };
        let signal = self.signal.name();
        if more_is_lost && is_unsupported {
            // Nothing changes by itself: once is enough.
            if !std::mem::replace(&mut self.told_unsupported, true) {
                let variable = self.signal.exporter_variable();
                tell(move || {
                    tracing::warn!(
                        target: "tower_telemetry",
                        lost,
                        kind,
                        "telemetry is lost: the receiver takes no {signal}; set {variable}=none, or \
                         an endpoint that takes them. This is not said again"
                    );
                });
            }
        } else if more_is_lost && self.allowed(&kind) {
            tell(move || {
                tracing::warn!(
                    target: "tower_telemetry",
                    lost,
                    kind,
                    reason,
                    "telemetry is lost: not all {signal} are exported"
                );
            });
            self.losing = true;
        }
        more_is_lost
    }

    /// Whether a line of this kind may be written, which is then taken to be done.
    fn allowed(&mut self, kind: &str) -> bool {
        let told = self.told.get(kind);
        let may = told.is_none_or(|told| told.elapsed() >= Self::PAUSE);
        if may {
            self.told.insert(kind.to_owned(), Instant::now());
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Log lines of a test.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        /// The lines since this was last asked.
        fn text(&self) -> String {
            crate::logs::flush_told(Duration::from_secs(20));
            let bytes = std::mem::take(&mut *self.0.lock().expect("not poisoned"));
            String::from_utf8(bytes).expect("it is text")
        }

        /// The levels of the lines since this was last asked.
        fn levels(&self) -> Vec<String> {
            let text = self.text();
            let levels = text
                .lines()
                .filter_map(|line| line.split_whitespace().next());
            levels.map(str::to_owned).collect()
        }
    }

    /// Writes what is logged here into what is returned.
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
    async fn a_receiver_that_does_not_take_a_signal_is_told_of_once() {
        for failure in [
            Failure::HttpStatus(404),
            Failure::HttpStatus(405),
            Failure::HttpStatus(501),
            Failure::GrpcStatus("UNIMPLEMENTED"),
        ] {
            let (lines, _subscriber) = lines();
            let mut losses = Losses::new(Signal::Logs, Arc::default());
            for _ in 0..3 {
                let mut outcome = SendOutcome::default();
                outcome.lose(1, failure, "refused".to_owned());
                losses.settle(outcome);
                tokio::time::advance(Losses::PAUSE).await;
            }
            let text = lines.text();
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(text.contains("OTEL_LOGS_EXPORTER=none"), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn loss_is_told_when_it_begins_and_when_it_ends_and_at_most_once_a_minute() {
        let (lines, _subscriber) = lines();
        let counters = Arc::new(Counters::default());
        let mut losses = Losses::new(Signal::Traces, counters.clone());
        let good = || SendOutcome {
            exported: 1,
            ..SendOutcome::default()
        };
        let bad = || {
            let mut outcome = SendOutcome::default();
            outcome.lose(1, Failure::Refused, "refused".to_owned());
            outcome
        };
        losses.settle(good());
        assert!(lines.levels().is_empty(), "nothing is lost");
        losses.settle(bad());
        assert_eq!(lines.levels(), ["WARN"]);
        losses.settle(bad());
        counters.drop_one();
        losses.look(None);
        assert_eq!(lines.levels(), ["WARN"], "it is another kind");
        counters.drop_one();
        losses.look(None);
        assert!(lines.levels().is_empty(), "it is known");
        losses.settle(good());
        assert_eq!(lines.levels(), ["INFO"]);
        losses.settle(good());
        losses.settle(bad());
        losses.settle(good());
        assert!(lines.levels().is_empty(), "it is too soon");
        tokio::time::advance(Losses::PAUSE).await;
        counters.drop_one();
        losses.look(None);
        assert_eq!(lines.levels(), ["WARN"], "the queue is full while it waits");
        losses.settle(good());
        assert_eq!(lines.levels(), ["INFO"]);
        let stats = counters.stats();
        assert_eq!((stats.exported, stats.failed, stats.dropped), (5, 3, 3));
    }
}
