//! An interface to start spans with any kind of tracer.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::{Link, SpanContext, SpanKind};
use opentelemetry::{Context, InstrumentationScope, KeyValue};

use crate::attribute_set;
use crate::semconv::{self, CapturedRequest};

/// Creates tracers for instrumentation scopes.
pub(crate) trait MakeTracer: Send + Sync {
    fn make(&self, scope: InstrumentationScope) -> Arc<dyn StartSpan>;

    /// Returns whether every child of an unsampled span is dropped, so that callers need not start
    /// it.
    fn follows_unsampled(&self) -> bool {
        false
    }
}

/// A [`Tracer`](opentelemetry::trace::Tracer) of any type. The span is stored in its context
/// directly, boxed once.
pub(crate) trait StartSpan: Send + Sync {
    /// Starts a child span of `parent`.
    fn start(&self, parent: Parent<'_>, description: &mut dyn DescribeSpan) -> Started;
}

/// Describes a span when it starts.
pub(crate) trait DescribeSpan {
    /// Writes the description. It is called at most once, and not for a span that is dropped
    /// without needing one.
    fn describe(&mut self, span: &mut NewSpan);
}

#[cfg(test)]
impl<F: FnMut(&mut NewSpan)> DescribeSpan for F {
    fn describe(&mut self, span: &mut NewSpan) {
        self(span);
    }
}

/// The parent of a new span.
pub(crate) struct Parent<'a> {
    /// The context in which the span starts.
    pub(crate) cx: &'a Context,
    /// The parent span; `None` for the span in `cx`.
    pub(crate) span_context: Option<&'a SpanContext>,
}

/// The description of a new span.
#[derive(Clone)]
pub(crate) struct NewSpan {
    pub(crate) name: Cow<'static, str>,
    pub(crate) kind: SpanKind,
    pub(crate) start_time: SystemTime,
    pub(crate) links: Vec<Link>,
    /// The request that the span represents.
    pub(crate) request: Option<CapturedRequest>,
    /// Attributes other than those of the request.
    pub(crate) attributes: Vec<KeyValue>,
    /// Whether the application has set an attribute that the request has as well.
    pub(crate) overrides_request: bool,
}

/// The result of starting a span.
pub(crate) struct Started {
    /// A context with the span as the active one.
    pub(crate) cx: Context,
    /// Whether the span is recorded. If not, nothing written to it is exported.
    pub(crate) is_recording: bool,
}

impl Started {
    /// Returns a result without a span, for the given context.
    pub(crate) fn without_span(cx: Context) -> Self {
        Self {
            cx,
            is_recording: false,
        }
    }
}

/// The initial capacity for a span's attributes, enough for a server span.
const ATTRIBUTES: usize = 16;

/// The room for the attributes that no sampler reads, and for the status.
const OTHER_ATTRIBUTES: usize = 6;

impl Default for NewSpan {
    #[inline]
    fn default() -> Self {
        Self {
            name: Cow::Borrowed(""),
            kind: SpanKind::Internal,
            start_time: SystemTime::UNIX_EPOCH,
            links: Vec::new(),
            request: None,
            attributes: Vec::new(),
            overrides_request: false,
        }
    }
}

impl NewSpan {
    /// Sets an attribute on behalf of the application, replacing one with the same key.
    pub(crate) fn set(&mut self, attribute: KeyValue) {
        self.overrides_request |= semconv::is_request_key(attribute.key.as_str());
        attribute_set::set(&mut self.attributes, attribute);
    }

    /// Takes the attributes that a sampler may read.
    pub(crate) fn take_attributes_for_samplers(&mut self) -> Vec<KeyValue> {
        let room = self.request.as_ref().map_or(0, |_| ATTRIBUTES);
        let mut taken = Vec::with_capacity(room);
        if let Some(request) = &self.request {
            request.attributes_for_samplers(&mut |key, fact| taken.push(fact.attribute(key)));
        }
        let is_for_samplers = |one: &mut KeyValue| semconv::is_for_samplers(one.key.as_str());
        taken.extend(self.attributes.extract_if(.., is_for_samplers));
        if self.overrides_request {
            attribute_set::make_unique(&mut taken);
        }
        taken
    }

    /// Returns the attributes that are left after
    /// [`take_attributes_for_samplers`](Self::take_attributes_for_samplers).
    pub(crate) fn into_other_attributes(self) -> Vec<KeyValue> {
        let mut others = Vec::with_capacity(self.attributes.len() + OTHER_ATTRIBUTES);
        if let Some(request) = &self.request {
            request.other_attributes(&mut |key, fact| others.push(fact.attribute(key)));
        }
        others.extend(self.attributes);
        if self.overrides_request {
            attribute_set::make_unique(&mut others);
        }
        others
    }

    /// Returns all attributes of a span. Attributes of the request are replaced by others with the
    /// same key if `overrides_request` is set.
    #[cfg(feature = "init")]
    pub(crate) fn all_attributes(
        request: Option<&CapturedRequest>,
        overrides_request: bool,
        others: impl IntoIterator<Item = KeyValue>,
    ) -> Vec<KeyValue> {
        let mut all = Vec::with_capacity(if request.is_some() { ATTRIBUTES } else { 0 });
        if let Some(request) = request {
            request.attributes(&mut |key, fact| all.push(fact.attribute(key)));
        }
        all.extend(others);
        if overrides_request {
            attribute_set::make_unique(&mut all);
        }
        all
    }
}
