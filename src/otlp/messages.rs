//! OTLP messages: their number of items, splitting, encoding, and the responses to them.

use std::mem;

use bytes::Bytes;
#[cfg(feature = "logs")]
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
#[cfg(feature = "logs")]
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Metric, ResourceMetrics, ScopeMetrics, metric::Data,
};
use prost::Message;

use crate::otlp::retention::Retention;

/// A container of spans, metric points or log records.
pub(crate) trait Splittable: Sized {
    /// Returns the number of items.
    fn count(&self) -> usize;

    /// Keeps the first `keep` items, and returns a copy of the container with the others.
    fn split_off(&mut self, keep: usize) -> Self;
}

/// A message to an OTLP receiver.
pub(crate) trait Request: Splittable {
    /// Encodes the message as protobuf; `None` if it is longer than `limit` or cannot be encoded.
    /// Long work has [pauses](Retention::pause).
    fn encode(&self, limit: usize, retention: &Retention) -> Option<Vec<u8>>;

    /// Returns how many items a response rejects, and why; `None` if `response` does not come from
    /// an OTLP receiver.
    fn rejected(response: Bytes) -> Option<(i64, String)>;

    /// Encodes the message as JSON; `None` if it is longer than `limit` or cannot be encoded.
    #[cfg(feature = "http-json")]
    fn to_json(&self, limit: usize, retention: &Retention) -> Option<Vec<u8>>;
}

/// Returns a serialized message; `None` if it is longer than `limit` or if serializing failed.
#[cfg(feature = "http-json")]
pub(crate) fn in_json(json: serde_json::Result<Vec<u8>>, limit: usize) -> Option<Vec<u8>> {
    json.ok().filter(|json| json.len() <= limit)
}

fn count<T: Splittable>(list: &[T]) -> usize {
    list.iter().map(Splittable::count).sum()
}

fn split_off<T: Splittable>(list: &mut Vec<T>, keep: usize) -> Vec<T> {
    let mut kept = 0;
    for n in 0..list.len() {
        let count = list[n].count();
        if kept + count > keep {
            let mut rest = list.split_off(n + 1);
            let first = if kept == keep {
                list.pop()
            } else {
                Some(list[n].split_off(keep - kept))
            };
            rest.splice(0..0, first);
            return rest;
        }
        kept += count;
    }
    Vec::new()
}

macro_rules! container {
    ($($container:ty, $list:ident;)+) => {
        $(impl Splittable for $container {
            fn count(&self) -> usize {
                count(&self.$list)
            }

            fn split_off(&mut self, keep: usize) -> Self {
                let mut list = mem::take(&mut self.$list);
                let mut other = self.clone();
                other.$list = split_off(&mut list, keep);
                self.$list = list;
                other
            }
        })+
    };
}

macro_rules! request {
    ($($request:ty, $response:ty, $rejected:ident;)+) => {
        $(impl Request for $request {
            fn encode(&self, limit: usize, _: &Retention) -> Option<Vec<u8>> {
                let length = self.encoded_len();
                let mut message = Vec::with_capacity(length.min(limit));
                (length <= limit && Message::encode(self, &mut message).is_ok()).then_some(message)
            }

            fn rejected(response: Bytes) -> Option<(i64, String)> {
                let response = <$response>::decode(response).ok()?;
                let partial = response.partial_success.unwrap_or_default();
                Some((partial.$rejected, partial.error_message))
            }

            #[cfg(feature = "http-json")]
            fn to_json(&self, limit: usize, _: &Retention) -> Option<Vec<u8>> {
                in_json(crate::otlp::json::to_vec(self), limit)
            }
        })+
    };
}

#[cfg(feature = "logs")]
impl Splittable for LogRecord {
    fn count(&self) -> usize {
        1
    }

    /// Takes the record, because it cannot be split further.
    fn split_off(&mut self, _: usize) -> Self {
        mem::take(self)
    }
}

container! {
    ExportMetricsServiceRequest, resource_metrics;
    ResourceMetrics, scope_metrics;
    ScopeMetrics, metrics;
}

#[cfg(feature = "logs")]
container! {
    ExportLogsServiceRequest, resource_logs;
    ResourceLogs, scope_logs;
    ScopeLogs, log_records;
}

request! {
    ExportMetricsServiceRequest, ExportMetricsServiceResponse, rejected_data_points;
}

#[cfg(feature = "logs")]
request! {
    ExportLogsServiceRequest, ExportLogsServiceResponse, rejected_log_records;
}

/// Evaluates `$done` for the points of any kind of data. The kinds differ only in their types.
macro_rules! points {
    ($data:expr, $none:expr, $points:ident => $done:expr) => {
        match $data {
            Some(Data::Gauge(data)) => {
                let $points = &mut data.data_points;
                $done
            }
            Some(Data::Sum(data)) => {
                let $points = &mut data.data_points;
                $done
            }
            Some(Data::Histogram(data)) => {
                let $points = &mut data.data_points;
                $done
            }
            Some(Data::ExponentialHistogram(data)) => {
                let $points = &mut data.data_points;
                $done
            }
            Some(Data::Summary(data)) => {
                let $points = &mut data.data_points;
                $done
            }
            None => $none,
        }
    };
}

impl Splittable for Metric {
    fn count(&self) -> usize {
        match &self.data {
            Some(Data::Gauge(data)) => data.data_points.len(),
            Some(Data::Sum(data)) => data.data_points.len(),
            Some(Data::Histogram(data)) => data.data_points.len(),
            Some(Data::ExponentialHistogram(data)) => data.data_points.len(),
            Some(Data::Summary(data)) => data.data_points.len(),
            None => 0,
        }
    }

    fn split_off(&mut self, keep: usize) -> Self {
        let mut other = self.clone();
        points!(&mut self.data, (), points => points.truncate(keep));
        points!(&mut other.data, (), points => drop(points.drain(..keep.min(points.len()))));
        other
    }
}
