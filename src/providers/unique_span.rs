//! A span of any tracer provider whose attributes are a set.
//!
//! The SDK appends what is set, also under a key that is there already, and nothing can be taken back.
//! Attributes are therefore kept here until the span ends.

use std::borrow::Cow;
use std::time::SystemTime;

use opentelemetry::trace::{Span, SpanContext, Status};
use opentelemetry::{Key, KeyValue};

use crate::attribute_set;
use crate::concurrent::caught::warn_once;

/// Attributes that are kept until the end, at most: more than an SDK keeps by default.
const MAX_ATTRIBUTES: usize = 512;

/// A span that gives its inner span each key once.
#[derive(Debug)]
pub(crate) struct UniqueSpan<S: Span> {
    inner: S,
    /// In place of that of the inner span.
    span_context: Option<SpanContext>,
    /// The keys that the inner span has had from its start. Their values are final.
    keys: Vec<Key>,
    /// Attributes for the end.
    attributes: Vec<KeyValue>,
}

impl<S: Span> UniqueSpan<S> {
    /// Wraps a span that was started with attributes of these keys, and has these besides.
    /// `span_context` replaces that of the span.
    pub(crate) fn new(
        inner: S,
        span_context: Option<SpanContext>,
        keys: Vec<Key>,
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
                    // The SDK counts those that are above its limit.
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
        // The inner span ends when it is dropped.
        self.write_attributes();
    }
}

/// Warns once that a value is lost, because an SDK cannot replace it.
fn warn_of_final_value(key: &Key) {
    warn_once!(
        attribute = key.as_str(),
        "a span keeps the first value of an attribute that it has had from its start, because \
         the layer was given its tracer provider; set such an attribute in a hook of the layer"
    );
}
