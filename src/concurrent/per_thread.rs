//! Values per thread, so that threads do not contend for the same memory on each request.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_utils::CachePadded;

/// The maximum number of values.
const MAX_VALUES: usize = 32;

/// One value per processor, at most [`MAX_VALUES`]. Threads share values if there are more threads
/// than values.
pub(crate) struct PerThread<T>(Box<[T]>);

impl<T> PerThread<T> {
    pub(crate) fn new(make: impl FnMut() -> T) -> Self {
        // The system call is slow, and every layer needs the result.
        static COUNT: OnceLock<usize> = OnceLock::new();
        let count = *COUNT.get_or_init(|| {
            let threads = std::thread::available_parallelism();
            threads.map_or(1, usize::from).min(MAX_VALUES)
        });
        Self(std::iter::repeat_with(make).take(count).collect())
    }

    /// Returns the value of the current thread.
    #[inline]
    pub(crate) fn for_this_thread(&self) -> &T {
        &self.0[number_of_this_thread() % self.0.len()]
    }
}

impl<T: Default> Default for PerThread<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

impl<T> Deref for PerThread<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

/// A value that requests on all threads own temporarily. It has several reference counts, each in
/// its own cache lines, because all threads would contend for a single one.
pub(crate) type PerThreadArc<T> = Arc<CachePadded<Arc<T>>>;

impl<T> PerThread<PerThreadArc<T>> {
    pub(crate) fn sharing(value: T) -> Self {
        let value = Arc::new(value);
        Self::new(|| Arc::new(CachePadded::new(value.clone())))
    }
}

fn number_of_this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    }
    NUMBER.get().unwrap_or_else(|| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        NUMBER.set(Some(number));
        number
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_its_own_number_and_value() {
        let numbers: Vec<_> = std::thread::scope(|scope| {
            let number = || scope.spawn(number_of_this_thread);
            let threads: Vec<_> = (0..8).map(|_| number()).collect();
            let numbers = threads.into_iter();
            numbers
                .map(|thread| thread.join().expect("the thread does not panic"))
                .collect()
        });
        let different: std::collections::HashSet<_> = numbers.iter().collect();
        assert_eq!(different.len(), numbers.len());
        let values = PerThread::<CachePadded<u8>>::default();
        let place = number_of_this_thread() % values.len();
        assert!(std::ptr::eq(
            values.for_this_thread(),
            &raw const values[place]
        ));
    }

    #[test]
    fn references_are_counted_per_thread() {
        let values = PerThread::sharing("value");
        let owner = values.for_this_thread().clone();
        let counts: Vec<_> = values.iter().map(Arc::strong_count).collect();
        let place = number_of_this_thread() % values.len();
        let expected = (0..values.len()).map(|index| if index == place { 2 } else { 1 });
        assert_eq!(counts, Vec::from_iter(expected));
        // All threads share one value.
        assert!(
            values
                .iter()
                .all(|value| Arc::<&str>::ptr_eq(value, &owner))
        );
    }
}
