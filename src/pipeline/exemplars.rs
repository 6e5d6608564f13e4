//! Adds exemplars to the points of OTLP messages.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar as OtlpExemplar, HistogramDataPoint, Metric as OtlpMetric,
    exemplar,
};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, Metric, MetricData, ResourceMetrics};

use crate::config::settings::{ExemplarFilter, Exporter, Signal};
use crate::pipeline::building::Building;
use crate::providers::exemplars::{Exemplar, ExemplarReader, Exemplars};
use crate::providers::instrumentation_scope;
use crate::semconv;

/// Creates the exemplars of a pipeline; `None` if they are not configured or no exporter supports
/// them.
pub(crate) fn of_pipeline(building: &Building) -> Option<Arc<Exemplars>> {
    let config = building.config;
    let is_exported = config.exporters(Signal::Metrics).contains(&Exporter::Otlp);
    #[cfg(feature = "opentelemetry-otlp")]
    let is_exported = is_exported && !config.is_by_reference(Signal::Metrics);
    if !is_exported || config.exemplars == ExemplarFilter::AlwaysOff {
        return None;
    }
    let selects_all = config.exemplars == ExemplarFilter::AlwaysOn;
    let buckets = building.parts.buckets.iter();
    let bounds = buckets.map(|one| (one.name.clone(), one.bounds.clone()));
    Some(Exemplars::new(selects_all, bounds.collect()))
}

/// Adds new exemplars to the points of a message. The message must have been created from
/// `metrics`.
pub(crate) fn add_to_points(
    reader: &mut ExemplarReader,
    metrics: &ResourceMetrics,
    request: &mut ExportMetricsServiceRequest,
) {
    reader.begin();
    let own_scope = instrumentation_scope();
    let resources = request.resource_metrics.iter_mut();
    let messages = resources.flat_map(|resource| &mut resource.scope_metrics);
    for (scope, message) in metrics.scope_metrics().zip(messages) {
        if *scope.scope() != own_scope {
            continue;
        }
        for (metric, message) in scope.metrics().zip(&mut message.metrics) {
            if semconv::is_request_metric(metric.name()) {
                add_to_metric(reader, metric, message);
            }
        }
    }
}

fn add_to_metric(reader: &mut ExemplarReader, metric: &Metric, message: &mut OtlpMetric) {
    let attributes = attributes_of_points(metric.data());
    let is_integer = matches!(
        metric.data(),
        AggregatedMetrics::U64(_) | AggregatedMetrics::I64(_)
    );
    let is_delta = |temporality| temporality == AggregationTemporality::Delta as i32;
    let mut read = |attributes, start: u64, has_bucket: &dyn Fn(f64) -> bool| {
        let fits = |one: &Exemplar| one.time >= start && has_bucket(number(is_integer, one.bits));
        let found = reader.read(metric.name(), attributes, fits);
        let found = found.iter().map(|one| message_of(is_integer, one));
        found.collect::<Vec<_>>()
    };
    match &mut message.data {
        Some(Data::Sum(data)) => {
            let is_delta = is_delta(data.aggregation_temporality);
            for (point, attributes) in data.data_points.iter_mut().zip(attributes) {
                let start = start_of(is_delta, point.start_time_unix_nano);
                point.exemplars = read(attributes, start, &|_| true);
            }
        }
        Some(Data::Histogram(data)) => {
            let is_delta = is_delta(data.aggregation_temporality);
            for (point, attributes) in data.data_points.iter_mut().zip(attributes) {
                let start = start_of(is_delta, point.start_time_unix_nano);
                let exemplars = read(attributes, start, &|value| is_counted(point, value));
                point.exemplars = exemplars;
            }
        }
        Some(Data::ExponentialHistogram(data)) => {
            let is_delta = is_delta(data.aggregation_temporality);
            for (point, attributes) in data.data_points.iter_mut().zip(attributes) {
                let start = start_of(is_delta, point.start_time_unix_nano);
                point.exemplars = read(attributes, start, &|_| true);
            }
        }
        _ => {}
    }
}

/// Returns the start of the time to which a point's measurements belong. A cumulative point covers
/// all measurements.
///
/// There is no end time: a request has the time of its span, which may be slightly ahead of the
/// clock.
fn start_of(is_delta: bool, start: u64) -> u64 {
    if is_delta { start } else { 0 }
}

/// Returns whether a histogram has a measurement in the bucket of a value.
fn is_counted(point: &HistogramDataPoint, value: f64) -> bool {
    let bucket = point
        .explicit_bounds
        .partition_point(|bound| *bound < value);
    // Without bounds, there are no buckets.
    point.bucket_counts.is_empty() || point.bucket_counts.get(bucket).is_some_and(|one| *one > 0)
}

fn attributes_of_points(data: &AggregatedMetrics) -> Vec<Vec<KeyValue>> {
    fn of<T>(data: &MetricData<T>) -> Vec<Vec<KeyValue>>
    where
        T: Copy,
    {
        let owned = |attributes: &mut dyn Iterator<Item = &KeyValue>| attributes.cloned().collect();
        match data {
            MetricData::Gauge(_) => Vec::new(),
            MetricData::Sum(data) => {
                let points = data.data_points();
                points.map(|one| owned(&mut one.attributes())).collect()
            }
            MetricData::Histogram(data) => {
                let points = data.data_points();
                points.map(|one| owned(&mut one.attributes())).collect()
            }
            MetricData::ExponentialHistogram(data) => {
                let points = data.data_points();
                points.map(|one| owned(&mut one.attributes())).collect()
            }
        }
    }
    match data {
        AggregatedMetrics::F64(data) => of(data),
        AggregatedMetrics::U64(data) => of(data),
        AggregatedMetrics::I64(data) => of(data),
    }
}

fn number(is_integer: bool, bits: u64) -> f64 {
    if is_integer {
        bits as f64
    } else {
        f64::from_bits(bits)
    }
}

fn message_of(is_integer: bool, exemplar: &Exemplar) -> OtlpExemplar {
    let is_in_trace = exemplar.trace_id != TraceId::INVALID && exemplar.span_id != SpanId::INVALID;
    let ids = is_in_trace.then(|| {
        let trace_id = exemplar.trace_id.to_bytes().to_vec();
        (trace_id, exemplar.span_id.to_bytes().to_vec())
    });
    let (trace_id, span_id) = ids.unwrap_or_default();
    OtlpExemplar {
        // A point has all attributes of the measurement.
        filtered_attributes: Vec::new(),
        time_unix_nano: exemplar.time,
        trace_id,
        span_id,
        value: Some(if is_integer {
            exemplar::Value::AsInt(i64::try_from(exemplar.bits).unwrap_or(i64::MAX))
        } else {
            exemplar::Value::AsDouble(f64::from_bits(exemplar.bits))
        }),
    }
}
