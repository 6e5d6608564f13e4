//! The builder of spans.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::future::Future;

use opentelemetry::trace::{SpanContext, SpanKind};
use opentelemetry::{Context, KeyValue};

use crate::handler::run::{Extra, Function, Run, message_of};
use crate::handler::span_future::SpanFuture;
use crate::handler::span_guard::SpanGuard;
use crate::semconv::ErrorChain;

/// A builder of spans, created by [`Tracer::span`](crate::handler::Tracer::span).
///
/// [`start`](Self::start), [`run`](Self::run) and [`try_run`](Self::try_run) start the span. With
/// [`run_future`](Self::run_future) and [`try_run_future`](Self::try_run_future), the span starts
/// when the future is first polled.
///
/// ```
/// use tower_telemetry::opentelemetry::{Context, KeyValue, trace::SpanContext};
/// use tower_telemetry::{get_tracer, handler::SpanKind};
///
/// async fn handle(parent: Context, batch: Vec<SpanContext>) {
///     let mut span = get_tracer("jobs")
///         .span("process jobs")
///         .with_kind(SpanKind::Consumer)
///         .with_parent(parent);
///     for message in batch {
///         span = span.with_link(message);
///     }
///     span.run_future(async { /* the work */ }).await;
/// }
/// ```
#[must_use = "a span starts with `start`, `run` or `run_future`"]
pub struct SpanBuilder {
    function: Function,
}

impl SpanBuilder {
    pub(crate) fn new(component: &'static str, name: Cow<'static, str>) -> Self {
        Self::of(Function::new(component, name))
    }

    pub(crate) fn of(function: Function) -> Self {
        Self { function }
    }

    fn extra(&mut self) -> &mut Extra {
        self.function.extra.get_or_insert_default()
    }

    /// Sets the kind of the span. Defaults to [`SpanKind::Internal`] ([span kind]).
    ///
    /// [span kind]: https://opentelemetry.io/docs/specs/otel/trace/api/#spankind
    pub fn with_kind(mut self, kind: SpanKind) -> Self {
        self.function.kind = kind;
        self
    }

    /// Adds attributes. Samplers can use them.
    pub fn with_attributes(mut self, attributes: impl IntoIterator<Item = KeyValue>) -> Self {
        self.extra().attributes.extend(attributes);
        self
    }

    /// Links the span to another span, such as the span of a message in a batch. Ignores an invalid
    /// span context.
    pub fn with_link(mut self, span_context: SpanContext) -> Self {
        self.function.link(span_context);
        self
    }

    /// Sets the parent to the span of `parent`. Defaults to the current span. A context without a
    /// span, such as `Context::new()`, starts a new trace.
    ///
    /// The baggage and the other values in `parent` are current in the span, too.
    pub fn with_parent(mut self, parent: Context) -> Self {
        self.extra().parent = Some(parent);
        self
    }

    /// Starts the span and makes it current on this thread, like
    /// [`start_as_current_span`](crate::start_as_current_span).
    pub fn start(self) -> SpanGuard {
        SpanGuard::new(self.function.start(&|_| {}).enter())
    }

    /// Runs `f` in the span, like [`with_tracer`](fn@crate::with_tracer).
    pub fn run<T>(self, f: impl FnOnce() -> T) -> T {
        let _span = self.start();
        f()
    }

    /// Runs `f` in the span and records an error that `f` returns, like
    /// [`try_with_tracer`](crate::try_with_tracer).
    ///
    /// # Errors
    ///
    /// Returns the error of `f`.
    pub fn try_run<T, E: Display>(self, f: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let run = self.function.start(&|_| {}).enter();
        run.run(f, fail_with_error)
    }

    /// Runs a future in the span, like [`async_with_tracer`](crate::async_with_tracer).
    pub fn run_future<F: Future>(self, future: F) -> SpanFuture<F> {
        SpanFuture::new(self.function, future, |_, _| {})
    }

    /// Runs a future in the span and records an error that the future returns, like
    /// [`async_try_with_tracer`](crate::async_try_with_tracer).
    pub fn try_run_future<F, T, E>(self, future: F) -> SpanFuture<F>
    where
        F: Future<Output = Result<T, E>>,
        E: Display,
    {
        SpanFuture::new(self.function, future, fail_with_error)
    }
}

/// Records an `Err` as the error of the run.
fn fail_with_error<T, E: Display>(result: &Result<T, E>, run: &mut Run) {
    if let Err(error) = result {
        let error_type = ErrorChain::default().path(std::any::type_name::<E>());
        run.fail(error_type, || message_of(error));
    }
}

impl fmt::Debug for SpanBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanBuilder")
            .field("component", &self.function.component)
            .field("name", &self.function.name)
            .finish_non_exhaustive()
    }
}
