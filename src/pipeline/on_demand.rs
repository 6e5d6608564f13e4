//! Export without a permanent thread: a thread is started for each flush and ends with it.
//!
//! The export tasks belong to a runtime that is not driven between flushes. Data that the tasks
//! keep for another attempt stays in the runtime.

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

/// Closes connections at the end of a flush. They may be dead by the next flush.
pub(crate) type Close = Box<dyn Fn() + Send + Sync>;

/// How many times the tasks of closed connections are polled so that they can end. Each needs one
/// or two polls.
const CLOSE_POLLS: usize = 8;

/// The settings for the time between flushes.
pub(crate) struct BetweenFlushes {
    pub(crate) window: Window,
    pub(crate) close: Vec<Close>,
}

impl BetweenFlushes {
    pub(crate) fn new(window: Window) -> Self {
        Self {
            window,
            close: Vec::new(),
        }
    }
}

/// A runtime that is driven only during flushes.
pub(crate) struct OnDemand {
    /// The id of the process that created the runtime.
    process: u32,
    /// `None` after the last flush.
    runtime: Mutex<Option<Runtime>>,
    /// The export task. It ends with the last flush.
    task: TaskHandle<()>,
    between_flushes: BetweenFlushes,
    /// Whether the thread that drives the runtime must not log.
    must_not_log: Box<dyn Fn() -> bool + Send + Sync>,
    state: Mutex<State>,
    /// Notified when a flush has ended.
    ended: Notify,
}

#[derive(Default)]
struct State {
    /// The number of flushes that have not ended.
    flushes: usize,
    /// Callbacks for the callers of flushes that have ended.
    callbacks: Vec<Callback>,
    is_driven: bool,
    thread: Option<JoinHandle<()>>,
    driver: Option<ThreadId>,
}

type Callback = Box<dyn FnOnce() + Send>;

/// A flush in progress. The flush ends when the ticket is dropped.
pub(crate) struct FlushGuard {
    on_demand: Arc<OnDemand>,
    callback: Option<Callback>,
}

impl FlushGuard {
    /// Ends the flush. `callback` is called outside the runtime.
    pub(crate) fn end(mut self, callback: impl FnOnce() + Send + 'static) {
        self.callback = Some(Box::new(callback));
    }
}

impl Drop for FlushGuard {
    fn drop(&mut self) {
        let mut state = self.on_demand.state();
        state.flushes = state.flushes.saturating_sub(1);
        state.callbacks.extend(self.callback.take());
        drop(state);
        self.on_demand.ended.notify_one();
    }
}

impl OnDemand {
    /// Creates the runtime and spawns a task in it.
    pub(crate) fn new(
        task: impl Future<Output = ()> + Send + 'static,
        between_flushes: BetweenFlushes,
        must_not_log: impl Fn() -> bool + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            // Threads for name resolution end as soon as they are idle.
            .thread_keep_alive(Duration::ZERO)
            .build()?;
        let task = runtime.spawn(task);
        Ok(Self {
            process: process::id(),
            task,
            runtime: Mutex::new(Some(runtime)),
            between_flushes,
            must_not_log: Box::new(must_not_log),
            state: Mutex::default(),
            ended: Notify::new(),
        })
    }

    /// Starts a flush with `begin`, and ensures that a thread drives the runtime until the flush
    /// ends. A thread that is already running is used. Returns an error if a thread cannot be
    /// started; the flush is then part of the next one.
    pub(crate) fn flush(
        self: &Arc<Self>,
        timeout: Duration,
        begin: impl FnOnce(FlushGuard),
    ) -> io::Result<()> {
        self.between_flushes.window.open_for(timeout);
        self.state().flushes += 1;
        begin(FlushGuard {
            on_demand: self.clone(),
            callback: None,
        });
        let mut state = self.state();
        if state.flushes == 0 || state.is_driven {
            return Ok(());
        }
        let on_demand = self.clone();
        let thread = thread::Builder::new().name("telemetry-flush".to_owned());
        state.thread = Some(thread.spawn(move || on_demand.drive())?);
        state.is_driven = true;
        Ok(())
    }

    /// Waits for the end of the thread, if it has no more work.
    pub(crate) fn join(&self) {
        let mut state = self.state();
        let thread = match state.is_driven {
            true => None,
            false => state.thread.take(),
        };
        drop(state);
        let _ = thread.map(JoinHandle::join);
    }

    /// Returns whether the current thread drives the runtime.
    pub(crate) fn is_current_thread(&self) -> bool {
        self.state().driver == Some(thread::current().id())
    }

    /// Drives the runtime until all flushes have ended.
    fn drive(&self) {
        let _suppressed = Context::enter_telemetry_suppressed_scope();
        let must_not_log = (self.must_not_log)();
        let _quiet = must_not_log.then(|| dispatcher::set_default(&Dispatch::none()));
        self.state().driver = Some(thread::current().id());
        let mut is_over = false;
        while !is_over {
            let has_runtime = self.run_until_a_flush_ends();
            let mut state = self.state();
            let callbacks = take(&mut state.callbacks);
            is_over = state.flushes == 0 || !has_runtime;
            if is_over {
                state.is_driven = false;
                state.driver = None;
            }
            drop(state);
            for callback in callbacks {
                callback();
            }
        }
    }

    /// Runs the tasks until a flush ends. Returns `false` if there is no runtime.
    fn run_until_a_flush_ends(&self) -> bool {
        let mut kept = lock(&self.runtime);
        let Some(runtime) = &*kept else {
            return false;
        };
        let is_last = runtime.block_on(async {
            loop {
                let (flushes, callbacks) = self.counts();
                if flushes == 0 {
                    break;
                }
                if callbacks > 0 {
                    return false;
                }
                self.ended.notified().await;
            }
            self.between_flushes.close.iter().for_each(|close| close());
            for _ in 0..CLOSE_POLLS {
                yield_now().await;
            }
            self.task.is_finished()
        });
        if is_last && let Some(runtime) = kept.take() {
            runtime.shutdown_background();
        }
        true
    }

    /// Returns the number of flushes in progress and the number of callers still to be notified.
    fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.flushes, state.callbacks.len())
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
            // Async code may drop this value, and must not wait for the runtime.
            runtime.shutdown_background();
        } else {
            // Dropping it would deregister sockets from the epoll instance that the parent process
            // still uses.
            forget(runtime);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
