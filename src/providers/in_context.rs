//! Providers stored in a context: those of the layer that serves a request.

use std::sync::Arc;

use opentelemetry::Context;
use opentelemetry::baggage::{BaggageExt, KeyValueMetadata};

#[cfg(feature = "tokio")]
use crate::current_context;
use crate::providers::Providers;

/// The providers of one request, stored in its context.
struct Scoped(Arc<Providers>);

/// Returns a context in which the handler functions use `providers`.
pub(crate) fn scoped(providers: Arc<Providers>) -> Context {
    Context::new().with_value(Scoped(providers))
}

/// Adds the providers stored in `root`, if any, to `cx`.
pub(crate) fn in_scope_of(cx: Context, root: &Context) -> Context {
    match root.get::<Scoped>() {
        Some(Scoped(providers)) => cx.with_value(Scoped(providers.clone())),
        None => cx,
    }
}

/// Returns the current context without its span.
#[cfg(feature = "tokio")]
pub(crate) fn without_span() -> Context {
    current_context::map(without_span_of)
}

/// Returns a copy of a context without its span.
pub(crate) fn without_span_of(current: &Context) -> Context {
    let cx = match current.get::<Scoped>() {
        Some(Scoped(providers)) => scoped(providers.clone()),
        None => Context::new(),
    };
    let cx = if current.is_telemetry_suppressed() {
        cx.with_telemetry_suppressed()
    } else {
        cx
    };
    let baggage = current.baggage();
    if baggage.is_empty() {
        cx
    } else {
        cx.with_baggage(baggage.iter().map(|(key, (value, metadata))| {
            KeyValueMetadata::new(key.clone(), value.clone(), metadata.clone())
        }))
    }
}

/// Returns the providers stored in `cx`, if the request's layer has its own.
pub(crate) fn scoped_in(cx: &Context) -> Option<Arc<Providers>> {
    // Cloned, because the context must not stay borrowed while the caller records.
    cx.get::<Scoped>().map(|scoped| scoped.0.clone())
}
