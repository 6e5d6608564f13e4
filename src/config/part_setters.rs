//! Setters for the parts of the pipeline that the application brings.

use opentelemetry::KeyValue;
#[cfg(feature = "logs")]
use opentelemetry_sdk::logs::{LogExporter, LogProcessor};
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{Instrument, Stream};
use opentelemetry_sdk::resource::ResourceDetector;
use opentelemetry_sdk::trace::{IdGenerator, SpanExporter, SpanProcessor};

use crate::concurrent::caught::caught;
use crate::config::builder::Config;
use crate::config::parts::{Buckets, GivenSpanProcessor, Named, SpanExport};
use crate::providers::variables::ConfigWarning;

/// # Parts of your own
///
/// Parts of OpenTelemetry's SDK, any number of them, beside OTLP, or in its place with
/// [`with_exporters([])`](Config::with_exporters). Spans of the layers and of handler code reach them.
/// `docs/parts.md` says on which thread each of them runs, and what it costs. What is lost in them is in
/// [`Stats::parts`](crate::stats::Stats::parts), and [`TelemetryGuard`](crate::TelemetryGuard) flushes them
/// and shuts them down within its own deadline. Where telemetry is switched off, they are not used.
impl Config {
    /// Adds a span processor (trace SDK, "Span processor").
    ///
    /// Its `on_start` may change the span, and its `on_end` gets a copy of each span that is recorded.
    /// Both run on the thread of the request, so that they must not block. Processors are called in the
    /// order in which they were added. With a processor, spans are those of the SDK, which costs more.
    ///
    /// A processor changes its own copy of an ended span, and others do not see it. To redact or to filter
    /// what is exported, use [`with_span_processor_around`](Self::with_span_processor_around).
    ///
    /// A panic is caught, counted, and told once.
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

    /// Adds a span processor that stands around the export: it is made by `wrap`, from the processor that
    /// hands ended spans to all exporters (trace SDK, "Span processor").
    ///
    /// It decides which spans are exported, and what is in them: over OTLP, on the console, and by
    /// exporters of your own. Of several, the first one gets a span first. All else is as with
    /// [`with_span_processor`](Self::with_span_processor). A span whose `on_end` panics is not exported,
    /// because it may not be redacted yet; it is counted as lost.
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
    /// It runs on a thread of its own, in a tokio runtime, and may block. Sampled spans wait for it in a
    /// queue of its own, as [`with_span_batch`](Self::with_span_batch) has it. The batch of an export that
    /// fails or panics is lost: retries are up to the exporter.
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
    /// It is called on the thread that logs, so that it must not block. Processors are called in the order
    /// in which they were added, and before the export: what one changes in a record, the next ones and
    /// all exporters see. Log records that a processor causes are not recorded. A panic is caught, counted,
    /// and told once.
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
    /// It runs on a thread of its own, in a tokio runtime, and may block. Records wait for it in a queue of
    /// its own, as [`with_log_batch`](Self::with_log_batch) has it. The batch of an export that fails or
    /// panics is lost. [`with_limits`](Self::with_limits) does not hold for its records.
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

    /// Adds a metric reader (metrics SDK, "MetricReader"), for instance the one of
    /// `opentelemetry-prometheus`.
    ///
    /// It collects when and where it likes. Its flush and its shutdown run on a thread of its own, and may
    /// block. What it collects is not known here, so that
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
    /// It runs on a thread of its own, in a tokio runtime, and may block. Metrics are collected for it
    /// there, as [`with_metric_interval`](Self::with_metric_interval) and
    /// [`with_metric_export_timeout`](Self::with_metric_export_timeout) have it, with the temporality that
    /// the exporter names.
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

    /// Adds a view (metrics SDK, "View"), for all readers and exporters.
    ///
    /// A view decides alone about the instruments that it returns a stream for: their buckets, and how many
    /// series they may have, which is 2,000 where the stream does not say it (10,000 for the metrics of
    /// the layers without a view). An instrument for which several views return a stream becomes several
    /// metrics. A view that panics has no effect on the instrument, and one warning says so.
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

    /// Sets the bounds of the buckets of a histogram, in the unit of the histogram and in ascending order
    /// (metrics SDK, "Explicit Bucket Histogram Aggregation"). The histogram may be one of the layers, of
    /// handler code or of a library.
    ///
    /// They hold over [`with_histogram_aggregation`](Self::with_histogram_aggregation). Of several calls
    /// for one name, the last one holds. Bounds that are not in ascending order, or not finite, have no
    /// effect, and are one of the [`warnings`](Self::warnings).
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

    /// Sets the generator of the ids of traces and spans (trace SDK, "Id Generators"). With one, spans are
    /// those of the SDK, which costs more.
    ///
    /// It is asked on the thread of the request. Where it panics, ids are random, and one warning says so.
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

    /// Adds what a detector finds to the resource (resource SDK, "Detecting resource information from the
    /// environment"). It is asked at once, on this thread.
    ///
    /// Its attributes hold over those that are found by default, and those of variables and of other
    /// setters hold over them. A detector that panics is one of the [`warnings`](Self::warnings).
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
        reason = "callers make a detector for the call, and it has no use after it"
    )]
    pub fn with_resource_detector(mut self, detector: impl ResourceDetector) -> Self {
        match caught(|| detector.detect()) {
            Some(found) => {
                let attribute = |(key, value): (&opentelemetry::Key, &opentelemetry::Value)| {
                    KeyValue::new(key.clone(), value.clone())
                };
                self.parts.detected.extend(found.iter().map(attribute));
            }
            None => {
                let origin = "Config::with_resource_detector";
                let consequence = "has panicked; its attributes are missing";
                let warning = ConfigWarning::new(origin, None, consequence);
                self.warnings.push(warning);
            }
        }
        self
    }
}
