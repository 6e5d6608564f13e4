//! An OTLP receiver that counts the telemetry it gets.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use prost::Message;
use tokio::net::TcpListener;

/// The messages since the last call of `take`. They are decoded there, because the receiver and the
/// client of a measurement may have the same processor.
#[derive(Default)]
struct Messages {
    traces: Vec<Bytes>,
    metrics: Vec<Bytes>,
}

pub struct Receiver {
    pub address: SocketAddr,
    messages: Arc<Mutex<Messages>>,
}

/// The counts since the last call of `take`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrived {
    pub spans: u64,
    /// The attributes of all spans together.
    pub span_attributes: u64,
    /// The highest count of requests in any metric.
    pub requests: u64,
}

impl Receiver {
    /// Starts a receiver on a thread of its own.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        listener
            .set_nonblocking(true)
            .expect("the socket can be non-blocking");
        let address = listener.local_addr().expect("the socket is bound");
        let messages = Arc::new(Mutex::new(Messages::default()));
        let routes = Router::new()
            .route("/v1/traces", post(traces))
            .route("/v1/metrics", post(metrics))
            .route("/v1/logs", post(async || ()))
            .layer(DefaultBodyLimit::disable())
            .with_state(messages.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("the runtime can be built");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("the socket listens");
                axum::serve(listener, routes)
                    .await
                    .expect("the server runs");
            });
        });
        Self { address, messages }
    }

    pub fn take(&self) -> Arrived {
        let messages = std::mem::take(&mut *self.messages.lock().expect("no handler panics"));
        let mut arrived = Arrived::default();
        for message in messages.traces {
            arrived.add_traces(message);
        }
        for message in messages.metrics {
            arrived.add_metrics(message);
        }
        arrived
    }
}

impl Arrived {
    fn add_traces(&mut self, message: Bytes) {
        let request = ExportTraceServiceRequest::decode(message).expect("the message is OTLP");
        let scopes = request
            .resource_spans
            .iter()
            .flat_map(|one| &one.scope_spans);
        for span in scopes.flat_map(|scope| &scope.spans) {
            self.spans += 1;
            self.span_attributes += span.attributes.len() as u64;
        }
    }

    fn add_metrics(&mut self, message: Bytes) {
        let request = ExportMetricsServiceRequest::decode(message).expect("the message is OTLP");
        let scopes = request
            .resource_metrics
            .iter()
            .flat_map(|one| &one.scope_metrics);
        for metric in scopes.flat_map(|scope| &scope.metrics) {
            if let Some(Data::Histogram(histogram)) = &metric.data {
                let recorded = histogram.data_points.iter().map(|point| point.count).sum();
                self.requests = self.requests.max(recorded);
            }
        }
    }
}

async fn traces(State(messages): State<Arc<Mutex<Messages>>>, body: Bytes) {
    let mut messages = messages.lock().expect("no handler panics");
    messages.traces.push(body);
}

async fn metrics(State(messages): State<Arc<Mutex<Messages>>>, body: Bytes) {
    let mut messages = messages.lock().expect("no handler panics");
    messages.metrics.push(body);
}
