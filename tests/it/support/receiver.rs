//! An OTLP receiver on loopback: gRPC and HTTP on one port, with every message decoded and kept. It
//! rejects duplicate keys in attributes, and can misbehave on request.

#[path = "unique.rs"]
mod unique;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::post;
use base64::Engine;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio_stream::StreamExt;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use unique::Collections;

/// Attributes by key. The values are in their text form.
pub(crate) type Attributes = BTreeMap<String, String>;

/// Everything that was received.
#[derive(Clone, Default, Debug)]
pub(crate) struct Received {
    pub(crate) traces: Vec<ExportTraceServiceRequest>,
    pub(crate) metrics: Vec<ExportMetricsServiceRequest>,
    pub(crate) logs: Vec<ExportLogsServiceRequest>,
    /// `grpc`, or the path of an HTTP request, for each message.
    pub(crate) ways: Vec<String>,
    /// The headers of each message.
    pub(crate) headers: Vec<HeaderMap>,
    /// The body of each message over HTTP, decompressed.
    pub(crate) bodies: Vec<Bytes>,
    /// The size of each message.
    pub(crate) sizes: Vec<usize>,
}

impl Received {
    pub(crate) fn spans(&self) -> Vec<Span> {
        let resources = self
            .traces
            .iter()
            .flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    pub(crate) fn metric(&self, name: &str) -> Option<Metric> {
        let resources = self
            .metrics
            .iter()
            .flat_map(|request| &request.resource_metrics);
        let scopes = resources.flat_map(|resource| &resource.scope_metrics);
        let mut metrics = scopes.flat_map(|scope| &scope.metrics);
        metrics.find(|metric| metric.name == name).cloned()
    }

    /// Returns the number of metric points in all messages.
    pub(crate) fn points(&self) -> usize {
        let resources = self
            .metrics
            .iter()
            .flat_map(|request| &request.resource_metrics);
        let scopes = resources.flat_map(|resource| &resource.scope_metrics);
        let metrics = scopes.flat_map(|scope| &scope.metrics);
        let points = metrics.map(|metric| match metric.data.as_ref() {
            Some(Data::Gauge(data)) => data.data_points.len(),
            Some(Data::Sum(data)) => data.data_points.len(),
            Some(Data::Histogram(data)) => data.data_points.len(),
            Some(Data::ExponentialHistogram(data)) => data.data_points.len(),
            _ => 0,
        });
        points.sum()
    }

    pub(crate) fn log_records(&self) -> Vec<LogRecord> {
        let resources = self.logs.iter().flat_map(|request| &request.resource_logs);
        let scopes = resources.flat_map(|resource| &resource.scope_logs);
        scopes.flat_map(|scope| scope.log_records.clone()).collect()
    }
}

pub(crate) fn attributes_of(attributes: &[KeyValue]) -> Attributes {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|any| any.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = attributes.iter();
    pairs
        .map(|attribute| (attribute.key.clone(), text(&attribute.value)))
        .collect()
}

/// The misbehaviour of a receiver.
#[derive(Clone, Debug, Default)]
pub(crate) enum Fault {
    #[default]
    None,
    /// Responds with this status and this `retry-after`.
    Status(u16, Option<&'static str>),
    /// Responds with this gRPC status and these details in base64.
    Grpc(u16, Option<String>),
    /// Accepts messages, and rejects this many items of each.
    Partial(i64),
    /// Responds after this time.
    #[allow(dead_code, reason = "other tests use it")]
    Slow(Duration),
    /// Responds with a web page.
    Html,
    /// Responds with a body that never ends.
    Endless,
    /// Redirects the client to this URL.
    Redirect(String),
    /// Responds with an invalid message and invalid trailers.
    Garbage,
    /// Applies the fault only to requests whose path contains this text.
    On(&'static str, Box<Fault>),
}

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    service: Service,
}

#[derive(Clone, Default)]
struct Service {
    received: Arc<Mutex<Received>>,
    fault: Arc<Mutex<Fault>>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
}

impl Service {
    /// Keeps a message, and returns the number of items in it that are rejected.
    fn keep(
        &self,
        way: &str,
        headers: HeaderMap,
        size: usize,
        keep: impl FnOnce(&mut Received),
    ) -> i64 {
        let mut received = self.received.lock().expect("the lock is not poisoned");
        received.ways.push(way.to_owned());
        received.headers.push(headers);
        received.sizes.push(size);
        keep(&mut received);
        match *self.fault.lock().expect("the lock is not poisoned") {
            Fault::Partial(rejected) => rejected,
            _ => 0,
        }
    }
}

impl Receiver {
    /// Starts a receiver on a thread of its own, so that it responds whatever happens to the
    /// runtime of the test.
    pub(crate) fn start() -> Self {
        Self::start_with(Fault::None)
    }

