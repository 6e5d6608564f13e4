//! Context in pairs of names and values, such as the headers of a message.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;

use crate::propagation::allowed::Allowed;
use crate::propagation::extracted::Extracted;
use crate::propagation::propagators::Propagators;
use crate::request_headers::RequestHeaders;

/// The limits of the values that are read per name. Larger input is invalid in every format:
/// baggage has fewer members than this, and the longest `tracestate` has fewer bytes.
const MAX_VALUES: usize = 65;
const MAX_BYTES: usize = 32 * 1024;

impl Propagators {
    /// Reads the context from pairs of names and values. The case of names is ignored. Names that
    /// belong to no format are skipped.
    pub(crate) fn extract_pairs<N: AsRef<str>, V: AsRef<[u8]>>(
        &self,
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Extracted {
        let mut fields: Vec<_> = self.read_fields().into_iter().map(Field::new).collect();
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = name.as_ref();
            let field = fields
                .iter_mut()
                .find(|field| field.name.eq_ignore_ascii_case(name));
            if let Some(field) = field {
                field.append(value.as_ref(), &mut headers);
            }
        }
        self.extract(&RequestHeaders::find_in(&headers))
    }

    /// Calls `set` with each name and value that carries `cx`.
    pub(crate) fn inject_pairs(&self, cx: &Context, mut set: impl FnMut(&str, &str)) {
        let mut headers = HeaderMap::new();
        self.inject(cx, Allowed::EVERYTHING, &mut headers);
        for (name, value) in &headers {
            if let Ok(value) = value.to_str() {
                set(name.as_str(), value);
            }
        }
    }
}

/// The values of one name so far.
struct Field {
    name: &'static str,
    values: usize,
    bytes: usize,
}

impl Field {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            values: 0,
            bytes: 0,
        }
    }

    fn append(&mut self, value: &[u8], headers: &mut HeaderMap) {
        if self.values == MAX_VALUES {
            return;
        }
        self.values += 1;
        // A value that is illegal in a header counts without its bytes: two `traceparent` values are
        // invalid, but another value must not be beyond the limit because of it.
        let is_legal = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
        let value = match value.iter().all(is_legal) {
            true => value,
            false => b"",
        };
        let room = MAX_BYTES - self.bytes;
        let value = match value.len() <= room {
            true => HeaderValue::from_bytes(value),
            // No format accepts this value. A value that is cut could end with a wrong member.
            false => HeaderValue::from_bytes(&vec![b'!'; room]),
        };
        let value = value.unwrap_or(HeaderValue::from_static(""));
        self.bytes += value.len();
        let _ = headers.try_append(HeaderName::from_static(self.name), value);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::baggage::BaggageExt;
    use opentelemetry::trace::TraceContextExt;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::propagation::propagators::Format;

    const TRACEPARENT: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn formats() -> Propagators {
        Propagators::from_iter([
            Format::TraceContext,
            Format::Baggage,
            #[cfg(feature = "init")]
            Format::B3(crate::propagation::B3Form::Single),
        ])
    }

    /// Returns the visible parts of a context as text.
    fn seen(extracted: Extracted) -> String {
        let cx = extracted.into_context(&Context::new());
        let span = cx.span();
        let mut baggage: Vec<_> = cx
            .baggage()
            .iter()
            .map(|pair| format!("{pair:?}"))
            .collect();
        baggage.sort_unstable();
        format!("{:?} {baggage:?}", span.span_context())
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(TRACEPARENT.to_vec()),
            Just(b"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more".to_vec()),
            Just(b"0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1".to_vec()),
            Just(b"a=1,b=2".to_vec()),
            vec(any::<u8>(), 0..80),
            (any::<u8>(), 0..40_000_usize).prop_map(|(byte, count)| vec![byte; count]),
            (1..100_usize).prop_map(|count| b"k=v,".repeat(count)),
        ]
    }

    proptest! {
        #[test]
        fn any_pairs_are_read_like_the_headers_of_a_request(
            pairs in vec(
                (
                    prop_oneof![
                        Just("traceparent"), Just("TraceParent"), Just("tracestate"), Just("baggage"),
                        Just("b3"), Just("authorization"), Just("träceparent"), Just(""),
                    ],
                    value(),
                ),
                0..6,
            ),
        ) {
            let legal = pairs.iter().filter(|(_, value)| HeaderValue::from_bytes(value).is_ok());
            let bytes: usize = legal.map(|(_, value)| value.len()).sum();
            // Of larger values, only baggage is certain to be ignored.
            prop_assume!(bytes <= MAX_BYTES || pairs.iter().all(|(name, _)| *name == "baggage"));
            let mut headers = HeaderMap::new();
            for (name, value) in &pairs {
                if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                    let value = HeaderValue::from_bytes(value);
                    headers.append(name, value.unwrap_or(HeaderValue::from_static("")));
                }
            }
            let expected = formats().extract(&RequestHeaders::find_in(&headers));
            prop_assert_eq!(seen(formats().extract_pairs(pairs)), seen(expected));
        }
    }

    #[test]
    fn illegal_values_take_no_room_of_others() {
        let illegal = [0; MAX_BYTES - 3];
        let mut late = illegal.map(|_| b'x');
        late[MAX_BYTES - 4] = b'\n';
        let pairs = [
            ("baggage", &illegal[..]),
            ("baggage", &late),
            ("baggage", b"a=1,b=2"),
        ];
        let alone = [("baggage", "a=1,b=2")];
        let alone = seen(formats().extract_pairs(alone));
        assert!(alone.contains('2'), "{alone}");
        assert_eq!(seen(formats().extract_pairs(pairs)), alone);
    }

    #[test]
    fn a_value_beyond_the_limit_is_not_cut() {
        // Empty members are valid.
        let padding = vec![b','; MAX_BYTES - 3];
        for name in ["tracestate", "baggage"] {
            let with = |value: &'static [u8]| {
                let pairs = [
                    ("traceparent", TRACEPARENT),
                    (name, &padding),
                    (name, value),
                ];
                seen(formats().extract_pairs(pairs))
            };
            assert_eq!(with(b"a=1,b=2"), with(b"!"), "{name}");
        }
        let fits = seen(formats().extract_pairs([
            ("traceparent", TRACEPARENT),
            ("tracestate", &padding),
            ("tracestate", b"a=1"),
        ]));
        assert!(fits.contains("(\"a\", \"1\")"), "{fits}");
    }

    #[test]
    fn values_are_stored_within_limits_and_every_value_is_counted() {
        let empty = seen(Extracted::default());
        for name in ["traceparent", "tracestate", "baggage", "b3"] {
            let many = std::iter::repeat_n((name, "x".repeat(1000)), 100_000);
            assert_eq!(seen(formats().extract_pairs(many)), empty, "{name}");
        }
        // The last of many values is counted, too.
        let two = std::iter::repeat_n(("x-other", &b"1"[..]), 100_000)
            .chain(std::iter::repeat_n(("traceparent", TRACEPARENT), 2));
        assert_eq!(seen(formats().extract_pairs(two)), empty);
        let mut headers = HeaderMap::new();
        let mut field = Field::new("baggage");
        for _ in 0..100_000 {
            field.append(&[b'x'; 1000], &mut headers);
        }
        let bytes: usize = headers.values().map(HeaderValue::len).sum();
        assert_eq!((headers.len(), bytes), (MAX_VALUES, MAX_BYTES));
    }
}
