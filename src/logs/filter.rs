//! The filter of log lines and of log records.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Filter};

use crate::logs::sdk_events::is_of_sdk;

/// Selects the events that become log lines and log records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogFilter {
    /// The value of `RUST_LOG`, if it is valid.
    directives: Option<String>,
    /// The level of the SDK's events, if `RUST_LOG` is not set.
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
    /// The values of `OTEL_LOG_LEVEL`.
    pub(crate) const LEVELS: [(&str, LevelFilter); 7] = [
        ("trace", LevelFilter::TRACE),
        ("debug", LevelFilter::DEBUG),
        ("info", LevelFilter::INFO),
        ("warn", LevelFilter::WARN),
        ("error", LevelFilter::ERROR),
        ("off", LevelFilter::OFF),
        ("none", LevelFilter::OFF),
    ];

    /// Reads the variables of the process. `Config` logs a warning for invalid values.
    pub(crate) fn from_env() -> Self {
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

    /// Applies the value of `RUST_LOG`. Returns the reason if it is not a valid filter.
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

    /// Returns the filter that limits the SDK's events.
    pub(crate) fn of_sdk(&self) -> SdkRateLimit {
        let level = match self.directives {
            Some(_) => LevelFilter::TRACE,
            None => self.sdk_level,
        };
        SdkRateLimit {
            level,
            last_logged: Mutex::default(),
        }
    }
}

/// Lets each event of the SDK pass once a minute. Some of them are emitted for every span.
pub(crate) struct SdkRateLimit {
    level: LevelFilter,
    last_logged: Mutex<HashMap<Identifier, Instant>>,
}

impl SdkRateLimit {
    /// Returns whether events of a callsite can be written.
    fn allows(&self, metadata: &Metadata<'_>) -> bool {
        !is_of_sdk(metadata) || *metadata.level() <= self.level && !is_failed_attempt(metadata)
    }

    /// Returns whether an event can be written now.
    pub(crate) fn admits(&self, event: &Event<'_>) -> bool {
        const PAUSE: Duration = Duration::from_secs(60);

        if !is_of_sdk(event.metadata()) {
            return true;
        }
        if !self.allows(event.metadata()) {
            return false;
        }
        let mut last_logged = self
            .last_logged
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let last = last_logged.insert(event.metadata().callsite(), now);
        match last {
            Some(last) if now.duration_since(last) < PAUSE => {
                last_logged.insert(event.metadata().callsite(), last);
                false
            }
            _ => true,
        }
    }
}

impl<S> Filter<S> for SdkRateLimit {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.allows(metadata)
    }

    // Without this, each event would ask all filters again.
    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        match self.allows(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.admits(event)
    }
}

/// Returns whether this is an event of the crate `opentelemetry-otlp` about a loss in one attempt. This crate
/// may try again, and logs a real loss itself.
fn is_failed_attempt(metadata: &tracing::Metadata) -> bool {
    metadata.target() == "opentelemetry-otlp" && metadata.name().starts_with("Export.Failed.")
}