    pub(crate) fn start_with(fault: Fault) -> Self {
        let service = Service::default();
        *service.fault.lock().expect("the lock is not poisoned") = fault;
        let app = app(&service);
        let (sender, address) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("the runtime can be built");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
                    .await
                    .expect("loopback has free ports");
                let bound = listener.local_addr().expect("the socket is bound");
                sender
                    .send(bound)
                    .expect("the starter waits for the address");
                axum::serve(listener, app).await.expect("the server runs");
            });
        });
        Self {
            address: address.recv().expect("the server starts"),
            service,
        }
    }

    pub(crate) fn received(&self) -> Received {
        self.service
            .received
            .lock()
            .expect("the lock is not poisoned")
            .clone()
    }

    /// Changes the fault for later messages.
    pub(crate) fn set_fault(&self, fault: Fault) {
        *self.service.fault.lock().expect("the lock is not poisoned") = fault;
    }

    /// Returns the arrival time of every message, accepted or not.
    pub(crate) fn arrivals(&self) -> Vec<Instant> {
        self.service
            .arrivals
            .lock()
            .expect("the lock is not poisoned")
            .clone()
    }

    /// Returns the endpoint to configure in an exporter.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn app(service: &Service) -> Router {
    let traces = TraceServiceServer::new(service.clone())
        .accept_compressed(Gzip)
        .send_compressed(Gzip);
    let metrics = MetricsServiceServer::new(service.clone())
        .accept_compressed(Gzip)
        .send_compressed(Gzip);
    let logs = LogsServiceServer::new(service.clone())
        .accept_compressed(Gzip)
        .send_compressed(Gzip);
    let grpc = Routes::new(traces).add_service(metrics).add_service(logs);
    let http = Router::new()
        .route("/v1/traces", post(self::traces))
        .route("/v1/metrics", post(self::metrics))
        .route("/v1/logs", post(self::logs))
        // The same limit as gRPC receivers have.
        .layer(axum::extract::DefaultBodyLimit::max(4 * 1024 * 1024))
        .with_state(service.clone());
    grpc.into_axum_router()
        .merge(http)
        .layer(from_fn_with_state(service.clone(), misbehave))
}

async fn misbehave(
    State(service): State<Service>,
    request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    // The fault is read before the arrival is recorded: a test may end the fault as soon as
    // it sees the arrival.
    let mut fault = service
        .fault
        .lock()
        .expect("the lock is not poisoned")
        .clone();
    if let Fault::On(path, inner) = fault {
        let is_meant = request.uri().path().contains(path);
        fault = if is_meant { *inner } else { Fault::None };
    }
    service
        .arrivals
        .lock()
        .expect("the lock is not poisoned")
        .push(Instant::now());
    match fault {
        Fault::None | Fault::Partial(_) | Fault::On(..) => next.run(request).await,
        Fault::Slow(time) => {
            tokio::time::sleep(time).await;
            next.run(request).await
        }
        Fault::Status(code, retry_after) => {
            let status = StatusCode::from_u16(code).expect("a legal status");
            let retry_after = retry_after.map(|after| [(header::RETRY_AFTER, after)]);
            (status, retry_after.unwrap_or([(header::RETRY_AFTER, "")])).into_response()
        }
        Fault::Grpc(code, details) => {
            let mut response = Body::empty().into_response();
            let headers = response.headers_mut();
            let set = |value: &str| value.parse().expect("a legal value");
            headers.insert(header::CONTENT_TYPE, set("application/grpc"));
            headers.insert("grpc-status", set(&code.to_string()));
            if let Some(details) = details {
                headers.insert("grpc-status-details-bin", set(&details));
            }
            response
        }
        Fault::Html => axum::response::Html("<html>Welcome</html>").into_response(),
        Fault::Endless => {
            let chunk = Bytes::from_static(&[0; 64 * 1024]);
            let chunks = tokio_stream::iter(std::iter::repeat(chunk)).map(Ok::<_, Infallible>);
            Body::from_stream(chunks).into_response()
        }
        Fault::Redirect(to) => axum::response::Redirect::temporary(&to).into_response(),
        Fault::Garbage => {
            use http_body_util::BodyExt;

            let mut trailers = HeaderMap::new();
            let set = |value: &str| value.parse().expect("a legal value");
            trailers.insert("grpc-status", set("banana"));
            trailers.insert("grpc-status-details-bin", set("!!!"));
            let body = http_body_util::Full::new(Bytes::from_static(b"\xff\xff\xff\xff\xff\xff"));
            let trailers = std::future::ready(Some(Ok(trailers)));
            let body = Body::new(body.with_trailers(trailers));
            ([(header::CONTENT_TYPE, "application/grpc")], body).into_response()
        }
    }
}

