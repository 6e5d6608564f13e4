//! A bounded map that is read without a lock.
//!
//! Requests look up what belongs to their route here, and handler functions what belongs to a
//! name. Entries are added rarely and never removed, so a lookup reads an immutable map and only
//! an insertion copies it.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustc_hash::FxBuildHasher;

pub(crate) struct Table<K, V> {
    entries: ArcSwap<HashMap<K, V, FxBuildHasher>>,
    insertion: Mutex<()>,
    limit: usize,
}

impl<K, V> Table<K, V>
where
    K: Clone + Eq + Hash,
    V: Clone,
{
    /// An empty table that keeps at most `limit` entries.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: ArcSwap::default(),
            insertion: Mutex::new(()),
            limit,
        }
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.load().get(key).cloned()
    }

    /// Looks at an entry where it is.
    pub(crate) fn with<Q, T>(&self, key: &Q, look: impl FnOnce(&V) -> T) -> Option<T>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.load().get(key).map(look)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.load().len() >= self.limit
    }

    /// Returns the entry, made first where it is missing.
    ///
    /// `Err` holds a value that was made but not kept, because the table is full.
    pub(crate) fn get_or_insert_with<Q>(&self, key: &Q, make: impl FnOnce() -> V) -> Result<V, V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        if let Some(value) = self.get(key) {
            return Ok(value);
        }
        // Made outside the lock: making an instrument may log, and a log may come back here.
        match self.insert(key.to_owned(), make()) {
            Inserted::New(value) | Inserted::Present(value) => Ok(value),
            Inserted::Full(value) => Err(value),
        }
    }

    pub(crate) fn insert(&self, key: K, value: V) -> Inserted<V> {
        let _insertion = self
            .insertion
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let entries = self.entries.load();
        if let Some(present) = entries.get(&key) {
            return Inserted::Present(present.clone());
        }
        if entries.len() >= self.limit {
            return Inserted::Full(value);
        }
        let mut grown = HashMap::clone(&entries);
        grown.insert(key, value.clone());
        self.entries.store(grown.into());
        Inserted::New(value)
    }
}

/// What became of an insertion, and the value to use.
#[derive(Debug, PartialEq)]
pub(crate) enum Inserted<V> {
    New(V),
    /// The key was there before, with this value.
    Present(V),
    /// There is no room; the value is not kept.
    Full(V),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_hands_out_values_without_keeping_them() {
        let table = Table::<String, usize>::new(2);
        assert_eq!(table.get_or_insert_with("a", || 1), Ok(1));
        assert_eq!(table.get_or_insert_with("b", || 2), Ok(2));
        assert_eq!(table.get_or_insert_with("a", || 9), Ok(1));
        assert_eq!(table.get_or_insert_with("c", || 3), Err(3));
        assert_eq!(table.get("c"), None);
    }

    #[test]
    fn threads_that_race_for_a_key_get_the_same_value() {
        let table = Table::<String, std::sync::Arc<usize>>::new(64);
        let values: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|n| {
                    let table = &table;
                    scope.spawn(move || table.get_or_insert_with("key", || n.into()))
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no thread panics"))
                .collect()
        });
        for value in &values {
            assert_eq!(value, &values[0]);
        }
    }
}
