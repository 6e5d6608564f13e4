//! The exporters of `opentelemetry-otlp`, built from the settings of a client.

use std::future::Future;
use std::sync::Arc;

use opentelemetry_otlp::{
    Compression as ReferenceCompression, ExporterBuildError, MetricExporter, Protocol as Encoding,
    RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};

use crate::config::settings::{Compression, Protocol};
use crate::otlp::client::OtlpClient;
use crate::otlp::reference::grpc::{self, Metadata};
use crate::otlp::reference::http::{Exchange, Http};

/// An exporter of `opentelemetry-otlp` for one signal.
pub(crate) trait Reference: Sized + Send + Sync + 'static {
    type Batch: Send + Sync;

    /// Builds the exporter.
    fn build(
        client: &Arc<OtlpClient>,
        exchange: &Arc<Exchange>,
        resource: &Resource,
    ) -> Result<Self, String>;

    /// Makes one attempt to send a batch.
    fn send(&self, batch: &Self::Batch) -> impl Future<Output = OTelSdkResult> + Send;
}

fn over_http<B: WithExportConfig + WithHttpConfig>(
    builder: B,
    client: &OtlpClient,
    exchange: &Arc<Exchange>,
) -> B {
    let encoding = match client.protocol {
        #[cfg(feature = "http-json")]
        Protocol::HttpJson => Encoding::HttpJson,
        _ => Encoding::HttpBinary,
    };
    let builder = builder
        .with_http_client(Http(exchange.clone()))
        .with_endpoint(client.uri.to_string())
        .with_protocol(encoding)
        .with_timeout(client.timeout)
        .with_retry_policy(RetryPolicy::disabled());
    match client.compression {
        Compression::None => builder,
        Compression::Gzip => builder.with_compression(ReferenceCompression::Gzip),
    }
}

fn over_grpc<B: WithExportConfig + WithTonicConfig>(
    builder: B,
    client: &Arc<OtlpClient>,
) -> Result<B, String> {
    let channel = grpc::channel(client).map_err(|error| error.to_string())?;
    let builder = builder
        .with_channel(channel)
        .with_interceptor(Metadata(client.clone()))
        .with_timeout(client.timeout)
        .with_retry_policy(RetryPolicy::disabled());
    Ok(match client.compression {
        Compression::None => builder,
        Compression::Gzip => builder.with_compression(ReferenceCompression::Gzip),
    })
}

/// Builds an exporter for either transport.
macro_rules! build {
    ($exporter:ty, $client:expr, $exchange:expr) => {{
        let built: Result<_, ExporterBuildError> = match $client.protocol {
            Protocol::Grpc => over_grpc(<$exporter>::builder().with_tonic(), $client)?.build(),
            _ => over_http(<$exporter>::builder().with_http(), $client, $exchange).build(),
        };
        built.map_err(|error| error.to_string())?
    }};
}

impl Reference for SpanExporter {
    type Batch = Vec<SpanData>;

    fn build(
        client: &Arc<OtlpClient>,
        exchange: &Arc<Exchange>,
        resource: &Resource,
    ) -> Result<Self, String> {
        let mut exporter = build!(Self, client, exchange);
        exporter.set_resource(resource);
        Ok(exporter)
    }

    fn send(&self, batch: &Self::Batch) -> impl Future<Output = OTelSdkResult> + Send {
        self.export(batch.clone())
    }
}

impl Reference for MetricExporter {
    type Batch = ResourceMetrics;

    /// Ignores the resource: collected metrics contain it.
    fn build(
        client: &Arc<OtlpClient>,
        exchange: &Arc<Exchange>,
        _: &Resource,
    ) -> Result<Self, String> {
        Ok(build!(Self, client, exchange))
    }

    fn send(&self, batch: &Self::Batch) -> impl Future<Output = OTelSdkResult> + Send {
        self.export(batch)
    }
}

#[cfg(feature = "logs")]
impl Reference for opentelemetry_otlp::LogExporter {
    type Batch = Vec<(
        opentelemetry_sdk::logs::SdkLogRecord,
        opentelemetry::InstrumentationScope,
    )>;

    fn build(
        client: &Arc<OtlpClient>,
        exchange: &Arc<Exchange>,
        resource: &Resource,
    ) -> Result<Self, String> {
        use opentelemetry_sdk::logs::LogExporter;

        let mut exporter = build!(Self, client, exchange);
        exporter.set_resource(resource);
        Ok(exporter)
    }

    async fn send(&self, batch: &Self::Batch) -> OTelSdkResult {
        use opentelemetry_sdk::logs::{LogBatch, LogExporter};

        let records: Vec<_> = batch.iter().map(|one| (&one.0, &one.1)).collect();
        self.export(LogBatch::new(&records)).await
    }
}