/// Encodes a `google.rpc.Status` with a `google.rpc.RetryInfo`.
pub(crate) fn retry_info(delay: Duration) -> String {
    #[derive(prost::Message)]
    struct Status {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(message, repeated, tag = "3")]
        details: Vec<Any>,
    }
    #[derive(prost::Message)]
    struct Any {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes = "bytes", tag = "2")]
        value: Bytes,
    }
    #[derive(prost::Message)]
    struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        retry_delay: Option<Delay>,
    }
    #[derive(prost::Message)]
    struct Delay {
        #[prost(int64, tag = "1")]
        seconds: i64,
        #[prost(int32, tag = "2")]
        nanos: i32,
    }

    let delay = Delay {
        seconds: i64::try_from(delay.as_secs()).expect("the number is small"),
        nanos: i32::try_from(delay.subsec_nanos()).expect("the number fits"),
    };
    let info = RetryInfo {
        retry_delay: Some(delay),
    };
    let status = Status {
        code: 8,
        message: "slow down".to_owned(),
        details: vec![Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: info.encode_to_vec().into(),
        }],
    };
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(status.encode_to_vec())
}

type Answer = Result<([(header::HeaderName, &'static str); 1], Vec<u8>), StatusCode>;

/// Decodes the body of an HTTP request: decompresses it, and decodes it by its content type.
macro_rules! decoded {
    ($type:ty, $headers:expr, $body:expr) => {{
        let body = decompressed($headers, $body)?;
        match content_type($headers) {
            "application/x-protobuf" => {
                <$type>::decode(&*body).map_err(|_| StatusCode::BAD_REQUEST)
            }
            #[cfg(feature = "http-json")]
            "application/json" => {
                let json = protobuf_json(&body).ok_or(StatusCode::BAD_REQUEST)?;
                serde_json::from_value::<$type>(json).map_err(|_| StatusCode::BAD_REQUEST)
            }
            _ => Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        }
    }};
}

/// The fields of OTLP that are doubles.
#[cfg(feature = "http-json")]
const DOUBLES: [&str; 9] = [
    "asDouble",
    "doubleValue",
    "explicitBounds",
    "max",
    "min",
    "quantile",
    "sum",
    "value",
    "zeroThreshold",
];

/// Returns whether a field, neither a message nor a double, has the form that OTLP requires in
/// JSON: 64-bit integers are text, ids are hex, enumerations are numbers, and bytes are base64.
#[cfg(feature = "http-json")]
fn is_otlp_scalar(key: &str, value: &serde_json::Value) -> bool {
    use base64::Engine;
    use serde_json::Value;

    let is_id = |bytes: usize| {
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let text = value.as_str();
        text.is_some_and(|text| text.is_empty() || text.len() == 2 * bytes && is_hex(text))
    };
    let text_is = |is: &dyn Fn(&str) -> bool| value.as_str().is_some_and(is);
    match key {
        "timeUnixNano"
        | "startTimeUnixNano"
        | "endTimeUnixNano"
        | "observedTimeUnixNano"
        | "count"
        | "zeroCount"
        | "bucketCounts" => text_is(&|text| text.parse::<u64>().is_ok()),
        "intValue" | "asInt" => text_is(&|text| text.parse::<i64>().is_ok()),
        "traceId" => is_id(16),
        "spanId" | "parentSpanId" => is_id(8),
        "bytesValue" => text_is(&|text| {
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_ok()
        }),
        "boolValue" | "isMonotonic" => value.is_boolean(),
        "kind"
        | "code"
        | "severityNumber"
        | "aggregationTemporality"
        | "flags"
        | "scale"
        | "offset"
        | "droppedAttributesCount"
        | "droppedEventsCount"
        | "droppedLinksCount" => value
            .as_i64()
            .is_some_and(|number| u32::try_from(number.abs()).is_ok()),
        _ => matches!(value, Value::String(_)),
    }
}

/// Parses a message in the JSON form of protobuf, with the differences of OTLP: nothing is `null`,
/// doubles are numbers or one of three texts, and the other fields follow [`is_otlp_scalar`]. The
/// three texts become 0 in the result, because `opentelemetry-proto` cannot read them.
#[cfg(feature = "http-json")]
pub(crate) fn protobuf_json(body: &[u8]) -> Option<serde_json::Value> {
    use serde_json::Value;

    fn double(value: &mut Value) -> bool {
        match value {
            Value::Array(elements) => elements.iter_mut().all(double),
            Value::String(text) => {
                let is_double = ["NaN", "Infinity", "-Infinity"].contains(&text.as_str());
                *value = 0.0.into();
                is_double
            }
            value => value.is_number(),
        }
    }

    fn check(key: &str, value: &mut Value) -> bool {
        match value {
            // `value` is a double only in a quantile of a summary. Elsewhere it is a message.
            Value::Object(fields) => fields.iter_mut().all(|(key, value)| check(key, value)),
            value if DOUBLES.contains(&key) => double(value),
            Value::Array(elements) => elements.iter_mut().all(|element| check(key, element)),
            value => is_otlp_scalar(key, value),
        }
    }

    let mut value: Value = serde_json::from_slice(body).ok()?;
    (value.is_object() && check("", &mut value)).then_some(value)
}

fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE);
    value.map_or("", |value| value.to_str().expect("the text is UTF-8"))
}

fn decompressed(headers: &HeaderMap, body: Bytes) -> Result<Bytes, StatusCode> {
    match headers.get(header::CONTENT_ENCODING) {
        None => Ok(body),
        Some(encoding) if encoding == "gzip" => {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&*body)
                .read_to_end(&mut plain)
                .map_err(|_| StatusCode::BAD_REQUEST)?;
            Ok(plain.into())
        }
        Some(_) => Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
    }
}

