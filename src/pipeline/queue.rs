//! Queues that all threads push to and the export thread takes from.
//!
//! Each thread has its own lane, which reserves room in portions. Threads therefore do not write to
//! the same memory for every item.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_queue::SegQueue;
use crossbeam_utils::CachePadded;
use tokio::sync::Notify;

use crate::concurrent::per_thread::PerThread;
use crate::config::settings::Batch;
use crate::otlp::retention::Retention;
use crate::pipeline::counts::{Counters, ObservedQueue};

/// An item that can be queued.
pub(crate) trait Item: Send + 'static {
    /// Returns its approximate memory use in bytes.
    fn estimated_size(&self) -> usize;
}

/// The average memory per place in a queue, in bytes. This crate records at most 6 KiB per span
/// from a request; the rest is for attributes that handlers add.
const BYTES_PER_ITEM: usize = 8 * 1024;

/// All lanes together reserve at most a batch divided by this number. A batch may be considered
/// complete too early by the same amount.
const RESERVED_SHARE: usize = 8;

/// A bounded queue. A push never blocks, and wakes the export thread only when a batch is complete.
pub(crate) struct Queue<T> {
    lanes: PerThread<CachePadded<Lane<T>>>,
    /// The room that no lane has reserved.
    free: FreeSpace,
    capacity: usize,
    batch_size: usize,
    /// The number of places that a lane reserves at once.
    portion: usize,
    /// Whether a full queue drops its oldest item, because the next export may be far away.
    loses_oldest: bool,
    closed: AtomicBool,
    wake: Notify,
    counters: Arc<Counters>,
    /// The last batch taken. It keeps its space until it is released.
    batch: Mutex<TakenBatch>,
    /// The number of items in the taken batch.
    taken: AtomicUsize,
    /// Whether the taken batch is waiting for another attempt and can be given up.
    pub(crate) retention: Arc<Retention>,
}

/// The room used by the taken batch.
#[derive(Default)]
struct TakenBatch {
    places: usize,
    bytes: usize,
}

struct Lane<T> {
    items: SegQueue<T>,
    /// The room that the lane has reserved and not used.
    reserved: FreeSpace,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self {
            items: SegQueue::new(),
            reserved: FreeSpace::default(),
        }
    }
}

#[derive(Default)]
struct FreeSpace {
    places: AtomicUsize,
    /// Bytes for waiting items and the batch being exported.
    bytes: AtomicUsize,
}

impl<T: Item> Queue<T> {
    pub(crate) fn new(batch: Batch, counters: Arc<Counters>) -> Self {
        let lanes = PerThread::<CachePadded<Lane<T>>>::default();
        let capacity = batch.max_queue_size;
        let batch_size = batch.max_export_batch_size.min(capacity);
        Self {
            free: FreeSpace {
                places: AtomicUsize::new(capacity),
                bytes: AtomicUsize::new(capacity.saturating_mul(BYTES_PER_ITEM)),
            },
            capacity,
            batch_size,
            portion: (batch_size / (lanes.len() * RESERVED_SHARE)).max(1),
            lanes,
            loses_oldest: batch.is_at_flushes_only(),
            closed: AtomicBool::new(false),
            wake: Notify::new(),
            counters,
            batch: Mutex::default(),
            taken: AtomicUsize::new(0),
            retention: Arc::default(),
        }
    }

    #[inline]
    pub(crate) fn push(&self, item: T) {
        self.counters.accept(1);
        let lane = self.lanes.for_this_thread();
        let reservation = if self.closed.load(Ordering::Relaxed) {
            None
        } else {
            let size = item.estimated_size();
            self.reserve(&lane.reserved, size)
                .or_else(|| self.reserve_in_place_of_oldest(&lane.reserved, size))
                .or_else(|| self.reserve_by_loss(&lane.reserved, size))
        };
        let Some(Reservation { batch_is_complete }) = reservation else {
            self.counters.count_dropped();
            return;
        };
        lane.items.push(item);
        if batch_is_complete {
            // Before the wake, because the export thread may run at once and take this batch.
            if self.taken.load(Ordering::Relaxed) > 0 {
                self.retention.set_urgent();
            }
            self.wake();
        }
    }

    /// Makes room by giving up the batch being exported, if it is waiting for another attempt.
    #[cold]
    fn reserve_in_place_of_oldest(&self, lane: &FreeSpace, size: usize) -> Option<Reservation> {
        if !self.retention.is_waiting() {
            return None;
        }
        // If another thread holds the lock, it makes room too.
        if let Ok(mut batch) = self.batch.try_lock() {
            // Lanes may hold unused room.
            self.return_unused();
            if let Some(reservation) = self.reserve(lane, size) {
                return Some(reservation);
            }
            let left = self.free.bytes.load(Ordering::Relaxed);
            if left.saturating_add(batch.bytes) >= size && self.retention.abandon() {
                let TakenBatch { places, bytes } = std::mem::take(&mut *batch);
                self.release(places, bytes);
            }
        }
        self.reserve(lane, size)
    }

