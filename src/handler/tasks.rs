//! Spans of tasks, which do not inherit the context of who spawns them.

use std::borrow::Cow;
use std::future::Future;

use opentelemetry::context::FutureExt;
use tokio::task::JoinHandle;

use crate::current_context;
use crate::handler::run::Function;
use crate::handler::span_future::SpanFuture;
use crate::providers::in_context;

/// Spawns a task in a new span below the current one, in its trace.
///
/// As [`tokio::spawn`], which alone loses the context. The span starts now and ends with the task,
/// which may be after that of the request.
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
/// Where [`tokio::spawn`] does: outside of a runtime.
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
/// For work that outlives the request by far, or is sampled for itself: its trace is one of its
/// own, and tells where it came from.
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
/// Where [`tokio::spawn`] does: outside of a runtime.
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

/// Runs blocking code on a thread for it, in a new span below the current one.
///
/// As [`tokio::task::spawn_blocking`], which alone loses the context.
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
/// Where [`tokio::task::spawn_blocking`] does: outside of a runtime.
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
