//! Attributes that the application adds to the metrics and the span of a request.

use opentelemetry::KeyValue;

/// The maximum number of attributes that one hook adds to a span.
const MAX_HOOK_ATTRIBUTES: usize = 64;

/// The maximum number of attributes that hooks and the handler add to the metrics of one request.
pub(crate) const MAX_METRIC_ATTRIBUTES: usize = 16;

/// The attributes that a hook adds to a request.
///
/// They are added either to the span only, or to the metrics and the span. So attributes with many
/// values, such as ids, do not become metric attributes by accident.
#[derive(Debug, Default)]
pub struct RequestAttributes {
    pub(crate) span: Vec<KeyValue>,
    pub(crate) metric: Vec<KeyValue>,
}

impl RequestAttributes {
    /// Adds an attribute to the span. The first 64 attributes of a hook are kept.
    pub fn add_to_span(&mut self, attribute: KeyValue) {
        if self.span.len() < MAX_HOOK_ATTRIBUTES {
            self.span.push(attribute);
        }
    }

    /// Adds an attribute with low cardinality to the metrics of the request and to its span.
    ///
    /// It replaces an attribute with the same key. A request has at most 16 of them. On metrics,
    /// values are truncated to 64 bytes, and values beyond the first 64 of a key become `_OTHER`.
    /// On the layer's metrics, the layer's own attributes take precedence.
    pub fn add_to_metrics(&mut self, attribute: KeyValue) {
        self.add_to_span(attribute.clone());
        put_metric_attribute(&mut self.metric, attribute);
    }
}

/// Adds an attribute or replaces one with the same key, up to the limit.
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
