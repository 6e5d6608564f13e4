//! Limits for attributes of hooks and handlers on metrics.

use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::{Key, KeyValue, Value};

use crate::concurrent::table::{Inserted, Table};
use crate::semconv::{self, OTHER, Side};

/// The maximum number of keys.
const MAX_KEYS: usize = 32;

/// The maximum length of a value in bytes.
const MAX_VALUE: usize = 64;

/// The maximum number of different values per key.
const MAX_VALUES: usize = 64;

/// The known values of attributes from hooks and handlers, by key.
pub(crate) struct ExtraAttributes {
    values: Table<String, Table<String, ()>>,
    warned_of_many_values: AtomicBool,
    warned_of_own_key: AtomicBool,
}

impl Default for ExtraAttributes {
    fn default() -> Self {
        Self {
            values: Table::new(MAX_KEYS),
            warned_of_many_values: AtomicBool::new(false),
            warned_of_own_key: AtomicBool::new(false),
        }
    }
}

impl ExtraAttributes {
    /// Applies the limits to attributes of hooks and handlers. Removes attributes that the layer
    /// itself adds to its metrics, because they cannot be replaced.
    pub(crate) fn apply_limits(&self, side: Side, mut attributes: Vec<KeyValue>) -> Vec<KeyValue> {
        attributes.retain_mut(|attribute| {
            if semconv::is_metric_key(side, attribute.key.as_str()) {
                self.warn_of_own_key(&attribute.key);
                return false;
            }
            self.limit_cardinality(attribute)
        });
        // Sorted, so that the same attributes in any order are the same series. Keys are unique.
        attributes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        attributes
    }

    fn warn_of_own_key(&self, key: &Key) {
        if !self.warned_of_own_key.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "tower_telemetry",
                attribute = key.as_str(),
                "the layer sets this attribute itself; the value of the application is only on the span"
            );
        }
    }

    /// Truncates the value of an attribute, and replaces it with `_OTHER` if its key has too many
    /// values. Returns `false` if there are too many keys.
    fn limit_cardinality(&self, attribute: &mut KeyValue) -> bool {
        let key = attribute.key.as_str();
        let make = || Table::new(MAX_VALUES);
        let Ok(values) = self.values.get_or_insert_with(key, make) else {
            self.warn_of_many_values(key);
            return false;
        };
        let text = attribute.value.as_str();
        let short = semconv::truncate(&text, MAX_VALUE);
        let known = values.get(&*short).is_some();
        let has_room = || {
            let insert = || values.insert(short.clone().into_owned(), ());
            !values.is_full() && !matches!(insert(), Inserted::Full(()))
        };
        if !known && !has_room() {
            self.warn_of_many_values(key);
            attribute.value = OTHER.into();
        } else if short.len() != text.len() {
            attribute.value = Value::String(short.into_owned().into());
        }
        true
    }

    fn warn_of_many_values(&self, attribute: &str) {
        if !self.warned_of_many_values.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "tower_telemetry",
                attribute,
                "a metric attribute of requests has too many values: values beyond the first {MAX_VALUES} \
                 are recorded as {OTHER}, and attributes beyond the first {MAX_KEYS} are omitted"
            );
        }
    }
}
