//! Spans of handler code.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Poll, ready};

use opentelemetry::trace::{SpanBuilder, SpanId, Status, TraceContextExt, TraceId};
use opentelemetry::{Context, ContextGuard, KeyValue};
use pin_project_lite::pin_project;

use crate::providers::{self, Started};
use crate::semconv;

/// Bound, in bytes, of the message that [`set_span_error`] records.
const MAX_MESSAGE: usize = 256;

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
    /// A new span below the current one; `None` where telemetry is switched off.
    fn start(self, name: Cow<'static, str>) -> Option<OpenSpan> {
        let tracer = providers::current()?.component(self.component);
        let parent = Context::current();
        let span = SpanBuilder::from_name(name);
        let Started { cx, recording } = tracer.start(span, &parent, 0, &|_| {});
        Some(OpenSpan { cx, recording })
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
    let span = tracer.start(name.into());
    SpanGuard {
        _attached: span.as_ref().map(OpenSpan::attach),
        _span: span,
    }
}

/// Guard of a current span, see [`start_as_current_span`].
#[must_use = "the span ends when the guard is dropped; bind it to a name, `let _span = ..`"]
pub struct SpanGuard {
    // Dropped in this order: the span is no longer current when it ends.
    _attached: Option<ContextGuard>,
    _span: Option<OpenSpan>,
}

impl fmt::Debug for SpanGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanGuard").finish_non_exhaustive()
    }
}

/// A span that ends when it is dropped, however many contexts still hold it.
struct OpenSpan {
    cx: Context,
    /// False where the span of the context may be another, which is not to be ended here.
    recording: bool,
}

impl OpenSpan {
    fn attach(&self) -> ContextGuard {
        self.cx.clone().attach()
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if !self.recording {
            return;
        }
        let span = self.cx.span();
        if std::thread::panicking() {
            span.set_attribute(KeyValue::new(semconv::ERROR_TYPE, semconv::PANIC));
            span.set_status(Status::error(""));
        }
        span.end();
    }
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
    let _span = start_as_current_span(&get_tracer(component), name);
    f()
}

/// Runs a future in a new span below the current one.
///
/// The span starts with this call and ends when the future completes or is dropped. It is current
/// while the future is polled, on whichever thread that is, and while the future is dropped.
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
    SpanFuture {
        inner: Some(future),
        span: get_tracer(component).start(name.into()),
    }
}

pin_project! {
    /// Future in a span, see [`async_with_tracer`].
    pub struct SpanFuture<F> {
        // `None` once it has completed, and while it is being dropped.
        #[pin]
        inner: Option<F>,
        span: Option<OpenSpan>,
    }

    impl<F> PinnedDrop for SpanFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _attached = this.span.as_ref().map(OpenSpan::attach);
            this.inner.set(None);
        }
    }
}

impl<F: Future> Future for SpanFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let output = {
            let _attached = this.span.as_ref().map(OpenSpan::attach);
            let Some(inner) = this.inner.as_mut().as_pin_mut() else {
                return Poll::Pending;
            };
            let output = ready!(inner.poll(cx));
            this.inner.set(None);
            output
        };
        *this.span = None;
        Poll::Ready(output)
    }
}

impl<F> fmt::Debug for SpanFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanFuture").finish_non_exhaustive()
    }
}

/// Sets attributes on the current span.
///
/// The SDK keeps what is set twice under one key twice; set each key once.
///
/// ```
/// use tower_telemetry::{add_span_attributes, attributes};
///
/// add_span_attributes(attributes! { "user.id" => 42, "user.plan" => "free" });
/// ```
pub fn add_span_attributes(attributes: impl IntoIterator<Item = KeyValue>) {
    let cx = Context::current();
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
    let cx = Context::current();
    if cx.has_active_span() {
        let attributes = attributes.into_iter().collect();
        cx.span().add_event(name, attributes);
    }
}

/// Records an error on the current span: its status becomes error, and an `exception` event gets
/// the error's type and message.
///
/// The message is the error's own, cut to 256 bytes; those of its sources are left out, because
/// they tend to hold what nobody meant to publish.
///
/// ```
/// use tower_telemetry::set_span_error;
///
/// if let Err(error) = "many".parse::<u32>() {
///     set_span_error(&error);
/// }
/// ```
pub fn set_span_error<E: std::error::Error + ?Sized>(error: &E) {
    let cx = Context::current();
    if !cx.has_active_span() {
        return;
    }
    let message = error.to_string();
    let message = semconv::truncate(&message, MAX_MESSAGE).into_owned();
    let span = cx.span();
    span.add_event(
        semconv::EXCEPTION_EVENT,
        vec![
            KeyValue::new(semconv::EXCEPTION_TYPE, std::any::type_name::<E>()),
            KeyValue::new(semconv::EXCEPTION_MESSAGE, message.clone()),
        ],
    );
    span.set_status(Status::error(message));
}

/// Returns the id of the current trace; its `Display` is 32 lower-case hexadecimal digits.
///
/// `None` outside of a trace.
pub fn get_trace_id() -> Option<TraceId> {
    Context::map_current(|cx| {
        let span = cx.span();
        let span_context = span.span_context();
        span_context.is_valid().then(|| span_context.trace_id())
    })
}

/// Returns the id of the current span; its `Display` is 16 lower-case hexadecimal digits.
///
/// `None` outside of a span.
pub fn get_span_id() -> Option<SpanId> {
    Context::map_current(|cx| {
        let span = cx.span();
        let span_context = span.span_context();
        span_context.is_valid().then(|| span_context.span_id())
    })
}
