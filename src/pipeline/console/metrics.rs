//! All metrics as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::metrics::data::{
    AggregatedMetrics, HistogramDataPoint, Metric, MetricData, ResourceMetrics,
};

use crate::pipeline::console::style::{Style, print};
use crate::semconv;

/// Columns of the names, and of each number.
const NAMES: usize = 58;
const NUMBER: usize = 12;

/// Prints a table of all metrics, with a row for each series.
pub(crate) fn print_metrics(metrics: &ResourceMetrics) {
    print(&table(metrics, Style::of_stdout()));
}

/// A row of the table.
struct Row {
    attributes: Vec<KeyValue>,
    /// The value, or the number of measurements.
    first: String,
    /// The 50th and the 95th percentile, of a histogram.
    percentiles: Option<[String; 2]>,
}

fn table(metrics: &ResourceMetrics, style: Style) -> String {
    let mut tables = BTreeMap::new();
    for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
        let rows = rows(metric);
        if !rows.is_empty() {
            let title = match metric.unit() {
                "" | "s" | "ms" => metric.name().to_owned(),
                unit => format!("{} {unit}", metric.name()),
            };
            let same_title: &mut Vec<Row> = tables.entry(title).or_default();
            same_title.extend(rows);
        }
    }
    let mut text = String::new();
    if !tables.is_empty() {
        let names = ["metrics", "value, count", "p50", "p95"];
        let [title, first, p50, p95] = names;
        let head = format!("{title:NAMES$} {first:>NUMBER$} {p50:>NUMBER$} {p95:>NUMBER$}");
        let _ = writeln!(text, "{}", style.dim(head));
    }
    for (title, rows) in tables {
        write_metric(&title, &rows, &mut text);
    }
    text
}

/// Writes one row if a metric has one series without a label, otherwise its name and a row for each
/// series.
fn write_metric(title: &str, rows: &[Row], text: &mut String) {
    let hidden = hidden_keys(rows);
    let mut rows: Vec<_> = rows.iter().map(|row| (label(row, &hidden), row)).collect();
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    match &rows[..] {
        [(label, row)] if label.is_empty() => return write_row(title, row, text),
        _ => {
            let _ = writeln!(text, "{}", title.escape_debug());
        }
    }
    for (label, row) in rows {
        write_row(&format!("  {label}"), row, text);
    }
}

fn write_row(name: &str, row: &Row, text: &mut String) {
    let first = &row.first;
    let _ = write!(text, "{name:NAMES$} {first:>NUMBER$}");
    if let Some([p50, p95]) = &row.percentiles {
        let _ = write!(text, " {p50:>NUMBER$} {p95:>NUMBER$}");
    }
    text.push('\n');
}

/// Returns which of two keys, the scheme and the protocol version, say nothing about a series here,
/// because all series of the metric have the same value.
fn hidden_keys(rows: &[Row]) -> Vec<&'static str> {
    let value = |row: &Row, key: &str| {
        let mut attributes = row.attributes.iter();
        let found = attributes.find(|attribute| attribute.key.as_str() == key);
        found.map(|attribute| attribute.value.clone())
    };
    [semconv::URL_SCHEME, semconv::NETWORK_PROTOCOL_VERSION]
        .into_iter()
        .filter(|key| {
            let mut values = rows.iter().map(|row| value(row, key));
            let first = values.next();
            values.all(|value| Some(value) == first)
        })
        .collect()
}

/// Returns the attributes of a series: `GET /users/{id} 200 tenant=a`.
fn label(row: &Row, hidden: &[&str]) -> String {
    const WITHOUT_KEY: [&str; 3] = [
        semconv::HTTP_REQUEST_METHOD,
        semconv::HTTP_ROUTE,
        semconv::HTTP_RESPONSE_STATUS_CODE,
    ];
    let place = |key: &str| WITHOUT_KEY.iter().position(|known| *known == key);
    let shown = row.attributes.iter();
    let shown = shown.filter(|attribute| !hidden.contains(&attribute.key.as_str()));
    let mut shown: Vec<_> = shown.collect();
    shown.sort_by_key(|attribute| {
        let key = attribute.key.as_str();
        (place(key).unwrap_or(WITHOUT_KEY.len()), key)
    });
    let shown = shown
        .into_iter()
        .map(|attribute| match place(attribute.key.as_str()) {
            Some(_) => attribute.value.to_string(),
            None => format!("{}={}", attribute.key, attribute.value),
        });
    let label = shown.collect::<Vec<_>>().join(" ");
    label.escape_debug().to_string()
}

fn rows(metric: &Metric) -> Vec<Row> {
    match metric.data() {
        AggregatedMetrics::F64(data) => rows_of(data, metric.unit(), |value| value),
        AggregatedMetrics::U64(data) => rows_of(data, metric.unit(), |value| value as f64),
        AggregatedMetrics::I64(data) => rows_of(data, metric.unit(), |value| value as f64),
    }
}

