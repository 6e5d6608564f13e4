//! OpenTelemetry, set up from the environment.

mod batch;
mod config;
mod connection;
mod console;
mod endpoint;
mod env;
mod error;
mod export;
mod limits;
#[cfg(feature = "logs")]
mod logs;
mod messages;
mod metrics;
mod otlp;
mod resource;
mod runtime;
mod settings;
mod stats;
mod traces;
mod vars;

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::global;
use opentelemetry::propagation::{TextMapCompositePropagator, TextMapPropagator};
use opentelemetry_propagator_b3::B3Encoding;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::subscriber::NoSubscriber;

pub use config::Config;
pub use error::{ConfigWarning, InitError};
pub use opentelemetry_sdk::metrics::Temporality;
pub use settings::{Batch, Compression, Environment, Exporter, Propagator, Protocol, Sampler};
pub use stats::{Failure, SignalStats};

use crate::propagation::Format;
use crate::providers::{self, Providers, TracersOf};
use export::Export;
use runtime::ExportThread;
use settings::{OtlpSettings, Signal};
use stats::Counters;

/// Sets up telemetry for the process as its environment variables say.
///
/// The same as `Config::from_env().init()`; see [`Config::init`].
///
/// ```no_run
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let telemetry = tower_telemetry::init()?;
/// // .. serve ..
/// telemetry.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// See [`InitError`].
pub fn init() -> Result<TelemetryGuard, InitError> {
    Config::from_env().init()
}

/// Whether some `init` has begun. The providers alone cannot tell: of two that race, both would
/// start exporting.
static INITIALIZED: AtomicBool = AtomicBool::new(false);

impl Config {
    /// Sets up telemetry for the process.
    ///
    /// The layers, the handler functions and OpenTelemetry's global providers use it from then on,
    /// also those that were made before. With the feature `logs`, log lines go to the console,
    /// unless a `tracing` subscriber is there already.
    ///
    /// It works inside and outside of a tokio runtime of any kind.
    ///
    /// # Errors
    ///
    /// See [`InitError`]. After an error other than [`InitError::AlreadyInitialized`] it may be
    /// tried again.
    pub fn init(self) -> Result<TelemetryGuard, InitError> {
        if INITIALIZED.swap(true, Ordering::SeqCst) {
            return Err(InitError::AlreadyInitialized);
        }
        let mut warnings = self.warnings.clone();
        warnings.extend(self.exposed_credentials());
        let summary = self.to_string();
        #[cfg(feature = "logs")]
        let (log_lines, log_style) = (self.log_lines, self.log_style());
        let guard = self.build().inspect_err(|_| {
            INITIALIZED.store(false, Ordering::SeqCst);
        })?;
        #[cfg(feature = "logs")]
        if log_lines.wanted {
            let provider = guard.logger_provider();
            let installed = crate::logs::install(provider, log_style, log_lines.sdk_level);
            if !installed && provider.is_some() {
                tracing::warn!(
                    "there is a `tracing` subscriber already, and log records are not exported; \
                     say `Config::without_subscriber` and put `TelemetryGuard::log_layer` into it"
                );
            }
        }
        tracing::info!("{summary}");
        for warning in warnings {
            warn(&warning);
        }
        guard.install();
        Ok(guard)
    }

    /// Starts export without making it that of the process: for a part of a program that has its
    /// own telemetry, and for tests. Its providers are those of the guard.
    ///
    /// ```
    /// use opentelemetry_sdk::trace::SdkTracerProvider;
    /// use tower_telemetry::{Config, TelemetryLayer};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let telemetry = Config::from_vars(|_| None).build()?;
    /// let mut layer = TelemetryLayer::new();
    /// if let Some(provider) = telemetry.tracer_provider() {
    ///     layer = layer.with_tracer_provider(SdkTracerProvider::clone(provider));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`InitError`].
    pub fn build(mut self) -> Result<TelemetryGuard, InitError> {
        if !self.enabled {
            return Ok(TelemetryGuard {
                running: None,
                propagators: self.propagators,
            });
        }
        let (export, workers) = Export::new(&mut self)?;
        let thread = ExportThread::start(workers).map_err(InitError::Thread)?;
        Ok(TelemetryGuard {
            running: Some(Running {
                thread,
                export,
                timeout: self.shutdown_timeout,
            }),
            propagators: self.propagators,
        })
    }
}

