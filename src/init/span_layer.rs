//! The layer of spans that a guard gives.

use std::sync::Arc;

use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use crate::bridge::{Source, span_layer_of};
use crate::init::guard::TelemetryGuard;
use crate::init::pipeline_providers::providers;

impl TelemetryGuard {
    /// Returns a layer that exports spans of `tracing` in the traces of requests, for a subscriber of
    /// your own. See [`Config::without_subscriber`](crate::init::Config::without_subscriber).
    ///
    /// It filters as [`Config::with_tracing_spans`](crate::Config::with_tracing_spans) says. Do not put
    /// it below a filter of log lines: give that filter to the layer of the log lines, with
    /// `with_filter`. See [`span_layer`](crate::span_layer) for all that it does. The layer of a guard
    /// that [`init`](crate::init) has returned sends to whichever guard of `init` came last.
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
            _ => Source::InForce,
        };
        span_layer_of(source, &self.span_filter)
    }
}
