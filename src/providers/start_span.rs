//! Starting a span with a tracer of any kind.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::{Link, SpanContext, SpanKind};
use opentelemetry::{Context, InstrumentationScope, KeyValue};

use crate::attribute_set;
use crate::semconv::{self, CapturedRequest};

/// Makes tracers for instrumentation scopes.
pub(crate) trait MakeTracer: Send + Sync {
    fn make(&self, scope: InstrumentationScope) -> Arc<dyn StartSpan>;

    /// Whether it drops every span below one that is not sampled, so that there is no need to ask.
    fn follows_unsampled(&self) -> bool {
        false
    }
}

/// A [`Tracer`] of any type. The span goes straight into its context, boxed once.
pub(crate) trait StartSpan: Send + Sync {
    /// Starts a span below `parent`.
    fn start(&self, parent: Parent<'_>, description: &mut dyn DescribeSpan) -> Started;
}

/// Describes a span when it starts.
pub(crate) trait DescribeSpan {
    /// Writes the description. Called at most once, and never for a span that the tracer drops before
    /// it needs a description.
    fn describe(&mut self, span: &mut NewSpan);
}

#[cfg(test)]
impl<F: FnMut(&mut NewSpan)> DescribeSpan for F {
    fn describe(&mut self, span: &mut NewSpan) {
        self(span);
    }
}

/// The parent of a span.
pub(crate) struct Parent<'a> {
    /// The context of the new span, apart from the span.
    pub(crate) cx: &'a Context,
    /// The span that is the parent; that of `cx`, where none is given.
    pub(crate) span_context: Option<&'a SpanContext>,
}

/// The description of a span at its start.
#[derive(Clone)]
pub(crate) struct NewSpan {
    pub(crate) name: Cow<'static, str>,
    pub(crate) kind: SpanKind,
    pub(crate) start_time: SystemTime,
    pub(crate) links: Vec<Link>,
    /// The request that it stands for.
    pub(crate) request: Option<CapturedRequest>,
    /// Besides those of the request.
    pub(crate) attributes: Vec<KeyValue>,
    /// Whether the application has set an attribute that the request has, too.
    pub(crate) overrides_request: bool,
}

/// A span that was started.
pub(crate) struct Started {
    /// The context in which the span is active.
    pub(crate) cx: Context,
    /// False where nothing written to the span will ever be exported.
    pub(crate) is_recording: bool,
}

impl Started {
    /// No span at all, in the context as it is.
    pub(crate) fn nothing_in(cx: Context) -> Self {
        Self {
            cx,
            is_recording: false,
        }
    }
}

/// Room for the attributes of a server span: more of them would have to grow it.
const ATTRIBUTES: usize = 16;

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
    /// Sets an attribute of the application's, in place of one with its key.
    pub(crate) fn set(&mut self, attribute: KeyValue) {
        self.overrides_request |= semconv::is_request_key(attribute.key.as_str());
        attribute_set::set(&mut self.attributes, attribute);
    }

    /// All attributes of a span: those of its request, unless the others have them, too.
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
