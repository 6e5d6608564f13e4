//! Adds baggage members to spans as attributes.

use std::sync::Arc;

use opentelemetry::{Context, InstrumentationScope, KeyValue};

use crate::propagation::BaggageAttributes;
use crate::providers::start_span::{DescribeSpan, MakeTracer, NewSpan, Parent, StartSpan, Started};
use crate::semconv;

/// Wraps `tracers` so that spans have the given baggage members as attributes. Returns `tracers` if
/// there are no such members.
pub(crate) fn with_baggage(
    tracers: Arc<dyn MakeTracer>,
    attributes: &BaggageAttributes,
) -> Arc<dyn MakeTracer> {
    if attributes.is_empty() {
        return tracers;
    }
    Arc::new(Tracers {
        tracers,
        attributes: attributes.clone(),
    })
}

struct Tracers {
    tracers: Arc<dyn MakeTracer>,
    attributes: BaggageAttributes,
}

impl MakeTracer for Tracers {
    fn make(&self, scope: InstrumentationScope) -> Arc<dyn StartSpan> {
        Arc::new(Tracer {
            tracer: self.tracers.make(scope),
            attributes: self.attributes.clone(),
        })
    }

    fn follows_unsampled(&self) -> bool {
        self.tracers.follows_unsampled()
    }
}

struct Tracer {
    tracer: Arc<dyn StartSpan>,
    attributes: BaggageAttributes,
}

impl StartSpan for Tracer {
    fn start(&self, parent: Parent<'_>, description: &mut dyn DescribeSpan) -> Started {
        let mut description = Description {
            cx: parent.cx,
            description,
            attributes: &self.attributes,
        };
        self.tracer.start(parent, &mut description)
    }
}

struct Description<'a> {
    cx: &'a Context,
    description: &'a mut dyn DescribeSpan,
    attributes: &'a BaggageAttributes,
}

impl DescribeSpan for Description<'_> {
    fn describe(&mut self, span: &mut NewSpan) {
        self.description.describe(span);
        for (key, value) in self.attributes.of(self.cx) {
            // The sender of the baggage must not be able to replace the span's own attributes.
            let is_taken = span.request.is_some() && semconv::is_request_key(key.as_str())
                || span.attributes.iter().any(|one| one.key == *key);
            if !is_taken {
                let attribute = KeyValue::new(key.clone(), value.into_owned());
                span.attributes.push(attribute);
            }
        }
    }
}
