//! The choice of the traces that are recorded.

use std::fmt;

use opentelemetry_sdk::trace::{Sampler as SdkSampler, ShouldSample};

/// Chooses which traces are recorded.
#[derive(Debug)]
#[non_exhaustive]
pub enum Sampler {
    /// All of them.
    AlwaysOn,
    /// None.
    AlwaysOff,
    /// This share of them, 0 to 1, chosen by the trace id.
    TraceIdRatio(f64),
    /// As the parent was decided on; all new traces.
    ParentBasedAlwaysOn,
    /// As the parent was decided on; no new traces.
    ParentBasedAlwaysOff,
    /// As the parent was decided on; this share of new traces, 0 to 1.
    ParentBasedTraceIdRatio(f64),
    /// One of your own. The attributes of each request are built for it before it decides.
    Custom(Box<dyn ShouldSample>),
}

impl<S: ShouldSample + 'static> From<S> for Sampler {
    fn from(sampler: S) -> Self {
        Self::Custom(Box::new(sampler))
    }
}

/// The rule of a sampler that is not the application's.
pub(crate) struct SamplingRule {
    /// Decides on new traces.
    pub(crate) root: SdkSampler,
    /// Whether the decision on the parent holds over `root`.
    pub(crate) follows_parent: bool,
}

impl Sampler {
    /// Returns the sampler of a name of `OTEL_TRACES_SAMPLER`, in any case. `ratio` is for a sampler
    /// that takes one.
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

    /// Returns the ratio; `None` for a sampler that takes none.
    pub(crate) fn ratio(&self) -> Option<f64> {
        match self {
            Self::TraceIdRatio(ratio) | Self::ParentBasedTraceIdRatio(ratio) => Some(*ratio),
            _ => None,
        }
    }

    /// Returns the rule; `Err` with a sampler of the application.
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

    /// Returns the same sampler for the SDK.
    pub(crate) fn for_sdk(&self) -> Box<dyn ShouldSample> {
        match self.rule() {
            Ok(rule) if rule.follows_parent => Box::new(SdkSampler::parent_based(rule.root)),
            Ok(rule) => Box::new(rule.root),
            Err(sampler) => sampler,
        }
    }
}

/// As in `OTEL_TRACES_SAMPLER`, with the argument.
impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.ratio() {
            Some(ratio) => write!(f, "({ratio})"),
            None => Ok(()),
        }
    }
}
