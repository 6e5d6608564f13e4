//! The `tracing` layer of a guard that exports spans.

use std::sync::Arc;

use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use crate::bridge::{Source, span_layer_of};
use crate::init::guard::TelemetryGuard;
use crate::init::pipeline_providers::providers;

impl TelemetryGuard {
    /// Returns a `tracing` layer that adds `tracing` spans to the traces of requests, for your own
    /// subscriber. See [`Config::without_subscriber`](crate::init::Config::without_subscriber).
    ///
    /// [`Config::with_tracing_spans`](crate::Config::with_tracing_spans) configures its filter. Do
    /// not put a filter for log lines around this layer: add that filter to the layer that writes
    /// the log lines, with `with_filter`. [`span_layer`](crate::span_layer) describes the layer in
    /// detail. If [`init`](crate::init) returned this guard, the layer sends to the guard of the
    /// most recent `init`.
    ///
    /// ```
    /// use tower_telemetry::Config;
    /// use tracing_subscriber::filter::LevelFilter;
    /// use tracing_subscriber::prelude::*;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let telemetry = Config::from_env().build()?;
    /// let subscriber = tracing_subscriber::registry()
    ///     .with(tracing_subscriber::fmt::layer().with_filter(LevelFilter::WARN))
    ///     .with(telemetry.span_layer());
    /// # Ok(())
    /// # }
    /// ```
    pub fn span_layer<S>(&self) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let source = match &self.pipeline {
            Some(pipeline) if !self.is_of_process => {
                Source::Own(Arc::new(providers(&pipeline.export, &self.layers)))
            }
            _ => Source::Process,
        };
        span_layer_of(source, &self.span_filter)
    }
}
