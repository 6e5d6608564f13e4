//! Samplers whose decisions can be made without the SDK.

use opentelemetry::trace::{SpanContext, SpanKind, TraceId};
use opentelemetry_sdk::trace::{Sampler as SdkSampler, SamplingDecision, ShouldSample};

use crate::config::settings::Sampler;
use crate::propagation::Decision;

/// A sampler that decides by the parent or the trace id only.
#[derive(Clone, Debug)]
pub(crate) struct Sampling {
    /// The decision for spans that have a parent, local or remote.
    pub(crate) parent_rule: ParentRule,
    /// The sampler for all other spans.
    pub(crate) root: SdkSampler,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParentRule {
    /// Sampled like the parent.
    Parent,
    /// Sampled like a span without a parent.
    Root,
}

impl Sampling {
    /// Returns `None` for a custom sampler.
    pub(crate) fn of(sampler: &Sampler) -> Option<Self> {
        let rule = sampler.rule().ok()?;
        let parent_rule = match rule.follows_parent {
            true => ParentRule::Parent,
            false => ParentRule::Root,
        };
        Some(Self {
            parent_rule,
            root: rule.root,
        })
    }

    pub(crate) fn samples(
        &self,
        parent: Option<&SpanContext>,
        decision: Option<Decision>,
        trace_id: TraceId,
    ) -> bool {
        let parent_decision = match decision {
            Some(Decision::Deny) => return false,
            Some(Decision::Deferred) => None,
            // The caller sent a decision without ids. The trace is new, but the decision is made.
            Some(Decision::Accept | Decision::Debug) if parent.is_none() => Some(true),
            _ => parent.map(SpanContext::is_sampled),
        };
        if let (ParentRule::Parent, Some(is_sampled)) = (self.parent_rule, parent_decision) {
            return is_sampled;
        }
        let kind = SpanKind::Internal;
        let result = self.root.should_sample(None, trace_id, "", &kind, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    pub(crate) fn follows_unsampled(&self) -> bool {
        self.parent_rule == ParentRule::Parent || matches!(self.root, SdkSampler::AlwaysOff)
    }
}
