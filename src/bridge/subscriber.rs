//! The subscriber of `init`.

use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;

use crate::bridge::filter::SpanFilter;
use crate::bridge::layer::{bridge, opentelemetry_layer};
use crate::bridge::on_demand::{OnDemandSubscriber, WithSpans};
use crate::bridge::tracer::{BridgeTracer, Source};
use crate::logs::BoxedLayer;

/// Returns the subscriber of `init`, with its layer for logs.
pub(crate) fn subscriber(filter: &SpanFilter, logs: BoxedLayer<WithSpans>) -> Dispatch {
    let tracer = BridgeTracer(Source::Process);
    let spans = bridge(tracer.clone(), filter).boxed();
    let inner = tracing_subscriber::registry().with(spans).with(logs);
    // An event is added to the span that the registry has as the current one.
    let subscriber = OnDemandSubscriber::new(inner, !filter.events);
    // `OpenTelemetrySpanExt` looks for this layer.
    let known = opentelemetry_layer(tracer).with_filter(LevelFilter::OFF);
    Dispatch::new(subscriber.with(known))
}
