//! Catches panics of the application's sampler and id generator.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::trace::{Link, SpanId, SpanKind, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingResult, ShouldSample,
};

use crate::concurrent::caught::catch_panic;
use crate::logs::emit_later;

/// The application's sampler. If it panics, the span is sampled like its parent; a span without a
/// parent is sampled.
#[derive(Clone, Debug)]
pub(crate) struct CaughtSampler {
    sampler: Box<dyn ShouldSample>,
    is_logged: Arc<AtomicBool>,
}

impl CaughtSampler {
    pub(crate) fn new(sampler: Box<dyn ShouldSample>) -> Self {
        Self {
            sampler,
            is_logged: Arc::default(),
        }
    }
}

impl ShouldSample for CaughtSampler {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let call = |sampler: &dyn ShouldSample| {
            sampler.should_sample(parent, trace_id, name, kind, attributes, links)
        };
        catch_panic(|| call(&*self.sampler)).unwrap_or_else(|| {
            log_once(
                &self.is_logged,
                "the sampler panicked; spans are sampled like their parents",
            );
            call(&Sampler::parent_based(Sampler::AlwaysOn))
        })
    }
}

/// The application's id generator. If it panics or returns an invalid id, a random id is used.
#[derive(Debug)]
pub(crate) struct CaughtIdGenerator {
    generator: Box<dyn IdGenerator>,
    is_logged: AtomicBool,
}

impl CaughtIdGenerator {
    pub(crate) fn new(generator: Box<dyn IdGenerator>) -> Self {
        Self {
            generator,
            is_logged: AtomicBool::new(false),
        }
    }

    fn id<I: PartialEq>(&self, make: impl Fn(&dyn IdGenerator) -> I, invalid: &I) -> I {
        let made = catch_panic(|| make(&*self.generator)).filter(|id| id != invalid);
        made.unwrap_or_else(|| {
            let line = "the id generator panicked or returned an invalid id; random ids are used";
            log_once(&self.is_logged, line);
            make(&RandomIdGenerator::default())
        })
    }
}

impl IdGenerator for CaughtIdGenerator {
    fn new_trace_id(&self) -> TraceId {
        self.id(|generator| generator.new_trace_id(), &TraceId::INVALID)
    }

    fn new_span_id(&self) -> SpanId {
        self.id(|generator| generator.new_span_id(), &SpanId::INVALID)
    }
}

#[cold]
fn log_once(is_logged: &AtomicBool, line: &'static str) {
    if !is_logged.swap(true, Ordering::Relaxed) {
        emit_later(move || tracing::warn!(target: "tower_telemetry", "{line}"));
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::SamplingDecision;

    use super::*;

    #[derive(Clone, Debug)]
    struct Broken;

    impl ShouldSample for Broken {
        fn should_sample(
            &self,
            _: Option<&Context>,
            _: TraceId,
            _: &str,
            _: &SpanKind,
            _: &[KeyValue],
            _: &[Link],
        ) -> SamplingResult {
            panic!("on purpose")
        }
    }

    impl IdGenerator for Broken {
        fn new_trace_id(&self) -> TraceId {
            TraceId::INVALID
        }

        fn new_span_id(&self) -> SpanId {
            panic!("on purpose")
        }
    }

    #[test]
    fn a_sampler_or_a_generator_that_panics_is_replaced_for_the_call() {
        let sampler = CaughtSampler::new(Box::new(Broken));
        let result = sampler.should_sample(None, TraceId::from(1), "", &SpanKind::Server, &[], &[]);
        assert_eq!(result.decision, SamplingDecision::RecordAndSample);
        let generator = CaughtIdGenerator::new(Box::new(Broken));
        assert_ne!(generator.new_trace_id(), TraceId::INVALID);
        assert_ne!(generator.new_span_id(), SpanId::INVALID);
    }
}