/// Encodes the response like the request.
macro_rules! answer {
    ($headers:expr, $response:expr) => {
        match content_type($headers) {
            #[cfg(feature = "http-json")]
            "application/json" => {
                let json = serde_json::to_vec(&$response).expect("the response can be encoded");
                Ok(([(header::CONTENT_TYPE, "application/json")], json))
            }
            _ => {
                let protobuf = [(header::CONTENT_TYPE, "application/x-protobuf")];
                Ok((protobuf, $response.encode_to_vec()))
            }
        }
    };
}

macro_rules! signal {
    ($http:ident, $path:literal, $service:ident, $request:ident, $response:ident, $partial:ident,
        $rejected:ident) => {
        async fn $http(State(service): State<Service>, headers: HeaderMap, body: Bytes) -> Answer {
            let size = body.len();
            let text = decompressed(&headers, body.clone())?;
            let request = decoded!($request, &headers, body)?;
            if request.repeated_key().is_some() {
                return Err(StatusCode::BAD_REQUEST);
            }
            let rejected = service.keep($path, headers.clone(), size, |received| {
                received.$http.push(request);
                received.bodies.push(text);
            });
            answer!(&headers, $response::rejecting(rejected))
        }

        #[tonic::async_trait]
        impl $service for Service {
            async fn export(
                &self,
                request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                let (metadata, _, request) = request.into_parts();
                let size = request.encoded_len();
                if let Some(key) = request.repeated_key() {
                    return Err(Status::invalid_argument(format!("{key} is there twice")));
                }
                let rejected = self.keep("grpc", metadata.into_headers(), size, |received| {
                    received.$http.push(request);
                });
                Ok(Response::new($response::rejecting(rejected)))
            }
        }

        impl Rejecting for $response {
            fn rejecting(count: i64) -> Self {
                Self {
                    partial_success: (count > 0).then(|| $partial {
                        $rejected: count,
                        error_message: "for a test".to_owned(),
                    }),
                }
            }
        }
    };
}

trait Rejecting {
    fn rejecting(count: i64) -> Self;
}

signal!(
    traces,
    "/v1/traces",
    TraceService,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
    ExportTracePartialSuccess,
    rejected_spans
);
signal!(
    metrics,
    "/v1/metrics",
    MetricsService,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
    ExportMetricsPartialSuccess,
    rejected_data_points
);
signal!(
    logs,
    "/v1/logs",
    LogsService,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
    ExportLogsPartialSuccess,
    rejected_log_records
);
