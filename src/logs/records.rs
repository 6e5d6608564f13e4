//! The layer that makes events into OpenTelemetry's log records.

use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::{LogFilter, is_of_sdk};

/// A layer that sends log records, without the messages of the SDK on its own work.
pub(crate) fn log_records<S>(provider: &SdkLoggerProvider) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_wanted = |metadata: &Metadata| !is_of_sdk(metadata);
    OpenTelemetryTracingBridge::new(provider)
        .with_filter(filter_fn(is_wanted))
        .boxed()
}

/// The same, filtered as the subscriber of `init` is.
pub(crate) fn filtered_log_records<S>(
    provider: &SdkLoggerProvider,
    filter: &LogFilter,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_wanted = |metadata: &Metadata| !is_of_sdk(metadata);
    OpenTelemetryTracingBridge::new(provider)
        .with_filter(filter.env_filter().and(filter_fn(is_wanted)))
        .boxed()
}
