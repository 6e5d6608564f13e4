//! Baggage members that become attributes.

use std::borrow::Cow;
use std::sync::Arc;

use opentelemetry::baggage::BaggageExt;
use opentelemetry::{Context, Key};

use crate::semconv;

/// The maximum length of a value in bytes. The sender of a request chooses the value.
const MAX_VALUE: usize = 256;

/// The keys of the baggage members that become attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BaggageAttributes(Arc<[Key]>);

impl BaggageAttributes {
    #[cfg(feature = "init")]
    pub(crate) fn new(keys: impl IntoIterator<Item = String>) -> Self {
        // Each key becomes one attribute.
        let mut unique: Vec<Key> = Vec::new();
        for key in keys.into_iter().map(|key| Key::from(Arc::<str>::from(key))) {
            if !unique.contains(&key) {
                unique.push(key);
            }
        }
        Self(unique.into())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the keys and the truncated values of the configured members that `cx` contains.
    pub(crate) fn of<'a>(
        &'a self,
        cx: &'a Context,
    ) -> impl Iterator<Item = (&'a Key, Cow<'a, str>)> {
        let baggage = cx.baggage();
        self.0.iter().filter_map(|key| {
            let value = baggage.get(key)?;
            Some((key, semconv::truncate(value.as_str(), MAX_VALUE)))
        })
    }
}