fn rows_of<T: Copy>(data: &MetricData<T>, unit: &str, as_f64: fn(T) -> f64) -> Vec<Row> {
    let row = |attributes: &mut dyn Iterator<Item = &KeyValue>, first| Row {
        attributes: attributes.cloned().collect(),
        first,
        percentiles: None,
    };
    let value = |value| shown(as_f64(value), unit);
    match data {
        MetricData::Gauge(gauge) => gauge
            .data_points()
            .map(|point| row(&mut point.attributes(), value(point.value())))
            .collect(),
        MetricData::Sum(sum) => sum
            .data_points()
            .map(|point| row(&mut point.attributes(), value(point.value())))
            .collect(),
        MetricData::Histogram(histogram) => histogram
            .data_points()
            .map(|point| Row {
                percentiles: [0.5, 0.95]
                    .map(|part| percentile(point, part, as_f64))
                    .map(|value| shown(value, unit))
                    .into(),
                ..row(&mut point.attributes(), point.count().to_string())
            })
            .collect(),
        MetricData::ExponentialHistogram(histogram) => histogram
            .data_points()
            .map(|point| row(&mut point.attributes(), point.count().to_string()))
            .collect(),
    }
}

/// Estimates a percentile: values are taken to lie evenly within each bucket.
fn percentile<T: Copy>(point: &HistogramDataPoint<T>, part: f64, as_f64: fn(T) -> f64) -> f64 {
    let bounds: Vec<_> = point.bounds().collect();
    let min = point.min().map(as_f64);
    let max = point.max().map(as_f64);
    let rank = part * point.count() as f64;
    let mut below = 0.0;
    for (bucket, count) in point.bucket_counts().enumerate() {
        let count = count as f64;
        if count > 0.0 && below + count >= rank {
            let lower = bucket.checked_sub(1).and_then(|bucket| bounds.get(bucket));
            let lower = lower.copied().unwrap_or(0.0);
            let lower = min.map_or(lower, |min| min.max(lower));
            let upper = bounds.get(bucket).copied().unwrap_or(f64::INFINITY);
            let upper = max.map_or(upper, |max| max.min(upper));
            return match upper.is_finite() {
                true => lower + (upper - lower) * (rank - below) / count,
                false => lower,
            };
        }
        below += count;
    }
    max.unwrap_or_default()
}

/// Returns a number as people read it, times with their unit.
fn shown(value: f64, unit: &str) -> String {
    let seconds = match unit {
        "s" => value,
        "ms" => value / 1000.0,
        _ if value.fract() == 0.0 => return value.to_string(),
        _ => return format!("{value:.3}"),
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) => format!("{duration:.2?}"),
        Err(_) => format!("{value} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::metrics::reader::MetricReader;
    use opentelemetry_sdk::metrics::{ManualReader, SdkMeterProvider};

    use super::*;
    use crate::pipeline::readers::SharedReader;

    fn table_of(record: impl FnOnce(&opentelemetry::metrics::Meter)) -> String {
        let reader = Arc::new(ManualReader::builder().build());
        let provider = SdkMeterProvider::builder()
            .with_reader(SharedReader {
                reader: reader.clone(),
                flush: None,
            })
            .build();
        record(&provider.meter("test"));
        let mut metrics = ResourceMetrics::default();
        reader
            .collect(&mut metrics)
            .expect("the metrics can be collected");
        table(&metrics, Style::new(false))
    }

    #[test]
    fn a_table_has_counts_and_percentiles() {
        let text = table_of(|meter| {
            let durations = meter
                .f64_histogram("http.server.request.duration")
                .with_unit("s");
            let durations = durations.with_boundaries(vec![0.01, 0.1, 1.0]).build();
            let attributes = |status: i64, scheme: &'static str| {
                [
                    KeyValue::new(semconv::HTTP_RESPONSE_STATUS_CODE, status),
                    KeyValue::new(semconv::HTTP_ROUTE, "/users/{id}"),
                    KeyValue::new(semconv::HTTP_REQUEST_METHOD, "GET"),
                    KeyValue::new(semconv::URL_SCHEME, scheme),
                    KeyValue::new("tenant", "a"),
                ]
            };
            for n in 1..=100 {
                durations.record(f64::from(n) / 1000.0, &attributes(200, "http"));
            }
            durations.record(5.0, &attributes(500, "http"));
            meter.u64_counter("users.loaded").build().add(3, &[]);
            meter.f64_gauge("load").build().record(0.5, &[]);
        });
        let expected = "\
metrics                                                    value, count          p50          p95
http.server.request.duration
  GET /users/{id} 200 tenant=a                                      100      50.00ms      95.00ms
  GET /users/{id} 500 tenant=a                                        1        5.00s        5.00s
load                                                              0.500
users.loaded                                                          3
";
        assert_eq!(text, expected);
    }
}
