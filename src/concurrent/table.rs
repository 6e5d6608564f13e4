//! A bounded map with lock-free reads.
//!
//! Requests look up the instruments of their route in it, and handler functions look up an
//! instrument by name. Entries are added rarely, and never moved or removed. So readers write
//! nothing: all threads would contend for a shared count of readers.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustc_hash::FxBuildHasher;

/// The mean number of entries of a chain in a full table.
const DEPTH: usize = 8;

/// The maximum number of chains of a new table.
const FIRST_CHAINS: usize = 128;

/// The maximum number of chains that are added when the first chains are full.
const MORE_CHAINS: usize = 4096;

pub(crate) struct Table<K, V> {
    chains: Box<[Chain<K, V>]>,
    /// Further chains, created when the first ones are full. Most tables never need them.
    more: OnceLock<Box<[Chain<K, V>]>>,
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
        let chains = (limit / DEPTH).next_power_of_two().clamp(8, FIRST_CHAINS);
        Self {
            chains: (0..chains).map(|_| Chain::default()).collect(),
            more: OnceLock::new(),
            entries: AtomicUsize::new(0),
            limit,
        }
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let hash = FxBuildHasher.hash_one(key);
        let (_, node) = self.lookup(hash, |one| one.borrow() == key)?;
        Some(&node.value)
    }

    /// Returns the position of the entry with a key.
    #[inline]
    pub(crate) fn find<Q>(&self, key: &Q) -> Option<EntryRef>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.find_by_hash(FxBuildHasher.hash_one(key), |one| one.borrow() == key)
    }

    /// Returns the position of the entry with this hash for which `is_key` returns true. It needs
    /// no key to borrow from.
    #[inline]
    pub(crate) fn find_by_hash(&self, hash: u64, is_key: impl Fn(&K) -> bool) -> Option<EntryRef> {
        self.lookup(hash, is_key).map(|(entry_ref, _)| entry_ref)
    }

    /// Returns the entry at a position from [`find`](Self::find).
    #[inline]
    pub(crate) fn at(&self, entry_ref: EntryRef) -> Option<&V> {
        let chain = match self.chains.get(entry_ref.chain) {
            Some(chain) => chain,
            None => self.more.get()?.get(entry_ref.chain - self.chains.len())?,
        };
        let mut nodes = chain.nodes();
        nodes.nth(entry_ref.depth).map(|node| &node.value)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limit
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
        let hash = FxBuildHasher.hash_one(&key);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let one_more = |entries| (entries < self.limit).then_some(entries + 1);
        let Ok(before) = self.entries.fetch_update(set, fetch, one_more) else {
            return match self.lookup(hash, |one| *one == key) {
                Some((_, node)) => Inserted::Present(&node.value),
                None => Inserted::Full(value),
            };
        };
        // While the further chains are created, two threads may both insert a key. Both values stay in
        // place, and lookups find the first one.
        let inserted = match self.lookup(hash, |one| *one == key) {
            Some((_, node)) => Inserted::Present(&node.value),
            None => self.chain_for(hash, before).insert(key, value),
        };
        if matches!(inserted, Inserted::Present(_)) {
            self.entries.fetch_sub(1, Ordering::Relaxed);
        }
        inserted
    }

    /// Returns the chain for a new entry in a table with `others` entries.
    fn chain_for(&self, hash: u64, others: usize) -> &Chain<K, V> {
        if others < self.chains.len() * DEPTH {
            return &self.chains[chain_of(hash, &self.chains)];
        }
        let more = self.more.get_or_init(|| {
            let chains = (self.limit / DEPTH).next_power_of_two();
            let chains = chains.clamp(self.chains.len(), MORE_CHAINS);
            (0..chains).map(|_| Chain::default()).collect()
        });
        &more[chain_of(hash, more)]
    }

    #[inline]
    fn lookup(&self, hash: u64, is_key: impl Fn(&K) -> bool) -> Option<(EntryRef, &Node<K, V>)> {
        let chain = chain_of(hash, &self.chains);
        if let Some((depth, node)) = self.chains[chain].find_by(&is_key) {
            return Some((EntryRef { chain, depth }, node));
        }
        let more = self.more.get()?;
        let chain = chain_of(hash, more);
        let (depth, node) = more[chain].find_by(&is_key)?;
        let chain = self.chains.len() + chain;
        Some((EntryRef { chain, depth }, node))
    }
}

