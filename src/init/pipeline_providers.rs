//! Providers for the layers and functions, created from a pipeline.

use std::sync::Arc;

use crate::pipeline::export::Export;
use crate::pipeline::metrics::MAX_SERIES;
use crate::pipeline::spans::tracer::Tracers;
use crate::providers::Providers;
use crate::providers::baggage_spans::with_baggage;
use crate::providers::bound;
use crate::providers::layer_variables::LayerSettings;
use crate::providers::start_span::MakeTracer;
use crate::providers::tracer::AnyTracerProvider;

/// Creates the providers of a pipeline. They are never freed.
pub(super) fn providers(export: &Export, layers: &LayerSettings) -> Providers {
    let tracers: Arc<dyn MakeTracer> = match export.sampling.clone() {
        Some(sampling) => {
            let queues = Box::leak(Box::new(export.queues.clone()));
            Arc::new(Tracers::new(queues, sampling))
        }
        None => Arc::new(AnyTracerProvider::new(
            export.tracer_provider.clone(),
            export.has_random_ids,
        )),
    };
    let meters = bound::of_type(export.meter_provider.clone());
    let tracers = with_baggage(tracers, &layers.baggage);
    let providers =
        Providers::new(tracers, meters, MAX_SERIES).with_exceptions(export.exceptions());
    match export.has_metric_readers {
        true => providers,
        false => providers.without_collections(),
    }
}
