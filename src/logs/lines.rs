//! The layer that writes log lines, the filter of both kinds of logs, and the subscriber of `init`.

use std::collections::HashMap;
use std::io::{IsTerminal, stdout};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, fmt};

use crate::logs::records::log_records;
use crate::logs::{LogFormat, LogWriter, is_of_sdk};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogLines {
    /// Text, with colours on a terminal.
    Text,
    /// JSON, one object a line.
    Json,
}

/// Returns the layer of [`init`](crate::init) that writes log lines to the standard output, with
/// the ids of the current span, for a subscriber of your own. It never waits for the output: see
/// [`LogWriter`].
///
/// It filters as `init` does: by `RUST_LOG` of the process, `info` where that is not set or is not
/// a filter. Each message of OpenTelemetry's SDK is written once a minute at most, from the level
/// `OTEL_LOG_LEVEL` on where `RUST_LOG` is not set. A filter around the layer can only take away
/// more; for another filter, give a [`LogFormat`] to a layer of `tracing_subscriber::fmt`.
///
/// ```
/// use tower_telemetry::{log_lines, logs::LogLines};
/// use tracing_subscriber::{Registry, prelude::*};
///
/// let subscriber = Registry::default().with(log_lines(LogLines::Json));
/// ```
pub fn log_lines<S>(lines: LogLines) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = LogFilter::from_env();
    let of_sdk = filter.of_sdk();
    layer(lines, filter.env_filter().and(of_sdk))
}

fn layer<S>(
    lines: LogLines,
    filter: impl Filter<S> + Send + Sync + 'static,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // As `tracing-subscriber` has it, and only where somebody sees it.
    let wants_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = fmt::layer()
        .with_ansi(stdout().is_terminal() && wants_colours)
        .with_writer(LogWriter::stdout());
    match lines {
        LogLines::Text => layer
            .event_format(LogFormat::default())
            .with_filter(filter)
            .boxed(),
        LogLines::Json => layer
            .fmt_fields(JsonFields::new())
            .event_format(LogFormat::json(fmt::format().json()))
            .with_filter(filter)
            .boxed(),
    }
}

/// Which events become log lines and log records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogFilter {
    /// `RUST_LOG`, where it is set and is a filter.
    directives: Option<String>,
    /// The level of the SDK's own messages, where `RUST_LOG` is not set.
    sdk_level: LevelFilter,
}

impl Default for LogFilter {
    fn default() -> Self {
        Self {
            directives: None,
            sdk_level: LevelFilter::WARN,
        }
    }
}

impl LogFilter {
    /// Levels as `OTEL_LOG_LEVEL` names them.
    pub(crate) const LEVELS: [(&str, LevelFilter); 7] = [
        ("trace", LevelFilter::TRACE),
        ("debug", LevelFilter::DEBUG),
        ("info", LevelFilter::INFO),
        ("warn", LevelFilter::WARN),
        ("error", LevelFilter::ERROR),
        ("off", LevelFilter::OFF),
        ("none", LevelFilter::OFF),
    ];

    /// Reads the variables of the process. `Config` warns of those that cannot be used.
    fn from_env() -> Self {
        let filter = Self::default();
        let level = std::env::var("OTEL_LOG_LEVEL").unwrap_or_default();
        let level = level.trim().to_ascii_lowercase();
        let known = Self::LEVELS.iter().find(|(name, _)| *name == level);
        let filter = filter.with_sdk_level(known.map_or(LevelFilter::WARN, |(_, level)| *level));
        let directives = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
        match directives.trim() {
            "" => filter,
            directives => filter.clone().with_directives(directives).unwrap_or(filter),
        }
    }

    pub(crate) fn with_sdk_level(self, sdk_level: LevelFilter) -> Self {
        Self { sdk_level, ..self }
    }

    /// Takes the text of `RUST_LOG`; returns the reason where it is not a filter.
    pub(crate) fn with_directives(self, directives: &str) -> Result<Self, String> {
        match EnvFilter::builder().parse(directives) {
            Ok(_) => Ok(Self {
                directives: Some(directives.to_owned()),
                ..self
            }),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(crate) fn env_filter(&self) -> EnvFilter {
        let builder = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
        match &self.directives {
            Some(directives) => builder.parse_lossy(directives),
            None => {
                let sdk_level = self.sdk_level.max(LevelFilter::INFO);
                builder.parse_lossy(format!("info,opentelemetry={sdk_level}"))
            }
        }
    }

    /// The bound of the SDK's own messages on log lines.
    fn of_sdk(&self) -> SdkNowAndThen {
        let level = match self.directives {
            Some(_) => LevelFilter::TRACE,
            None => self.sdk_level,
        };
        SdkNowAndThen {
            level,
            told: Mutex::default(),
        }
    }
}

/// Lets each of the SDK's messages pass once a minute: some come with every span.
struct SdkNowAndThen {
    level: LevelFilter,
    told: Mutex<HashMap<Identifier, Instant>>,
}

impl<S> Filter<S> for SdkNowAndThen {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        !is_of_sdk(metadata) || *metadata.level() <= self.level
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        const PAUSE: Duration = Duration::from_secs(60);

        if !is_of_sdk(event.metadata()) {
            return true;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let last = told.insert(event.metadata().callsite(), now);
        match last {
            Some(last) if now.duration_since(last) < PAUSE => {
                told.insert(event.metadata().callsite(), last);
                false
            }
            _ => true,
        }
    }
}

/// How the subscriber of `init` was set up. It stays for the process.
static INSTALLED: OnceLock<(LogLines, LogFilter)> = OnceLock::new();

/// Whether the subscriber of the process is that of `init`, which never waits for an output.
pub(crate) fn is_installed() -> bool {
    INSTALLED.get().is_some()
}

/// What became of the subscriber of `init`.
pub(crate) enum Installed {
    Now,
    /// By an `init` before; `same` says whether lines look and are filtered as they would now.
    Before {
        same: bool,
    },
    /// There is one of the application.
    Not,
}

/// Makes a subscriber that writes log lines and sends log records the subscriber of the process,
/// also for what is logged through the crate `log`.
pub(crate) fn install(lines: LogLines, filter: &LogFilter) -> Installed {
    if let Some((first_lines, first_filter)) = INSTALLED.get() {
        let same = *first_lines == lines && first_filter == filter;
        return Installed::Before { same };
    }
    let subscriber = tracing_subscriber::registry()
        .with(filter.env_filter())
        .with(layer(lines, filter.of_sdk()))
        .with(log_records());
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        return Installed::Not;
    }
    let _ = INSTALLED.set((lines, filter.clone()));
    // It fails where `log` has a logger already, which is then left alone.
    let _ = tracing_log::LogTracer::init();
    Installed::Now
}
