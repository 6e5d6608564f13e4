//! Makes attribute keys unique in OTLP messages, as required by the OpenTelemetry specification
//! ("Attribute collections").
//!
//! Application code can pass a key to the SDK twice, and the SDK exports both.

#[cfg(feature = "logs")]
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;

use crate::attribute_set;

/// Keeps only the last attribute of each key, also in map values.
pub(crate) fn in_attributes(attributes: &mut Vec<KeyValue>) {
    attribute_set::make_unique_by(attributes, |one| &one.key);
    for attribute in attributes {
        in_value(&mut attribute.value);
    }
}

fn in_value(value: &mut Option<AnyValue>) {
    match value.as_mut().and_then(|any| any.value.as_mut()) {
        Some(Value::KvlistValue(map)) => in_attributes(&mut map.values),
        Some(Value::ArrayValue(array)) => {
            for element in &mut array.values {
                let mut value = Some(std::mem::take(element));
                in_value(&mut value);
                *element = value.unwrap_or_default();
            }
        }
        _ => {}
    }
}

pub(crate) fn in_scope(scope: &mut Option<InstrumentationScope>) {
    if let Some(scope) = scope {
        in_attributes(&mut scope.attributes);
    }
}

pub(crate) fn in_metrics(request: &mut ExportMetricsServiceRequest) {
    let resources = request.resource_metrics.iter_mut();
    for scope in resources.flat_map(|resource| &mut resource.scope_metrics) {
        in_scope(&mut scope.scope);
        for metric in &mut scope.metrics {
            match &mut metric.data {
                Some(Data::Gauge(data)) => {
                    in_points(&mut data.data_points, |one| &mut one.attributes);
                }
                Some(Data::Sum(data)) => {
                    in_points(&mut data.data_points, |one| &mut one.attributes);
                }
                Some(Data::Histogram(data)) => {
                    in_points(&mut data.data_points, |one| &mut one.attributes);
                }
                Some(Data::ExponentialHistogram(data)) => {
                    in_points(&mut data.data_points, |one| &mut one.attributes);
                }
                Some(Data::Summary(data)) => {
                    in_points(&mut data.data_points, |one| &mut one.attributes);
                }
                None => {}
            }
        }
    }
}

fn in_points<T>(points: &mut [T], attributes: fn(&mut T) -> &mut Vec<KeyValue>) {
    points.iter_mut().map(attributes).for_each(in_attributes);
}

#[cfg(feature = "logs")]
pub(crate) fn in_logs(request: &mut ExportLogsServiceRequest) {
    let resources = request.resource_logs.iter_mut();
    for scope in resources.flat_map(|resource| &mut resource.scope_logs) {
        in_scope(&mut scope.scope);
        for record in &mut scope.log_records {
            in_attributes(&mut record.attributes);
            in_value(&mut record.body);
        }
    }
}
