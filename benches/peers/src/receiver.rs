//! An OTLP receiver that counts the telemetry it gets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use prost::Message;
use tokio::net::TcpListener;

/// The counts so far.
#[derive(Default)]
struct Counts {
    spans: AtomicU64,
    span_attributes: AtomicU64,
    requests: AtomicU64,
}

pub struct Receiver {
    pub address: SocketAddr,
    counts: Arc<Counts>,
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
        let counts = Arc::new(Counts::default());
        let routes = Router::new()
            .route("/v1/traces", post(traces))
            .route("/v1/metrics", post(metrics))
            .route("/v1/logs", post(async || ()))
            .layer(DefaultBodyLimit::disable())
            .with_state(counts.clone());
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
        Self { address, counts }
    }

    pub fn take(&self) -> Arrived {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        Arrived {
            spans: take(&self.counts.spans),
            span_attributes: take(&self.counts.span_attributes),
            requests: take(&self.counts.requests),
        }
    }
}

async fn traces(State(counts): State<Arc<Counts>>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).expect("the message is OTLP");
    let scopes = request
        .resource_spans
        .iter()
        .flat_map(|one| &one.scope_spans);
    for span in scopes.flat_map(|scope| &scope.spans) {
        counts.spans.fetch_add(1, Ordering::Relaxed);
        let attributes = span.attributes.len() as u64;
        counts
            .span_attributes
            .fetch_add(attributes, Ordering::Relaxed);
    }
}

async fn metrics(State(counts): State<Arc<Counts>>, body: Bytes) {
    let request = ExportMetricsServiceRequest::decode(body).expect("the message is OTLP");
    let scopes = request
        .resource_metrics
        .iter()
        .flat_map(|one| &one.scope_metrics);
    for metric in scopes.flat_map(|scope| &scope.metrics) {
        let Some(Data::Histogram(histogram)) = &metric.data else {
            continue;
        };
        let recorded = histogram.data_points.iter().map(|point| point.count).sum();
        counts.requests.fetch_max(recorded, Ordering::Relaxed);
    }
}
