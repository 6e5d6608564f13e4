//! The environment of the service, and the defaults that it chooses.

use crate::config::settings::exporter::Exporter;
use crate::config::settings::sampler::Sampler;
#[cfg(feature = "logs")]
use crate::logs::LogLines;

/// Share of new traces that production samples, unless `OTEL_TRACES_SAMPLER_ARG` sets another.
const PRODUCTION_RATIO: f64 = 0.1;

/// Names the environment of the service, which chooses defaults.
///
/// | | development | test, staging | production |
/// |---|---|---|---|
/// | traces sampled | all | all | 10 % of new ones, an inbound decision is followed |
/// | exported to | the console, and OTLP where an endpoint is set | OTLP | OTLP |
/// | log lines | text | JSON | JSON |
///
/// The resource has its name as `deployment.environment.name` (resource conventions, "Deployment").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Environment {
    /// On a developer's machine.
    #[default]
    Development,
    /// For tests, of people or of programs.
    Test,
    /// Like production, before it.
    Staging,
    /// For real.
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

    /// Returns the environment that `name` means, in any case, also by a usual short form.
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

    /// Returns the default sampler. `ratio` is for a sampler that takes one.
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

    /// Returns the default form of log lines.
    #[cfg(feature = "logs")]
    pub(crate) fn log_lines(self) -> LogLines {
        match self {
            Self::Development => LogLines::Text,
            Self::Test | Self::Staging | Self::Production => LogLines::Json,
        }
    }
}
