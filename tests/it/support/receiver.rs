//! An OTLP receiver on loopback: gRPC and HTTP on one port, everything decoded and kept.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::Attributes;

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

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Received>>,
}

#[derive(Clone)]
struct Service(Arc<Mutex<Received>>);

impl Service {
    fn keep(&self, way: &str, headers: HeaderMap, keep: impl FnOnce(&mut Received)) {
        let mut received = self.0.lock().expect("not poisoned");
        received.ways.push(way.to_owned());
        received.headers.push(headers);
        keep(&mut received);
    }
}

impl Receiver {
    /// Starts on a thread of its own, so that it answers whatever becomes of the test's runtime.
    pub(crate) fn start() -> Self {
        let received = Arc::new(Mutex::new(Received::default()));
        let service = Service(received.clone());
        let (sender, address) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
                    .await
                    .expect("loopback has free ports");
                let bound = listener.local_addr().expect("it is bound");
                sender.send(bound).expect("somebody waits for it");
                axum::serve(listener, app(service))
                    .await
                    .expect("it serves");
            });
        });
        Self {
            address: address.recv().expect("it starts"),
            received,
        }
    }

    pub(crate) fn received(&self) -> Received {
        self.received.lock().expect("not poisoned").clone()
    }

    /// The endpoint to give to an exporter.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn app(service: Service) -> Router {
    let grpc = Routes::new(TraceServiceServer::new(service.clone()))
        .add_service(MetricsServiceServer::new(service.clone()))
        .add_service(LogsServiceServer::new(service.clone()));
    let http = Router::new()
        .route("/v1/traces", post(traces))
        .route("/v1/metrics", post(metrics))
        .route("/v1/logs", post(logs))
        .with_state(service);
    grpc.into_axum_router().merge(http)
}

type Answer = Result<([(header::HeaderName, &'static str); 1], Vec<u8>), StatusCode>;

const PROTOBUF: [(header::HeaderName, &str); 1] =
    [(header::CONTENT_TYPE, "application/x-protobuf")];

fn decode<T: Message + Default>(headers: &HeaderMap, body: Bytes) -> Result<T, StatusCode> {
    if headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.as_bytes())
        != Some(PROTOBUF[0].1.as_bytes())
    {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    T::decode(body).map_err(|_| StatusCode::BAD_REQUEST)
}

async fn traces(State(service): State<Service>, headers: HeaderMap, body: Bytes) -> Answer {
    let request = decode(&headers, body)?;
    service.keep("/v1/traces", headers, |received| {
        received.traces.push(request);
    });
    Ok((
        PROTOBUF,
        ExportTraceServiceResponse::default().encode_to_vec(),
    ))
}

async fn metrics(State(service): State<Service>, headers: HeaderMap, body: Bytes) -> Answer {
    let request = decode(&headers, body)?;
    service.keep("/v1/metrics", headers, |received| {
        received.metrics.push(request);
    });
    Ok((
        PROTOBUF,
        ExportMetricsServiceResponse::default().encode_to_vec(),
    ))
}

async fn logs(State(service): State<Service>, headers: HeaderMap, body: Bytes) -> Answer {
    let request = decode(&headers, body)?;
    service.keep("/v1/logs", headers, |received| received.logs.push(request));
    Ok((
        PROTOBUF,
        ExportLogsServiceResponse::default().encode_to_vec(),
    ))
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.keep("grpc", metadata.into_headers(), |received| {
            received.traces.push(request);
        });
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.keep("grpc", metadata.into_headers(), |received| {
            received.metrics.push(request);
        });
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.keep("grpc", metadata.into_headers(), |received| {
            received.logs.push(request);
        });
        Ok(Response::new(Default::default()))
    }
}
