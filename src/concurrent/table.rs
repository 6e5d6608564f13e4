//! A bounded map with lock-free reads.
//!
//! Requests look up the instruments of their route in it, and handler functions look up an
//! instrument by name. Entries are added rarely, and never moved or removed. So readers write
//! nothing: all threads would contend for a shared count of readers.
//! count of readers would be contended by all threads.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustc_hash::FxBuildHasher;

pub(crate) struct Table<K, V> {
    chains: Box<[Chain<K, V>]>,
    entries: AtomicUsize,
    limit: usize,
}

/// The position of an entry in a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryRef {
    chain: usize,
    depth: usize,
}

impl<K, V> Table<K, V>
where
    K: Eq + Hash,
{
    /// Creates an empty table for at most `limit` entries.
    pub(crate) fn new(limit: usize) -> Self {
        // Most tables remain mostly empty.
        let chains = (limit / 8).next_power_of_two().clamp(8, 1024);
        Self {
            chains: (0..chains).map(|_| Chain::default()).collect(),
            entries: AtomicUsize::new(0),
            limit,
        }
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (_, node) = self.chains[self.chain(key)].find(key)?;
        Some(&node.value)
    }

    /// Returns the position of the entry with a key.
    #[inline]
    pub(crate) fn find<Q>(&self, key: &Q) -> Option<EntryRef>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let chain = self.chain(key);
        let (depth, _) = self.chains[chain].find(key)?;
        Some(EntryRef { chain, depth })
    }

    /// Returns the position of the entry with this hash for which `is_key` returns true. It needs
    /// no key to borrow from.
    pub(crate) fn find_by_hash(&self, hash: u64, is_key: impl Fn(&K) -> bool) -> Option<EntryRef> {
        let chain = self.chain_of(hash);
        let mut nodes = self.chains[chain].nodes().enumerate();
        let (depth, _) = nodes.find(|(_, node)| is_key(&node.key))?;
        Some(EntryRef { chain, depth })
    }

    /// Returns the entry at a position from [`find`](Self::find).
    #[inline]
    pub(crate) fn at(&self, entry_ref: EntryRef) -> Option<&V> {
        let mut nodes = self.chains.get(entry_ref.chain)?.nodes();
        nodes.nth(entry_ref.depth).map(|node| &node.value)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.load(Ordering::Relaxed) >= self.limit
    }

    /// Returns the entry with a key, creating it if it is missing.
    ///
    /// If the table is full, returns the new value as `Err`.
    pub(crate) fn get_or_insert_with<Q>(&self, key: &Q, make: impl FnOnce() -> V) -> Result<&V, V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        if let Some(value) = self.get(key) {
            return Ok(value);
        }
        match self.insert(key.to_owned(), make()) {
            Inserted::New(value) | Inserted::Present(value) => Ok(value),
            Inserted::Full(value) => Err(value),
        }
    }

    pub(crate) fn insert(&self, key: K, value: V) -> Inserted<'_, V> {
        let chain = &self.chains[self.chain(&key)];
        let one_more = |entries| (entries < self.limit).then_some(entries + 1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        if self.entries.fetch_update(set, fetch, one_more).is_err() {
            return match chain.find(&key) {
                Some((_, node)) => Inserted::Present(&node.value),
                None => Inserted::Full(value),
            };
        }
        let inserted = chain.insert(key, value);
        if matches!(inserted, Inserted::Present(_)) {
            self.entries.fetch_sub(1, Ordering::Relaxed);
        }
        inserted
    }

    fn chain<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        self.chain_of(FxBuildHasher.hash_one(key))
    }

    #[inline]
    fn chain_of(&self, hash: u64) -> usize {
        usize::try_from(hash & u64::from(u32::MAX)).unwrap_or_default() & (self.chains.len() - 1)
    }
}

