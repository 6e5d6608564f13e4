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

/// Starts spans for one component of an application.
///
/// It is a name, looked up when a span starts: it may be made before [`init`](crate::init), kept
/// in a constant, and copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracer {
    component: &'static str,
}

/// Returns the tracer of a component, whose name becomes the spans' instrumentation scope.
///
/// ```
/// let tracer = tower_telemetry::get_tracer("billing");
/// let _span = tower_telemetry::start_as_current_span(&tracer, "charge");
/// ```
pub const fn get_tracer(component: &'static str) -> Tracer {
    Tracer { component }
}

impl Tracer {
    /// Describes a span that has more than a name: a kind, attributes, links, a parent. It starts
    /// with one of the builder's last methods.
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

/// Starts a span below the current one, and makes it current on this thread until the guard is
/// dropped, which ends it.
///
/// The guard is for synchronous code. It must not be held across an `.await`, where the thread
/// goes on to other work; use [`async_with_tracer`] there. The compiler refuses it in a future
/// that must be [`Send`].
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

/// Runs `f` in a new span below the current one.
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

/// Runs `f` in a new span below the current one, which fails where `f` does.
///
/// An `Err` becomes the span's status, with the error's message cut to 256 bytes and without those
/// of its sources or the secrets in URLs, and its type the attribute `error.type` ([recording errors]).
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

/// Runs a future in a new span below the span that is current when the future is first polled.
///
/// The span starts with that first poll, and ends when the future completes or is dropped; where it
/// is dropped before it has completed, the span's `error.type` is `cancelled`. A future that is never
/// polled has no span. The span is current while the future is polled, on whichever thread that is,
/// and while the future is dropped.
///
/// A task is polled without the context of the code that spawns it: use `spawn_traced` in place of
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

/// Runs a future in a new span as [`async_with_tracer`] does. The span fails where the future does,
/// as in [`try_with_tracer`].
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
/// The SDK keeps what is set twice under one key twice; set each key once.
///
/// ```
/// use tower_telemetry::{add_span_attributes, attributes};
///
/// add_span_attributes(attributes! { "user.id" => "42", "user.plan" => "free" });
/// ```
pub fn add_span_attributes(attributes: impl IntoIterator<Item = KeyValue>) {
    // Collected first: the caller's iterator may come back here.
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

/// Returns the id of the current trace; its `Display` is 32 lower-case hexadecimal digits.
///
/// `None` outside of a trace.
pub fn get_trace_id() -> Option<TraceId> {
    current_context::map(|cx| {
        let span = cx.span();
        let span_context = span.span_context();
        span_context.is_valid().then(|| span_context.trace_id())
    })
}

/// Returns the id of the current span; its `Display` is 16 lower-case hexadecimal digits.
///
/// `None` outside of a span.
pub fn get_span_id() -> Option<SpanId> {
    current_context::map(|cx| {
        let span = cx.span();
        let span_context = span.span_context();
        span_context.is_valid().then(|| span_context.span_id())
    })
}
