//! Converts batches to SDK types for the exporters of the `opentelemetry-otlp` crate.

use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::trace::SpanLimits;

use crate::otlp::client::MAX_MESSAGE;
use crate::otlp::outcome::SendOutcome;
use crate::otlp::reference::client::ReferenceClient;
use crate::otlp::retention::Retention;
use crate::otlp::retries::RetryPolicy;
use crate::pipeline::queue::Item;
use crate::pipeline::spans::ended::EndedSpan;
use crate::pipeline::spans::message::SpanMessage;
use crate::pipeline::worker::Sink;
use crate::stats::Failure;

/// A sink that sends spans.
pub(crate) struct ReferenceSpans {
    pub(crate) client: ReferenceClient<SpanExporter>,
    pub(crate) limits: SpanLimits,
    pub(crate) value_length: Option<usize>,
}

impl Sink<EndedSpan> for ReferenceSpans {
    async fn export(&self, batch: Vec<EndedSpan>, retention: &Retention) -> SendOutcome {
        let (parts, too_large) = split(batch);
        let batches = parts.into_iter().map(|part| {
            let count = part.len() as u64;
            let spans = part.into_iter();
            let spans = spans.map(|span| span.into_span_data(&self.limits, self.value_length));
            (spans.collect(), count)
        });
        let sent = self.client.export::<SpanMessage>(
            batches.collect(),
            RetryPolicy::IfTemporary,
            retention,
        );
        with_too_large(sent.await, too_large)
    }
}

/// Splits a batch into parts that a receiver accepts, by the memory use of the items. Also returns
/// the number of items that are too large on their own.
pub(crate) fn split<T: Item>(batch: Vec<T>) -> (Vec<Vec<T>>, u64) {
    let (mut parts, mut part, mut size, mut too_large) = (Vec::new(), Vec::new(), 0, 0);
    for item in batch {
        let item_size = item.estimated_size();
        if item_size > MAX_MESSAGE {
            too_large += 1;
            continue;
        }
        if size + item_size > MAX_MESSAGE {
            parts.push(std::mem::take(&mut part));
            size = 0;
        }
        size += item_size;
        part.push(item);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    (parts, too_large)
}

fn with_too_large(mut outcome: SendOutcome, count: u64) -> SendOutcome {
    if count > 0 {
        let detail = format!("a single item is larger than {MAX_MESSAGE} bytes");
        outcome.fail(count, Failure::TooLarge, detail);
    }
    outcome
}

#[cfg(feature = "logs")]
pub(crate) use of_logs::ReferenceLogs;

#[cfg(feature = "logs")]
mod of_logs {
    use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider};
    use opentelemetry::{InstrumentationScope, Key};
    use opentelemetry_otlp::LogExporter;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_sdk::logs::{SdkLogRecord, SdkLogger, SdkLoggerProvider};

    use super::*;
    use crate::attribute_set;
    use crate::config::settings::Limits;
    use crate::pipeline::limits::cut_text;

    /// A sink that sends log records.
    pub(crate) struct ReferenceLogs {
        client: ReferenceClient<LogExporter>,
        limits: Limits,
        /// Creates records, which only the SDK can do.
        logger: SdkLogger,
    }

    impl ReferenceLogs {
        pub(crate) fn new(client: ReferenceClient<LogExporter>, limits: Limits) -> Self {
            Self {
                client,
                limits,
                logger: SdkLoggerProvider::builder().build().logger(""),
            }
        }

        /// Returns the record with unique keys and within the limits. This builds a new record,
        /// because the SDK cannot remove attributes from one.
        fn limited(&self, record: SdkLogRecord) -> SdkLogRecord {
            let mut attributes: Vec<_> = record.attributes_iter().cloned().collect();
            attribute_set::make_unique_by(&mut attributes, |(key, _)| key.as_str());
            let count = usize::try_from(self.limits.log_attributes).unwrap_or(usize::MAX);
            attributes.truncate(count);
            let length = self.limits.log_value_length;
            if attributes.len() == record.attributes_iter().count() && length.is_none() {
                return record;
            }
            let mut limited = self.logger.create_log_record();
            if let Some(name) = record.event_name() {
                limited.set_event_name(name);
            }
            if let Some(target) = record.target() {
                limited.set_target(target.clone());
            }
            if let Some(time) = record.timestamp() {
                limited.set_timestamp(time);
            }
            if let Some(time) = record.observed_timestamp() {
                limited.set_observed_timestamp(time);
            }
            if let Some(text) = record.severity_text() {
                limited.set_severity_text(text);
            }
            if let Some(number) = record.severity_number() {
                limited.set_severity_number(number);
            }
            if let Some(body) = record.body() {
                limited.set_body(body.clone());
            }
            if let Some(span) = record.trace_context() {
                limited.set_trace_context(span.trace_id, span.span_id, span.trace_flags);
            }
            for (key, mut value) in attributes {
                if let Some(length) = length {
                    cut(&mut value, length);
                }
                limited.add_attribute::<Key, AnyValue>(key, value);
            }
            limited
        }
    }

    type Record = Box<(SdkLogRecord, InstrumentationScope)>;

    impl Sink<Record> for ReferenceLogs {
        async fn export(&self, batch: Vec<Record>, retention: &Retention) -> SendOutcome {
            let (parts, too_large) = split(batch);
            let batches = parts.into_iter().map(|part| {
                let count = part.len() as u64;
                let records = part.into_iter().map(|record| {
                    let (record, scope) = *record;
                    (self.limited(record), scope)
                });
                (records.collect(), count)
            });
            let sent = self.client.export::<ExportLogsServiceRequest>(
                batches.collect(),
                RetryPolicy::IfTemporary,
                retention,
            );
            with_too_large(sent.await, too_large)
        }
    }

    fn cut(value: &mut AnyValue, length: usize) {
        match value {
            AnyValue::String(text) => {
                let kept = cut_text(text.as_str(), length);
                if kept.len() < text.as_str().len() {
                    *text = kept.to_owned().into();
                }
            }
            AnyValue::Bytes(bytes) => bytes.truncate(length),
            AnyValue::ListAny(list) => list.iter_mut().for_each(|one| cut(one, length)),
            AnyValue::Map(map) => map.values_mut().for_each(|one| cut(one, length)),
            _ => {}
        }
    }
}
