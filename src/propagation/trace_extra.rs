//! The parts of a trace that a [`SpanContext`] cannot hold, or only at a high cost: the text of
//! `tracestate`, and the sampling decisions of B3. They are stored as a value in the [`Context`].

use std::borrow::Cow;
use std::sync::Arc;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceId, TraceState};

use crate::propagation::byte_class::find;
use crate::propagation::span_context::with_state;

/// The maximum number of members for which every span context holds its state. A copy of a member
/// takes two allocations, and each span needs several copies.
#[cfg(feature = "init")]
const MAX_HELD_MEMBERS: usize = 4;

/// A sampling decision that the sampled flag alone cannot express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "init"),
    allow(dead_code, reason = "only `init` configures B3")
)]
pub(crate) enum Decision {
    /// The caller has not decided. The sampler of this process decides, as for a new trace.
    Deferred,
    /// A trace that begins here is not sampled, and neither is any span of it.
    Deny,
    /// A trace that begins here is sampled.
    Accept,
    /// The trace is sampled, and the debug flag is sent to other services.
    Debug,
}

/// The parts of a trace that its span context does not hold, stored in a [`Context`].
#[derive(Debug)]
pub(crate) struct TraceExtra {
    /// The trace that the value belongs to; invalid for a trace that begins with the next span.
    trace_id: TraceId,
    /// The span to whose children a deferred decision applies.
    span_id: SpanId,
    /// The text of `tracestate`. All spans of the request and the threads that export them share
    /// it.
    state: Option<Arc<str>>,
    decision: Option<Decision>,
}

impl TraceExtra {
    /// Creates the value for the trace of `parent`, or for a new trace.
    pub(crate) fn new(
        parent: Option<&SpanContext>,
        state: Option<Arc<str>>,
        decision: Option<Decision>,
    ) -> Self {
        Self {
            trace_id: parent.map_or(TraceId::INVALID, SpanContext::trace_id),
            span_id: parent.map_or(SpanId::INVALID, SpanContext::span_id),
            state,
            decision,
        }
    }

    /// Returns the value in `cx` for a child of `parent`.
    #[inline]
    pub(crate) fn of<'a>(cx: &'a Context, parent: Option<&SpanContext>) -> Option<&'a Self> {
        let trace_id = parent.map_or(TraceId::INVALID, SpanContext::trace_id);
        cx.get::<Self>().filter(|extra| extra.trace_id == trace_id)
    }

    /// Returns the decision that applies to a child of `parent`.
    pub(crate) fn decision(&self, parent: Option<&SpanContext>) -> Option<Decision> {
        // The spans below the origin already have a decision of the sampler.
        let is_origin = || parent.is_some_and(|parent| parent.span_id() == self.span_id);
        self.decision
            .filter(|decision| *decision != Decision::Deferred || is_origin())
    }

    /// Returns the text of the state, if `span` still has this state.
    pub(crate) fn shared_state(&self, span: &SpanContext) -> Option<Arc<str>> {
        let held = span.trace_state();
        let text = self.state.as_ref();
        // Application code may have changed the state.
        text.filter(|text| is_empty(held) || is_text_of(held, text))
            .cloned()
    }

    /// Returns `cx` with the value for `span`, which was started in `cx` with `state`.
    pub(crate) fn child_context<'a>(
        cx: &'a Context,
        extra: Option<&Self>,
        span: &SpanContext,
        state: Option<&Arc<str>>,
    ) -> Cow<'a, Context> {
        let begins = extra.is_some_and(|extra| extra.trace_id == TraceId::INVALID);
        let known = extra.and_then(|extra| extra.state.as_ref());
        let is_new =
            state.is_some_and(|state| known.is_none_or(|known| !Arc::ptr_eq(known, state)));
        if !begins && !is_new {
            return Cow::Borrowed(cx);
        }
        let decision = extra.and_then(|extra| extra.decision);
        // The sampled flag of the span expresses the other decisions.
        let decision = decision.filter(|one| matches!(one, Decision::Deny | Decision::Debug));
        Cow::Owned(cx.with_value(Self::new(Some(span), state.cloned(), decision)))
    }
}

/// Calls `f` with the current span context of `cx`; with `None` if it is invalid.
pub(crate) fn with_current<T>(cx: &Context, f: impl FnOnce(Option<&SpanContext>) -> T) -> T {
    let span = cx.span();
    f(Some(span.span_context()).filter(|current| current.is_valid()))
}