impl Config {
    /// What is said where headers, which are for authentication, go over the network in the clear.
    fn exposed_credentials(&self) -> Option<ConfigWarning> {
        let target = Signal::ALL.into_iter().find_map(|signal| {
            let has_headers =
                |settings: &OtlpSettings| Some(!settings.headers.as_ref()?.is_empty());
            let sends = self.exporters(signal).contains(&Exporter::Otlp);
            let target = self.target(signal).ok()?;
            let is_exposed = sends
                && self.otlp(signal, has_headers) == Some(true)
                && target.uri.scheme_str() == Some("http")
                && !target.is_local();
            is_exposed.then_some(target)
        })?;
        let variable = "the headers of OTLP".to_owned();
        let consequence = format!("can be read by all on the way to {target}; use https there");
        self.enabled.then_some(ConfigWarning {
            variable,
            value: None,
            consequence,
        })
    }
}

/// Says what is wrong with the configuration where it will be seen.
fn warn(warning: &ConfigWarning) {
    let is_heard = |dispatch: &tracing::Dispatch| !dispatch.is::<NoSubscriber>();
    if tracing::dispatcher::get_default(is_heard) {
        tracing::warn!("{warning}");
    } else {
        eprintln!("tower-telemetry: {warning}");
    }
}

/// Keeps telemetry running, and ends it.
///
/// End it with [`shutdown`](Self::shutdown), which sends what still waits. A guard that is merely
/// dropped does the same on the thread that drops it, for as long as the shutdown timeout.
#[must_use = "telemetry ends when the guard is dropped; bind it to a name, `let telemetry = ..`"]
pub struct TelemetryGuard {
    /// `None` where telemetry is switched off, and after shutdown.
    running: Option<Running>,
    propagators: Vec<Propagator>,
}

struct Running {
    thread: ExportThread,
    export: Export,
    timeout: Duration,
}

/// What became of the telemetry of a process so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Spans.
    pub traces: SignalStats,
    /// Metric points, counted each time that they are sent.
    pub metrics: SignalStats,
    /// Log records.
    pub logs: SignalStats,
}

/// How a flush or a shutdown ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Whether something was left undone: time ran out before all was sent or given up, or the
    /// metrics could not be collected.
    pub timed_out: bool,
    /// What became of all telemetry so far; after a shutdown nothing waits any more.
    pub stats: Stats,
}

impl Report {
    /// How many spans, metric points and log records were lost so far.
    pub fn lost(&self) -> u64 {
        let Stats {
            traces,
            metrics,
            logs,
        } = self.stats;
        let signals = [traces, metrics, logs];
        signals
            .iter()
            .map(|signal| signal.failed + signal.dropped)
            .sum()
    }
}

impl TelemetryGuard {
    /// Sends what still waits, ends export, and says what was sent and what was lost.
    ///
    /// Takes at most the shutdown timeout (5 seconds unless told otherwise), all signals together.
    /// Call it when the server has stopped: what is recorded later is lost.
    pub async fn shutdown(mut self) -> Report {
        match self.running.take() {
            Some(running) => {
                running.stop_recording();
                // Where this future is dropped midway, the last of the provider must not be: it
                // would wait for an export thread that may be held up.
                let provider = ManuallyDrop::new(running.export.meter_provider.clone());
                let complete = running.thread.flush(true, running.timeout).await;
                let report = running.last_report(complete);
                drop(ManuallyDrop::into_inner(provider));
                report
            }
            None => Report::default(),
        }
    }

    /// Sends what waits now, and goes on.
    ///
    /// Takes at most the shutdown timeout, all signals together.
    pub async fn force_flush(&self) -> Report {
        match &self.running {
            Some(running) => {
                let complete = running.thread.flush(false, running.timeout).await;
                Report {
                    timed_out: !complete,
                    stats: running.stats(),
                }
            }
            None => Report::default(),
        }
    }

    /// What became of all telemetry so far; all zero where telemetry is switched off.
    pub fn stats(&self) -> Stats {
        self.running
            .as_ref()
            .map(Running::stats)
            .unwrap_or_default()
    }

    /// The tracer provider, for what else wants one; `None` where telemetry is switched off.
    ///
    /// It is flushed and shut down by this guard.
    pub fn tracer_provider(&self) -> Option<&SdkTracerProvider> {
        Some(&self.running.as_ref()?.export.tracer_provider)
    }

    /// The meter provider, for what else wants one; `None` where telemetry is switched off.
    ///
    /// It is flushed and shut down by this guard.
    pub fn meter_provider(&self) -> Option<&SdkMeterProvider> {
        Some(&self.running.as_ref()?.export.meter_provider)
    }

    /// The logger provider, for what else wants one; `None` where log records are not sent.
    ///
    /// It is flushed and shut down by this guard.
    #[cfg(feature = "logs")]
    pub fn logger_provider(&self) -> Option<&opentelemetry_sdk::logs::SdkLoggerProvider> {
        self.running.as_ref()?.export.logger_provider.as_ref()
    }

