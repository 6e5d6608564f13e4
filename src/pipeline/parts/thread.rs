//! A thread for one part, which may block it.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::{self, Thread};

use opentelemetry::Context;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::concurrent::caught::catch_panic;

type Job<P> = Box<dyn FnOnce(&P) + Send>;

/// A handle to the thread that owns a part. When all handles are dropped and all calls are done,
/// the thread drops the part and ends.
pub(crate) struct PartThread<P> {
    calls: mpsc::Sender<Job<P>>,
}

impl<P: Send + 'static> PartThread<P> {
    /// Starts the thread. Exporters need a tokio runtime on it, which `with_runtime` provides.
    pub(crate) fn start(part: P, with_runtime: bool) -> io::Result<Self> {
        let runtime = with_runtime.then(start_runtime).transpose()?;
        let (calls, receiver) = mpsc::channel::<Job<P>>();
        let body = move || {
            let _suppressed = Context::enter_telemetry_suppressed_scope();
            // The runtime is entered here but driven by another thread. Exporters with blocking
            // clients must not be called on a thread that drives a runtime.
            let _entered = runtime.as_ref().map(|runtime| runtime.handle.enter());
            for call in receiver {
                call(&part);
            }
            let _ = catch_panic(move || drop(part));
        };
        thread::Builder::new()
            .name("telemetry-part".to_owned())
            .spawn(body)?;
        Ok(Self { calls })
    }

    /// Calls a function with the part on its thread, after all earlier calls. Resolves to `None` if
    /// the function panics.
    pub(crate) fn call<T, C>(
        &self,
        call: C,
    ) -> impl Future<Output = Option<T>> + Send + use<P, T, C>
    where
        T: Send + 'static,
        C: FnOnce(&P) -> T + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let job = Box::new(move |part: &P| {
            let _ = done.send(catch_panic(|| call(part)));
        });
        let _ = self.calls.send(job);
        async move { result.await.ok().flatten() }
    }
}

/// A runtime driven by its own thread.
struct Runtime {
    handle: Handle,
    /// The runtime shuts down when this is dropped.
    _alive: oneshot::Sender<()>,
}

fn start_runtime() -> io::Result<Runtime> {
    let (alive, ended) = oneshot::channel::<()>();
    let (started, start) = mpsc::channel();
    let body = move || {
        let _suppressed = Context::enter_telemetry_suppressed_scope();
        // The runtime is built on this thread, because async code must not drop one, and `init` may
        // run in async code.
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let _ = started.send(Ok(runtime.handle().clone()));
        let _ = runtime.block_on(ended);
        runtime.shutdown_background();
    };
    thread::Builder::new()
        .name("telemetry-part-io".to_owned())
        .spawn(body)?;
    let handle = start
        .recv()
        .unwrap_or_else(|_| Err(io::Error::other("the thread ended before it started")))?;
    Ok(Runtime {
        handle,
        _alive: alive,
    })
}

/// Drives a future to completion on the current thread.
pub(crate) fn drive<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = TaskContext::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn calls_run_in_order_and_a_panic_does_not_end_the_thread() {
        let thread = PartThread::start(7, false).expect("the thread starts");
        let panics = thread.call(|_| panic!("on purpose"));
        let returns = thread.call(|part| part + 1);
        assert_eq!(drive(panics), None::<()>);
        assert_eq!(drive(returns), Some(8));
    }

    #[test]
    fn a_part_can_use_timers_tasks_and_a_blocking_runtime() {
        let thread = PartThread::start((), true).expect("the thread starts");
        let result = thread.call(|()| {
            let task = tokio::spawn(tokio::time::sleep(Duration::from_millis(1)));
            let inner = Builder::new_current_thread().enable_all().build();
            inner.expect("the runtime can be built").block_on(async {});
            drive(task).is_ok()
        });
        assert_eq!(drive(result), Some(true));
    }

    #[test]
    fn a_part_is_dropped_on_its_thread_after_all_calls() {
        struct DropReporter(mpsc::Sender<(String, Option<String>)>);

        impl Drop for DropReporter {
            fn drop(&mut self) {
                let name = thread::current().name().map(str::to_owned);
                let _ = self.0.send(("dropped".to_owned(), name));
            }
        }

        let (sender, received) = mpsc::channel();
        let thread = PartThread::start(DropReporter(sender), true).expect("the thread starts");
        drop(thread.call(|part| {
            let _ = part.0.send(("called".to_owned(), None));
        }));
        drop(thread);
        let received: Vec<_> = received.iter().collect();
        assert_eq!(received[0].0, "called");
        assert_eq!(received[1].1.as_deref(), Some("telemetry-part"));
    }
}
