//! The context that the headers of a request carry.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::HeaderMap;
use opentelemetry::Context;
use opentelemetry::baggage::{Baggage, BaggageExt};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceState};

use crate::current_context;
use crate::propagation::other;
use crate::propagation::span_context::{with_flags, with_state};
use crate::propagation::trace_extra::{Decision, TraceExtra, with_current, with_state_text};

/// The context from the headers of a request. All parts are valid.
#[derive(Default)]
pub(crate) struct Extracted {
    /// The parent. Its trace state is empty if `state` has the text.
    pub(crate) span_context: Option<SpanContext>,
    pub(crate) state: Option<Arc<str>>,
    /// The sampling decision for a child of the parent, or for a new trace if there is no parent.
    pub(crate) decision: Option<Decision>,
    pub(crate) baggage: Option<Baggage>,
}

impl Extracted {
    pub(crate) fn is_empty(&self) -> bool {
        self.span_context.is_none() && self.decision.is_none() && self.baggage.is_none()
    }

    /// Sets the parent and replaces the span of an earlier format.
    #[inline]
    pub(crate) fn set_span(
        &mut self,
        span_context: SpanContext,
        state: Option<Arc<str>>,
        decision: Option<Decision>,
    ) {
        self.span_context = Some(span_context);
        self.state = state;
        self.decision = decision;
    }

    /// Sets a decision without a span. It applies to the span of an earlier format.
    #[cfg(feature = "init")]
    pub(crate) fn set_decision(&mut self, decision: Decision) {
        let is_debug = decision == Decision::Debug;
        match &mut self.span_context {
            Some(span_context) => {
                let sampled = is_debug || decision == Decision::Accept;
                *span_context = with_flags(
                    span_context,
                    span_context.trace_flags().with_sampled(sampled),
                );
                self.decision = is_debug.then_some(decision);
            }
            None => self.decision = Some(decision),
        }
    }

    /// Reads the headers with a propagator of the application.
    pub(crate) fn read_with(&mut self, propagator: &dyn TextMapPropagator, headers: &HeaderMap) {
        let Some(cx) = other::extract(propagator, headers) else {
            return;
        };
        let span = cx.span();
        let found = span.span_context();
        if found.is_valid() {
            let (found, decision) = other::found_span(propagator, found);
            self.set_span(found, None, decision);
        }
        let baggage = cx.baggage().iter();
        let baggage = baggage.map(|(key, value)| (key.clone(), value.clone()));
        let baggage = Baggage::from_iter(baggage);
        if !baggage.is_empty() {
            self.baggage = Some(baggage);
        }
    }

    /// Returns the current local span of this thread, such as the span of an outer layer.
    #[inline]
    pub(crate) fn local() -> Option<Self> {
        let is_local = |span: &SpanContext| span.is_valid() && !span.is_remote();
        // Most requests have no local span, and this check copies nothing.
        if current_context::map(|cx| is_local(cx.span().span_context())) {
            Self::of_current()
        } else {
            None
        }
    }

    fn of_current() -> Option<Self> {
        current_context::map(|cx| {
            let span = cx.span();
            let local = span.span_context();
            let extra = TraceExtra::of(cx, Some(local));
            let state = extra.and_then(|extra| extra.shared_state(local));
            Some(Self {
                span_context: Some(match state {
                    // The text is enough, so the state is not copied.
                    Some(_) => with_state(local, TraceState::NONE),
                    None => local.clone(),
                }),
                state,
                decision: extra.and_then(|extra| extra.decision(Some(local))),
                baggage: None,
            })
        })
    }

    /// Makes `local` the parent.
    pub(crate) fn set_parent(&mut self, local: Self) {
        *self = Self {
            baggage: self.baggage.take(),
            ..local
        };
    }

    /// Removes the parent, so that a new trace begins.
    pub(crate) fn clear_parent(&mut self) {
        (self.span_context, self.state, self.decision) = (None, None, None);
    }

    /// Returns whether the request asks to be sampled.
    pub(crate) fn forces_sampling(&self) -> bool {
        match &self.span_context {
            Some(parent) => parent.is_sampled(),
            None => matches!(self.decision, Some(Decision::Accept | Decision::Debug)),
        }
    }

    /// Makes the request ask not to be sampled.
    pub(crate) fn clear_sampled(&mut self) {
        match &mut self.span_context {
            Some(parent) => {
                *parent = with_flags(parent, parent.trace_flags().with_sampled(false));
                self.decision = None;
            }
            None => self.decision = Some(Decision::Deny),
        }
    }

    /// Takes the state, the decision and the baggage, and returns `root` with them. The parent
    /// stays.
    #[inline]
    pub(crate) fn context_in<'a>(&mut self, root: &'a Context) -> Cow<'a, Context> {
        let mut cx = Cow::Borrowed(root);
        let parent = self.span_context.as_ref();
        if (self.state.is_some() || self.decision.is_some())
            // A decision for a new trace does not apply to a trace that continues here.
            && (parent.is_some() || with_current(root, |current| current.is_none()))
        {
            let extra = TraceExtra::new(parent, self.state.take(), self.decision);
            cx = Cow::Owned(cx.with_value(extra));
        }
        if let Some(baggage) = self.baggage.take() {
            cx = Cow::Owned(cx.with_baggage(baggage));
        }
        cx
    }

    /// Returns the whole context, for a request that gets no span of its own.
    pub(crate) fn into_context(mut self, root: &Context) -> Context {
        let text = self.state.clone();
        let cx = self.context_in(root);
        match &self.span_context {
            Some(parent) => cx.with_remote_span_context(with_state_text(parent, text.as_deref())),
            None => cx.into_owned(),
        }
    }
}
