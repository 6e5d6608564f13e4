//! The formats in which headers carry context.

use std::sync::{Arc, LazyLock};

use http::header::HeaderMap;
use opentelemetry::Context;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;

use crate::propagation::allowed::{Allowed, remove_all};
#[cfg(feature = "init")]
use crate::propagation::b3::{self, B3Form};
#[cfg(feature = "init")]
use crate::propagation::b3_names;
use crate::propagation::extracted::Extracted;
use crate::propagation::header_value::{legal_value, traceparent_text};
use crate::propagation::trace_extra::{TraceExtra, state_text};
use crate::propagation::{baggage, other, trace_context};
use crate::request_headers::{BAGGAGE, RequestHeaders, TRACEPARENT, TRACESTATE};

/// The formats in the order in which they are read. The span of a later format replaces the span of
/// an earlier format.
#[derive(Clone, Debug)]
pub(crate) struct Propagators(Arc<[Format]>);

/// A format in which headers carry context.
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
    /// Returns the default formats: Trace Context and Baggage.
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
                        extracted.set_span(span_context, state, None);
                    }
                }
                Format::Baggage => extracted.baggage = baggage::extract(headers),
                Format::Other(propagator) => extracted.read_with(&**propagator, headers.all),
                #[cfg(feature = "init")]
                Format::B3(_) => b3::extract(headers.all, &mut extracted),
            }
        }
        extracted
    }

    /// Writes the context of `cx` into the headers of a request, and removes any other context.
    #[inline]
    pub(crate) fn inject(&self, cx: &Context, allowed: Allowed, headers: &mut HeaderMap) {
        remove_all(headers);
        for format in &*self.0 {
            match format {
                Format::TraceContext => {
                    let span = cx.span();
                    let span_context = span.span_context();
                    if allowed.trace && span_context.is_valid() {
                        let traceparent = legal_value(&traceparent_text(span_context));
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
                Format::Other(propagator) => other::inject(&**propagator, cx, allowed, headers),
                #[cfg(feature = "init")]
                Format::B3(form) => {
                    if allowed.trace {
                        b3::inject(*form, cx, headers);
                    }
                }
            }
        }
    }

    /// Returns the names of the headers that are read. Headers of the application's propagators are
    /// not included.
    pub(crate) fn read_fields(&self) -> Vec<&'static str> {
        unique(self.0.iter().flat_map(Format::read_fields))
    }

    /// Returns the names of the headers that are written. Headers of the application's propagators
    /// are not included.
    #[cfg(feature = "init")]
    pub(crate) fn written_fields(&self) -> Vec<&'static str> {
        unique(self.0.iter().flat_map(Format::written_fields))
    }
}

impl Format {
    fn read_fields(&self) -> &'static [&'static str] {
        match self {
            Self::TraceContext => &[TRACEPARENT, TRACESTATE],
            Self::Baggage => &[BAGGAGE],
            Self::Other(_) => &[],
            #[cfg(feature = "init")]
            Self::B3(_) => &b3_names::HEADERS,
        }
    }

    #[cfg(feature = "init")]
    fn written_fields(&self) -> &'static [&'static str] {
        match self {
            Self::B3(form) => form.fields(),
            others => others.read_fields(),
        }
    }
}

fn unique(fields: impl Iterator<Item = &'static &'static str>) -> Vec<&'static str> {
    let mut unique = Vec::new();
    for field in fields {
        if !unique.contains(field) {
            unique.push(*field);
        }
    }
    unique
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;
    use opentelemetry::propagation::text_map_propagator::FieldIter;
    use opentelemetry::propagation::{Extractor, Injector};
    use opentelemetry::trace::{TraceFlags, TraceId};

    use super::*;
    use crate::propagation::span_context::{example as span_context, with_flags};
    use crate::propagation::trace_extra::Decision;

    /// A B3 propagator with the flags of the crate `opentelemetry-propagator-b3`: 0x02 for a
    /// deferred decision, 0x04 for debug.
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
            let flags = TraceFlags::new(flags.expect("the flags are a number"));
            cx.with_remote_span_context(with_flags(&span_context(), flags))
        }

        fn fields(&self) -> FieldIter<'_> {
            FieldIter::new(&self.0)
        }
    }

    #[test]
    fn the_flags_of_another_b3_propagator_are_translated() {
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
            let found = extracted.span_context.expect("the span context is valid");
            assert_eq!(found.trace_flags().to_u8(), expected);
            assert_eq!(extracted.decision, decision);
        }
        // The propagator does not get the random flag.
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
    fn a_propagator_of_another_crate_extracts_the_context() {
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
