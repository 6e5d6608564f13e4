//! The sampler.

use std::fmt;

use opentelemetry_sdk::trace::{Sampler as SdkSampler, ShouldSample};

/// The sampler, which chooses the recorded traces.
#[derive(Debug)]
#[non_exhaustive]
pub enum Sampler {
    /// Samples all traces.
    AlwaysOn,
    /// Samples no traces.
    AlwaysOff,
    /// Samples this share of traces, from 0 to 1, chosen by trace id.
    TraceIdRatio(f64),
    /// Follows the parent's decision, and samples all new traces.
    ParentBasedAlwaysOn,
    /// Follows the parent's decision, and samples no new traces.
    ParentBasedAlwaysOff,
    /// Follows the parent's decision, and samples this share of new traces, from 0 to 1.
    ParentBasedTraceIdRatio(f64),
    /// A custom sampler. The attributes of each request are built before it decides.
    Custom(Box<dyn ShouldSample>),
}

impl<S: ShouldSample + 'static> From<S> for Sampler {
    fn from(sampler: S) -> Self {
        Self::Custom(Box::new(sampler))
    }
}

/// The rule of a built-in sampler.
pub(crate) struct SamplingRule {
    /// The decision on new traces.
    pub(crate) root: SdkSampler,
    /// Whether the parent's decision takes precedence over `root`.
    pub(crate) follows_parent: bool,
}

impl Sampler {
    /// Returns the sampler with a name from `OTEL_TRACES_SAMPLER`, in any case. `ratio` applies to
    /// samplers with a ratio.
    pub(crate) fn named(name: &str, ratio: f64) -> Option<Self> {
        let all = [
            Self::AlwaysOn,
            Self::AlwaysOff,
            Self::TraceIdRatio(ratio),
            Self::ParentBasedAlwaysOn,
            Self::ParentBasedAlwaysOff,
            Self::ParentBasedTraceIdRatio(ratio),
        ];
        all.into_iter()
            .find(|one| one.name().eq_ignore_ascii_case(name))
    }

    /// Returns the name in `OTEL_TRACES_SAMPLER`.
    fn name(&self) -> &'static str {
        match self {
            Self::AlwaysOn => "always_on",
            Self::AlwaysOff => "always_off",
            Self::TraceIdRatio(_) => "traceidratio",
            Self::ParentBasedAlwaysOn => "parentbased_always_on",
            Self::ParentBasedAlwaysOff => "parentbased_always_off",
            Self::ParentBasedTraceIdRatio(_) => "parentbased_traceidratio",
            Self::Custom(_) => "custom",
        }
    }

    /// Returns the ratio; `None` for a sampler without one.
    pub(crate) fn ratio(&self) -> Option<f64> {
        match self {
            Self::TraceIdRatio(ratio) | Self::ParentBasedTraceIdRatio(ratio) => Some(*ratio),
            _ => None,
        }
    }

    /// Returns the rule of a built-in sampler, or else the custom sampler as the error.
    pub(crate) fn rule(&self) -> Result<SamplingRule, Box<dyn ShouldSample>> {
        let (root, follows_parent) = match self {
            Self::AlwaysOn => (SdkSampler::AlwaysOn, false),
            Self::AlwaysOff => (SdkSampler::AlwaysOff, false),
            Self::TraceIdRatio(ratio) => (SdkSampler::TraceIdRatioBased(*ratio), false),
            Self::ParentBasedAlwaysOn => (SdkSampler::AlwaysOn, true),
            Self::ParentBasedAlwaysOff => (SdkSampler::AlwaysOff, true),
            Self::ParentBasedTraceIdRatio(ratio) => (SdkSampler::TraceIdRatioBased(*ratio), true),
            Self::Custom(sampler) => return Err(sampler.clone()),
        };
        Ok(SamplingRule {
            root,
            follows_parent,
        })
    }

    /// Returns the equivalent sampler of the SDK.
    pub(crate) fn for_sdk(&self) -> Box<dyn ShouldSample> {
        match self.rule() {
            Ok(rule) if rule.follows_parent => Box::new(SdkSampler::parent_based(rule.root)),
            Ok(rule) => Box::new(rule.root),
            Err(sampler) => sampler,
        }
    }
}

/// Writes the name in `OTEL_TRACES_SAMPLER` and the ratio.
impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.ratio() {
            Some(ratio) => write!(f, "({ratio})"),
            None => Ok(()),
        }
    }
}