/// The result of an insertion, with the value to use.
#[derive(Debug, PartialEq)]
pub(crate) enum Inserted<'a, V> {
    New(&'a V),
    /// The table already has the key, with this value.
    Present(&'a V),
    /// The table is full. This is the new value.
    Full(V),
}

/// A linked list of entries.
pub(crate) struct Chain<K, V>(OnceLock<Box<Node<K, V>>>);

struct Node<K, V> {
    key: K,
    value: V,
    next: Chain<K, V>,
}

impl<K: Eq, V> Chain<K, V> {
    /// Returns the entry with a key, creating it if it is missing. Returns `None` if it is missing
    /// and `has_room` returns false for the number of entries.
    #[inline]
    pub(crate) fn get_or_insert_if(
        &self,
        key: &K,
        has_room: impl FnOnce(usize) -> bool,
        make: impl FnOnce() -> V,
    ) -> Option<&V>
    where
        K: Clone,
    {
        if let Some((_, node)) = self.find(key) {
            return Some(&node.value);
        }
        if !has_room(self.nodes().count()) {
            return None;
        }
        match self.insert(key.clone(), make()) {
            Inserted::New(value) | Inserted::Present(value) => Some(value),
            Inserted::Full(_) => None,
        }
    }

    fn nodes(&self) -> impl Iterator<Item = &Node<K, V>> {
        let first = self.0.get();
        std::iter::successors(first, |node| node.next.0.get()).map(|node| &**node)
    }

    fn find<Q>(&self, key: &Q) -> Option<(usize, &Node<K, V>)>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let mut nodes = self.nodes().enumerate();
        nodes.find(|(_, node)| node.key.borrow() == key)
    }

    fn insert(&self, key: K, value: V) -> Inserted<'_, V> {
        let mut new = Box::new(Node {
            key,
            value,
            next: Self::default(),
        });
        let mut chain = self;
        loop {
            // There is no check before `set`, because another thread may set the entry in between.
            let refused = chain.0.set(new).err();
            let node = chain.0.wait();
            match refused {
                None => return Inserted::New(&node.value),
                Some(refused) if refused.key == node.key => return Inserted::Present(&node.value),
                Some(refused) => new = refused,
            }
            chain = &node.next;
        }
    }
}

impl<K, V> Default for Chain<K, V> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<K, V> Drop for Chain<K, V> {
    fn drop(&mut self) {
        // A loop, because recursion could overflow the stack on a long chain.
        let mut node = self.0.take();
        while let Some(mut one) = node {
            node = one.next.0.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_returns_values_without_keeping_them() {
        let table = Table::<String, usize>::new(2);
        assert_eq!(table.get_or_insert_with("a", || 1), Ok(&1));
        assert_eq!(table.get_or_insert_with("b", || 2), Ok(&2));
        assert_eq!(table.get_or_insert_with("a", || 9), Ok(&1));
        assert!(table.is_full());
        assert_eq!(table.get_or_insert_with("c", || 3), Err(3));
        assert_eq!(table.get("c"), None);
        assert_eq!(table.insert("b".to_owned(), 4), Inserted::Present(&2));
    }

    #[test]
    fn an_entry_stays_where_it_was_found() {
        let table = Table::<usize, usize>::new(4096);
        let places: Vec<_> = (0..4096)
            .map(|n| {
                table.insert(n, 2 * n);
                table.find(&n).expect("it is there")
            })
            .collect();
        for (n, entry_ref) in places.into_iter().enumerate() {
            assert_eq!(table.at(entry_ref), Some(&(2 * n)));
        }
    }

    #[test]
    fn a_chain_is_bounded_and_may_be_long() {
        let chain = Chain::<usize, usize>::default();
        let has_room = |count| count < 10_000;
        for n in 0..10_000 {
            assert_eq!(chain.get_or_insert_if(&n, has_room, || n), Some(&n));
        }
        assert_eq!(chain.get_or_insert_if(&10_000, has_room, || 0), None);
        assert_eq!(chain.get_or_insert_if(&7, has_room, || 0), Some(&7));
    }

    #[test]
    fn threads_that_race_for_a_key_share_one_entry() {
        let table = Table::<String, usize>::new(64);
        let values: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|n| {
                    let table = &table;
                    scope.spawn(move || *table.get_or_insert_with("key", || n).expect("room"))
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no thread panics"))
                .collect()
        });
        assert!(values.iter().all(|value| *value == values[0]));
        assert_eq!(table.entries.load(Ordering::Relaxed), 1);
    }
}
