//! Spans of tasks. A task does not inherit the context of the code that spawns it.

use std::borrow::Cow;
use std::future::Future;

use opentelemetry::context::FutureExt;
use tokio::task::JoinHandle;

use crate::current_context;
use crate::handler::run::Function;
use crate::handler::span_future::SpanFuture;
use crate::providers::in_context;

/// Spawns a task in a new child of the current span.
///
/// Like [`tokio::spawn`], but the task has a span. The span starts now and ends with the
/// task. It may end after the span of the request.
///
/// ```
/// # #[tokio::main]
/// # async fn main() {
/// let task = tower_telemetry::spawn_traced("mailer", "send-receipt", async { 42 });
/// assert_eq!(task.await.unwrap(), 42);
/// # }
/// ```
///
/// # Panics
///
/// Panics outside of a runtime, like [`tokio::spawn`].
#[track_caller]
pub fn spawn_traced<F>(
    component: &'static str,
    name: impl Into<Cow<'static, str>>,
    future: F,
) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let run = Function::new(component, name.into()).start(&|_| {});
    let task = SpanFuture::started(run, future, |_, _| {});
    tokio::spawn(task.with_current_context())
}

/// Spawns a task in a new trace, with a link to the current span.
///
/// Use it for work that takes much longer than the request, or that is to be sampled independently.
/// The link leads from the new trace to the request.
///
/// ```
/// # #[tokio::main]
/// # async fn main() {
/// let task = tower_telemetry::spawn_linked("reports", "build-report", async { 42 });
/// assert_eq!(task.await.unwrap(), 42);
/// # }
/// ```
///
/// # Panics
///
/// Panics outside of a runtime, like [`tokio::spawn`].
#[track_caller]
pub fn spawn_linked<F>(
    component: &'static str,
    name: impl Into<Cow<'static, str>>,
    future: F,
) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let run = Function::new(component, name.into()).start_linked();
    let task = SpanFuture::started(run, future, |_, _| {});
    tokio::spawn(task.with_context(in_context::without_span()))
}

/// Runs blocking code on a thread for blocking code, in a new child of the current span.
///
/// Like [`tokio::task::spawn_blocking`], but the code runs in a span. The span starts now, so
/// it includes the time until a thread is free.
///
/// ```
/// # #[tokio::main]
/// # async fn main() {
/// let task = tower_telemetry::spawn_blocking_traced("files", "hash", || 42);
/// assert_eq!(task.await.unwrap(), 42);
/// # }
/// ```
///
/// # Panics
///
/// Panics outside of a runtime, like [`tokio::task::spawn_blocking`].
#[track_caller]
pub fn spawn_blocking_traced<T: Send + 'static>(
    component: &'static str,
    name: impl Into<Cow<'static, str>>,
    f: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let cx = current_context::get();
    let mut run = Function::new(component, name.into()).start(&|_| {});
    run.set_pending(true);
    tokio::task::spawn_blocking(move || {
        let _attached = current_context::attach(&cx);
        run.enter().run(f, |_, run| run.set_pending(false))
    })
}
