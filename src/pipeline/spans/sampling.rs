//! The samplers whose decisions are known without the SDK.

use opentelemetry::trace::{SpanContext, SpanKind, TraceId};
use opentelemetry_sdk::trace::{Sampler as SdkSampler, SamplingDecision, ShouldSample};

use crate::config::settings::Sampler;
use crate::propagation::Decision;

/// A sampler whose decisions are known.
#[derive(Clone, Debug)]
pub(crate) struct Sampling {
    /// Below a span, whether it is that of another service or not.
    pub(crate) below: Below,
    /// The sampler for all other spans.
    pub(crate) otherwise: SdkSampler,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Below {
    /// As the parent was.
    Parent,
    /// As without one.
    Otherwise,
}

impl Sampling {
    /// `None` for a sampler of the application.
    pub(crate) fn of(sampler: &Sampler) -> Option<Self> {
        let rule = sampler.rule().ok()?;
        let below = match rule.follows_parent {
            true => Below::Parent,
            false => Below::Otherwise,
        };
        Some(Self {
            below,
            otherwise: rule.root,
        })
    }

    pub(crate) fn samples(
        &self,
        parent: Option<&SpanContext>,
        decision: Option<Decision>,
        trace_id: TraceId,
    ) -> bool {
        let asked = match decision {
            Some(Decision::Deny) => return false,
            Some(Decision::Deferred) => None,
            // Without ids. The trace is new, and yet decided on.
            Some(Decision::Accept | Decision::Debug) if parent.is_none() => Some(true),
            _ => parent.map(SpanContext::is_sampled),
        };
        if let (Below::Parent, Some(is_sampled)) = (self.below, asked) {
            return is_sampled;
        }
        let kind = SpanKind::Internal;
        let result = self
            .otherwise
            .should_sample(None, trace_id, "", &kind, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    pub(crate) fn follows_unsampled(&self) -> bool {
        self.below == Below::Parent || matches!(self.otherwise, SdkSampler::AlwaysOff)
    }
}