#[inline]
fn chain_of<K, V>(hash: u64, chains: &[Chain<K, V>]) -> usize {
    usize::try_from(hash & u64::from(u32::MAX)).unwrap_or_default() & (chains.len() - 1)
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
        if !has_room(self.len()) {
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

    #[inline]
    fn find<Q>(&self, key: &Q) -> Option<(usize, &Node<K, V>)>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.find_by(|one| one.borrow() == key)
    }

    #[inline]
    fn find_by(&self, is_key: impl Fn(&K) -> bool) -> Option<(usize, &Node<K, V>)> {
        let mut nodes = self.nodes().enumerate();
        nodes.find(|(_, node)| is_key(&node.key))
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.nodes().count()
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
    fn a_full_table_returns_values_without_storing_them() {
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
    fn a_reference_to_an_entry_stays_valid_while_the_table_grows() {
        let table = Table::<usize, usize>::new(4096);
        let places: Vec<_> = (0..4096)
            .map(|n| {
                table.insert(n, 2 * n);
                table.find(&n).expect("the table contains the key")
            })
            .collect();
        for (n, entry_ref) in places.into_iter().enumerate() {
            assert_eq!(table.at(entry_ref), Some(&(2 * n)));
        }
    }

    #[test]
    fn chains_stay_short_however_many_entries_a_table_has() {
        const ENTRIES: usize = 16_384;
        let table = Table::<String, usize>::new(ENTRIES);
        for n in 0..ENTRIES {
            let key = format!("/route/{n}/{{id}}");
            assert_eq!(table.get_or_insert_with(&*key, || n), Ok(&n));
            assert_eq!(table.get_or_insert_with(&*key, || 0), Ok(&n));
        }
        assert!(table.is_full());
        assert_eq!(table.get_or_insert_with("/one/more", || 7), Err(7));
        let more = table.more.get().expect("the first chains are full");
        let longest = table.chains.iter().chain(more).map(Chain::len).max();
        assert!(longest < Some(4 * DEPTH), "{longest:?}");
    }

    #[test]
    fn concurrent_insertions_at_the_end_of_the_first_chains_lose_no_key() {
        const ENTRIES: usize = 2 * FIRST_CHAINS * DEPTH;
        let table = Table::<usize, usize>::new(2 * ENTRIES);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..ENTRIES {
                        assert_eq!(table.get_or_insert_with(&n, || n), Ok(&n));
                        let found = table.find(&n).and_then(|entry_ref| table.at(entry_ref));
                        assert_eq!(found, Some(&n));
                    }
                });
            }
        });
        // A key that two threads inserted at once may take two places.
        assert!((ENTRIES..ENTRIES + 4).contains(&table.len()));
    }

    #[test]
    fn a_chain_grows_only_while_it_has_room() {
        let chain = Chain::<usize, usize>::default();
        let has_room = |count| count < 10_000;
        for n in 0..10_000 {
            assert_eq!(chain.get_or_insert_if(&n, has_room, || n), Some(&n));
        }
        assert_eq!(chain.get_or_insert_if(&10_000, has_room, || 0), None);
        assert_eq!(chain.get_or_insert_if(&7, has_room, || 0), Some(&7));
    }

    #[test]
    fn concurrent_insertions_of_one_key_share_one_entry() {
        let table = Table::<String, usize>::new(64);
        let values: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|n| {
                    let table = &table;
                    scope.spawn(move || {
                        *table
                            .get_or_insert_with("key", || n)
                            .expect("the table has room")
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no thread panics"))
                .collect()
        });
        assert!(values.iter().all(|value| *value == values[0]));
        assert_eq!(table.len(), 1);
    }
}
