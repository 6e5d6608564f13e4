//! The environment of the service, which selects defaults.

use crate::config::settings::exporter::Exporter;
use crate::config::settings::sampler::Sampler;
#[cfg(feature = "logs")]
use crate::logs::LogLines;

/// The share of new traces that are sampled in production, unless `OTEL_TRACES_SAMPLER_ARG` is set.
const PRODUCTION_RATIO: f64 = 0.1;

/// The environment in which the service runs, which selects defaults.
///
/// | | development | test, staging | production |
/// |---|---|---|---|
/// | sampled traces | all | all | 10 % of new traces; the parent's decision otherwise |
/// | exporters | the console, and OTLP if an endpoint is set | OTLP | OTLP |
/// | log lines | text | JSON | JSON |
///
/// Its name is the resource's `deployment.environment.name` (resource conventions, "Deployment").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Environment {
    /// A developer's machine.
    #[default]
    Development,
    /// An environment for manual or automated tests.
    Test,
    /// An environment like production, for releases before they reach production.
    Staging,
    /// The environment that serves users.
    Production,
}

impl Environment {
    /// Returns the resource's `deployment.environment.name`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Test => "test",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }

    /// Returns the environment for `name` or one of its common short forms, in any case.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "development" | "develop" | "dev" | "local" => Self::Development,
            "test" | "testing" | "qa" | "ci" => Self::Test,
            "staging" | "stage" | "stg" | "preproduction" | "pre-production" | "preprod"
            | "pre-prod" => Self::Staging,
            "production" | "prod" | "prd" | "live" => Self::Production,
            _ => return None,
        })
    }

    /// Returns the default sampler. `ratio` applies to samplers with a ratio.
    pub(crate) fn sampler(self, ratio: Option<f64>) -> Sampler {
        match self {
            Self::Development | Self::Test | Self::Staging => Sampler::ParentBasedAlwaysOn,
            Self::Production => Sampler::ParentBasedTraceIdRatio(ratio.unwrap_or(PRODUCTION_RATIO)),
        }
    }

    /// Returns the default exporters.
    pub(crate) fn exporters(self, has_endpoint: bool) -> Vec<Exporter> {
        match self {
            Self::Development if has_endpoint => vec![Exporter::Console, Exporter::Otlp],
            Self::Development => vec![Exporter::Console],
            Self::Test | Self::Staging | Self::Production => vec![Exporter::Otlp],
        }
    }

    /// Returns the default format of log lines.
    #[cfg(feature = "logs")]
    pub(crate) fn log_lines(self) -> LogLines {
        match self {
            Self::Development => LogLines::Text,
            Self::Test | Self::Staging | Self::Production => LogLines::Json,
        }
    }
}
