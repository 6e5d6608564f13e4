//! An OpenTelemetry propagator for other libraries, with the formats of this crate.

use opentelemetry::Context;
use opentelemetry::propagation::text_map_propagator::FieldIter;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};

use crate::propagation::propagators::Propagators;

/// An OpenTelemetry propagator that uses the formats of this crate.
#[derive(Debug)]
pub(crate) struct TextMap {
    propagators: Propagators,
    /// The names of the fields that are written.
    fields: Vec<String>,
}

impl TextMap {
    pub(crate) fn new(propagators: Propagators) -> Self {
        let fields = propagators.written_fields().into_iter();
        Self {
            fields: fields.map(str::to_owned).collect(),
            propagators,
        }
    }
}

impl TextMapPropagator for TextMap {
    fn inject_context(&self, cx: &Context, injector: &mut dyn Injector) {
        let set = |name: &str, value: &str| injector.set(name, value.to_owned());
        self.propagators.inject_pairs(cx, set);
    }

    fn extract_with_context(&self, cx: &Context, extractor: &dyn Extractor) -> Context {
        let pairs = self
            .propagators
            .read_fields()
            .into_iter()
            .flat_map(|field| {
                let values = extractor.get_all(field).unwrap_or_default();
                values.into_iter().map(move |value| (field, value))
            });
        let extracted = self.propagators.extract_pairs(pairs);
        if extracted.is_empty() {
            return cx.clone();
        }
        extracted.into_context(cx)
    }

    fn fields(&self) -> FieldIter<'_> {
        FieldIter::new(&self.fields)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use opentelemetry::baggage::BaggageExt;
    use opentelemetry::trace::TraceContextExt;

    use super::*;
    use crate::propagation::b3::B3Form;
    use crate::propagation::propagators::Format;
    use crate::propagation::trace_extra::{Decision, decision_in};

    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03";
    const IDS: &str = "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312";

    /// A carrier that may have several values per name.
    struct Pairs<'a>(&'a [(&'a str, &'a str)]);

    impl Extractor for Pairs<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.get_all(key)?.first().copied()
        }

        fn keys(&self) -> Vec<&str> {
            self.0.iter().map(|(name, _)| *name).collect()
        }

        fn get_all(&self, key: &str) -> Option<Vec<&str>> {
            let values = self.0.iter().filter(|(name, _)| *name == key);
            let values: Vec<_> = values.map(|(_, value)| *value).collect();
            (!values.is_empty()).then_some(values)
        }
    }

    fn all() -> TextMap {
        TextMap::new(Propagators::from_iter([
            Format::TraceContext,
            Format::Baggage,
            Format::B3(B3Form::Single),
            Format::B3(B3Form::Multi),
        ]))
    }

    #[test]
    fn without_valid_fields_the_context_is_unchanged() {
        struct Mine;
        let before = all().extract_with_context(
            &Context::new().with_value(Mine),
            &Pairs(&[("traceparent", TRACEPARENT)]),
        );
        for pairs in [
            &[][..],
            &[("traceparent", "nonsense"), ("b3", "nonsense")],
            &[("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)],
            // The second value is illegal in a header, but it is counted: two values are invalid.
            &[("traceparent", TRACEPARENT), ("traceparent", "a\nb")],
            &[("tracestate", "a=1"), ("baggage", "=")],
        ] {
            let after = all().extract_with_context(&before, &Pairs(pairs));
            let (before, after) = (before.span(), after.span());
            assert_eq!(before.span_context(), after.span_context(), "{pairs:?}");
        }
        // The existing context is kept, too, if something is found.
        let found = all().extract_with_context(&before, &Pairs(&[("baggage", "a=1")]));
        assert!(found.get::<Mine>().is_some());
        assert!(found.span().span_context().is_valid());
        assert!(found.baggage().get("a").is_some());
        // A decision for a new trace does not apply to this trace.
        let denied = all().extract_with_context(&before, &Pairs(&[("b3", "0")]));
        assert_eq!(decision_in(&denied), None);
        assert!(denied.span().span_context().is_sampled());
    }

    #[test]
    fn a_context_is_extracted_as_by_the_layers_and_injected_unchanged() {
        let pairs = Pairs(&[
            ("traceparent", TRACEPARENT),
            ("tracestate", "a=1"),
            ("tracestate", "x@y@z=2"),
            ("baggage", "a=1"),
            ("baggage", "b=2"),
        ]);
        let cx = all().extract_with_context(&Context::new(), &pairs);
        let mut carrier = HashMap::new();
        all().inject_context(&cx, &mut carrier);
        let mut written: Vec<_> = carrier
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        written.sort_unstable();
        let b3 = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1";
        assert_eq!(
            written,
            [
                ("b3", b3),
                ("baggage", "a=1,b=2"),
                ("traceparent", TRACEPARENT),
                ("tracestate", "a=1,x@y@z=2"),
                ("x-b3-sampled", "1"),
                ("x-b3-spanid", &b3[33..49]),
                ("x-b3-traceid", &b3[..32]),
            ]
        );
        let propagator = all();
        let mut fields: Vec<_> = propagator.fields().collect();
        fields.sort_unstable();
        let mut written: Vec<_> = written.iter().map(|(name, _)| *name).collect();
        written.insert(4, "x-b3-flags");
        assert_eq!(fields, written);
    }

    #[test]
    fn b3_decisions_are_kept_when_a_context_is_passed_through() {
        let single = TextMap::new(Propagators::from_iter([Format::B3(B3Form::Single)]));
        for (state, expected) in [
            (IDS.to_owned(), Some(Decision::Deferred)),
            (format!("{IDS}-d"), Some(Decision::Debug)),
            (format!("{IDS}-1"), None),
            (format!("{IDS}-0"), None),
            ("0".to_owned(), Some(Decision::Deny)),
            ("1".to_owned(), Some(Decision::Accept)),
            ("d".to_owned(), Some(Decision::Debug)),
        ] {
            let pairs = [("b3", &*state)];
            let cx = single.extract_with_context(&Context::new(), &Pairs(&pairs));
            assert_eq!(decision_in(&cx), expected, "{state}");
            let mut carrier = HashMap::new();
            single.inject_context(&cx, &mut carrier);
            assert_eq!(carrier.get("b3"), Some(&state));
        }
    }

    #[test]
    fn an_empty_context_injects_nothing() {
        let mut carrier = HashMap::new();
        all().inject_context(&Context::new(), &mut carrier);
        assert!(carrier.is_empty());
        let none = Context::new().with_remote_span_context(opentelemetry::trace::SpanContext::NONE);
        all().inject_context(&none, &mut carrier);
        assert!(carrier.is_empty());
    }
}
