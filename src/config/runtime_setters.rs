//! Setters for metrics of the process and of tokio runtimes.

use tokio::runtime::Handle;

use crate::config::builder::Config;

impl Config {
    /// Sets whether metrics of the process and of its tokio runtime are recorded. Overrides
    /// `TELEMETRY_RUNTIME_METRICS`. Disabled by default.
    ///
    /// The values are read when metrics are collected, never on the thread of a request. Metrics of
    /// the process exist only on Linux (conventions, "OS Process Metrics", in development). The
    /// names of `tokio.*` are those of opentelemetry-instrumentation-tokio.
    ///
    /// | metric | attributes |
    /// |---|---|
    /// | `process.cpu.time` (s) | `cpu.mode`: `user`, `system` |
    /// | `process.memory.usage`, `process.memory.virtual` (By) | |
    /// | `process.thread.count`, `process.unix.file_descriptor.count` | |
    /// | `process.context_switches` | `process.context_switch.type`: `voluntary`, `involuntary` |
    /// | `process.disk.io` (By) | `disk.io.direction`: `read`, `write` |
    /// | `process.uptime` (s) | |
    /// | `tokio.workers`, `tokio.alive_tasks`, `tokio.global_queue_depth` | `tokio.runtime.name` |
    /// | `tokio.worker.busy_duration` (ms), `tokio.worker.park_count` | `tokio.runtime.name`, `tokio.worker.index` |
    ///
    /// ```
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_env().with_runtime_metrics(true);
    /// ```
    pub fn with_runtime_metrics(mut self, wanted: bool) -> Self {
        self.runtimes.wanted = wanted;
        self
    }

    /// Adds a runtime whose metrics have the attribute `tokio.runtime.name`, and enables
    /// [`with_runtime_metrics`](Self::with_runtime_metrics). Without this setter, the metrics
    /// describe the runtime in which [`init`](Self::init) is called.
    ///
    /// ```
    /// use tower_telemetry::Config;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let new = tokio::runtime::Builder::new_current_thread;
    /// let (api, jobs) = (new().build()?, new().build()?);
    /// let config = Config::from_env()
    ///     .with_runtime("api", api.handle())
    ///     .with_runtime("jobs", jobs.handle());
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_runtime(mut self, name: impl Into<String>, runtime: &Handle) -> Self {
        self.runtimes.wanted = true;
        self.runtimes
            .named
            .push((Some(name.into()), runtime.metrics()));
        self
    }
}
