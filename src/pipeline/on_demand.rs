//! Export without a background thread: each flush starts a thread and ends it.
//!
//! The export tasks belong to a runtime that does not run between flushes. Messages that wait for
//! another attempt stay in these tasks.

use std::io;
use std::mem::{forget, take};
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

use opentelemetry::Context;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::{JoinHandle as TaskHandle, yield_now};
use tracing::{Dispatch, dispatcher};

use crate::otlp::window::Window;

/// Closes connections. They may be dead by the time of the next flush.
pub(crate) type Close = Box<dyn Fn() + Send + Sync>;

/// The number of times that the tasks of closed connections are polled, so that they end. Each
/// needs one or two polls.
const LAST_TURNS: usize = 8;

/// The window for attempts, and the connections that are closed at the end of a flush.
pub(crate) struct Pauses {
    pub(crate) window: Window,
    pub(crate) close: Vec<Close>,
}

impl Pauses {
    pub(crate) fn new(window: Window) -> Self {
        Self {
            window,
            close: Vec::new(),
        }
    }
}

/// A runtime that runs only during flushes.
pub(crate) struct OnDemand {
    /// The process that created the runtime.
    process: u32,
    /// `None` after the last flush.
    runtime: Mutex<Option<Runtime>>,
    /// The export task, which ends with the last flush.
    task: TaskHandle<()>,
    pauses: Pauses,
    /// Returns whether the thread that runs the runtime must not log.
    is_quiet: Box<dyn Fn() -> bool + Send + Sync>,
    state: Mutex<State>,
    /// Notified when a flush ends.
    ended: Notify,
}

#[derive(Default)]
struct State {
    /// The number of running flushes.
    flushes: usize,
    /// Responses for callers whose flushes have ended.
    answers: Vec<Answer>,
    is_driven: bool,
    thread: Option<JoinHandle<()>>,
    driver: Option<ThreadId>,
}

type Answer = Box<dyn FnOnce() + Send>;

/// A running flush. Dropping the ticket ends it.
pub(crate) struct Ticket {
    on: Arc<OnDemand>,
    answer: Option<Answer>,
}

impl Ticket {
    /// Ends the flush. `answer` is called after the thread has left the runtime.
    pub(crate) fn end(mut self, answer: impl FnOnce() + Send + 'static) {
        self.answer = Some(Box::new(answer));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.on.state();
        state.flushes = state.flushes.saturating_sub(1);
        state.answers.extend(self.answer.take());
        drop(state);
        self.on.ended.notify_one();
    }
}

impl OnDemand {
    /// Creates the runtime with a task in it.
    pub(crate) fn new(
        task: impl Future<Output = ()> + Send + 'static,
        pauses: Pauses,
        is_quiet: impl Fn() -> bool + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            // Threads that resolve names end as soon as they are done.
            .thread_keep_alive(Duration::ZERO)
            .build()?;
        let task = runtime.spawn(task);
        Ok(Self {
            process: process::id(),
            task,
            runtime: Mutex::new(Some(runtime)),
            pauses,
            is_quiet: Box::new(is_quiet),
            state: Mutex::default(),
            ended: Notify::new(),
        })
    }

    /// Starts a flush with `begin`, and runs the runtime until the flush ends, possibly on a thread
    /// that another flush has started. Fails if no thread can be started. The flush then becomes part
    /// of the next one.
    pub(crate) fn flush(
        self: &Arc<Self>,
        timeout: Duration,
        begin: impl FnOnce(Ticket),
    ) -> io::Result<()> {
        self.pauses.window.open_for(timeout);
        self.state().flushes += 1;
        begin(Ticket {
            on: self.clone(),
            answer: None,
        });
        let mut state = self.state();
        if state.flushes == 0 || state.is_driven {
            return Ok(());
        }
        let on = self.clone();
        let thread = thread::Builder::new().name("telemetry-flush".to_owned());
        state.thread = Some(thread.spawn(move || on.drive())?);
        state.is_driven = true;
        Ok(())
    }

    /// Waits for the end of the thread, once it has nothing more to do.
    pub(crate) fn join(&self) {
        let mut state = self.state();
        let thread = match state.is_driven {
            true => None,
            false => state.thread.take(),
        };
        drop(state);
        let _ = thread.map(JoinHandle::join);
    }

    /// Returns whether this is the thread that drives the runtime.
    pub(crate) fn is_current_thread(&self) -> bool {
        self.state().driver == Some(thread::current().id())
    }

    /// Drives the runtime until all flushes have ended.
    fn drive(&self) {
        let _suppressed = Context::enter_telemetry_suppressed_scope();
        let is_quiet = (self.is_quiet)();
        let _quiet = is_quiet.then(|| dispatcher::set_default(&Dispatch::none()));
        self.state().driver = Some(thread::current().id());
        let mut is_over = false;
        while !is_over {
            let has_runtime = self.run_until_one_ends();
            let mut state = self.state();
            let answers = take(&mut state.answers);
            is_over = state.flushes == 0 || !has_runtime;
            if is_over {
                state.is_driven = false;
                state.driver = None;
            }
            drop(state);
            for answer in answers {
                answer();
            }
        }
    }

    /// Runs the tasks until a flush ends, and returns whether there is a runtime.
    fn run_until_one_ends(&self) -> bool {
        let mut kept = lock(&self.runtime);
        let Some(runtime) = &*kept else {
            return false;
        };
        let is_last = runtime.block_on(async {
            loop {
                let (flushes, answers) = self.counts();
                if flushes == 0 {
                    break;
                }
                if answers > 0 {
                    return false;
                }
                self.ended.notified().await;
            }
            self.pauses.close.iter().for_each(|close| close());
            for _ in 0..LAST_TURNS {
                yield_now().await;
            }
            self.task.is_finished()
        });
        if is_last && let Some(runtime) = kept.take() {
            runtime.shutdown_background();
        }
        true
    }

    /// Returns how many flushes have not ended, and how many have ended whose callers were not told.
    fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.flushes, state.answers.len())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for OnDemand {
    fn drop(&mut self) {
        let runtime = self
            .runtime
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(runtime) = runtime.take() else {
            return;
        };
        if self.process == process::id() {
            // Async code, which may drop this, must not wait for the runtime.
            runtime.shutdown_background();
        } else {
            // The sockets are registered where the parent process waits for them, too.
            forget(runtime);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
