//! The latest value that any thread has written: a few `u64`s. No thread waits for a lock.
//!
//! This is a sequence lock: the version is odd while a thread writes. A writer gives up if another
//! thread writes at the same time, because either value may be the latest. A reader gets the words
//! of one write, or nothing.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The maximum number of attempts to read while other threads write.
const MAX_READS: usize = 64;

pub(crate) struct Latest<const N: usize> {
    /// Increases by 1 when a write begins and when it ends; 0 before the first write.
    version: AtomicU64,
    words: [AtomicU64; N],
}

impl<const N: usize> Default for Latest<N> {
    fn default() -> Self {
        Self {
            version: AtomicU64::new(0),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl<const N: usize> Latest<N> {
    /// Writes a value, unless another thread writes at the same time.
    #[inline]
    pub(crate) fn write(&self, value: [u64; N]) {
        let version = self.version.load(Ordering::Relaxed);
        let is_odd = version & 1 == 1;
        if is_odd || !self.begin_write(version) {
            return;
        }
        for (word, value) in self.words.iter().zip(value) {
            word.store(value, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
    }

    /// Returns whether no other thread has begun a write.
    #[inline]
    fn begin_write(&self, version: u64) -> bool {
        let (success, failure) = (Ordering::Acquire, Ordering::Relaxed);
        let begun = self
            .version
            .compare_exchange(version, version + 1, success, failure);
        // A reader that has read one of the new words must then read the odd version or a later one.
        fence(Ordering::Release);
        begun.is_ok()
    }

    /// Returns the value and its version; `None` before the first write, and if a write is in
    /// progress at each attempt.
    pub(crate) fn read(&self) -> Option<(u64, [u64; N])> {
        for _ in 0..MAX_READS {
            let version = self.version.load(Ordering::Acquire);
            if version == 0 {
                return None;
            }
            let value = std::array::from_fn(|n| self.words[n].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if version & 1 == 0 && self.version.load(Ordering::Relaxed) == version {
                return Some((version, value));
            }
            std::hint::spin_loop();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn each_value_is_read_unchanged_and_has_its_own_version() {
        let latest = Latest::<3>::default();
        assert_eq!(latest.read(), None);
        latest.write([1, 2, 3]);
        assert_eq!(latest.read(), Some((2, [1, 2, 3])));
        assert_eq!(latest.read(), Some((2, [1, 2, 3])));
        latest.write([0, 0, 0]);
        assert_eq!(latest.read(), Some((4, [0, 0, 0])));
    }

    #[test]
    fn other_writes_and_all_reads_fail_while_a_thread_writes() {
        let latest = Latest::<1>::default();
        latest.write([1]);
        assert!(latest.begin_write(2));
        latest.write([7]);
        assert_eq!(latest.read(), None);
        latest.version.store(4, Ordering::Release);
        assert_eq!(latest.read(), Some((4, [1])));
    }

    #[test]
    fn concurrent_writes_never_mix_their_values() {
        const WRITES: u64 = 20_000;

        let latest = Latest::<5>::default();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut before = 0;
                loop {
                    let is_last = done.load(Ordering::Acquire);
                    if let Some((version, words)) = latest.read() {
                        assert!(words.iter().all(|word| *word == words[0]), "{words:?}");
                        assert!(version >= before);
                        before = version;
                    }
                    if is_last {
                        return before;
                    }
                }
            });
            let writers: Vec<_> = (0..4)
                .map(|thread| {
                    let latest = &latest;
                    scope.spawn(move || {
                        for n in 0..WRITES {
                            latest.write([4 * n + thread; 5]);
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().expect("the writer does not panic");
            }
            done.store(true, Ordering::Release);
            let versions = reader.join().expect("the reader sees only whole values");
            assert!((2..=8 * WRITES).contains(&versions), "{versions}");
        });
    }

    /// A model of the code above: a writer whose next step is `step`.
    #[derive(Clone, Copy)]
    struct Writer {
        value: u64,
        step: usize,
        version: u64,
    }

    #[derive(Clone, Copy)]
    struct Reader {
        step: usize,
        version: u64,
        words: [u64; 2],
    }

    #[derive(Clone, Copy)]
    struct Model {
        version: u64,
        words: [u64; 2],
        writers: [Writer; 2],
        reader: Reader,
    }

    impl Model {
        /// Performs the next step of a writer; returns false after the last step.
        fn write(&mut self, n: usize) -> bool {
            let writer = &mut self.writers[n];
            writer.step = match writer.step {
                0 => {
                    writer.version = self.version;
                    if self.version & 1 == 1 { 5 } else { 1 }
                }
                1 if self.version == writer.version => {
                    self.version += 1;
                    2
                }
                1 => 5,
                word @ (2 | 3) => {
                    self.words[word - 2] = writer.value;
                    word + 1
                }
                4 => {
                    self.version = writer.version + 2;
                    5
                }
                _ => return false,
            };
            true
        }

        /// Performs the next step of the reader; returns false after the last step.
        fn read(&mut self) -> bool {
            let reader = &mut self.reader;
            match reader.step {
                0 => reader.version = self.version,
                word @ (1 | 2) => reader.words[word - 1] = self.words[word - 1],
                3 => {
                    let is_whole = reader.version & 1 == 0 && self.version == reader.version;
                    if is_whole && reader.version > 0 {
                        assert_eq!(reader.words[0], reader.words[1]);
                    }
                }
                _ => return false,
            }
            reader.step += 1;
            true
        }

        /// Performs the steps in every order, and returns the number of orders.
        fn all_orders(self) -> usize {
            let mut orders = 0;
            let mut is_over = true;
            for next in 0..3 {
                let mut model = self;
                let went_on = match next {
                    2 => model.read(),
                    writer => model.write(writer),
                };
                if went_on {
                    is_over = false;
                    orders += model.all_orders();
                }
            }
            if is_over {
                assert_eq!(self.version & 1, 0);
                assert_eq!(self.words[0], self.words[1]);
                1
            } else {
                orders
            }
        }
    }

    #[test]
    fn no_order_of_the_steps_mixes_two_values() {
        let writer = |value| Writer {
            value,
            step: 0,
            version: 0,
        };
        let model = Model {
            version: 0,
            words: [0, 0],
            writers: [writer(1), writer(2)],
            reader: Reader {
                step: 0,
                version: 0,
                words: [0, 0],
            },
        };
        assert!(model.all_orders() > 1000);
    }
}
