//! The context that the headers of a request carry.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::HeaderMap;
use opentelemetry::Context;
use opentelemetry::baggage::{Baggage, BaggageExt};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceFlags, TraceState};
use opentelemetry_http::HeaderExtractor;

use crate::concurrent::caught::guarded;
use crate::current_context;
use crate::propagation::names_b3;
use crate::propagation::trace_extra::{
    Decision, TraceExtra, with_current, with_state, with_state_text,
};

/// The context that the headers of a request carry. Nothing of it is invalid.
#[derive(Default)]
pub(crate) struct Extracted {
    /// Without its state, where that is in `state`.
    pub(crate) span_context: Option<SpanContext>,
    pub(crate) state: Option<Arc<str>>,
    /// The decision for a new trace, where there is no span context.
    pub(crate) decision: Option<Decision>,
    pub(crate) baggage: Option<Baggage>,
}

impl Extracted {
    pub(crate) fn is_empty(&self) -> bool {
        self.span_context.is_none() && self.decision.is_none() && self.baggage.is_none()
    }

    /// Takes the span that a form names, in place of the span of an earlier form.
    #[inline]
    pub(crate) fn name(
        &mut self,
        span_context: SpanContext,
        state: Option<Arc<str>>,
        decision: Option<Decision>,
    ) {
        self.span_context = Some(span_context);
        self.state = state;
        self.decision = decision;
    }

    /// Takes a decision that names no span. It is about the span that an earlier form names.
    #[cfg(feature = "init")]
    pub(crate) fn decide(&mut self, decision: Decision) {
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

    /// Reads with a propagator that is not ours, and may panic.
    pub(crate) fn read(&mut self, propagator: &dyn TextMapPropagator, headers: &HeaderMap) {
        let headers = HeaderExtractor(headers);
        let extract = || propagator.extract_with_context(&Context::new(), &headers);
        let Some(cx) = guarded(extract) else {
            return;
        };
        let span = cx.span();
        let found = span.span_context();
        if found.is_valid() {
            let is_b3 = || guarded(|| names_b3(propagator, true)).unwrap_or_default();
            let (found, decision) = if found.trace_flags().to_u8() > 1 && is_b3() {
                from_b3_flags(found)
            } else {
                (found.clone(), None)
            };
            self.name(found, None, decision);
        }
        let baggage = cx.baggage().iter();
        let baggage = baggage.map(|(key, value)| (key.clone(), value.clone()));
        let baggage = Baggage::from_iter(baggage);
        if !baggage.is_empty() {
            self.baggage = Some(baggage);
        }
    }

    /// Returns the span that is current here, such as the span of an outer layer.
    #[inline]
    pub(crate) fn local() -> Option<Self> {
        let is_local = |span: &SpanContext| span.is_valid() && !span.is_remote();
        // Most requests find none, and this moves nothing.
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
                    // No copy of a state that is there as text.
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
    pub(crate) fn follow(&mut self, local: Self) {
        *self = Self {
            baggage: self.baggage.take(),
            ..local
        };
    }

    /// Begins a trace that nothing is known of.
    pub(crate) fn forget(&mut self) {
        (self.span_context, self.state, self.decision) = (None, None, None);
    }

    /// Returns whether the request asks to be sampled.
    pub(crate) fn forces_sampling(&self) -> bool {
        match &self.span_context {
            Some(parent) => parent.is_sampled(),
            None => matches!(self.decision, Some(Decision::Accept | Decision::Debug)),
        }
    }

    /// Makes it a request that asks not to be sampled.
    pub(crate) fn unforce(&mut self) {
        match &mut self.span_context {
            Some(parent) => {
                *parent = with_flags(parent, parent.trace_flags().with_sampled(false));
                self.decision = None;
            }
            None => self.decision = Some(Decision::Deny),
        }
    }

    /// Takes the context of the request, without the parent, out of it.
    #[inline]
    pub(crate) fn context_in<'a>(&mut self, root: &'a Context) -> Cow<'a, Context> {
        let mut cx = Cow::Borrowed(root);
        let parent = self.span_context.as_ref();
        if (self.state.is_some() || self.decision.is_some())
            // A decision for a new trace is not about a trace that goes on here.
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

    /// Returns the context of a request that has no span.
    pub(crate) fn into_context(mut self, root: &Context) -> Context {
        let text = self.state.clone();
        let cx = self.context_in(root);
        match &self.span_context {
            Some(parent) => cx.with_remote_span_context(with_state_text(parent, text.as_deref())),
            None => cx.into_owned(),
        }
    }
}

/// Returns `span` with other flags.
pub(crate) fn with_flags(span: &SpanContext, flags: TraceFlags) -> SpanContext {
    SpanContext::new(
        span.trace_id(),
        span.span_id(),
        flags,
        span.is_remote(),
        span.trace_state().clone(),
    )
}

/// Reads the flags that the propagator of the crate `opentelemetry-propagator-b3` gives a span. Its
/// `deferred` is the random flag of the W3C.
fn from_b3_flags(found: &SpanContext) -> (SpanContext, Option<Decision>) {
    const DEFERRED: u8 = 0x02;
    const DEBUG: u8 = 0x04;
    let flags = found.trace_flags().to_u8();
    let decision = if flags & DEBUG != 0 {
        Some(Decision::Debug)
    } else if flags & DEFERRED != 0 {
        Some(Decision::Deferred)
    } else {
        None
    };
    let sampled = found.is_sampled() || decision == Some(Decision::Debug);
    let flags = TraceFlags::NOT_SAMPLED.with_sampled(sampled);
    (with_flags(found, flags), decision)
}
