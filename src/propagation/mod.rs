//! Context that comes with a request, and what of it the response says.

mod baggage;
mod hex;
mod trace_context;

use std::sync::{Arc, LazyLock};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::baggage::{Baggage, BaggageExt};
use opentelemetry::propagation::TextMapPropagator;
#[cfg(feature = "init")]
use opentelemetry::trace::TraceFlags;
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceId};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};

use crate::options::guarded;
use crate::request_headers::RequestHeaders;

pub(crate) use baggage::BAGGAGE;
pub(crate) use trace_context::{TRACEPARENT, TRACESTATE};

/// What is read from the headers of a request, in this order; of two that name a span, the later
/// holds.
#[derive(Clone)]
pub(crate) struct Propagators(Arc<[Format]>);

/// A form in which headers carry context.
#[derive(Clone)]
pub(crate) enum Format {
    TraceContext,
    Baggage,
    Other(Arc<dyn TextMapPropagator + Send + Sync>),
    /// Zipkin's, whose propagator has flags of its own.
    #[cfg(feature = "init")]
    B3(Arc<dyn TextMapPropagator + Send + Sync>),
}

/// What the headers of a request carry. Nothing of it is invalid.
#[derive(Default)]
pub(crate) struct Extracted {
    pub(crate) span_context: Option<SpanContext>,
    /// Its state, where it is one that it cannot hold.
    pub(crate) state: Option<String>,
    pub(crate) baggage: Option<Baggage>,
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
                        extracted.span_context = Some(span_context);
                        extracted.state = state;
                    }
                }
                Format::Baggage if headers.has_baggage => {
                    extracted.baggage = baggage::extract(headers.all);
                }
                Format::Baggage => {}
                Format::Other(propagator) => extracted.read(&**propagator, headers.all),
                #[cfg(feature = "init")]
                Format::B3(propagator) => {
                    extracted.read(&**propagator, headers.all);
                    let found = extracted.span_context.as_ref();
                    extracted.span_context = found.map(with_b3_flags);
                }
            }
        }
        extracted
    }
}

/// A `tracestate` that travels beside its span context, which cannot hold it.
struct StateBeside {
    trace_id: TraceId,
    text: String,
}

/// `cx` with what came besides the span context.
pub(crate) fn with_state(cx: &Context, trace_id: TraceId, text: String) -> Context {
    cx.with_value(StateBeside { trace_id, text })
}

/// What of its context a request may tell to whom it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MayTell {
    pub(crate) trace: bool,
    pub(crate) baggage: bool,
}

impl MayTell {
    const NOTHING: Self = Self {
        trace: false,
        baggage: false,
    };
}

impl Propagators {
    /// Writes the context of `cx` into the headers of a request, in place of what they say of
    /// another.
    #[inline]
    pub(crate) fn inject(&self, cx: &Context, may: MayTell, headers: &mut HeaderMap) {
        remove(headers, MayTell::NOTHING);
        for format in &*self.0 {
            match format {
                Format::TraceContext => {
                    let span = cx.span();
                    let span_context = span.span_context();
                    if may.trace && span_context.is_valid() {
                        let traceparent = value(&traceparent(span_context));
                        let beside = cx.get::<StateBeside>();
                        let beside = beside
                            .filter(|state| state.trace_id == span_context.trace_id())
                            .map(|state| &*state.text);
                        trace_context::inject(span_context, traceparent, beside, headers);
                    }
                }
                Format::Baggage => {
                    if may.baggage {
                        baggage::inject(cx.baggage(), headers);
                    }
                }
                Format::Other(propagator) => write(&**propagator, cx, may, headers),
                #[cfg(feature = "init")]
                Format::B3(propagator) => write(&**propagator, cx, may, headers),
            }
        }
    }
}

/// Takes out of the headers of a request what they say of a context, in whichever form, as far as it
/// may not be told.
pub(crate) fn remove(headers: &mut HeaderMap, may: MayTell) {
    const B3: [&str; 6] = [
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-flags",
    ];
    // Most requests have none of them, and a look at each header finds that out first.
    let is_there = headers.keys().any(|name| {
        let name = name.as_str();
        TRACEPARENT == name || TRACESTATE == name || BAGGAGE == name || B3.contains(&name)
    });
    if !is_there {
        return;
    }
    if !may.trace {
        trace_context::remove(headers);
        for name in B3 {
            headers.remove(name);
        }
    }
    if !may.baggage {
        baggage::remove(headers);
    }
}

