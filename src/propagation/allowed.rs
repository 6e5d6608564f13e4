//! The context that the receiver of a request may get.

use http::header::HeaderMap;

use crate::propagation::{b3_names, baggage, trace_context};
use crate::request_headers::{BAGGAGE, TRACEPARENT, TRACESTATE};

/// The parts of the context that a request may send to its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) trace: bool,
    pub(crate) baggage: bool,
}

impl Allowed {
    pub(crate) const EVERYTHING: Self = Self {
        trace: true,
        baggage: true,
    };
}

/// Returns the names of all headers that carry context, in any format.
pub(crate) fn all_names() -> impl Iterator<Item = &'static str> {
    let w3c = [TRACEPARENT, TRACESTATE, BAGGAGE];
    w3c.into_iter().chain(b3_names::HEADERS)
}

/// Removes all headers that carry context, in any format.
pub(crate) fn remove_all(headers: &mut HeaderMap) {
    let nothing = Allowed {
        trace: false,
        baggage: false,
    };
    remove_forbidden(headers, nothing);
}

/// Removes the context headers, in any format, that the receiver may not get.
pub(crate) fn remove_forbidden(headers: &mut HeaderMap, allowed: Allowed) {
    // Most requests have none of these headers, and one pass over the headers detects that.
    let is_there = headers.keys().any(|name| {
        let name = name.as_str();
        TRACEPARENT == name
            || TRACESTATE == name
            || BAGGAGE == name
            || b3_names::HEADERS.contains(&name)
    });
    if !is_there {
        return;
    }
    if !allowed.trace {
        trace_context::remove(headers);
        for name in b3_names::HEADERS {
            headers.remove(name);
        }
    }
    if !allowed.baggage {
        baggage::remove(headers);
    }
}