    /// A layer that sends log records, for a subscriber of your own; `None` where they are not
    /// sent. See [`Config::without_subscriber`].
    ///
    /// ```
    /// use tower_telemetry::{Config, LogLines, log_lines};
    /// use tracing_subscriber::prelude::*;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let telemetry = Config::from_env().without_subscriber().init()?;
    /// tracing_subscriber::registry()
    ///     .with(log_lines(LogLines::Text))
    ///     .with(telemetry.log_layer())
    ///     .init();
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "logs")]
    pub fn log_layer<S>(&self) -> Option<impl tracing_subscriber::Layer<S> + Send + Sync + use<S>>
    where
        S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    {
        self.logger_provider().map(crate::logs::log_records)
    }

    /// Makes the providers those of the process.
    fn install(&self) {
        let propagators = self.propagators.iter().map(|one| for_others(*one));
        global::set_text_map_propagator(TextMapCompositePropagator::new(propagators.collect()));
        let formats = self.propagators.iter().map(|one| format(*one)).collect();
        let Some(Running { export, .. }) = &self.running else {
            providers::install(None, formats);
            return;
        };
        global::set_tracer_provider(export.tracer_provider.clone());
        global::set_meter_provider(export.meter_provider.clone());
        let tracers = TracersOf::new(export.tracer_provider.clone(), export.sampler);
        let meters = Arc::new(export.meter_provider.clone());
        // Last: a layer that finds this installed takes what it lacks from the global module.
        providers::install(Some(Providers::new(Arc::new(tracers), meters)), formats);
    }
}

/// What the layers read of a form of context: of the W3C's, with code of their own.
fn format(propagator: Propagator) -> Format {
    match propagator {
        Propagator::TraceContext => Format::TraceContext,
        Propagator::Baggage => Format::Baggage,
        Propagator::B3 | Propagator::B3Multi => Format::B3(b3(propagator).into()),
    }
}

/// What others find in OpenTelemetry's global propagator.
fn for_others(propagator: Propagator) -> Box<dyn TextMapPropagator + Send + Sync> {
    match propagator {
        Propagator::TraceContext => Box::new(TraceContextPropagator::new()),
        Propagator::Baggage => Box::new(BaggagePropagator::new()),
        Propagator::B3 | Propagator::B3Multi => b3(propagator),
    }
}

fn b3(propagator: Propagator) -> Box<dyn TextMapPropagator + Send + Sync> {
    Box::new(opentelemetry_propagator_b3::Propagator::with_encoding(
        match propagator {
            Propagator::B3Multi => B3Encoding::MultipleHeader,
            _ => B3Encoding::SingleHeader,
        },
    ))
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop_recording();
            let complete = running.thread.flush_blocking(true, running.timeout);
            running.last_report(complete);
        }
    }
}

impl fmt::Debug for TelemetryGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TelemetryGuard")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Running {
    /// From here on nothing new is queued, so that a shutdown has an end.
    fn stop_recording(&self) {
        // These fail only where it was done before.
        let _ = self.export.tracer_provider.shutdown();
        #[cfg(feature = "logs")]
        let _ = self
            .export
            .logger_provider
            .as_ref()
            .map(|provider| provider.shutdown());
    }

    fn stats(&self) -> Stats {
        self.stats_by(Counters::stats)
    }

    fn stats_by(&self, read: fn(&Counters) -> SignalStats) -> Stats {
        let stats = |signal| read(&self.export.counters[signal]);
        Stats {
            traces: stats(Signal::Traces),
            metrics: stats(Signal::Metrics),
            logs: stats(Signal::Logs),
        }
    }

    /// The report after the last flush, when the thread has ended.
    fn last_report(&self, complete: bool) -> Report {
        if complete {
            // Last, because metrics are collected until the last flush.
            let _ = self.export.meter_provider.shutdown();
        } else {
            // The export thread may be held up in a callback for good. The provider would wait for
            // it, when it is shut down and when the last of it is dropped.
            std::mem::forget(self.export.meter_provider.clone());
        }
        let report = Report {
            timed_out: !complete,
            stats: self.stats_by(Counters::last_stats),
        };
        // While it ran, all else that was lost has been told.
        let told = self.stats();
        let given_up = [
            (report.stats.traces, told.traces),
            (report.stats.metrics, told.metrics),
            (report.stats.logs, told.logs),
        ]
        .map(|(last, told)| last.dropped.saturating_sub(told.dropped));
        let [traces, metrics, logs] = given_up;
        if given_up != [0; 3] {
            stats::tell(|| {
                tracing::warn!(
                    traces,
                    metrics,
                    logs,
                    "telemetry is lost: not all was exported when telemetry was shut down"
                );
            });
        }
        report
    }
}
