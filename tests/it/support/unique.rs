//! Visits every collection of attributes in a message, to find duplicate keys.

use std::collections::HashSet;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::resource::v1::Resource;

/// A message with collections of attributes.
pub(crate) trait Collections {
    /// Calls `see` with every collection of attributes.
    fn each(&self, see: &mut dyn FnMut(&[KeyValue]));

    /// Returns the first key that is twice in one collection.
    fn repeated_key(&self) -> Option<String> {
        let mut repeated = None;
        self.each(&mut |attributes| {
            let mut keys = HashSet::new();
            let twice = attributes.iter().find(|one| !keys.insert(&one.key));
            repeated = repeated.take().or(twice.map(|one| one.key.clone()));
        });
        repeated
    }
}

type See<'a> = &'a mut dyn FnMut(&[KeyValue]);

fn attributes(all: &[KeyValue], see: See<'_>) {
    see(all);
    for attribute in all {
        value(attribute.value.as_ref(), see);
    }
}

fn value(any: Option<&AnyValue>, see: See<'_>) {
    match any.and_then(|any| any.value.as_ref()) {
        Some(Value::KvlistValue(map)) => attributes(&map.values, see),
        Some(Value::ArrayValue(array)) => {
            for element in &array.values {
                value(Some(element), see);
            }
        }
        _ => {}
    }
}

fn described(resource: Option<&Resource>, see: See<'_>) {
    attributes(&resource.expect("every resource is set").attributes, see);
}

fn scoped(scope: Option<&InstrumentationScope>, see: See<'_>) {
    attributes(&scope.expect("every scope is set").attributes, see);
}

impl Collections for ExportTraceServiceRequest {
    fn each(&self, see: See<'_>) {
        for resource in &self.resource_spans {
            described(resource.resource.as_ref(), see);
            for scope in &resource.scope_spans {
                scoped(scope.scope.as_ref(), see);
                for span in &scope.spans {
                    attributes(&span.attributes, see);
                    for event in &span.events {
                        attributes(&event.attributes, see);
                    }
                    for link in &span.links {
                        attributes(&link.attributes, see);
                    }
                }
            }
        }
    }
}

impl Collections for ExportMetricsServiceRequest {
    fn each(&self, see: See<'_>) {
        macro_rules! points {
            ($data:expr) => {
                for point in &$data.data_points {
                    attributes(&point.attributes, see);
                }
            };
        }
        for resource in &self.resource_metrics {
            described(resource.resource.as_ref(), see);
            for scope in &resource.scope_metrics {
                scoped(scope.scope.as_ref(), see);
                for metric in &scope.metrics {
                    match metric.data.as_ref().expect("every metric has data") {
                        Data::Gauge(data) => points!(data),
                        Data::Sum(data) => points!(data),
                        Data::Histogram(data) => points!(data),
                        Data::ExponentialHistogram(data) => points!(data),
                        Data::Summary(data) => points!(data),
                    }
                }
            }
        }
    }
}

impl Collections for ExportLogsServiceRequest {
    fn each(&self, see: See<'_>) {
        for resource in &self.resource_logs {
            described(resource.resource.as_ref(), see);
            for scope in &resource.scope_logs {
                scoped(scope.scope.as_ref(), see);
                for record in &scope.log_records {
                    attributes(&record.attributes, see);
                    value(record.body.as_ref(), see);
                }
            }
        }
    }
}
