//! Applies B3 sampling decisions to a sampler of the SDK.

use opentelemetry::trace::{
    Link, SpanContext, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, SamplingDecision, SamplingResult, ShouldSample,
};

use crate::propagation::{Decision, decision_in};
use crate::providers::in_context::without_span_of;

/// A sampler that respects the decision received by B3.
#[derive(Clone, Debug)]
pub(crate) struct B3Sampler(pub(crate) Box<dyn ShouldSample>);

impl ShouldSample for B3Sampler {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let sample = |cx: Option<&Context>| {
            self.0
                .should_sample(cx, trace_id, name, kind, attributes, links)
        };
        let Some((cx, decision)) = parent.and_then(|cx| Some((cx, decision_in(cx)?))) else {
            return sample(parent);
        };
        match decision {
            Decision::Deny => SamplingResult {
                decision: SamplingDecision::Drop,
                attributes: Vec::new(),
                trace_state: cx.span().span_context().trace_state().clone(),
            },
            // Samples like a new trace. The span is removed, because some samplers treat an invalid
            // active span as a parent.
            Decision::Deferred => sample(Some(&without_span_of(cx))),
            // The caller decided to sample but sent no ids. Samplers understand this as a sampled
            // remote parent.
            Decision::Accept | Decision::Debug if !cx.span().span_context().is_valid() => {
                let caller = SpanContext::new(
                    trace_id,
                    RandomIdGenerator::default().new_span_id(),
                    TraceFlags::SAMPLED,
                    true,
                    TraceState::NONE,
                );
                sample(Some(&cx.with_remote_span_context(caller)))
            }
            Decision::Accept | Decision::Debug => sample(parent),
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::SpanId;
    use opentelemetry_sdk::trace::Sampler;

    use super::*;
    use crate::propagation::TraceExtra;

    fn remote(flags: u8) -> SpanContext {
        let state = "a=1".parse().expect("a valid tracestate");
        let (trace_id, span_id) = (TraceId::from(0x1a2b), SpanId::from(0x3c4d));
        SpanContext::new(trace_id, span_id, TraceFlags::new(flags), true, state)
    }

    #[test]
    fn a_b3_decision_has_priority_over_every_parent_based_sampler() {
        use Decision::{Accept, Debug, Deferred, Deny};

        let root_based = |root: Sampler| Box::new(Sampler::parent_based(root));
        let old = |root| Box::new(Sampler::ParentBased(Box::new(root)));
        let on: [Box<dyn ShouldSample>; 2] =
            [root_based(Sampler::AlwaysOn), old(Sampler::AlwaysOn)];
        let off: [Box<dyn ShouldSample>; 2] =
            [root_based(Sampler::AlwaysOff), old(Sampler::AlwaysOff)];
        let always: [Box<dyn ShouldSample>; 1] = [Box::new(Sampler::AlwaysOn)];
        let never: [Box<dyn ShouldSample>; 1] = [Box::new(Sampler::AlwaysOff)];
        for (decision, flags, expected) in [
            // The samplers decide as for new traces.
            (Some(Deferred), Some(0), [true, false, true, false]),
            (None, Some(0), [false, false, true, false]),
            (None, Some(1), [true, true, true, false]),
            (Some(Debug), Some(1), [true, true, true, false]),
            (None, None, [true, false, true, false]),
            (Some(Accept), None, [true, true, true, false]),
            (Some(Debug), None, [true, true, true, false]),
            (Some(Deny), None, [false; 4]),
            // A span below a denied span.
            (Some(Deny), Some(0), [false; 4]),
        ] {
            let parent = flags.map(remote);
            let mut cx = Context::new();
            if let Some(decision) = decision {
                cx = cx.with_value(TraceExtra::new(parent.as_ref(), None, Some(decision)));
            }
            if let Some(parent) = &parent {
                cx = cx.with_remote_span_context(parent.clone());
            }
            for (samplers, expected) in [&on[..], &off, &always, &never].into_iter().zip(expected) {
                for sampler in samplers {
                    let sampler = B3Sampler(sampler.clone());
                    let kind = SpanKind::Server;
                    let trace_id = TraceId::from(0x1a2b);
                    let result = sampler.should_sample(Some(&cx), trace_id, "", &kind, &[], &[]);
                    let is_sampled = result.decision == SamplingDecision::RecordAndSample;
                    assert_eq!(is_sampled, expected, "{decision:?} {flags:?} {sampler:?}");
                }
            }
        }
    }
}
