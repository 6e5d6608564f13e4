//! Calls of the application's propagators, which may panic.

use http::header::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceFlags};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};

use crate::concurrent::caught::guarded;
use crate::propagation::allowed::Allowed;
use crate::propagation::span_context::{RANDOM_FLAG, with_flags};
use crate::propagation::trace_extra::Decision;
use crate::request_headers::BAGGAGE;

/// Returns the context that a propagator finds in the headers of a request; `None` if it panics.
pub(crate) fn extract(propagator: &dyn TextMapPropagator, headers: &HeaderMap) -> Option<Context> {
    let headers = HeaderExtractor(headers);
    guarded(|| propagator.extract_with_context(&Context::new(), &headers))
}

/// Returns the span that a propagator found in the headers, and its sampling decision.
pub(crate) fn found_span(
    propagator: &dyn TextMapPropagator,
    found: &SpanContext,
) -> (SpanContext, Option<Decision>) {
    let is_b3 = || guarded(|| names_b3(propagator, true)).unwrap_or_default();
    if found.trace_flags().to_u8() > 1 && is_b3() {
        from_b3_flags(found)
    } else {
        (found.clone(), None)
    }
}

/// Writes the parts of `cx` that the receiver may get into the headers of a request.
pub(crate) fn inject(
    propagator: &dyn TextMapPropagator,
    cx: &Context,
    allowed: Allowed,
    headers: &mut HeaderMap,
) {
    let mut written = HeaderMap::new();
    let fields = guarded(|| propagator.fields().map(str::to_owned).collect::<Vec<_>>());
    for field in fields.into_iter().flatten() {
        headers.remove(field);
    }
    let is_b3 = || guarded(|| names_b3(propagator, false)).unwrap_or_default();
    let without_random = without_random(cx).filter(|_| is_b3());
    let cx = without_random.as_ref().unwrap_or(cx);
    guarded(|| propagator.inject_context(cx, &mut HeaderInjector(&mut written)));
    for (name, value) in &written {
        let is_allowed = if name.as_str() == BAGGAGE {
            allowed.baggage
        } else {
            allowed.trace
        };
        if is_allowed {
            let _ = headers.try_insert(name.clone(), value.clone());
        }
    }
}

/// Returns whether a propagator has fields of B3; with `alone`, whether it has only fields of B3.
fn names_b3(propagator: &dyn TextMapPropagator, alone: bool) -> bool {
    let is_b3 = |field: &str| {
        let field = field.to_ascii_lowercase();
        field == "b3" || field.starts_with("x-b3-")
    };
    let mut fields = propagator.fields().peekable();
    let has_fields = fields.peek().is_some();
    if alone {
        has_fields && fields.all(is_b3)
    } else {
        fields.any(is_b3)
    }
}

/// Returns `cx` without the random flag of its span; `None` if the span has no such flag. In the
/// crate `opentelemetry-propagator-b3`, this flag means that there is no decision yet.
fn without_random(cx: &Context) -> Option<Context> {
    let span = cx.span();
    let span_context = span.span_context();
    let flags = span_context.trace_flags().to_u8();
    (flags & RANDOM_FLAG != 0).then(|| {
        let flags = TraceFlags::new(flags & !RANDOM_FLAG);
        cx.with_remote_span_context(with_flags(span_context, flags))
    })
}

/// Converts the span flags of the crate `opentelemetry-propagator-b3`. Its flag `deferred` has the
/// bit of the W3C's random flag.
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
