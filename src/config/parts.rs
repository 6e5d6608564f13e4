//! Custom parts of the pipeline.

use std::any::type_name;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
#[cfg(feature = "logs")]
use opentelemetry_sdk::logs::{LogBatch, LogExporter, LogProcessor};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{Instrument, Stream, Temporality};
use opentelemetry_sdk::trace::{IdGenerator, Span, SpanData, SpanExporter, SpanProcessor};

/// A part and the name of its type.
pub(crate) struct Named<P> {
    pub(crate) name: String,
    pub(crate) part: P,
}

impl<P> Named<P> {
    /// Names a part by its type, without the path and the parameters.
    pub(crate) fn of<T>(part: P) -> Self {
        let name = type_name::<T>();
        let name = name.split('<').next().unwrap_or(name);
        let name = name.rsplit("::").next().unwrap_or(name);
        Self {
            name: name.to_owned(),
            part,
        }
    }
}

/// A span processor, which may wrap the export.
pub(crate) struct GivenSpanProcessor {
    pub(crate) processor: Box<dyn SpanProcessor>,
    /// The wrapped export; `None` for a processor that does not wrap it.
    pub(crate) around: Option<SpanExport>,
}

pub(crate) type View = Arc<dyn Fn(&Instrument) -> Option<Stream> + Send + Sync>;

/// The bucket boundaries of one histogram.
#[derive(Clone, Debug)]
pub(crate) struct Buckets {
    /// In lower case, because instrument names are case-insensitive.
    pub(crate) name: String,
    pub(crate) bounds: Vec<f64>,
}

/// All custom parts.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) span_processors: Vec<Named<GivenSpanProcessor>>,
    pub(crate) span_exporters: Vec<Named<Box<dyn AnySpanExporter>>>,
    #[cfg(feature = "logs")]
    pub(crate) log_processors: Vec<Named<Box<dyn LogProcessor>>>,
    #[cfg(feature = "logs")]
    pub(crate) log_exporters: Vec<Named<Box<dyn AnyLogExporter>>>,
    pub(crate) metric_readers: Vec<Named<Box<dyn MetricReader>>>,
    pub(crate) metric_exporters: Vec<Named<Box<dyn AnyMetricExporter>>>,
    pub(crate) views: Vec<View>,
    pub(crate) buckets: Vec<Buckets>,
    pub(crate) id_generator: Option<Box<dyn IdGenerator>>,
    /// The attributes from resource detectors.
    pub(crate) detected: Vec<KeyValue>,
}

impl Parts {
    /// Returns whether a part requires the SDK's spans.
    pub(crate) fn need_sdk_spans(&self) -> bool {
        !self.span_processors.is_empty() || self.id_generator.is_some()
    }

    /// Returns whether any part receives log records.
    pub(crate) fn take_logs(&self) -> bool {
        #[cfg(feature = "logs")]
        return !self.log_processors.is_empty() || !self.log_exporters.is_empty();
        #[cfg(not(feature = "logs"))]
        false
    }

    /// Returns the kinds and the names of all parts.
    pub(crate) fn names(&self) -> Vec<String> {
        fn list<P>(kind: &str, parts: &[Named<P>]) -> Vec<String> {
            let names = parts.iter().map(|part| format!("{kind}({})", part.name));
            names.collect()
        }
        let mut names = list("span_processor", &self.span_processors);
        names.extend(list("span_exporter", &self.span_exporters));
        #[cfg(feature = "logs")]
        {
            names.extend(list("log_processor", &self.log_processors));
            names.extend(list("log_exporter", &self.log_exporters));
        }
        names.extend(list("metric_reader", &self.metric_readers));
        names.extend(list("metric_exporter", &self.metric_exporters));
        names
    }
}

/// Shows only names and counts, because a part may contain secrets.
impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("names", &self.names())
            .field("views", &self.views.len())
            .field("buckets", &self.buckets)
            .field("has_id_generator", &self.id_generator.is_some())
            .field("detected_attributes", &self.detected.len())
            .finish()
    }
}

