//! Attributes of hooks and handlers on metrics: short, and with few values.

use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::{Key, KeyValue, Value};

use crate::concurrent::table::{Inserted, Table};
use crate::semconv::{self, OTHER, Side};

/// Bound of the keys.
const MAX_KEYS: usize = 32;

/// Bound of a value, in bytes.
const MAX_VALUE: usize = 64;

/// Bound of the values of a key that are told apart.
const MAX_VALUES: usize = 64;

/// The values of attributes from hooks and handlers, by key.
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
    /// Makes the attributes of hooks and handlers fit for metrics. Those that the layer has itself on a
    /// metric cannot be replaced there, and are left out.
    pub(crate) fn fit(&self, side: Side, mut attributes: Vec<KeyValue>) -> Vec<KeyValue> {
        attributes.retain_mut(|attribute| {
            if semconv::is_metric_key(side, attribute.key.as_str()) {
                self.warn_of_own_key(&attribute.key);
                return false;
            }
            self.limit_cardinality(attribute)
        });
        // One set of attributes is one series, in whichever order they came. No key is there twice.
        attributes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        attributes
    }

    fn warn_of_own_key(&self, key: &Key) {
        if !self.warned_of_own_key.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "tower_telemetry",
                attribute = key.as_str(),
                "the layer has this attribute on its metrics itself, and keeps its own value there"
            );
        }
    }

    /// Makes an attribute from a hook or a handler fit for a metric: its value is short, and of
    /// those that vary without end most are put together. False where there are too many keys.
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
                "metric attributes of requests are for few values: past {MAX_VALUES} of one they \
                 become {OTHER}, and past {MAX_KEYS} attributes further ones are left out"
            );
        }
    }
}
