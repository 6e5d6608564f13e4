//! Spans of handler code.

use std::borrow::Cow;
use std::fmt::Display;
use std::future::Future;

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, TraceContextExt, TraceId};

use crate::current_context;
use crate::handler::span_builder::SpanBuilder;
use crate::handler::span_future::SpanFuture;
use crate::handler::span_guard::SpanGuard;

/// The tracer of one component of an application, which starts the component's spans.
///
/// A tracer is only a name, which is looked up when a span starts. It can therefore be created
/// before [`init`](crate::init), stored in a constant, and copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracer {
    component: &'static str,
}

/// Returns the tracer of a component. The component's name becomes the instrumentation scope of its
/// spans.
///
/// ```
/// let tracer = tower_telemetry::get_tracer("billing");
/// let _span = tower_telemetry::start_as_current_span(&tracer, "charge");
/// ```
pub const fn get_tracer(component: &'static str) -> Tracer {
    Tracer { component }
}

impl Tracer {
    /// Returns a builder for a span with a kind, attributes, links or a parent.
    ///
    /// [`SpanBuilder`] describes when the span starts.
    ///
    /// ```
    /// use tower_telemetry::{attributes, get_tracer, handler::SpanKind};
    ///
    /// let sent = get_tracer("mail")
    ///     .span("send orders")
    ///     .with_kind(SpanKind::Producer)
    ///     .with_attributes(attributes! { "messaging.destination.name" => "orders" })
    ///     .run(|| 3);
    /// assert_eq!(sent, 3);
    /// ```
    pub fn span(&self, name: impl Into<Cow<'static, str>>) -> SpanBuilder {
        SpanBuilder::new(self.component, name.into())
    }
}

/// Starts a child of the current span and makes it current on this thread. The span ends when the
/// guard is dropped.
///
/// The guard is for synchronous code. It must not be held across an `.await`, because the thread
/// then runs other tasks; use [`async_with_tracer`] there. The guard is not [`Send`], so the
/// compiler rejects it in a future that must be.
///
/// ```
/// use tower_telemetry::{get_tracer, start_as_current_span};
///
/// fn parse(input: &str) -> usize {
///     let _span = start_as_current_span(&get_tracer("parser"), "parse");
///     input.len()
/// }
/// # assert_eq!(parse("abc"), 3);
/// ```
pub fn start_as_current_span(tracer: &Tracer, name: impl Into<Cow<'static, str>>) -> SpanGuard {
    tracer.span(name).start()
}

/// Runs `f` in a new child of the current span.
///
/// ```
/// let sum = tower_telemetry::with_tracer("calculator", "add", || 1 + 1);
/// assert_eq!(sum, 2);
/// ```
pub fn with_tracer<T>(
    component: &'static str,
    name: impl Into<Cow<'static, str>>,
    f: impl FnOnce() -> T,
) -> T {
    get_tracer(component).span(name).run(f)
}

/// Runs `f` in a new child of the current span, and records an error that `f` returns.
///
/// An `Err` sets the status of the span to error. The description of the status is the error's
/// message, truncated to 256 bytes, with secrets in URLs redacted and without the messages of its
/// sources. The attribute `error.type` is the type of the error ([recording errors]).
///
/// ```
/// let result = tower_telemetry::try_with_tracer("parser", "parse", || "many".parse::<u32>());
/// assert!(result.is_err());
/// ```
///
/// [recording errors]: https://opentelemetry.io/docs/specs/semconv/general/recording-errors/
pub fn try_with_tracer<T, E: Display>(
    component: &'static str,
    name: impl Into<Cow<'static, str>>,
    f: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    get_tracer(component).span(name).try_run(f)
}

/// Runs a future in a new span. The parent is the span that is current at the first poll.
///
/// The span starts at the first poll and ends when the future completes or is dropped. If the
/// future is dropped before it completes, the span's `error.type` is `cancelled`. A future that is
/// never polled has no span. The span is current while the future is polled, on any thread, and
/// while the future is dropped.
///
/// A task does not inherit the context of the code that spawns it. Use `spawn_traced` instead of
/// `tokio::spawn`, or see [context across tasks](crate#context-across-tasks).
///
/// ```
/// # async fn example() {
/// let user = tower_telemetry::async_with_tracer("users", "load-user", async { "Ada" }).await;
/// # }
/// ```
pub fn async_with_tracer<F: Future>(
    component: &'static str,
    name: impl Into<Cow<'static, str>>,
    future: F,
) -> SpanFuture<F> {
    get_tracer(component).span(name).run_future(future)
}

/// Runs a future in a new span like [`async_with_tracer`], and records an error that the future
/// returns like [`try_with_tracer`].
///
/// ```
/// # async fn example() -> Result<(), std::io::Error> {
/// use tower_telemetry::async_try_with_tracer;
///
/// let text = async_try_with_tracer("files", "read", async {
///     std::fs::read_to_string("/etc/hostname")
/// });
/// println!("{}", text.await?);
/// # Ok(())
/// # }
/// ```
pub fn async_try_with_tracer<F, T, E>(
    component: &'static str,
    name: impl Into<Cow<'static, str>>,
    future: F,
) -> SpanFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Display,
{
    get_tracer(component).span(name).try_run_future(future)
}

/// Sets attributes on the current span.
///
/// A later value of a key replaces the earlier one. Spans of an SDK keep both, so set each key once
/// if an SDK creates the spans.
///
/// ```
/// use tower_telemetry::{add_span_attributes, attributes};
///
/// add_span_attributes(attributes! { "user.id" => "42", "user.plan" => "free" });
/// ```
pub fn add_span_attributes(attributes: impl IntoIterator<Item = KeyValue>) {
    // Collected first, because the caller's iterator may call this function.
    let attributes: Vec<_> = attributes.into_iter().collect();
    let cx = current_context::get();
    if cx.has_active_span() {
        cx.span().set_attributes(attributes);
    }
}

/// Adds an event to the current span.
///
/// ```
/// use tower_telemetry::{add_span_event, attributes};
///
/// add_span_event("cache-miss", attributes! { "cache.key" => "user:42" });
/// ```
pub fn add_span_event(
    name: impl Into<Cow<'static, str>>,
    attributes: impl IntoIterator<Item = KeyValue>,
) {
    let cx = current_context::get();
    if cx.has_active_span() {
        let attributes = attributes.into_iter().collect();
        cx.span().add_event(name, attributes);
    }
}

/// Returns the id of the current trace; `None` outside of a trace.
///
/// Its `Display` is 32 lowercase hexadecimal digits.
pub fn get_trace_id() -> Option<TraceId> {
    current_context::map(|cx| {
        let span = cx.span();
        let span_context = span.span_context();
        span_context.is_valid().then(|| span_context.trace_id())
    })
}

/// Returns the id of the current span; `None` outside of a span.
///
/// Its `Display` is 16 lowercase hexadecimal digits.
pub fn get_span_id() -> Option<SpanId> {
    current_context::map(|cx| {
        let span = cx.span();
        let span_context = span.span_context();
        span_context.is_valid().then(|| span_context.span_id())
    })
}
