//! The metrics pipeline: the meter provider, its views and its exporters.

use std::future::pending;
use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::{
    Aggregation, Instrument, InstrumentKind, ManualReader, SdkMeterProvider, Stream, Temporality,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::concurrent::caught::catch_panic;
use crate::config::error::InitError;
use crate::config::parts::{Buckets, View};
use crate::config::settings::{Exporter, HistogramAggregation, Signal};
use crate::logs::emit_later;
#[cfg(feature = "opentelemetry-otlp")]
use crate::otlp::client::MAX_MESSAGE;
use crate::otlp::client::OtlpClient;
use crate::otlp::messages::Splittable;
use crate::otlp::outcome::SendOutcome;
use crate::otlp::retention::Retention;
use crate::otlp::retries::{Retries, RetryPolicy};
use crate::pipeline::building::Building;
use crate::pipeline::console;
use crate::pipeline::counts::Losses;
use crate::pipeline::exemplars;
use crate::pipeline::part_setup;
#[cfg(feature = "prometheus")]
use crate::pipeline::prometheus::thread::Prometheus;
#[cfg(feature = "opentelemetry-otlp")]
use crate::pipeline::readers::count_points;
use crate::pipeline::readers::{SharedReader, collect_from};
use crate::pipeline::self_metrics;
use crate::pipeline::unique_keys;
use crate::pipeline::worker::{self, Flushes, Worker};
use crate::providers::collections::COLLECTIONS;
use crate::providers::exemplars::{ExemplarReader, Exemplars};
#[cfg(feature = "opentelemetry-otlp")]
use crate::stats::Failure;

/// Builds the meter provider, and returns whether it has a reader.
pub(crate) fn provider(building: &mut Building) -> Result<(SdkMeterProvider, bool), InitError> {
    let exemplars = exemplars::of_pipeline(building);
    let views = Views {
        exemplars: exemplars.clone(),
        histograms: building.config.histograms,
        buckets: take(&mut building.parts.buckets),
        given: take(&mut building.parts.views),
    };
    let mut provider = SdkMeterProvider::builder().with_resource(building.resource.clone());
    let mut is_read = false;
    for view in &views.given {
        let view = view.clone();
        provider = provider.with_view(move |instrument| view_of(&view, instrument));
    }
    provider = provider.with_view(move |instrument| views.stream(instrument));
    for exporter in building.config.exporters(Signal::Metrics) {
        is_read = true;
        // Each exporter has its own reader, because a delta point is collected only once per
        // reader.
        let reader = match exporter {
            Exporter::Otlp => ManualReader::builder().with_temporality(building.config.temporality),
            Exporter::Console => ManualReader::builder(),
            #[cfg(feature = "prometheus")]
            Exporter::Prometheus => {
                let server = building.config.prometheus_server.clone();
                let started = Prometheus::start(server).map_err(InitError::Thread)?;
                let (prometheus, reader) = started;
                building.prometheus = Some(prometheus);
                provider = provider.with_reader(reader);
                continue;
            }
        };
        let reader = Arc::new(reader.build());
        provider = provider.with_reader(SharedReader {
            reader: reader.clone(),
            flush: building.reader_flush.take(),
        });
        let worker = match exporter {
            Exporter::Otlp => {
                let client = building.client(Signal::Metrics, building.config.metric_timeout)?;
                let exporter = self_metrics::exporter(Signal::Metrics, &client);
                building.register_self_metrics(Signal::Metrics, exporter, None);
                let losses = building.losses(Signal::Metrics, client.receiver());
                otlp(building, losses, reader, client, exemplars.clone())
            }
            _ => console_worker(reader),
        };
        building.workers.push(worker);
    }
    for reader in part_setup::metric_exporters(building)? {
        is_read = true;
        provider = provider.with_reader(reader);
    }
    for reader in part_setup::metric_readers(building)? {
        is_read = true;
        provider = provider.with_reader(reader);
    }
    Ok((provider.build(), is_read))
}

fn otlp(
    building: &mut Building,
    losses: Losses,
    reader: Arc<ManualReader>,
    client: OtlpClient,
    exemplars: Option<Arc<Exemplars>>,
) -> Worker {
    let exemplars = exemplars.map(ExemplarReader::new);
    let (interval, temporality) = (building.config.metric_interval, building.config.temporality);
    #[cfg(feature = "opentelemetry-otlp")]
    if building.config.is_by_reference(Signal::Metrics) {
        let client: ReferenceMetrics = building.reference(Signal::Metrics, client);
        return otlp_worker(interval, temporality, losses, reader, client, exemplars);
    }
    otlp_worker(interval, temporality, losses, reader, client, exemplars)
}

/// The views of the meter provider.
struct Views {
    exemplars: Option<Arc<Exemplars>>,
    histograms: HistogramAggregation,
    buckets: Vec<Buckets>,
    /// The views of the application.
    given: Vec<View>,
}

impl Views {
    /// Returns the stream of an instrument; `None` for the SDK's default. One view covers all
    /// instruments, because an instrument that matches two views gets two streams.
    fn stream(&self, instrument: &Instrument) -> Option<Stream> {
        if let Some(exemplars) = &self.exemplars {
            exemplars.report_instrument();
        }
        let is_given = |view: &View| view_of(view, instrument).is_some();
        if self.given.iter().any(is_given) {
            return None;
        }
        if instrument.name() == COLLECTIONS {
            return Stream::builder().with_cardinality_limit(1).build().ok();
        }
        let is_request_metric = crate::semconv::is_request_metric(instrument.name());
        let is_histogram = instrument.kind() == InstrumentKind::Histogram;
        let has_buckets = |one: &&Buckets| one.name.eq_ignore_ascii_case(instrument.name());
        let buckets = self.buckets.iter().find(has_buckets);
        let aggregation = match buckets.filter(|_| is_histogram) {
            Some(Buckets { bounds, .. }) => Some(Aggregation::ExplicitBucketHistogram {
                boundaries: bounds.clone(),
                record_min_max: true,
            }),
            // The specification's defaults ("Base2 Exponential Bucket Histogram Aggregation").
            None if is_histogram && self.histograms == HistogramAggregation::ExponentialBuckets => {
                Some(Aggregation::Base2ExponentialHistogram {
                    max_size: 160,
                    max_scale: 20,
                    record_min_max: true,
                })
            }
            None => None,
        };
        if !is_request_metric && aggregation.is_none() {
            return None;
        }
        let mut stream = Stream::builder();
        if is_request_metric {
            stream = stream.with_cardinality_limit(MAX_SERIES);
        }
        if let Some(aggregation) = aggregation {
            stream = stream.with_aggregation(aggregation);
        }
        stream.build().ok()
    }
}

/// Calls a view of the application, which may panic.
fn view_of(view: &View, instrument: &Instrument) -> Option<Stream> {
    static LOGGED: AtomicBool = AtomicBool::new(false);

    catch_panic(|| view(instrument)).unwrap_or_else(|| {
        if !LOGGED.swap(true, Ordering::Relaxed) {
            let line = "a view of metrics panicked; it has no effect on the instrument";
            emit_later(move || tracing::warn!(target: "tower_telemetry", "{line}"));
        }
        None
    })
}

/// The maximum number of series of a request metric. Requests choose methods, versions and schemes,
/// which are 66 series per route. Beyond the limit, new series are merged into the overflow
/// series.
pub(crate) const MAX_SERIES: usize = 10_000;

/// An exporter of collected metrics.
trait MetricSink: Send + Sync + 'static {
    type Message: Send;

    /// Returns the retries. Their schedule determines the time of the next collection.
    fn retries(&self) -> &Retries;

    /// Converts collected metrics to a message, and returns it with the number of its points.
    fn message(
        &self,
        metrics: ResourceMetrics,
        exemplars: Option<&mut ExemplarReader>,
    ) -> (Self::Message, u64);

    fn export(
        &self,
        message: Self::Message,
        policy: RetryPolicy,
        retention: &Retention,
    ) -> impl Future<Output = SendOutcome> + Send;
}

