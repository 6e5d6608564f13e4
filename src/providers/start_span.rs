//! An interface to start spans with any kind of tracer.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::{Link, SpanContext, SpanKind};
use opentelemetry::{Context, InstrumentationScope, KeyValue};

use crate::attribute_set;
use crate::providers::unique_span::FirstKeys;
use crate::semconv::{self, AddAttribute, AttributeValue, CapturedRequest};

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
    /// Writes the description. It or [`describe_for_samplers`](Self::describe_for_samplers) is
    /// called at most once, and not for a span that is dropped without needing one.
    fn describe(&mut self, span: &mut NewSpan);

    /// Writes the description for a tracer that needs the attributes that a sampler may read before
    /// it knows whether the span is recorded. The other attributes are left to
    /// [`other_attributes`](Self::other_attributes).
    fn describe_for_samplers(&mut self, span: &mut NewSpan) -> FirstAttributes {
        self.describe(span);
        let mut first = match &span.request {
            Some(request) => {
                let mut first = FirstAttributes::for_request();
                request.attributes_for_samplers(&mut |key, value| first.add(key, value));
                first
            }
            None => FirstAttributes::default(),
        };
        first.take_from(span);
        first
    }

    /// Returns the attributes that [`describe_for_samplers`](Self::describe_for_samplers) has left.
    fn other_attributes(&mut self, span: &mut NewSpan) -> Vec<KeyValue> {
        let mut attributes = span.room_for_other_attributes();
        if let Some(request) = &span.request {
            request.other_attributes(&mut |key, value| attributes.push(value.attribute(key)));
        }
        span.move_attributes(&mut attributes);
        attributes
    }
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

/// The attributes with which a span starts, because a sampler may read them.
#[derive(Default)]
pub(crate) struct FirstAttributes {
    pub(crate) attributes: Vec<KeyValue>,
    pub(crate) keys: FirstKeys,
}

impl AddAttribute for FirstAttributes {
    // Inlined everywhere, like the function that it calls.
    #[inline(always)]
    fn add(&mut self, key: &'static str, value: AttributeValue<'_>) {
        self.attributes.push(value.attribute(key));
        self.keys.add_fixed(key);
    }
}

impl FirstAttributes {
    /// Returns an empty list with room for the attributes of a request.
    #[inline]
    pub(crate) fn for_request() -> Self {
        Self {
            attributes: Vec::with_capacity(ATTRIBUTES),
            keys: FirstKeys::default(),
        }
    }

    /// Takes the attributes of a described span that a sampler may read.
    #[inline]
    pub(crate) fn take_from(&mut self, span: &mut NewSpan) {
        // A request has none, apart from those of hooks and captured headers.
        if !span.attributes.is_empty() {
            self.take_some_from(span);
        }
    }

    fn take_some_from(&mut self, span: &mut NewSpan) {
        let is_for_samplers = |one: &mut KeyValue| semconv::is_for_samplers(one.key.as_str());
        for attribute in span.attributes.extract_if(.., is_for_samplers) {
            self.keys.add(&attribute.key);
            self.attributes.push(attribute);
        }
        if span.overrides_request {
            attribute_set::make_unique(&mut self.attributes);
        }
    }
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

    /// Returns an empty list with room for the attributes that no sampler reads.
    #[inline]
    pub(crate) fn room_for_other_attributes(&self) -> Vec<KeyValue> {
        Vec::with_capacity(self.attributes.len() + OTHER_ATTRIBUTES)
    }

    /// Moves all attributes that are left.
    #[inline]
    pub(crate) fn move_attributes(&mut self, to: &mut Vec<KeyValue>) {
        to.append(&mut self.attributes);
        if self.overrides_request {
            attribute_set::make_unique(to);
        }
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