/// Writes with a propagator that is not ours, and may panic, or have baggage among the rest.
fn write(propagator: &dyn TextMapPropagator, cx: &Context, may: MayTell, headers: &mut HeaderMap) {
    let mut written = HeaderMap::new();
    let fields = guarded(|| propagator.fields().map(str::to_owned).collect::<Vec<_>>());
    for field in fields.into_iter().flatten() {
        headers.remove(field);
    }
    guarded(|| propagator.inject_context(cx, &mut HeaderInjector(&mut written)));
    for (name, value) in &written {
        let may = if name.as_str() == BAGGAGE {
            may.baggage
        } else {
            may.trace
        };
        if may {
            let _ = headers.try_insert(name.clone(), value.clone());
        }
    }
}

impl Extracted {
    pub(crate) fn is_empty(&self) -> bool {
        self.span_context.is_none() && self.baggage.is_none()
    }

    /// Reads with a propagator that is not ours, and may panic.
    fn read(&mut self, propagator: &dyn TextMapPropagator, headers: &HeaderMap) {
        let headers = HeaderExtractor(headers);
        let extract = || propagator.extract_with_context(&Context::new(), &headers);
        let Some(cx) = guarded(extract) else {
            return;
        };
        let span = cx.span();
        if span.span_context().is_valid() {
            self.span_context = Some(span.span_context().clone());
            self.state = None;
        }
        let baggage = cx.baggage().iter();
        let baggage = baggage.map(|(key, value)| (key.clone(), value.clone()));
        let baggage = Baggage::from_iter(baggage);
        if !baggage.is_empty() {
            self.baggage = Some(baggage);
        }
    }
}

/// Sampled or not, and nothing else: `debug`, which is to be sampled, is a flag there that the W3C
/// does not know, and a decision that was left open is one that means something else.
#[cfg(feature = "init")]
fn with_b3_flags(found: &SpanContext) -> SpanContext {
    const DEBUG: u8 = 0x04;
    let sampled = found.is_sampled() || found.trace_flags().to_u8() & DEBUG != 0;
    SpanContext::new(
        found.trace_id(),
        found.span_id(),
        TraceFlags::NOT_SAMPLED.with_sampled(sampled),
        true,
        found.trace_state().clone(),
    )
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
    use opentelemetry::trace::{SpanId, TraceFlags, TraceId};

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

    #[cfg(feature = "init")]
    #[test]
    fn of_b3_only_the_decision_is_kept() {
        use opentelemetry_propagator_b3::{B3Encoding, Propagator};

        let propagator = Propagator::with_encoding(B3Encoding::SingleHeader);
        let b3 = Propagators::from_iter([Format::B3(Arc::new(propagator))]);
        for (case, decision, flags) in [
            ("sampled", "-1", 0x01),
            ("not sampled", "-0", 0x00),
            ("debug", "-d", 0x01),
            ("left open", "", 0x00),
        ] {
            let text = format!("{}-{}{decision}", "1a".repeat(16), "2b".repeat(8));
            let mut headers = HeaderMap::new();
            headers.insert("b3", text.parse().expect("a legal value"));
            let found = b3
                .extract(&RequestHeaders::of(&headers))
                .span_context
                .expect("it is valid");
            assert_eq!(found.trace_flags().to_u8(), flags, "{case}");
            assert!(found.is_remote(), "{case}");
        }
    }

    #[test]
    fn another_propagator_is_asked_in_its_turn() {
        use opentelemetry_sdk::propagation::TraceContextPropagator;

        let mut headers = HeaderMap::new();
        let traceparent = "00-1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a-2b2b2b2b2b2b2b2b-01";
        headers.insert("traceparent", HeaderValue::from_static(traceparent));
        let other = Format::Other(Arc::new(TraceContextPropagator::new()));
        let extracted = Propagators::from_iter([other]).extract(&RequestHeaders::of(&headers));
        let trace_id = extracted.span_context.map(|context| context.trace_id());
        assert_eq!(trace_id, Some(TraceId::from_bytes([0x1a; 16])));
        assert!(
            Propagators::from_iter([])
                .extract(&RequestHeaders::of(&headers))
                .span_context
                .is_none()
        );
    }
}
