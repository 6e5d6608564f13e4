//! OTLP messages: how many items they hold, how they are cut in two, and what is answered to them.

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

/// Something that holds spans, metric points or log records.
pub(crate) trait Splittable: Sized {
    /// How many it holds.
    fn count(&self) -> usize;

    /// Leaves the first `keep` of them, and returns the same around the others.
    fn split_off(&mut self, keep: usize) -> Self;
}

/// A message that a receiver takes.
pub(crate) trait Request: Splittable {
    /// The message in protobuf; `None` where it is longer than `limit`, or cannot be written.
    fn encode(&self, limit: usize) -> Option<Vec<u8>>;

    /// How many of it the receiver says that it rejected, and why; `None` where `answer` is not
    /// that of an OTLP receiver.
    fn rejected(answer: Bytes) -> Option<(i64, String)>;

    /// The same in JSON.
    #[cfg(feature = "http-json")]
    fn to_json(&self, limit: usize) -> Option<Vec<u8>>;
}

/// A message that became JSON; `None` where it is longer than `limit`, or could not.
#[cfg(feature = "http-json")]
pub(crate) fn in_json(json: serde_json::Result<Vec<u8>>, limit: usize) -> Option<Vec<u8>> {
    // It fails only where a map has keys that are no text.
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
            fn encode(&self, limit: usize) -> Option<Vec<u8>> {
                let length = self.encoded_len();
                let mut message = Vec::with_capacity(length.min(limit));
                (length <= limit && Message::encode(self, &mut message).is_ok()).then_some(message)
            }

            fn rejected(answer: Bytes) -> Option<(i64, String)> {
                let answer = <$response>::decode(answer).ok()?;
                let partial = answer.partial_success.unwrap_or_default();
                Some((partial.$rejected, partial.error_message))
            }

            #[cfg(feature = "http-json")]
            fn to_json(&self, limit: usize) -> Option<Vec<u8>> {
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

    /// There is nothing to leave of it.
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

/// The same for each kind of data, whose points differ in type alone.
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