impl MetricSink for OtlpClient {
    type Message = ExportMetricsServiceRequest;

    fn retries(&self) -> &Retries {
        &self.retries
    }

    fn message(
        &self,
        metrics: ResourceMetrics,
        exemplars: Option<&mut ExemplarReader>,
    ) -> (Self::Message, u64) {
        let mut request = ExportMetricsServiceRequest::from(&metrics);
        if let Some(reader) = exemplars {
            exemplars::add_to_points(reader, &metrics, &mut request);
        }
        unique_keys::in_metrics(&mut request);
        let points = request.count() as u64;
        (request, points)
    }

    async fn export(
        &self,
        message: Self::Message,
        policy: RetryPolicy,
        retention: &Retention,
    ) -> SendOutcome {
        OtlpClient::export(self, message, policy, retention).await
    }
}

#[cfg(feature = "opentelemetry-otlp")]
type ReferenceMetrics =
    crate::otlp::reference::client::ReferenceClient<opentelemetry_otlp::MetricExporter>;

#[cfg(feature = "opentelemetry-otlp")]
impl MetricSink for ReferenceMetrics {
    type Message = (ResourceMetrics, u64);

    fn retries(&self) -> &Retries {
        &self.client.retries
    }

    fn message(
        &self,
        metrics: ResourceMetrics,
        _: Option<&mut ExemplarReader>,
    ) -> (Self::Message, u64) {
        let points = count_points(&metrics);
        ((metrics, points), points)
    }

