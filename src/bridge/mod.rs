//! The bridge to `tracing`: it adds `tracing` spans to traces, and a `tracing` span to each
//! request.

#[cfg(feature = "tracing")]
mod filter;
#[cfg(feature = "tracing")]
mod layer;
#[cfg(all(feature = "init", feature = "logs", feature = "tracing"))]
mod on_demand;
#[cfg(feature = "tracing")]
mod represented;
pub(crate) mod request_span;
#[cfg(all(feature = "init", feature = "logs", feature = "tracing"))]
mod subscriber;
#[cfg(feature = "tracing")]
mod tracer;

#[cfg(all(feature = "init", feature = "tracing"))]
pub(crate) use filter::SpanFilter;
#[cfg(feature = "tracing")]
pub use layer::span_layer;
#[cfg(all(feature = "init", feature = "tracing"))]
pub(crate) use layer::{Source, span_layer_of};
#[cfg(all(feature = "init", feature = "logs", feature = "tracing"))]
pub(crate) use subscriber::subscriber;
