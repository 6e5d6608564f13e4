//! Sets up OpenTelemetry from the environment.

mod guard;
mod pipeline_providers;
#[cfg(feature = "tracing")]
mod span_layer;

use std::sync::atomic::Ordering;

use opentelemetry::global;
#[cfg(all(feature = "logs", not(feature = "tracing")))]
use tracing_subscriber::{Registry, layer::SubscriberExt, registry};

pub use guard::TelemetryGuard;

#[cfg(feature = "logs")]
use crate::config::settings::signal::Signal;
use crate::config::{Config, ConfigWarning, InitError, Propagator};
#[cfg(feature = "logs")]
use crate::config::{Environment, Exporter};
#[cfg(all(feature = "logs", not(feature = "tracing")))]
use crate::logs::BoxedLayer;
#[cfg(feature = "logs")]
use crate::logs::{self as lines, Ids, Installed, LogFilter, LogLines, set_process_logger};
use crate::logs::{enable_threads, end_disabled_threads};
use crate::pipeline::export::Export;
use crate::pipeline::export_thread::{ExportThread, has_subscriber};
use crate::propagation::{B3Form, Format, Propagators, TextMap};
use crate::providers::generations;
use guard::{INITIALIZED, Pipeline};
use pipeline_providers::providers;

/// Sets up telemetry for the process from its environment variables.
///
/// This is `Config::from_env().init()`; see [`Config::init`].
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

impl Config {
    /// Sets up telemetry for the process.
    ///
    /// The layers, the handler functions and OpenTelemetry's global providers use it until the
    /// guard is shut down or dropped. This includes layers that were created before the call. After
    /// that, `init` can be called again, any number of times. With the feature `logs`, log lines
    /// are written to the console, unless a `tracing` subscriber is already installed.
    ///
    /// It works inside and outside any kind of tokio runtime.
    ///
    /// # Errors
    ///
    /// See [`InitError`]. After any error except [`InitError::AlreadyInitialized`], the call can be
    /// repeated.
    pub fn init(self) -> Result<TelemetryGuard, InitError> {
        if INITIALIZED.swap(true, Ordering::SeqCst) {
            return Err(InitError::AlreadyInitialized);
        }
        enable_threads(self.export_thread);
        end_disabled_threads();
        let warnings = self.all_warnings();
        let summary = self.to_string();
        #[cfg(feature = "logs")]
        let (log_lines, log_style) = (self.log_lines.clone(), self.log_style());
        // The console shows the whole ids of requests.
        #[cfg(feature = "logs")]
        let has_console = self.exporters(Signal::Traces).contains(&Exporter::Console);
        #[cfg(feature = "logs")]
        let ids = match self.environment() {
            Environment::Development if has_console => Ids::Short,
            _ => Ids::Whole,
        };
        #[cfg(feature = "logs")]
        let awaits_subscriber = log_lines.installs_subscriber;
        #[cfg(not(feature = "logs"))]
        let awaits_subscriber = false;
        let mut guard = self.start(awaits_subscriber).inspect_err(|_| {
            INITIALIZED.store(false, Ordering::SeqCst);
        })?;
        guard.is_of_process = true;
        #[cfg(feature = "logs")]
        {
            set_process_logger(guard.logger_provider(), &guard.layers.baggage);
            if log_lines.installs_subscriber {
                install_subscriber(&guard, log_style, ids, &log_lines.filter);
            }
        }
        if has_subscriber() {
            tracing::info!(target: "tower_telemetry", "{summary}");
        } else if let Some(pipeline) = &guard.pipeline {
            pipeline.thread.log_when_subscribed(summary);
        }
        #[cfg(feature = "prometheus")]
        let warnings = warnings.into_iter().chain(guard.prometheus_warning());
        for warning in warnings {
            warn(&warning);
        }
        guard.install();
        Ok(guard)
    }

    /// Starts an export that belongs to the returned guard and not to the process.
    ///
    /// Use it for a part of a program that has its own telemetry, and for tests. Only the guard's
    /// providers send to this export.
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
    pub fn build(self) -> Result<TelemetryGuard, InitError> {
        self.start(false)
    }

