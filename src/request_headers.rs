//! The headers of a request that telemetry reads.

use http::header::{HOST, HeaderMap, HeaderValue, USER_AGENT};

pub(crate) const BAGGAGE: &str = "baggage";
pub(crate) const TRACEPARENT: &str = "traceparent";
pub(crate) const TRACESTATE: &str = "tracestate";

/// How often a header occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occurrence<'a> {
    Never,
    Once(&'a HeaderValue),
    Repeatedly,
}

impl<'a> Occurrence<'a> {
    #[inline]
    fn add(&mut self, value: &'a HeaderValue) {
        *self = match self {
            Self::Never => Self::Once(value),
            Self::Once(_) | Self::Repeatedly => Self::Repeatedly,
        };
    }
}

/// The headers that are present, found in one pass. Most requests have few headers, so one pass is
/// faster than a lookup per name.
pub(crate) struct RequestHeaders<'a> {
    pub(crate) all: &'a HeaderMap,
    /// The value if the header occurs exactly once.
    pub(crate) traceparent: Option<&'a HeaderValue>,
    pub(crate) tracestate: Occurrence<'a>,
    pub(crate) baggage: Occurrence<'a>,
    pub(crate) host: Option<&'a HeaderValue>,
    pub(crate) user_agent: Option<&'a HeaderValue>,
}

impl<'a> RequestHeaders<'a> {
    #[inline]
    pub(crate) fn find_in(all: &'a HeaderMap) -> Self {
        let mut found = Self {
            all,
            traceparent: None,
            tracestate: Occurrence::Never,
            baggage: Occurrence::Never,
            host: None,
            user_agent: None,
        };
        let mut traceparents = 0;
        for (name, value) in all {
            if name == HOST {
                found.host = found.host.or(Some(value));
            } else if name == USER_AGENT {
                found.user_agent = found.user_agent.or(Some(value));
            } else {
                match name.as_str() {
                    TRACEPARENT => {
                        found.traceparent = Some(value);
                        traceparents += 1;
                    }
                    TRACESTATE => found.tracestate.add(value),
                    BAGGAGE => found.baggage.add(value),
                    _ => {}
                }
            }
        }
        if traceparents > 1 {
            found.traceparent = None;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    /// Returns the positions in `names` of the headers that are found.
    fn found(names: &[&'static str]) -> [Option<String>; 3] {
        let mut headers = HeaderMap::new();
        for (n, name) in names.iter().enumerate() {
            headers.append(HeaderName::from_static(name), n.into());
        }
        let found = RequestHeaders::find_in(&headers);
        for (name, occurrence) in [(TRACESTATE, found.tracestate), (BAGGAGE, found.baggage)] {
            let values: Vec<_> = headers.get_all(name).iter().collect();
            let expected = match *values {
                [] => Occurrence::Never,
                [value] => Occurrence::Once(value),
                _ => Occurrence::Repeatedly,
            };
            assert_eq!(occurrence, expected, "{name} in {names:?}");
        }
        [found.traceparent, found.host, found.user_agent]
            .map(|value| Some(value?.to_str().expect("the value is ASCII").to_owned()))
    }

    #[test]
    fn the_first_of_repeated_headers_is_found_except_for_traceparent() {
        let some = |n: usize| Some(n.to_string());
        assert_eq!(found(&["accept", "x-other"]), [None, None, None]);
        assert_eq!(
            found(&["host", "accept", "traceparent", "user-agent", "baggage"]),
            [some(2), some(0), some(3)]
        );
        assert_eq!(
            found(&["user-agent", "host", "host", "tracestate", "user-agent"]),
            [None, some(1), some(0)]
        );
        assert_eq!(
            found(&["tracestate", "baggage", "tracestate", "baggage", "baggage"]),
            [None, None, None]
        );
        assert_eq!(found(&["traceparent", "host", "traceparent"])[0], None);
    }
}
