//! Setters for custom parts of the pipeline.

use opentelemetry::KeyValue;
#[cfg(feature = "logs")]
use opentelemetry_sdk::logs::{LogExporter, LogProcessor};
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{Instrument, Stream};
use opentelemetry_sdk::resource::ResourceDetector;
use opentelemetry_sdk::trace::{IdGenerator, SpanExporter, SpanProcessor};

use crate::concurrent::caught::catch_panic;
use crate::config::builder::Config;
use crate::config::parts::{Buckets, GivenSpanProcessor, Named, SpanExport};
use crate::providers::variables::ConfigWarning;

/// # Custom parts
///
/// Any number of components of the OpenTelemetry SDK can run in addition to OTLP, or instead of it
/// with [`with_exporters([])`](Config::with_exporters). Spans of the layers and of handler code
/// reach them. `docs/parts.md` lists the thread of each part and its cost. Losses in parts are
/// counted in [`Stats::parts`](crate::stats::Stats::parts).
/// [`TelemetryGuard`](crate::TelemetryGuard) flushes parts and shuts them down within its own
/// timeout. While telemetry is disabled, parts are not used.
impl Config {
    /// Adds a span processor (trace SDK, "Span processor").
    ///
    /// Its `on_start` may change the span, and its `on_end` receives a copy of each recorded span.
    /// Both run on the thread of the request and must not block. Processors run in the order in
    /// which they were added. A span processor requires the SDK's spans, which cost more.
    ///
    /// A processor changes only its own copy of an ended span. To redact or filter exported spans,
    /// use [`with_span_processor_around`](Self::with_span_processor_around).
    ///
    /// A panic is caught and counted, and is logged once.
    ///
    /// ```
    /// use std::time::Duration;
    /// use opentelemetry::trace::Span as _;
    /// use opentelemetry::{Context, KeyValue, baggage::BaggageExt};
    /// use opentelemetry_sdk::{error::OTelSdkResult, trace::{Span, SpanData, SpanProcessor}};
    ///
    /// /// Copies the tenant from the baggage to each span.
    /// #[derive(Debug)]
    /// struct Tenant;
    ///
    /// impl SpanProcessor for Tenant {
    ///     fn on_start(&self, span: &mut Span, cx: &Context) {
    ///         if let Some(tenant) = cx.baggage().get("tenant") {
    ///             span.set_attribute(KeyValue::new("app.tenant", tenant.to_string()));
    ///         }
    ///     }
    ///     fn on_end(&self, _: SpanData) {}
    ///     fn force_flush(&self) -> OTelSdkResult { Ok(()) }
    ///     fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult { Ok(()) }
    /// }
    ///
    /// let config = tower_telemetry::Config::from_env().with_span_processor(Tenant);
    /// ```
    pub fn with_span_processor<P: SpanProcessor + 'static>(mut self, processor: P) -> Self {
        let given = GivenSpanProcessor {
            processor: Box::new(processor),
            around: None,
        };
        self.parts.span_processors.push(Named::of::<P>(given));
        self
    }

    /// Adds a span processor that wraps the export. `wrap` creates it from the processor that
    /// passes ended spans to all exporters (trace SDK, "Span processor").
    ///
    /// The processor decides which spans are exported and what they contain: over OTLP, on the
    /// console, and by custom exporters. The first of several processors gets a span first.
    /// Otherwise it behaves as with [`with_span_processor`](Self::with_span_processor). If `on_end`
    /// panics, the span is not exported, because it may not be redacted yet; it is counted as lost.
    ///
    /// ```
    /// use std::time::Duration;
    /// use opentelemetry::Context;
    /// use opentelemetry_sdk::{error::OTelSdkResult, trace::{Span, SpanData, SpanProcessor}};
    /// use tower_telemetry::config::SpanExport;
    ///
    /// #[derive(Debug)]
    /// struct WithoutQueries(SpanExport);
    ///
    /// impl SpanProcessor for WithoutQueries {
    ///     fn on_start(&self, span: &mut Span, cx: &Context) {
    ///         self.0.on_start(span, cx);
    ///     }
    ///     fn on_end(&self, mut span: SpanData) {
    ///         span.attributes.retain(|one| one.key.as_str() != "url.query");
    ///         self.0.on_end(span);
    ///     }
    ///     fn force_flush(&self) -> OTelSdkResult { Ok(()) }
    ///     fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult { Ok(()) }
    /// }
    ///
    /// let config = tower_telemetry::Config::from_env().with_span_processor_around(WithoutQueries);
    /// ```
    pub fn with_span_processor_around<P: SpanProcessor + 'static>(
        mut self,
        wrap: impl FnOnce(SpanExport) -> P,
    ) -> Self {
        let export = SpanExport::default();
        let given = GivenSpanProcessor {
            processor: Box::new(wrap(export.clone())),
            around: Some(export),
        };
        self.parts.span_processors.push(Named::of::<P>(given));
        self
    }

    /// Adds a span exporter (trace SDK, "Span Exporter").
    ///
    /// It runs on its own thread, in a tokio runtime, and may block. Sampled spans wait in its own
    /// queue, which [`with_span_batch`](Self::with_span_batch) configures. If an export fails or
    /// panics, its batch is lost: the exporter is responsible for retries.
    ///
    /// ```
    /// use opentelemetry_sdk::trace::InMemorySpanExporter;
    /// use tower_telemetry::Config;
    ///
    /// let exporter = InMemorySpanExporter::default();
    /// let config = Config::from_env().with_span_exporter(exporter.clone());
    /// ```
    pub fn with_span_exporter<E: SpanExporter + 'static>(mut self, exporter: E) -> Self {
        let exporter = Named::of::<E>(Box::new(exporter) as _);
        self.parts.span_exporters.push(exporter);
        self
    }

    /// Adds a log processor (logs SDK, "LogRecordProcessor").
    ///
    /// It runs on the thread that logs and must not block. Processors run in the order in which
    /// they were added, and before the export: later processors and all exporters see their
    /// changes. Log records that a processor causes are not recorded. A panic is caught and
    /// counted, and is logged once.
    ///
    /// ```
    /// use std::time::Duration;
    /// use opentelemetry::{InstrumentationScope, logs::{AnyValue, LogRecord}};
    /// use opentelemetry_sdk::{error::OTelSdkResult, logs::{LogProcessor, SdkLogRecord}};
    ///
    /// #[derive(Debug)]
    /// struct Region;
    ///
    /// impl LogProcessor for Region {
    ///     fn emit(&self, record: &mut SdkLogRecord, _: &InstrumentationScope) {
    ///         record.add_attribute("app.region", AnyValue::from("north"));
    ///     }
    ///     fn force_flush(&self) -> OTelSdkResult { Ok(()) }
    ///     fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult { Ok(()) }
    /// }
    ///
    /// let config = tower_telemetry::Config::from_env().with_log_processor(Region);
    /// ```
    #[cfg(feature = "logs")]
    pub fn with_log_processor<P: LogProcessor + 'static>(mut self, processor: P) -> Self {
        let processor = Named::of::<P>(Box::new(processor) as _);
        self.parts.log_processors.push(processor);
        self
    }

    /// Adds a log exporter (logs SDK, "LogRecordExporter").
    ///
    /// It runs on its own thread, in a tokio runtime, and may block. Records wait in its own queue,
    /// which [`with_log_batch`](Self::with_log_batch) configures. If an export fails or panics, its
    /// batch is lost. [`with_limits`](Self::with_limits) does not apply to its records.
    ///
    /// ```
    /// use opentelemetry_sdk::logs::InMemoryLogExporter;
    /// use tower_telemetry::Config;
    ///
    /// let exporter = InMemoryLogExporter::default();
    /// let config = Config::from_env().with_log_exporter(exporter.clone());
    /// ```
    #[cfg(feature = "logs")]
    pub fn with_log_exporter<E: LogExporter + 'static>(mut self, exporter: E) -> Self {
        let exporter = Named::of::<E>(Box::new(exporter) as _);
        self.parts.log_exporters.push(exporter);
        self
    }

    /// Adds a metric reader (metrics SDK, "MetricReader"), for example the reader of
    /// `opentelemetry-prometheus`.
    ///
    /// The reader chooses when and on which thread it collects. Its flush and its shutdown run on a
    /// separate thread and may block. This crate cannot count what a reader collects, so
    /// [`PartStats::counts`](crate::stats::PartStats::counts) is `None`.
    ///
    /// ```
    /// use opentelemetry_sdk::metrics::ManualReader;
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_env().with_metric_reader(ManualReader::default());
    /// ```
    pub fn with_metric_reader<R: MetricReader>(mut self, reader: R) -> Self {
        let reader = Named::of::<R>(Box::new(reader) as _);
        self.parts.metric_readers.push(reader);
        self
    }

    /// Adds a metric exporter (metrics SDK, "Push Metric Exporter").
    ///
    /// It runs on its own thread, in a tokio runtime, and may block. Metrics are collected on that
    /// thread, as configured with [`with_metric_interval`](Self::with_metric_interval) and
    /// [`with_metric_export_timeout`](Self::with_metric_export_timeout), and with the exporter's
    /// temporality.
    ///
    /// ```
    /// use opentelemetry_sdk::metrics::InMemoryMetricExporter;
    /// use tower_telemetry::Config;
    ///
    /// let exporter = InMemoryMetricExporter::default();
    /// let config = Config::from_env().with_metric_exporter(exporter.clone());
    /// ```
    pub fn with_metric_exporter<E: PushMetricExporter>(mut self, exporter: E) -> Self {
        let exporter = Named::of::<E>(Box::new(exporter) as _);
        self.parts.metric_exporters.push(exporter);
        self
    }

    /// Adds a view (metrics SDK, "View") for all readers and exporters.
    ///
    /// For each instrument for which the view returns a stream, the view alone sets the buckets and
    /// the cardinality limit. The limit is 2,000 series if the stream does not set one; without a
    /// view, the metrics of the layers have 10,000. If several views return a stream for an
    /// instrument, it becomes several metrics. A view that panics has no effect on the instrument,
    /// and a warning is logged once.
    ///
    /// ```
    /// use opentelemetry_sdk::metrics::{Aggregation, Instrument, Stream};
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_env().with_view(|instrument: &Instrument| {
    ///     let is_unwanted = instrument.name() == "http.server.active_requests";
    ///     let drop = || Stream::builder().with_aggregation(Aggregation::Drop).build().ok();
    ///     is_unwanted.then(drop).flatten()
    /// });
    /// ```
    pub fn with_view<V>(mut self, view: V) -> Self
    where
        V: Fn(&Instrument) -> Option<Stream> + Send + Sync + 'static,
    {
        self.parts.views.push(std::sync::Arc::new(view));
        self
    }

    /// Sets the bucket boundaries of a histogram, in the histogram's unit and in ascending order
    /// (metrics SDK, "Explicit Bucket Histogram Aggregation"). The histogram may belong to a layer,
    /// to handler code or to a library.
    ///
    /// The boundaries override [`with_histogram_aggregation`](Self::with_histogram_aggregation).
    /// The last call for a name applies. Boundaries that are not finite or not ascending have no
    /// effect, and are reported by [`warnings`](Self::warnings).
    ///
    /// ```
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_env()
    ///     .with_histogram_buckets("http.server.request.duration", [0.01, 0.1, 1.0, 10.0])
    ///     .with_histogram_buckets("http.duration", [10.0, 100.0, 1000.0]);
    /// ```
    pub fn with_histogram_buckets(
        mut self,
        name: &str,
        bounds: impl IntoIterator<Item = f64>,
    ) -> Self {
        let bounds: Vec<_> = bounds.into_iter().collect();
        let is_ascending = bounds.is_sorted_by(|one, next| one < next);
        if !is_ascending || bounds.iter().any(|bound| !bound.is_finite()) {
            let value = format!("{name}: {bounds:?}");
            let consequence = "are not finite bounds in ascending order; they have no effect";
            let origin = "Config::with_histogram_buckets";
            let warning = ConfigWarning::new(origin, Some(&value), consequence);
            self.warnings.push(warning);
            return self;
        }
        let name = name.to_ascii_lowercase();
        self.parts.buckets.retain(|one| one.name != name);
        self.parts.buckets.push(Buckets { name, bounds });
        self
    }

    /// Sets the generator of trace ids and span ids (trace SDK, "Id Generators"). A custom
    /// generator requires the SDK's spans, which cost more.
    ///
    /// It runs on the thread of the request. If it panics, the ids are random, and a warning is
    /// logged once.
    ///
    /// ```
    /// use opentelemetry_sdk::trace::RandomIdGenerator;
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_env().with_id_generator(RandomIdGenerator::default());
    /// ```
    pub fn with_id_generator(mut self, generator: impl IdGenerator + 'static) -> Self {
        self.parts.id_generator = Some(Box::new(generator));
        self
    }

    /// Adds the attributes that a detector finds to the resource (resource SDK, "Detecting resource
    /// information from the environment"). The detector runs immediately, on this thread.
    ///
    /// Its attributes override the ones that are detected by default; variables and other setters
    /// override its attributes. If the detector panics, there is one of the
    /// [`warnings`](Self::warnings).
    ///
    /// ```
    /// use opentelemetry::KeyValue;
    /// use opentelemetry_sdk::{Resource, resource::ResourceDetector};
    /// use tower_telemetry::Config;
    ///
    /// struct Rack;
    ///
    /// impl ResourceDetector for Rack {
    ///     fn detect(&self) -> Resource {
    ///         let rack = KeyValue::new("app.rack", "b7");
    ///         Resource::builder_empty().with_attribute(rack).build()
    ///     }
    /// }
    ///
    /// let config = Config::from_env().with_resource_detector(Rack);
    /// ```
    #[allow(
        clippy::needless_pass_by_value,
        reason = "callers create a detector for the call and do not need it afterwards"
    )]
    pub fn with_resource_detector(mut self, detector: impl ResourceDetector) -> Self {
        match catch_panic(|| detector.detect()) {
            Some(found) => {
                let attribute = |(key, value): (&opentelemetry::Key, &opentelemetry::Value)| {
                    KeyValue::new(key.clone(), value.clone())
                };
                self.parts.detected.extend(found.iter().map(attribute));
            }
            None => {
                let origin = "Config::with_resource_detector";
                let consequence = "panicked; its attributes are missing";
                let warning = ConfigWarning::new(origin, None, consequence);
                self.warnings.push(warning);
            }
        }
        self
    }
}
