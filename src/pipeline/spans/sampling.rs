//! Samplers whose decisions can be made without the SDK.

use opentelemetry::trace::{SpanContext, SpanKind, TraceId};
use opentelemetry_sdk::trace::{Sampler as SdkSampler, SamplingDecision, ShouldSample};

use crate::config::settings::Sampler;
use crate::propagation::Decision;

/// A sampler that decides by the parent or the trace id only.
#[derive(Clone, Debug)]
pub(crate) struct Sampling {
    /// The decision for spans that have a parent, local or remote.
    pub(crate) below: Below,
    /// The sampler for all other spans.
    pub(crate) otherwise: SdkSampler,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Below {
    /// Sampled like the parent.
    Parent,
    /// Sampled like a span without a parent.
    Otherwise,
}

impl Sampling {
    /// Returns `None` for a custom sampler.
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
            // The caller sent a decision without ids. The trace is new, but the decision is made.
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