/// Passes ended spans to all exporters: over OTLP, to the console, and to exporters that were added
/// with [`Config::with_span_exporter`](crate::Config::with_span_exporter).
///
/// It is the inner processor of a processor that is added with
/// [`Config::with_span_processor_around`](crate::Config::with_span_processor_around). A span is
/// exported only if it is passed to `on_end`. `force_flush` and `shutdown` do nothing, because
/// [`TelemetryGuard`](crate::TelemetryGuard) flushes the exporters after the processor.
#[derive(Clone, Default)]
pub struct SpanExport(Arc<OnceLock<Box<dyn SpanProcessor>>>);

impl SpanExport {
    /// Connects the exporters, once they are built.
    pub(crate) fn connect(&self, export: Box<dyn SpanProcessor>) {
        let _ = self.0.set(export);
    }
}

impl fmt::Debug for SpanExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanExport").finish_non_exhaustive()
    }
}

impl SpanProcessor for SpanExport {
    fn on_start(&self, span: &mut Span, cx: &Context) {
        if let Some(export) = self.0.get() {
            export.on_start(span, cx);
        }
    }

    fn on_end(&self, span: SpanData) {
        if let Some(export) = self.0.get() {
            export.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// An export in progress.
pub(crate) type Exporting<'a> = Pin<Box<dyn Future<Output = OTelSdkResult> + Send + 'a>>;

/// A [`SpanExporter`] of any type.
pub(crate) trait AnySpanExporter: Send + Sync {
    fn export(&self, batch: Vec<SpanData>) -> Exporting<'_>;
    fn force_flush(&self) -> OTelSdkResult;
    fn shut_down(&self, timeout: Duration) -> OTelSdkResult;
    fn set_resource(&mut self, resource: &Resource);
}

impl<E: SpanExporter> AnySpanExporter for E {
    fn export(&self, batch: Vec<SpanData>) -> Exporting<'_> {
        Box::pin(SpanExporter::export(self, batch))
    }

    fn force_flush(&self) -> OTelSdkResult {
        SpanExporter::force_flush(self)
    }

    fn shut_down(&self, timeout: Duration) -> OTelSdkResult {
        self.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        SpanExporter::set_resource(self, resource);
    }
}

/// A [`LogExporter`] of any type.
#[cfg(feature = "logs")]
pub(crate) trait AnyLogExporter: Send + Sync {
    fn export<'a>(&'a self, batch: LogBatch<'a>) -> Exporting<'a>;
    fn shut_down(&self, timeout: Duration) -> OTelSdkResult;
    fn set_resource(&mut self, resource: &Resource);
}

#[cfg(feature = "logs")]
impl<E: LogExporter> AnyLogExporter for E {
    fn export<'a>(&'a self, batch: LogBatch<'a>) -> Exporting<'a> {
        Box::pin(LogExporter::export(self, batch))
    }

    fn shut_down(&self, timeout: Duration) -> OTelSdkResult {
        self.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        LogExporter::set_resource(self, resource);
    }
}

/// A [`PushMetricExporter`] of any type.
pub(crate) trait AnyMetricExporter: Send + Sync {
    fn export<'a>(&'a self, metrics: &'a ResourceMetrics) -> Exporting<'a>;
    fn force_flush(&self) -> OTelSdkResult;
    fn shut_down(&self, timeout: Duration) -> OTelSdkResult;
    fn temporality(&self) -> Temporality;
}

impl<E: PushMetricExporter> AnyMetricExporter for E {
    fn export<'a>(&'a self, metrics: &'a ResourceMetrics) -> Exporting<'a> {
        Box::pin(PushMetricExporter::export(self, metrics))
    }

    fn force_flush(&self) -> OTelSdkResult {
        PushMetricExporter::force_flush(self)
    }

    fn shut_down(&self, timeout: Duration) -> OTelSdkResult {
        self.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        PushMetricExporter::temporality(self)
    }
}
