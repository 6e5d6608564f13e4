//! Attributes as a set with unique keys (OpenTelemetry specification, "Attribute collections").
//!
//! If the application sets a key twice, the later value is used. A value of the application
//! replaces a value of this crate, whichever comes first.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use opentelemetry::{Key, KeyValue};

/// Sets an attribute, replacing an attribute with the same key.
pub(crate) fn set(attributes: &mut Vec<KeyValue>, attribute: KeyValue) {
    match find(attributes, &attribute.key) {
        Some(before) => *before = attribute,
        None => attributes.push(attribute),
    }
}

/// Returns the attribute with this key.
#[inline]
pub(crate) fn find<'a>(attributes: &'a mut [KeyValue], key: &Key) -> Option<&'a mut KeyValue> {
    attributes.iter_mut().find(|one| one.key == *key)
}

/// Keeps one attribute per key: the last value, at the position of the first.
pub(crate) fn make_unique(attributes: &mut Vec<KeyValue>) {
    make_unique_by(attributes, |one| one.key.as_str());
}

/// Returns the attributes with unique keys. Most lists already have them, and are borrowed.
#[inline]
pub(crate) fn unique(attributes: &[KeyValue]) -> Cow<'_, [KeyValue]> {
    if !repeats(attributes, |one| one.key.as_str()) {
        return Cow::Borrowed(attributes);
    }
    let mut attributes = attributes.to_vec();
    make_unique(&mut attributes);
    Cow::Owned(attributes)
}

/// Does the same as [`make_unique`] for another type of attributes.
pub(crate) fn make_unique_by<T>(attributes: &mut Vec<T>, key: impl Fn(&T) -> &str) {
    if !repeats(attributes, &key) {
        return;
    }
    let mut places = HashMap::new();
    let mut unique: Vec<T> = Vec::with_capacity(attributes.len());
    for attribute in attributes.drain(..) {
        match places.entry(key(&attribute).to_owned()) {
            Entry::Occupied(place) => unique[*place.get()] = attribute,
            Entry::Vacant(place) => {
                place.insert(unique.len());
                unique.push(attribute);
            }
        }
    }
    *attributes = unique;
}

/// Returns whether a key occurs twice.
pub(crate) fn repeats<T>(attributes: &[T], key: impl Fn(&T) -> &str) -> bool {
    /// The maximum length for which all pairs are compared. Longer lists are hashed.
    const SHORT: usize = 32;
    if attributes.len() > SHORT {
        let mut keys = HashSet::with_capacity(attributes.len());
        return !attributes.iter().all(|one| keys.insert(key(one)));
    }
    let mut rest = attributes;
    while let [first, others @ ..] = rest {
        if others.iter().any(|other| key(other) == key(first)) {
            return true;
        }
        rest = others;
    }
    false
}

thread_local! {
    /// Whether this crate, and not the application, is writing attributes on this thread.
    /// OpenTelemetry's API between them has no parameter for it.
    static CRATE_WRITES: Cell<bool> = const { Cell::new(false) };
}

/// Runs code that writes this crate's attributes to a span.
#[inline]
pub(crate) fn write_as_crate<T>(write: impl FnOnce() -> T) -> T {
    struct Reset(bool);
    impl Drop for Reset {
        #[inline]
        fn drop(&mut self) {
            CRATE_WRITES.set(self.0);
        }
    }
    let _reset = Reset(CRATE_WRITES.replace(true));
    write()
}

/// Returns whether this crate is writing an attribute.
#[inline]
pub(crate) fn is_crate_writing() -> bool {
    CRATE_WRITES.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unique(keys: &str) -> String {
        let mut attributes: Vec<_> = keys
            .chars()
            .enumerate()
            .map(|(n, key)| KeyValue::new(key.to_string(), n as i64))
            .collect();
        make_unique(&mut attributes);
        let pairs = attributes.iter();
        pairs
            .map(|one| format!("{}{} ", one.key, one.value))
            .collect()
    }

    #[test]
    fn the_last_value_of_a_key_replaces_the_first() {
        for (keys, expected) in [
            ("", ""),
            ("a", "a0 "),
            ("abc", "a0 b1 c2 "),
            ("aba", "a2 b1 "),
            ("aaaa", "a3 "),
            ("abcabcd", "a3 b4 c5 d6 "),
        ] {
            assert_eq!(unique(keys), expected, "{keys}");
        }
    }

    #[test]
    fn long_lists_are_unique_too() {
        let number = |n: i64| KeyValue::new((n % 100).to_string(), n);
        let mut attributes: Vec<_> = (0..1000).map(number).collect();
        make_unique(&mut attributes);
        let expected: Vec<_> = (900..1000).map(number).collect();
        assert_eq!(attributes, expected);
    }

    #[test]
    fn setting_a_key_replaces_its_value() {
        let mut attributes = vec![KeyValue::new("a", 1), KeyValue::new("b", 2)];
        set(&mut attributes, KeyValue::new("a", 3));
        set(&mut attributes, KeyValue::new("c", 4));
        let expected = [("a", 3), ("b", 2), ("c", 4)].map(|(key, n)| KeyValue::new(key, n));
        assert_eq!(attributes, expected);
    }

    #[test]
    fn a_panic_while_the_crate_writes_resets_the_flag() {
        let panicked = std::panic::catch_unwind(|| write_as_crate(|| panic!("while it writes")));
        assert!(panicked.is_err() && !is_crate_writing());
    }
}
