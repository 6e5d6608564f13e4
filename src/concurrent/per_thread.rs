//! What each thread has for itself, so that threads do not write to the same memory with every
//! request.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Lanes at most. With more threads than lanes, some share one.
const MAX_LANES: usize = 32;

/// One for each thread.
pub(crate) struct Lanes<T>(Box<[T]>);

impl<T> Lanes<T> {
    pub(crate) fn new(make: impl FnMut() -> T) -> Self {
        // To ask for it takes long, and it is asked for with every layer.
        static COUNT: OnceLock<usize> = OnceLock::new();
        let count = *COUNT.get_or_init(|| {
            let threads = std::thread::available_parallelism();
            threads.map_or(1, usize::from).min(MAX_LANES)
        });
        Self(std::iter::repeat_with(make).take(count).collect())
    }

    /// That of this thread.
    #[inline]
    pub(crate) fn own(&self) -> &T {
        &self.0[number_of_this_thread() % self.0.len()]
    }
}

impl<T: Default> Default for Lanes<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

impl<T> Deref for Lanes<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

/// Alone in its lines of the processors' caches. In an [`Arc`], so is the count of owners.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Alone<T>(T);

impl<T> Deref for Alone<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// Something that requests on all threads own a while, with a count of owners for each thread.
pub(crate) type ByLane<T> = Arc<Alone<Arc<T>>>;

impl<T> Lanes<ByLane<T>> {
    pub(crate) fn sharing(value: T) -> Self {
        let value = Arc::new(value);
        Self::new(|| Arc::new(Alone(value.clone())))
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
    fn threads_have_numbers_of_their_own_which_choose_their_lanes() {
        let numbers: Vec<_> = std::thread::scope(|scope| {
            let number = || scope.spawn(number_of_this_thread);
            let threads: Vec<_> = (0..8).map(|_| number()).collect();
            let numbers = threads.into_iter();
            numbers
                .map(|thread| thread.join().expect("it does not panic"))
                .collect()
        });
        let different: std::collections::HashSet<_> = numbers.iter().collect();
        assert_eq!(different.len(), numbers.len());
        let lanes = Lanes::<Alone<u8>>::default();
        let place = number_of_this_thread() % lanes.len();
        assert!(std::ptr::eq(lanes.own(), &raw const lanes[place]));
    }

    #[test]
    fn owners_are_counted_by_lanes() {
        let lanes = Lanes::sharing("value");
        let owner = lanes.own().clone();
        let counts: Vec<_> = lanes.iter().map(Arc::strong_count).collect();
        let place = number_of_this_thread() % lanes.len();
        let expected = (0..lanes.len()).map(|lane| if lane == place { 2 } else { 1 });
        assert_eq!(counts, Vec::from_iter(expected));
        // It is the same in all of them.
        assert!(lanes.iter().all(|lane| Arc::ptr_eq(&lane.0, &owner.0)));
    }
}