    fn start(mut self, awaits_subscriber: bool) -> Result<TelemetryGuard, InitError> {
        if !self.enabled {
            return Ok(TelemetryGuard {
                pipeline: None,
                propagators: self.propagators,
                layers: self.layers,
                is_of_process: false,
                #[cfg(feature = "logs")]
                log_filter: self.log_lines.filter,
                #[cfg(feature = "tracing")]
                span_filter: self.tracing_spans,
            });
        }
        if !self.export_thread {
            self.export_at_flushes_only();
        }
        let (export, work) = Export::new(&mut self)?;
        let thread = match self.export_thread {
            true => ExportThread::start(work, awaits_subscriber),
            false => ExportThread::start_on_demand(work, awaits_subscriber),
        };
        let thread = thread.map_err(InitError::Thread)?;
        export.flush.connect(&thread, self.shutdown_timeout);
        Ok(TelemetryGuard {
            pipeline: Some(Pipeline {
                thread,
                export,
                timeout: self.shutdown_timeout,
            }),
            propagators: self.propagators,
            layers: self.layers,
            is_of_process: false,
            #[cfg(feature = "logs")]
            log_filter: self.log_lines.filter,
            #[cfg(feature = "tracing")]
            span_filter: self.tracing_spans,
        })
    }
}

/// Installs this crate's subscriber for log lines and log records, and warns if that is not
/// possible.
#[cfg(feature = "logs")]
fn install_subscriber(guard: &TelemetryGuard, style: LogLines, ids: Ids, filter: &LogFilter) {
    #[cfg(feature = "tracing")]
    let subscriber = |logs| crate::bridge::subscriber(&guard.span_filter, logs);
    #[cfg(not(feature = "tracing"))]
    let subscriber = |logs: BoxedLayer<Registry>| registry().with(logs).into();
    match lines::install(style, ids, filter, subscriber) {
        Installed::Now | Installed::Before { same: true } => {}
        Installed::Before { same: false } => tracing::warn!(
            target: "tower_telemetry",
            "log lines keep the format and the filter of the first `init` of the process"
        ),
        Installed::Not => {
            let export = guard.pipeline.as_ref().map(|pipeline| &pipeline.export);
            let has_spans = cfg!(feature = "tracing") && export.is_some_and(Export::has_spans);
            let (what, layers) = match (guard.logger_provider().is_some(), has_spans) {
                (true, true) => (
                    "log records and spans of `tracing`",
                    "`TelemetryGuard::log_layer` and `TelemetryGuard::span_layer`",
                ),
                (true, false) => ("log records", "`TelemetryGuard::log_layer`"),
                (false, true) => ("spans of `tracing`", "`TelemetryGuard::span_layer`"),
                (false, false) => return,
            };
            tracing::warn!(
                target: "tower_telemetry",
                "there is a `tracing` subscriber already, and {what} are not exported; call \
                 `Config::without_subscriber` and add {layers} to your subscriber"
            );
        }
    }
}

/// Reports a configuration warning: as a log line if there is a subscriber, otherwise on stderr.
fn warn(warning: &ConfigWarning) {
    if has_subscriber() {
        tracing::warn!(target: "tower_telemetry", "{warning}");
    } else {
        eprintln!("tower-telemetry: {warning}");
    }
}

impl TelemetryGuard {
    /// Installs the providers for the whole process.
    fn install(&self) {
        let formats: Propagators = self.propagators.iter().map(|one| format(*one)).collect();
        global::set_text_map_propagator(TextMap::new(formats.clone()));
        let Some(Pipeline { export, .. }) = &self.pipeline else {
            generations::install(None, formats, self.layers.clone());
            return;
        };
        global::set_tracer_provider(export.tracer_provider.clone());
        global::set_meter_provider(export.meter_provider.clone());
        // Last, because a layer that finds these providers takes the rest from the global module.
        generations::install(
            Some(providers(export, &self.layers)),
            formats,
            self.layers.clone(),
        );
    }
}

/// Returns the context format of a propagator.
fn format(propagator: Propagator) -> Format {
    match propagator {
        Propagator::TraceContext => Format::TraceContext,
        Propagator::Baggage => Format::Baggage,
        Propagator::B3 => Format::B3(B3Form::Single),
        Propagator::B3Multi => Format::B3(B3Form::Multi),
    }
}