/// Returns the decision that applies to a child of the current span of `cx`.
#[inline]
pub(crate) fn decision_in(cx: &Context) -> Option<Decision> {
    if !has_trace_extra(cx) {
        return None;
    }
    with_current(cx, |current| TraceExtra::of(cx, current)?.decision(current))
}

/// Returns `cx` for `span`, which was started in `cx`. A decision for a new trace becomes a
/// decision for the trace of `span`.
#[inline]
pub(crate) fn for_started_span<'a>(cx: &'a Context, span: &SpanContext) -> Cow<'a, Context> {
    if !has_trace_extra(cx) {
        return Cow::Borrowed(cx);
    }
    let extra = with_current(cx, |current| TraceExtra::of(cx, current));
    TraceExtra::child_context(cx, extra, span, None)
}

/// Returns whether `cx` has a [`TraceExtra`].
#[inline]
pub(crate) fn has_trace_extra(cx: &Context) -> bool {
    cx.get::<TraceExtra>().is_some()
}

/// Returns the state of `span` as text.
#[inline]
pub(crate) fn state_text(span: &SpanContext, extra: Option<&TraceExtra>) -> Option<Arc<str>> {
    if let Some(text) = extra.and_then(|extra| extra.shared_state(span)) {
        return Some(text);
    }
    let held = span.trace_state();
    (!is_empty(held)).then(|| held.header().into())
}

fn is_empty(state: &TraceState) -> bool {
    state.into_iter().len() == 0
}

fn is_text_of(held: &TraceState, text: &str) -> bool {
    // The text of the remaining members; `None` after the last member.
    let mut rest = Some(text);
    for (key, value) in held {
        let after = rest.and_then(|text| {
            text.strip_prefix(key)?
                .strip_prefix('=')?
                .strip_prefix(value)
        });
        rest = match after {
            Some("") => None,
            Some(after) if after.starts_with(',') => Some(&after[1..]),
            _ => return false,
        };
    }
    rest.is_none()
}

/// Parses a valid text; returns `None` for a key that only Level 2 allows.
fn parse_state(text: &str) -> Option<TraceState> {
    let mut rest = text;
    let members = std::iter::from_fn(|| {
        let bytes = rest.as_bytes();
        let equals = find(bytes, 0, |byte| byte == b'=');
        let comma = find(bytes, equals, |byte| byte == b',');
        let (key, value) = (rest.get(..equals)?, rest.get(equals + 1..comma)?);
        rest = rest.get(comma + 1..).unwrap_or_default();
        Some((key, value))
    });
    TraceState::from_key_value(members).ok()
}

/// Returns the state for a child of `parent`. `text` is the parent's state.
#[cfg(feature = "init")]
pub(crate) fn child_state(parent: Option<&SpanContext>, text: &str) -> TraceState {
    match parent.map(SpanContext::trace_state) {
        // A copy takes half of the instructions of parsing, because it validates nothing again.
        Some(held) if !is_empty(held) => held.clone(),
        _ => parse_state(text).unwrap_or_default(),
    }
}

/// Returns whether the state has so few members that every span context holds it.
#[cfg(feature = "init")]
pub(crate) fn is_small_state(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b',').count() < MAX_HELD_MEMBERS
}

/// Returns `span` with the state of `text`, as far as a span context can hold it.
pub(crate) fn with_state_text(span: &SpanContext, text: Option<&str>) -> SpanContext {
    match text.and_then(parse_state) {
        Some(state) => with_state(span, state),
        None => span.clone(),
    }
}

/// Returns the current span context of `cx` with its state, as far as a span context can hold it.
#[cfg(feature = "tokio")]
pub(crate) fn current_span_with_state(cx: &Context) -> Option<SpanContext> {
    with_current(cx, |current| {
        let current = current?;
        let text = TraceExtra::of(cx, Some(current)).and_then(|extra| extra.state.as_deref());
        let is_bare = is_empty(current.trace_state());
        Some(with_state_text(current, text.filter(|_| is_bare)))
    })
}

/// Returns `cx` with `parent` as its span, and with the state of the trace.
#[cfg(feature = "init")]
pub(crate) fn with_parent(cx: &Context, parent: &SpanContext) -> Context {
    let text = TraceExtra::of(cx, Some(parent)).and_then(|extra| extra.state.as_deref());
    cx.with_remote_span_context(with_state_text(parent, text))
}