    async fn export(
        &self,
        (metrics, points): Self::Message,
        policy: RetryPolicy,
        retention: &Retention,
    ) -> SendOutcome {
        let message = ExportMetricsServiceRequest::from(&metrics);
        let size = prost::Message::encoded_len(&message);
        if size > MAX_MESSAGE {
            let mut outcome = SendOutcome::default();
            let detail =
                format!("the metrics take {size} bytes, and opentelemetry-otlp splits none");
            outcome.fail(points, Failure::TooLarge, detail);
            return outcome;
        }
        let batches = vec![(metrics, points)];
        self.export::<ExportMetricsServiceRequest>(batches, policy, retention)
            .await
    }
}

/// Exports all metrics at intervals and at each flush.
fn otlp_worker(
    interval: Duration,
    temporality: Temporality,
    mut losses: Losses,
    reader: Arc<ManualReader>,
    client: impl MetricSink,
    mut exemplars: Option<ExemplarReader>,
) -> Worker {
    let (flush, flushes) = mpsc::unbounded_channel();
    let client = Arc::new(client);
    // Cumulative points are collected again for each attempt. The reader no longer has delta
    // points.
    let policy = match temporality {
        Temporality::Cumulative => RetryPolicy::Never,
        _ => RetryPolicy::IfNotAccepted,
    };
    let task = async move {
        let mut flushes = Flushes::new(flushes);
        let retention = Arc::new(Retention::default());
        'passes: while let Some(waiters) = flushes.next(pending(), interval).await {
            let start = Instant::now();
            if !waiters.is_empty() {
                retention.skip_backoff();
            }
            // The number of points that wait for another attempt, until newer points replace them.
            let mut kept = 0;
            loop {
                let ready = {
                    let (client, retention) = (client.clone(), retention.clone());
                    async move {
                        client.retries().ready(&retention).await;
                        SendOutcome::default()
                    }
                };
                let run =
                    worker::run_export(&mut losses, 0, ready, &mut flushes, &retention, start);
                run.await;
                // Metrics are collected when they can be sent, so that the values are current.
                let collected = collect_from(&reader);
                losses.counters().subtract_accepted(kept);
                let Some(metrics) = collected else {
                    // A waiting flush fails, because its channel is dropped without a response.
                    continue 'passes;
                };
                let (message, points) = client.message(metrics, exemplars.as_mut());
                if points == 0 {
                    break;
                }
                losses.counters().accept(points);
                let export = {
                    let (client, retention) = (client.clone(), retention.clone());
                    async move { client.export(message, policy, &retention).await }
                };
                let run = worker::run_export(
                    &mut losses,
                    points,
                    export,
                    &mut flushes,
                    &retention,
                    start,
                );
                let outcome = run.await;
                if policy == RetryPolicy::Never && outcome.is_temporary && outcome.exported == 0 {
                    retention.record_failure(outcome.failure);
                    kept = points;
                    if let Some(exemplars) = &mut exemplars {
                        exemplars.mark_unread();
                    }
                } else {
                    losses.record_outcome(outcome);
                    break;
                }
            }
            retention.reset();
            worker::notify_waiters(waiters);
        }
    };
    Worker {
        flush,
        task: Box::pin(task),
        is_queue: false,
        part: None,
    }
}

/// Prints all metrics at each flush, including the flush at shutdown. At intervals, they would hide
/// the spans.
fn console_worker(reader: Arc<ManualReader>) -> Worker {
    let (flush, mut flushes) = mpsc::unbounded_channel::<tokio::sync::oneshot::Sender<()>>();
    let task = async move {
        while let Some(flushed) = flushes.recv().await {
            if let Some(metrics) = collect_from(&reader) {
                console::print_metrics(&metrics);
            }
            let _ = flushed.send(());
        }
    };
    Worker {
        flush,
        task: Box::pin(task),
        is_queue: false,
        part: None,
    }
}
