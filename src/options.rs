//! What a layer can be told.

use std::fmt;
use std::sync::Arc;

use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::{Tracer, TracerProvider};
use opentelemetry::{Context, global};

use crate::active_request::Recorder;
use crate::providers::{self, MakeTracer, Providers, TracersOf};

#[derive(Clone, Default)]
pub(crate) struct Options {
    tracers: Option<Arc<dyn MakeTracer>>,
    meters: Option<Arc<dyn MeterProvider + Send + Sync>>,
}

impl Options {
    pub(crate) fn set_tracer_provider<P>(&mut self, provider: P)
    where
        P: TracerProvider + Send + Sync + 'static,
        P::Tracer: Send + Sync + 'static,
        <P::Tracer as Tracer>::Span: Send + Sync + 'static,
    {
        self.tracers = Some(Arc::new(TracersOf::new(provider, false)));
    }

    pub(crate) fn set_meter_provider<P>(&mut self, provider: P)
    where
        P: MeterProvider + Send + Sync + 'static,
    {
        self.meters = Some(Arc::new(provider));
    }

    /// What requests are recorded with; `None` where telemetry is switched off.
    pub(crate) fn recorder(&self) -> Option<Recorder> {
        if self.tracers.is_none() && self.meters.is_none() {
            let providers = providers::process()?;
            return Some(Recorder::new(providers, Context::new()));
        }
        // One that is not given here is the global one, which `init` sets as well.
        let tracers = self.tracers.clone();
        let meters = self.meters.clone();
        let providers = Arc::new(Providers::new(
            tracers.unwrap_or_else(providers::global_tracers),
            meters.unwrap_or_else(global::meter_provider),
        ));
        let root = providers::scoped(providers.clone());
        Some(Recorder::new(&providers, root))
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("tracer_provider", &self.tracers.is_some())
            .field("meter_provider", &self.meters.is_some())
            .finish()
    }
}
