//! A span of any tracer provider, with unique attribute keys.
//!
//! The SDK appends attributes even if the key exists already, and cannot remove any. This wrapper
//! therefore keeps the attributes until the span ends.

use std::borrow::Cow;
use std::time::SystemTime;

use opentelemetry::trace::{Span, SpanContext, Status};
use opentelemetry::{Key, KeyValue};

use crate::attribute_set;
use crate::concurrent::caught::warn_once;
use crate::semconv::SamplerKeys;

/// The maximum number of attributes to keep until the end. It is above the default limit of SDKs.
const MAX_ATTRIBUTES: usize = 512;

/// The keys with which a span was started.
#[derive(Debug, Default)]
pub(crate) struct FirstKeys {
    with_fixed_names: SamplerKeys,
    others: Vec<Key>,
}

impl FirstKeys {
    /// Adds the key of an attribute of the conventions.
    // Inlined everywhere, like the function that it calls.
    #[inline(always)]
    pub(crate) fn add_fixed(&mut self, key: &'static str) {
        if !self.with_fixed_names.insert(key) {
            self.others.push(Key::from_static_str(key));
        }
    }

    /// Adds the key of any attribute.
    pub(crate) fn add(&mut self, key: &Key) {
        if !self.with_fixed_names.insert(key.as_str()) {
            self.others.push(key.clone());
        }
    }

    fn contains(&self, key: &Key) -> bool {
        self.with_fixed_names.contains(key.as_str()) || self.others.contains(key)
    }
}

/// A span that passes each attribute key to its inner span once.
#[derive(Debug)]
pub(crate) struct UniqueSpan<S: Span> {
    inner: S,
    /// Replaces the inner span's span context.
    span_context: Option<SpanContext>,
    /// The keys with which the inner span was started. Their values are final.
    keys: FirstKeys,
    /// Attributes to be written when the span ends.
    attributes: Vec<KeyValue>,
}

impl<S: Span> UniqueSpan<S> {
    /// Wraps a span that was started with attributes of the given `keys`. `attributes` are written
    /// when it ends. `span_context` replaces that of the inner span.
    pub(crate) fn new(
        inner: S,
        span_context: Option<SpanContext>,
        keys: FirstKeys,
        attributes: Vec<KeyValue>,
    ) -> Self {
        Self {
            inner,
            span_context,
            keys,
            attributes,
        }
    }

    fn write_attributes(&mut self) {
        for attribute in self.attributes.drain(..) {
            self.inner.set_attribute(attribute);
        }
    }
}

impl<S: Span> Span for UniqueSpan<S> {
    fn add_event_with_timestamp<T>(
        &mut self,
        name: T,
        timestamp: SystemTime,
        mut attributes: Vec<KeyValue>,
    ) where
        T: Into<Cow<'static, str>>,
    {
        attribute_set::make_unique(&mut attributes);
        self.inner
            .add_event_with_timestamp(name, timestamp, attributes);
    }

    fn span_context(&self) -> &SpanContext {
        let replaced = self.span_context.as_ref();
        replaced.unwrap_or_else(|| self.inner.span_context())
    }

    fn is_recording(&self) -> bool {
        self.inner.is_recording()
    }

    fn set_attribute(&mut self, attribute: KeyValue) {
        let is_by_crate = attribute_set::is_crate_writing();
        if self.keys.contains(&attribute.key) {
            if !is_by_crate {
                warn_of_final_value(&attribute.key);
            }
            return;
        }
        match attribute_set::find(&mut self.attributes, &attribute.key) {
            Some(before) if !is_by_crate => *before = attribute,
            Some(_) => {}
            None => {
                self.attributes.push(attribute);
                if self.attributes.len() >= MAX_ATTRIBUTES {
                    // The SDK drops and counts attributes above its limit.
                    self.write_attributes();
                }
            }
        }
    }

    fn set_status(&mut self, status: Status) {
        self.inner.set_status(status);
    }

    fn update_name<T>(&mut self, name: T)
    where
        T: Into<Cow<'static, str>>,
    {
        self.inner.update_name(name);
    }

    fn add_link(&mut self, span_context: SpanContext, mut attributes: Vec<KeyValue>) {
        attribute_set::make_unique(&mut attributes);
        self.inner.add_link(span_context, attributes);
    }

    fn end_with_timestamp(&mut self, timestamp: SystemTime) {
        self.write_attributes();
        self.inner.end_with_timestamp(timestamp);
    }
}

impl<S: Span> Drop for UniqueSpan<S> {
    fn drop(&mut self) {
        // Dropping the inner span ends it.
        self.write_attributes();
    }
}

/// Warns once that a value is ignored, because an SDK cannot replace it.
fn warn_of_final_value(key: &Key) {
    warn_once!(
        attribute = key.as_str(),
        "a new value is ignored: the attribute was set at the start of the span, and the tracer \
         provider cannot replace it; set such an attribute in a hook of the layer"
    );
}
