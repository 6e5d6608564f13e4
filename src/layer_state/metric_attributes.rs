//! Attributes that the application adds to the metrics and the span of a request.

use opentelemetry::KeyValue;

/// Bound of the attributes that one hook puts on a span.
const MAX_HOOK_ATTRIBUTES: usize = 64;

/// Bound of the attributes that hooks and the handler put on the metrics of one request.
pub(crate) const MAX_METRIC_ATTRIBUTES: usize = 16;

/// Attributes that a hook adds to a request.
///
/// They are added to the span alone, or to the metrics and the span: what tells one request from
/// another, such as an id, does not get onto a metric by accident.
#[derive(Debug, Default)]
pub struct RequestAttributes {
    pub(crate) span: Vec<KeyValue>,
    pub(crate) metric: Vec<KeyValue>,
}

impl RequestAttributes {
    /// Adds an attribute to the span. Of those from one hook, 64 are kept.
    pub fn add_to_span(&mut self, attribute: KeyValue) {
        if self.span.len() < MAX_HOOK_ATTRIBUTES {
            self.span.push(attribute);
        }
    }

    /// Adds an attribute with few values to the metrics of the request, and to its span.
    ///
    /// One with the same key takes its place. A request has 16 of them at most. On metrics a value is
    /// cut to 64 bytes, and past 64 values of one key, values become `_OTHER`. Keys that the layer has
    /// on its metrics itself keep the layer's values there.
    pub fn add_to_metrics(&mut self, attribute: KeyValue) {
        self.add_to_span(attribute.clone());
        put_metric_attribute(&mut self.metric, attribute);
    }
}

/// Adds an attribute, in place of one with the same key, while there is room.
pub(crate) fn put_metric_attribute(attributes: &mut Vec<KeyValue>, attribute: KeyValue) {
    attributes.retain(|one| one.key != attribute.key);
    if attributes.len() < MAX_METRIC_ATTRIBUTES {
        attributes.push(attribute);
    }
}

/// Adds attributes without a common key, in place of those with the same keys, while there is room.
pub(crate) fn put_metric_attributes(attributes: &mut Vec<KeyValue>, added: Vec<KeyValue>) {
    if attributes.is_empty() && added.len() <= MAX_METRIC_ATTRIBUTES {
        *attributes = added;
        return;
    }
    for attribute in added {
        put_metric_attribute(attributes, attribute);
    }
}
