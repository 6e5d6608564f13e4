//! Limits on log records and on the length of values, which the SDK does not support.

#[cfg(feature = "logs")]
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};

use crate::config::settings::Limits;

impl Limits {
    /// Applies the limits to the attributes of log records. The body is not an attribute and is not
    /// limited.
    #[cfg(feature = "logs")]
    pub(crate) fn cut_logs(&self, request: &mut ExportLogsServiceRequest) {
        let count = usize::try_from(self.log_attributes).unwrap_or(usize::MAX);
        let scopes = request
            .resource_logs
            .iter_mut()
            .flat_map(|resource| &mut resource.scope_logs);
        for record in scopes.flat_map(|scope| &mut scope.log_records) {
            let dropped = record.attributes.len().saturating_sub(count);
            record.attributes.truncate(count);
            record.dropped_attributes_count += u32::try_from(dropped).unwrap_or(u32::MAX);
            if let Some(length) = self.log_value_length {
                cut_all(&mut record.attributes, length);
            }
        }
    }
}

pub(crate) fn cut_all(attributes: &mut [KeyValue], length: usize) {
    for value in attributes.iter_mut().filter_map(|one| one.value.as_mut()) {
        cut(value, length);
    }
}

pub(crate) fn cut(value: &mut AnyValue, length: usize) {
    match &mut value.value {
        Some(Value::StringValue(text)) => {
            let length = cut_text(text, length).len();
            text.truncate(length);
        }
        Some(Value::BytesValue(bytes)) => bytes.truncate(length),
        Some(Value::ArrayValue(array)) => {
            for value in &mut array.values {
                cut(value, length);
            }
        }
        Some(Value::KvlistValue(list)) => cut_all(&mut list.values, length),
        _ => {}
    }
}

/// Truncates text to `length` characters, which is the unit of the specification ("Attribute
/// Limits").
pub(crate) fn cut_text(text: &str, length: usize) -> &str {
    match text.char_indices().nth(length) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