    /// Makes room by dropping the oldest items of the fullest lane, if the queue is exported only
    /// by flushes.
    #[cold]
    fn reserve_by_loss(&self, reserved: &FreeSpace, size: usize) -> Option<Reservation> {
        if !self.loses_oldest || size > self.capacity.saturating_mul(BYTES_PER_ITEM) {
            return None;
        }
        // Lanes may hold unused room.
        self.return_unused();
        loop {
            if let Some(reservation) = self.reserve(reserved, size) {
                return Some(reservation);
            }
            let fullest = self.lanes.iter().max_by_key(|lane| lane.items.len())?;
            let oldest = fullest.items.pop()?;
            self.counters.count_dropped();
            self.release(1, oldest.estimated_size());
        }
    }

    fn release(&self, places: usize, bytes: usize) {
        self.free.places.fetch_add(places, Ordering::Relaxed);
        self.free.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Wakes the worker to export waiting items soon.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Returns the number of waiting items in each lane.
    pub(crate) fn waiting(&self) -> Vec<usize> {
        self.lanes.iter().map(|lane| lane.items.len()).collect()
    }

    /// Takes a batch, at most the `waiting` items of each lane. The batch keeps its space until it
    /// is [released](Self::release_batch). Only one batch can be taken at a time.
    pub(crate) fn take(&self, waiting: &mut [usize]) -> Vec<T> {
        let mut batch = Vec::new();
        for (lane, waiting) in self.lanes.iter().zip(waiting) {
            while batch.len() < self.batch_size
                && *waiting > 0
                && let Some(item) = lane.items.pop()
            {
                batch.push(item);
                *waiting -= 1;
            }
        }
        self.taken.store(batch.len(), Ordering::Relaxed);
        *self.batch() = TakenBatch {
            places: batch.len(),
            bytes: batch.iter().map(Item::estimated_size).sum(),
        };
        self.return_unused();
        batch
    }

    /// Releases the room of the taken batch, unless newer items have already taken it over.
    pub(crate) fn release_batch(&self) {
        let mut batch = self.batch();
        let TakenBatch { places, bytes } = std::mem::take(&mut *batch);
        self.release(places, bytes);
        self.taken.store(0, Ordering::Relaxed);
        self.retention.reset();
    }

    fn batch(&self) -> std::sync::MutexGuard<'_, TakenBatch> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the unused room of all lanes to the shared room. The threads may never use it.
    fn return_unused(&self) {
        for lane in self.lanes.iter() {
            let places = lane.reserved.places.swap(0, Ordering::Relaxed);
            self.free.places.fetch_add(places, Ordering::Relaxed);
            let bytes = lane.reserved.bytes.swap(0, Ordering::Relaxed);
            self.free.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Rejects all further items and discards the waiting ones. The caller that ends the export
    /// counts them.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        for lane in self.lanes.iter() {
            while lane.items.pop().is_some() {}
        }
    }

    /// Reserves a place and `bytes` for an item; `None` if there is no room.
    #[inline]
    fn reserve(&self, lane: &FreeSpace, bytes: usize) -> Option<Reservation> {
        let mut reservation = Reservation {
            batch_is_complete: false,
        };
        if !use_reserved(&lane.places, 1) {
            if !reserve_more(&lane.places, &self.free.places, 1, self.portion) {
                return None;
            }
            let free = self.free.places.load(Ordering::Relaxed);
            let used = self.capacity.saturating_sub(free);
            let queued = used.saturating_sub(self.taken.load(Ordering::Relaxed));
            reservation.batch_is_complete = queued >= self.batch_size;
        }
        let portion = self.portion.saturating_mul(BYTES_PER_ITEM);
        let fits = use_reserved(&lane.bytes, bytes)
            || reserve_more(&lane.bytes, &self.free.bytes, bytes, portion);
        if !fits {
            lane.places.fetch_add(1, Ordering::Relaxed);
            // The waiting items are large. An export makes room.
            self.wake();
            return None;
        }
        Some(reservation)
    }
}

impl<T: Item> ObservedQueue for Queue<T> {
    fn size_and_capacity(&self) -> [u64; 2] {
        let size: usize = self.lanes.iter().map(|lane| lane.items.len()).sum();
        [size as u64, self.capacity as u64]
    }
}

/// Room that is reserved for an item.
struct Reservation {
    /// Whether enough room is in use for a batch to be complete.
    batch_is_complete: bool,
}

/// Uses room that the lane has already reserved, if there is enough.
fn use_reserved(own: &AtomicUsize, needed: usize) -> bool {
    let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
    own.fetch_update(set, fetch, |left| left.checked_sub(needed))
        .is_ok()
}

/// Reserves the missing room, or a whole portion if possible, so that the next items need not.
fn reserve_more(own: &AtomicUsize, free: &AtomicUsize, needed: usize, portion: usize) -> bool {
    let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
    let left = own.swap(0, Ordering::Relaxed);
    let missing = needed.saturating_sub(left);
    let wanted = missing.max(portion);
    let taken = free.fetch_update(set, fetch, |free| {
        (free >= missing).then(|| free - free.min(wanted))
    });
    let (taken, fits) = match taken {
        Ok(free) => (free.min(wanted), true),
        Err(_) => (0, false),
    };
    let used = if fits { needed } else { 0 };
    own.fetch_add(left + taken - used, Ordering::Relaxed);
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Item for u64 {
        fn estimated_size(&self) -> usize {
            usize::try_from(*self).expect("the number is small")
        }
    }

    impl<T: Item> Queue<T> {
        fn len(&self) -> usize {
            self.waiting().iter().sum()
        }

        pub(crate) fn taken(&self) -> u64 {
            self.taken.load(Ordering::Relaxed) as u64
        }

        /// Takes a batch and releases it.
        pub(crate) fn drain(&self) -> Vec<T> {
            let batch = self.take(&mut self.waiting());
            self.release_batch();
            batch
        }
    }

    fn queue(size: usize) -> Queue<u64> {
        let batch = Batch::default()
            .with_max_queue_size(size)
            .with_max_export_batch_size(size);
        Queue::new(batch, Arc::default())
    }

    #[test]
    fn waiting_items_and_the_taken_batch_are_bounded_in_number_and_bytes() {
        let queue = queue(4);
        let capacity = 4 * BYTES_PER_ITEM;
        // The first item is larger than the queue, the second fills it, and the third has no room
        // left.
        for item in [capacity + 1, capacity, 1] {
            queue.push(item as u64);
        }
        assert_eq!(queue.counters.stats().dropped, 2);
        let batch = queue.take(&mut queue.waiting());
        assert_eq!(batch, vec![capacity as u64]);
        // The batch is being exported and still uses its memory.
        queue.push(1);
        assert_eq!(queue.counters.stats().dropped, 3);
        queue.release_batch();
        // Now the number of items is the limit.
        for _ in 0..5 {
            queue.push(0);
        }
        assert_eq!((queue.len(), queue.counters.stats().dropped), (4, 4));
        // A batch that is being exported uses places as well.
        queue.take(&mut queue.waiting());
        queue.push(0);
        assert_eq!((queue.len(), queue.counters.stats().dropped), (0, 5));
        queue.release_batch();
        assert_eq!(queue.free.places.into_inner(), 4);
        assert_eq!(queue.free.bytes.into_inner(), capacity);
    }

    #[test]
    fn a_batch_is_urgent_once_another_one_is_complete() {
        let batch = Batch::default()
            .with_max_queue_size(8)
            .with_max_export_batch_size(2);
        let queue = Queue::new(batch, Arc::default());
        let push_and_see = || {
            queue.push(0);
            queue.retention.is_urgent()
        };
        // The first batch does not wait for another one.
        assert_eq!([push_and_see(), push_and_see()], [false, false]);
        queue.take(&mut queue.waiting());
        assert_eq!([push_and_see(), push_and_see()], [false, true]);
        queue.release_batch();
        assert!(!queue.retention.is_urgent());
    }

    #[test]
    fn concurrent_pushes_fill_the_queue_without_exceeding_its_capacity() {
        const SIZE: usize = 1024;
        let queue = queue(SIZE);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..SIZE).for_each(|_| queue.push(0)));
            }
        });
        let stats = queue.counters.stats();
        let waiting = queue.len();
        assert_eq!(stats.accepted, 8 * SIZE as u64);
        assert_eq!(stats.dropped, (8 * SIZE - waiting) as u64);
        // Lanes may hold a portion that their threads cannot use.
        let unused = queue.lanes.len() * queue.portion;
        assert!((SIZE - unused..=SIZE).contains(&waiting), "{waiting}");
    }

    #[test]
    fn a_closed_queue_rejects_items_and_discards_waiting_ones() {
        let queue = queue(4);
        queue.push(0);
        queue.close();
        queue.push(0);
        assert_eq!((queue.len(), queue.counters.stats().dropped), (0, 1));
    }

    #[test]
    fn a_batch_has_only_items_that_were_waiting_before_it() {
        let queue = queue(64);
        let waiting = std::thread::scope(|scope| {
            for _ in 0..4 {
                scope
                    .spawn(|| queue.push(1))
                    .join()
                    .expect("the thread does not panic");
            }
            let waiting = queue.waiting();
            for _ in 0..4 {
                scope
                    .spawn(|| queue.push(2))
                    .join()
                    .expect("the thread does not panic");
            }
            waiting
        });
        let batch = queue.take(&mut waiting.clone());
        assert_eq!(batch, [1; 4]);
        assert_eq!(queue.len(), 4);
    }
}