/// Returns `cx` with `parent` as its span, with the state of the trace, and without the text of the
/// state. A sampler of the application may change the state, and the text would revert the change.
#[inline]
pub(crate) fn with_parent_of_sdk(cx: &Context, parent: &SpanContext) -> Context {
    if let Some(extra) = TraceExtra::of(cx, Some(parent))
        && let Some(state) = extra.state.as_deref().and_then(parse_state)
    {
        return cx
            .with_value(TraceExtra::new(Some(parent), None, extra.decision))
            .with_remote_span_context(with_state(parent, state));
    }
    cx.with_remote_span_context(parent.clone())
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceFlags;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn span(trace: u128, id: u64, state: &str) -> SpanContext {
        let state = state.parse().expect("a valid tracestate");
        let (trace, id) = (TraceId::from(trace), SpanId::from(id));
        SpanContext::new(trace, id, TraceFlags::SAMPLED, false, state)
    }

    #[test]
    fn the_text_of_a_tracestate_is_shared_unless_the_span_has_its_own() {
        let text: Arc<str> = "a=1,b=2".into();
        let extra = TraceExtra::new(Some(&span(1, 1, "")), Some(text.clone()), None);
        for (state, expected, is_shared) in [
            ("", Some("a=1,b=2"), true),
            ("a=1,b=2", Some("a=1,b=2"), true),
            ("a=1", Some("a=1"), false),
            ("a=1,b=2,c=3", Some("a=1,b=2,c=3"), false),
            ("b=2,a=1", Some("b=2,a=1"), false),
            ("a=1,b=3", Some("a=1,b=3"), false),
            ("a=1,b=", Some("a=1,b="), false),
            ("a=1,b=22", Some("a=1,b=22"), false),
            ("a=,b=2", Some("a=,b=2"), false),
            ("a=1,b2=", Some("a=1,b2="), false),
        ] {
            let found = state_text(&span(1, 2, state), Some(&extra));
            assert_eq!(found.as_deref(), expected, "{state}");
            let shares = found.is_some_and(|found| Arc::ptr_eq(&found, &text));
            assert_eq!(shares, is_shared, "{state}");
        }
        assert_eq!(state_text(&span(1, 2, ""), None), None);
        assert_eq!(state_text(&span(1, 2, "a=1"), None).as_deref(), Some("a=1"));
    }

    #[test]
    fn a_decision_applies_to_its_trace_and_a_deferred_one_only_to_its_span() {
        let origin = span(1, 1, "");
        for decision in [
            Decision::Deferred,
            Decision::Deny,
            Decision::Accept,
            Decision::Debug,
        ] {
            let extra = TraceExtra::new(Some(&origin), None, Some(decision));
            let cx = Context::new().with_value(extra);
            let of = |parent: Option<&SpanContext>| TraceExtra::of(&cx, parent)?.decision(parent);
            assert_eq!(of(Some(&origin)), Some(decision));
            let below = (decision != Decision::Deferred).then_some(decision);
            assert_eq!(of(Some(&span(1, 2, ""))), below);
            assert_eq!(of(Some(&span(2, 1, ""))), None);
            assert_eq!(of(None), None);
        }
    }

    proptest! {
        #[test]
        fn a_tracestate_is_parsed_as_by_opentelemetry(
            members in vec("[a-z][a-z0-9_*/-]{0,9}(@[a-z])?=[!-+:-<>-~]{1,9}", 1..33),
        ) {
            let text = members.join(",");
            let parsed = parse_state(&text);
            prop_assert_eq!(parsed.as_ref().map(TraceState::header), Some(text.clone()));
            prop_assert_eq!(parsed, text.parse().ok());
        }
    }

    #[cfg(feature = "init")]
    #[test]
    fn a_span_inherits_the_tracestate_of_its_parent_however_it_is_stored() {
        for text in ["a=1", "a=1,b=2", "x@y@z=1"] {
            let held: Option<TraceState> = text.parse().ok();
            let below = |parent: Option<&SpanContext>| child_state(parent, text);
            let expected = held.clone().unwrap_or_default();
            assert_eq!(below(None), expected);
            assert_eq!(below(Some(&span(1, 1, ""))), expected);
            assert_eq!(
                below(Some(&with_state(&span(1, 1, ""), expected.clone()))),
                expected
            );
        }
    }

    #[cfg(feature = "init")]
    #[test]
    fn a_state_of_four_members_is_small() {
        let members = |count| vec!["k=v"; count].join(",");
        let small: Vec<_> = (1..=6)
            .map(|count| is_small_state(&members(count)))
            .collect();
        assert_eq!(small, [true, true, true, true, false, false]);
    }
}
