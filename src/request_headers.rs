//! The headers of a request that telemetry reads.

use http::header::{HOST, HeaderMap, HeaderValue, USER_AGENT};

pub(crate) const BAGGAGE: &str = "baggage";
pub(crate) const TRACEPARENT: &str = "traceparent";
pub(crate) const TRACESTATE: &str = "tracestate";

/// The headers that are present, found in one pass. Most requests have few headers, so one pass is
/// faster than a lookup per name.
pub(crate) struct RequestHeaders<'a> {
    pub(crate) all: &'a HeaderMap,
    /// The value if the header occurs exactly once.
    pub(crate) traceparent: Option<&'a HeaderValue>,
    pub(crate) has_tracestate: bool,
    pub(crate) has_baggage: bool,
    pub(crate) host: Option<&'a HeaderValue>,
    pub(crate) user_agent: Option<&'a HeaderValue>,
}

impl<'a> RequestHeaders<'a> {
    #[inline]
    pub(crate) fn find_in(all: &'a HeaderMap) -> Self {
        let mut found = Self {
            all,
            traceparent: None,
            has_tracestate: false,
            has_baggage: false,
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
                    TRACESTATE => found.has_tracestate = true,
                    BAGGAGE => found.has_baggage = true,
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
        assert_eq!(found.has_tracestate, names.contains(&TRACESTATE));
        assert_eq!(found.has_baggage, names.contains(&BAGGAGE));
        [found.traceparent, found.host, found.user_agent]
            .map(|value| Some(value?.to_str().expect("it is a number").to_owned()))
    }

    #[test]
    fn the_first_of_several_is_found_but_no_repeated_traceparent() {
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
        assert_eq!(found(&["traceparent", "host", "traceparent"])[0], None);
    }
}
