//! A future in a span.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use crate::handler::run::{Function, Run};

/// A function that sets the error of a run from the output of its future.
pub(crate) type Observe<T> = fn(&T, &mut Run);

pin_project! {
    /// A future in a span, created by functions such as
    /// [`async_with_tracer`](crate::async_with_tracer).
    ///
    /// The span starts when the future is first polled.
    #[must_use = "futures do nothing unless they are polled"]
    pub struct SpanFuture<F>
    where
        F: Future,
    {
        // `None` after it has completed.
        #[pin]
        inner: Option<F>,
        state: State,
        observe: Observe<F::Output>,
    }

    impl<F> PinnedDrop for SpanFuture<F>
    where
        F: Future,
    {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let State::Running(run) = this.state {
                // A panic in the future's own poll has already ended the run.
                run.ignore_panic();
            }
            let _attached = this.state.current_run().map(Run::attach);
            this.inner.set(None);
        }
    }
}

enum State {
    /// The future was not polled yet.
    Waiting(Function),
    Running(Run),
    Ended,
}

impl State {
    fn current_run(&self) -> Option<&Run> {
        match self {
            Self::Running(run) => Some(run),
            Self::Waiting(_) | Self::Ended => None,
        }
    }

    fn started(mut run: Run) -> Self {
        run.set_pending(true);
        Self::Running(run)
    }

    /// Starts the span unless it was started before.
    fn start(&mut self) {
        if matches!(self, Self::Waiting(_))
            && let Self::Waiting(function) = mem::replace(self, Self::Ended)
        {
            *self = Self::started(function.start(&|_| {}));
        }
    }
}

impl<F: Future> SpanFuture<F> {
    /// Runs `inner` in a span that starts at the first poll.
    pub(crate) fn new(function: Function, inner: F, observe: Observe<F::Output>) -> Self {
        Self {
            inner: Some(inner),
            state: State::Waiting(function),
            observe,
        }
    }

    /// Runs `inner` in the span of `run`, which has started.
    #[cfg(any(feature = "macros", feature = "tokio"))]
    pub(crate) fn started(run: Run, inner: F, observe: Observe<F::Output>) -> Self {
        Self {
            inner: Some(inner),
            state: State::started(run),
            observe,
        }
    }
}

/// A guard that ends a run when a panic unwinds. The future itself may be dropped later, when the
/// thread is no longer panicking.
struct EndOnPanic<'a>(&'a mut State);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        *self.0 = State::Ended;
    }
}

impl<F: Future> Future for SpanFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        this.state.start();
        let output = {
            let _attached = this.state.current_run().map(Run::attach);
            let Some(inner) = this.inner.as_mut().as_pin_mut() else {
                return Poll::Pending;
            };
            let unwinding = EndOnPanic(this.state);
            let polled = inner.poll(cx);
            mem::forget(unwinding);
            let output = ready!(polled);
            this.inner.set(None);
            output
        };
        if let State::Running(run) = this.state {
            run.set_pending(false);
            (this.observe)(&output, run);
        }
        *this.state = State::Ended;
        Poll::Ready(output)
    }
}

impl<F: Future> fmt::Debug for SpanFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanFuture").finish_non_exhaustive()
    }
}
