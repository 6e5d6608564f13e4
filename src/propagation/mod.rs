//! Context that comes with a request, and what of it the response says.

#[cfg(feature = "init")]
mod b3;
mod baggage;
mod extracted;
mod hex;
#[cfg(feature = "init")]
mod text_map;
mod trace_context;
mod trace_extra;

use std::sync::{Arc, LazyLock};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceFlags};
use opentelemetry_http::HeaderInjector;

use crate::concurrent::caught::guarded;
use crate::request_headers::RequestHeaders;

#[cfg(feature = "init")]
pub(crate) use b3::Form as B3Form;
pub(crate) use baggage::BAGGAGE;
pub(crate) use extracted::Extracted;
#[cfg(feature = "init")]
pub(crate) use text_map::TextMap;
pub(crate) use trace_context::{TRACEPARENT, TRACESTATE};
#[cfg(feature = "tokio")]
pub(crate) use trace_extra::current_span_with_state;
pub(crate) use trace_extra::{
    Decision, TraceExtra, decision_in, for_started_span, has_trace_extra, state_text,
    with_parent_of_sdk, with_state_text,
};
#[cfg(feature = "init")]
pub(crate) use trace_extra::{is_small_state, parse_state, with_parent, with_state};

/// The bit of the trace flags which says that the trace id is random (Trace Context Level 2).
pub(crate) const RANDOM_FLAG: u8 = 0x02;

/// What is read from the headers of a request, in this order; of two that name a span, the later
/// holds.
#[derive(Clone, Debug)]
pub(crate) struct Propagators(Arc<[Format]>);

/// A form in which headers carry context.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    TraceContext,
    Baggage,
    Other(Arc<dyn TextMapPropagator + Send + Sync>),
    #[cfg(feature = "init")]
    B3(B3Form),
}

impl FromIterator<Format> for Propagators {
    fn from_iter<I: IntoIterator<Item = Format>>(formats: I) -> Self {
        Self(formats.into_iter().collect())
    }
}

impl Propagators {
    /// Those that hold where no others are named.
    pub(crate) fn w3c() -> &'static Self {
        static W3C: LazyLock<Propagators> =
            LazyLock::new(|| Propagators(Arc::new([Format::TraceContext, Format::Baggage])));
        &W3C
    }

    #[inline]
    pub(crate) fn extract(&self, headers: &RequestHeaders<'_>) -> Extracted {
        let mut extracted = Extracted::default();
        for format in &*self.0 {
            match format {
                Format::TraceContext => {
                    if let Some((span_context, state)) = trace_context::extract(headers) {
                        extracted.name(span_context, state, None);
                    }
                }
                Format::Baggage if headers.has_baggage => {
                    extracted.baggage = baggage::extract(headers.all);
                }
                Format::Baggage => {}
                Format::Other(propagator) => extracted.read(&**propagator, headers.all),
                #[cfg(feature = "init")]
                Format::B3(_) => b3::extract(headers.all, &mut extracted),
            }
        }
        extracted
    }

    /// Returns the headers that are read, or those that are written.
    #[cfg(feature = "init")]
    fn fields(&self, read: bool) -> Vec<&'static str> {
        let mut fields = Vec::new();
        for format in &*self.0 {
            let more: &[&'static str] = match format {
                Format::TraceContext => &[TRACEPARENT, TRACESTATE],
                Format::Baggage => &[BAGGAGE],
                Format::Other(_) => &[],
                Format::B3(_) if read => &b3::HEADERS,
                Format::B3(form) => form.fields(),
            };
            for field in more {
                if !fields.contains(field) {
                    fields.push(*field);
                }
            }
        }
        fields
    }
}

/// What of its context a request may tell to whom it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) trace: bool,
    pub(crate) baggage: bool,
}

impl Allowed {
    #[cfg(feature = "init")]
    const EVERYTHING: Self = Self {
        trace: true,
        baggage: true,
    };
}

impl Propagators {
    /// Writes the context of `cx` into the headers of a request, in place of what they say of
    /// another.
    #[inline]
    pub(crate) fn inject(&self, cx: &Context, allowed: Allowed, headers: &mut HeaderMap) {
        remove_all(headers);
        for format in &*self.0 {
            match format {
                Format::TraceContext => {
                    let span = cx.span();
                    let span_context = span.span_context();
                    if allowed.trace && span_context.is_valid() {
                        let traceparent = value(&traceparent(span_context));
                        let state =
                            state_text(span_context, TraceExtra::of(cx, Some(span_context)));
                        trace_context::inject(traceparent, state.as_deref(), headers);
                    }
                }
                Format::Baggage => {
                    if allowed.baggage {
                        baggage::inject(cx.baggage(), headers);
                    }
                }
                Format::Other(propagator) => write(&**propagator, cx, allowed, headers),
                #[cfg(feature = "init")]
                Format::B3(form) => {
                    if allowed.trace {
                        b3::inject(*form, cx, headers);
                    }
                }
            }
        }
    }
}

