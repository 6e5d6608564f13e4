//! Spans and metrics of handler code: the types of the functions in the crate root.

mod attributes;
mod bound_metrics;
#[cfg(feature = "macros")]
mod bounded_text;
#[cfg(feature = "macros")]
pub(crate) mod expanded;
#[cfg(feature = "macros")]
pub(crate) mod failed;
mod metrics;
#[cfg_attr(
    not(feature = "macros"),
    allow(unreachable_pub, reason = "some of it is public for the macro alone")
)]
pub(crate) mod run;
mod span_builder;
mod span_error;
mod span_future;
mod span_guard;
#[cfg(feature = "tokio")]
mod tasks;
mod trace;

pub use attributes::{Attributes, IntoOptionalValue, IntoValue};
#[doc(hidden)]
pub use attributes::{Literal, LiteralValue};
pub use bound_metrics::{
    BoundCounter, BoundGauge, BoundHistogram, BoundUpDownCounter, bind_counter, bind_gauge,
    bind_histogram, bind_up_down_counter,
};
pub use metrics::{
    Timer, add_to_counter, add_to_up_down_counter, increment_counter, record_histogram_value,
    set_gauge, start_timer,
};
pub use opentelemetry::trace::SpanKind;
pub use span_builder::SpanBuilder;
pub use span_error::{set_span_error, set_span_error_with_sources};
pub use span_future::SpanFuture;
pub use span_guard::SpanGuard;
#[cfg(feature = "tokio")]
pub use tasks::{spawn_blocking_traced, spawn_linked, spawn_traced};
pub use trace::{
    Tracer, add_span_attributes, add_span_event, async_try_with_tracer, async_with_tracer,
    get_span_id, get_trace_id, get_tracer, start_as_current_span, try_with_tracer, with_tracer,
};
