//! Queued log records and their memory use.

use opentelemetry::InstrumentationScope;
use opentelemetry::logs::AnyValue;
use opentelemetry_sdk::logs::SdkLogRecord;

use crate::pipeline::queue::Item;

/// A queued log record. Boxed, because a record is large and the queue allocates blocks of items.
pub(crate) type Record = Box<(SdkLogRecord, InstrumentationScope)>;

impl Item for Record {
    fn estimated_size(&self) -> usize {
        let (record, _) = &**self;
        let attributes = record.attributes_iter();
        size_of::<SdkLogRecord>()
            + record.body().map_or(0, bytes)
            + attributes
                .map(|(key, value)| key.as_str().len() + bytes(value))
                .sum::<usize>()
    }
}

/// Returns the approximate memory use of a value in bytes.
fn bytes(value: &AnyValue) -> usize {
    size_of::<AnyValue>()
        + match value {
            AnyValue::String(text) => text.as_str().len(),
            AnyValue::Bytes(bytes) => bytes.len(),
            AnyValue::ListAny(list) => list.iter().map(bytes).sum(),
            AnyValue::Map(map) => map
                .iter()
                .map(|(key, value)| key.as_str().len() + bytes(value))
                .sum(),
            _ => 0,
        }
}
