//! Members of baggage that become attributes.

use std::borrow::Cow;
use std::sync::Arc;

use opentelemetry::baggage::BaggageExt;
use opentelemetry::{Context, Key};

use crate::semconv;

/// Bound, in bytes, of a value. Whoever sends a request chooses it.
const MAX_VALUE: usize = 256;

/// The members of baggage that become attributes, by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BaggageAttributes(Arc<[Key]>);

impl BaggageAttributes {
    #[cfg(feature = "init")]
    pub(crate) fn new(keys: impl IntoIterator<Item = String>) -> Self {
        // A key is an attribute once.
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

    /// Returns the keys and values of those that are in a context, each value bounded.
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