/// Removes all headers that carry context, in any format.
fn remove_all(headers: &mut HeaderMap) {
    let nothing = Allowed {
        trace: false,
        baggage: false,
    };
    remove_forbidden(headers, nothing);
}

/// Removes the headers that carry context, in any format, which the receiver may not get.
pub(crate) fn remove_forbidden(headers: &mut HeaderMap, allowed: Allowed) {
    const B3: [&str; 6] = [
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-flags",
    ];
    // Most requests have none of them, and one pass over the headers finds that out.
    let is_there = headers.keys().any(|name| {
        let name = name.as_str();
        TRACEPARENT == name || TRACESTATE == name || BAGGAGE == name || B3.contains(&name)
    });
    if !is_there {
        return;
    }
    if !allowed.trace {
        trace_context::remove(headers);
        for name in B3 {
            headers.remove(name);
        }
    }
    if !allowed.baggage {
        baggage::remove(headers);
    }
}

/// Writes with a propagator that is not ours, and may panic, or have baggage among the rest.
fn write(
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

/// Returns whether a propagator reads and writes B3, `alone` if that is to be its only form.
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

/// Returns `cx` with the random flag taken off its span; `None` where there is none. The crate
/// `opentelemetry-propagator-b3` takes that flag for a decision that is left open.
fn without_random(cx: &Context) -> Option<Context> {
    let span = cx.span();
    let span_context = span.span_context();
    let flags = span_context.trace_flags().to_u8();
    (flags & RANDOM_FLAG != 0).then(|| {
        let flags = TraceFlags::new(flags & !RANDOM_FLAG);
        cx.with_remote_span_context(extracted::with_flags(span_context, flags))
    })
}

/// What the head of a response says of its trace.
#[derive(Clone, Debug)]
pub(crate) struct ResponseHeaders {
    /// The header with the trace id alone.
    pub(crate) trace_id: Option<HeaderName>,
    /// `traceresponse`, of a draft of Trace Context Level 2.
    pub(crate) traceresponse: bool,
    /// The metric `traceparent` of `Server-Timing`, which browsers show to scripts.
    pub(crate) server_timing: bool,
}

impl Default for ResponseHeaders {
    fn default() -> Self {
        Self {
            trace_id: Some(TRACE_ID),
            traceresponse: false,
            server_timing: false,
        }
    }
}

const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

impl ResponseHeaders {
    /// Writes them into a head. It gives our own ids, and nothing that came with the request.
    pub(crate) fn inject(&self, span_context: &SpanContext, headers: &mut HeaderMap) {
        // Beyond its capacity a map would panic, had it not been asked to try.
        if let Some(name) = &self.trace_id {
            let _ = headers.try_insert(name.clone(), trace_id(span_context));
        }
        if self.traceresponse {
            let _ = headers.try_insert(TRACERESPONSE, value(&traceparent(span_context)));
        }
        if self.server_timing {
            let traceparent = traceparent(span_context);
            let text = [&b"traceparent;desc=\""[..], &traceparent, b"\""].concat();
            let _ = headers.try_append(SERVER_TIMING, value(&text));
        }
    }
}

/// The trace id as text.
fn trace_id(span_context: &SpanContext) -> HeaderValue {
    let text: [u8; 32] = hex::encode(span_context.trace_id().to_bytes());
    value(&text)
}

/// A span context as `00-<trace id>-<span id>-<flags>`.
fn traceparent(span_context: &SpanContext) -> [u8; 55] {
    let mut text = *b"00-????????????????????????????????-????????????????-??";
    let trace_id: [u8; 32] = hex::encode(span_context.trace_id().to_bytes());
    let span_id: [u8; 16] = hex::encode(span_context.span_id().to_bytes());
    let flags: [u8; 2] = hex::encode([span_context.trace_flags().to_u8()]);
    text[3..35].copy_from_slice(&trace_id);
    text[36..52].copy_from_slice(&span_id);
    text[53..].copy_from_slice(&flags);
    text
}

/// Digits, dashes and letters are always a legal value.
fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use opentelemetry::propagation::text_map_propagator::FieldIter;
    use opentelemetry::propagation::{Extractor, Injector};
    use opentelemetry::trace::{SpanId, TraceId};

    use super::*;

    fn span_context() -> SpanContext {
        SpanContext::new(
            TraceId::from_bytes([0x1a; 16]),
            SpanId::from_bytes([0x2b; 8]),
            TraceFlags::new(0x03),
            false,
            Default::default(),
        )
    }

    #[test]
    fn a_response_says_its_trace_as_it_was_asked_to() {
        const TRACEPARENT: &str = "00-1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a-2b2b2b2b2b2b2b2b-03";
        let mut headers = HeaderMap::new();
        headers.insert(TRACE_ID, HeaderValue::from_static("another"));
        headers.insert(SERVER_TIMING, HeaderValue::from_static("db;dur=53"));
        let all = ResponseHeaders {
            traceresponse: true,
            server_timing: true,
            ..ResponseHeaders::default()
        };
        all.inject(&span_context(), &mut headers);
        assert_eq!(headers[TRACE_ID], &TRACEPARENT[3..35]);
        assert_eq!(headers.get_all(TRACE_ID).iter().count(), 1);
        assert_eq!(headers[TRACERESPONSE], TRACEPARENT);
        let timing: Vec<_> = headers.get_all(SERVER_TIMING).iter().collect();
        let expected = format!("traceparent;desc=\"{TRACEPARENT}\"");
        assert_eq!(timing, ["db;dur=53", expected.as_str()]);
    }

    #[test]
    fn a_full_header_map_is_left_as_it_is() {
        let mut headers = HeaderMap::new();
        for n in 0.. {
            let name = HeaderName::try_from(format!("h{n}")).expect("a legal name");
            if headers
                .try_insert(name, HeaderValue::from_static(""))
                .is_err()
            {
                break;
            }
        }
        ResponseHeaders::default().inject(&span_context(), &mut headers);
        assert_eq!(headers.get(TRACE_ID), None);
    }

    /// A B3 propagator with the flags of the crate `opentelemetry-propagator-b3`: 0x02 for a decision
    /// that is left open, 0x04 for debug.
    #[derive(Debug)]
    struct ForeignB3([String; 1]);

    impl TextMapPropagator for ForeignB3 {
        fn inject_context(&self, cx: &Context, injector: &mut dyn Injector) {
            let span = cx.span();
            let flags = span.span_context().trace_flags().to_u8();
            injector.set("b3", format!("flags {flags}"));
        }

        fn extract_with_context(&self, cx: &Context, extractor: &dyn Extractor) -> Context {
            let flags = extractor.get("b3").and_then(|flags| flags.parse().ok());
            let flags = TraceFlags::new(flags.expect("it is a number"));
            cx.with_remote_span_context(extracted::with_flags(&span_context(), flags))
        }

        fn fields(&self) -> FieldIter<'_> {
            FieldIter::new(&self.0)
        }
    }

    #[test]
    fn the_flags_of_a_b3_propagator_that_is_not_ours_are_not_those_of_the_w3c() {
        let other = Format::Other(Arc::new(ForeignB3(["B3".to_owned()])));
        let propagators = Propagators::from_iter([other]);
        for (flags, expected, decision) in [
            (0x00, 0x00, None),
            (0x01, 0x01, None),
            (0x02, 0x00, Some(Decision::Deferred)),
            (0x04, 0x01, Some(Decision::Debug)),
            (0x05, 0x01, Some(Decision::Debug)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("b3", HeaderValue::from(flags));
            let extracted = propagators.extract(&RequestHeaders::find_in(&headers));
            let found = extracted.span_context.expect("it is valid");
            assert_eq!(found.trace_flags().to_u8(), expected);
            assert_eq!(extracted.decision, decision);
        }
        // The random flag is not told to it.
        let cx = Context::new().with_remote_span_context(span_context());
        let mut headers = HeaderMap::new();
        let all = Allowed {
            trace: true,
            baggage: true,
        };
        propagators.inject(&cx, all, &mut headers);
        assert_eq!(headers["b3"], "flags 1");
    }

    #[test]
    fn another_propagator_is_asked_in_its_turn() {
        use opentelemetry_sdk::propagation::TraceContextPropagator;

        let mut headers = HeaderMap::new();
        let traceparent = "00-1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a-2b2b2b2b2b2b2b2b-01";
        headers.insert("traceparent", HeaderValue::from_static(traceparent));
        let other = Format::Other(Arc::new(TraceContextPropagator::new()));
        let extracted = Propagators::from_iter([other]).extract(&RequestHeaders::find_in(&headers));
        let trace_id = extracted.span_context.map(|context| context.trace_id());
        assert_eq!(trace_id, Some(TraceId::from_bytes([0x1a; 16])));
        assert!(
            Propagators::from_iter([])
                .extract(&RequestHeaders::find_in(&headers))
                .span_context
                .is_none()
        );
    }
}
