//! Response headers with the ids of the trace.

use http::header::{HeaderMap, HeaderName};
use opentelemetry::trace::SpanContext;

use crate::propagation::header_value::{legal_value, trace_id_value, traceparent_text};

/// The headers that are added to a response.
#[derive(Clone, Debug)]
pub(crate) struct ResponseHeaders {
    /// The name of the header with only the trace id.
    pub(crate) trace_id: Option<HeaderName>,
    /// Whether to add `traceresponse`, from a draft of Trace Context Level 2.
    pub(crate) traceresponse: bool,
    /// Whether to add the metric `traceparent` of `Server-Timing`, which scripts in browsers can
    /// read.
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
    /// Adds the headers to a response. They contain the ids of this crate's span, and nothing from
    /// the request.
    pub(crate) fn inject(&self, span_context: &SpanContext, headers: &mut HeaderMap) {
        // `insert` would panic if the map is full.
        if let Some(name) = &self.trace_id {
            let _ = headers.try_insert(name.clone(), trace_id_value(span_context));
        }
        if self.traceresponse {
            let _ = headers.try_insert(TRACERESPONSE, legal_value(&traceparent_text(span_context)));
        }
        if self.server_timing {
            let traceparent = traceparent_text(span_context);
            let text = [&b"traceparent;desc=\""[..], &traceparent, b"\""].concat();
            let _ = headers.try_append(SERVER_TIMING, legal_value(&text));
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;
    use crate::propagation::span_context::example as span_context;

    #[test]
    fn the_configured_response_headers_name_the_trace() {
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
    fn a_full_header_map_is_unchanged() {
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
}
