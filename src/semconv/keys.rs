//! Groups of attribute keys and metric names.

use crate::semconv::names::{
    CLIENT_ADDRESS, ERROR_TYPE, HTTP_REQUEST_HEADER, HTTP_REQUEST_METHOD,
    HTTP_REQUEST_METHOD_ORIGINAL, HTTP_REQUEST_RESEND_COUNT, HTTP_RESPONSE_STATUS_CODE, HTTP_ROUTE,
    METRIC_OVERFLOW, NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT, NETWORK_PROTOCOL_VERSION, RPC_METHOD,
    RPC_STATUS_CODE, RPC_SYSTEM_NAME, SERVER_ADDRESS, SERVER_PORT, URL_FULL, URL_PATH, URL_QUERY,
    URL_SCHEME, USER_AGENT_ORIGINAL,
};
#[cfg(feature = "init")]
use crate::semconv::names::{
    HTTP_CLIENT_REQUEST_BODY_SIZE, HTTP_CLIENT_REQUEST_DURATION, HTTP_CLIENT_RESPONSE_BODY_SIZE,
    HTTP_DURATION, HTTP_REQUESTS, HTTP_SERVER_REQUEST_BODY_SIZE, HTTP_SERVER_REQUEST_DURATION,
    HTTP_SERVER_RESPONSE_BODY_SIZE, RPC_CLIENT_CALL_DURATION, RPC_SERVER_CALL_DURATION,
};
use crate::semconv::values::Side;

/// Returns whether a [`CapturedRequest`](crate::semconv::captured_request::CapturedRequest) may have
/// an attribute with this key.
pub(crate) fn is_request_key(key: &str) -> bool {
    matches!(
        key,
        CLIENT_ADDRESS
            | HTTP_REQUEST_METHOD
            | HTTP_REQUEST_METHOD_ORIGINAL
            | HTTP_REQUEST_RESEND_COUNT
            | HTTP_ROUTE
            | NETWORK_PEER_ADDRESS
            | NETWORK_PEER_PORT
            | NETWORK_PROTOCOL_VERSION
            | SERVER_ADDRESS
            | SERVER_PORT
            | URL_FULL
            | URL_PATH
            | URL_QUERY
            | URL_SCHEME
            | USER_AGENT_ORIGINAL
    )
}

/// Returns whether a span should have this attribute when it starts, because a sampler may read it
/// (conventions of HTTP, RPC and messaging spans, "at span creation time").
pub(crate) fn is_for_samplers(key: &str) -> bool {
    SamplerKeys::bit(key) != 0
        || key.starts_with(HTTP_REQUEST_HEADER)
        || key.starts_with("messaging.")
}

/// A set of those keys for samplers that have a fixed name. It is small, because spans that are not
/// recorded need it too.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SamplerKeys(u16);

impl SamplerKeys {
    /// Adds a key. Returns false if the set cannot contain the key.
    // Inlined everywhere: the bit of a constant key is a constant.
    #[inline(always)]
    pub(crate) fn insert(&mut self, key: &str) -> bool {
        let bit = Self::bit(key);
        self.0 |= bit;
        bit != 0
    }

    #[inline]
    pub(crate) fn contains(self, key: &str) -> bool {
        self.0 & Self::bit(key) != 0
    }

    /// Returns the bit of a key; zero if it has none.
    #[inline(always)]
    fn bit(key: &str) -> u16 {
        match key {
            CLIENT_ADDRESS => 1,
            HTTP_REQUEST_METHOD => 1 << 1,
            RPC_METHOD => 1 << 2,
            RPC_SYSTEM_NAME => 1 << 3,
            SERVER_ADDRESS => 1 << 4,
            SERVER_PORT => 1 << 5,
            URL_FULL => 1 << 6,
            URL_PATH => 1 << 7,
            URL_QUERY => 1 << 8,
            URL_SCHEME => 1 << 9,
            USER_AGENT_ORIGINAL => 1 << 10,
            _ => 0,
        }
    }
}

/// Returns whether a layer adds this attribute to the metrics of its requests.
pub(crate) fn is_metric_key(side: Side, key: &str) -> bool {
    match key {
        ERROR_TYPE
        | HTTP_REQUEST_METHOD
        | HTTP_RESPONSE_STATUS_CODE
        | METRIC_OVERFLOW
        | NETWORK_PROTOCOL_VERSION
        | RPC_METHOD
        | RPC_STATUS_CODE
        | RPC_SYSTEM_NAME => true,
        HTTP_ROUTE | URL_SCHEME => side == Side::Server,
        SERVER_ADDRESS | SERVER_PORT => side == Side::Client,
        _ => false,
    }
}

/// Returns whether a metric is recorded per request.
#[cfg(feature = "init")]
pub(crate) fn is_request_metric(name: &str) -> bool {
    [
        HTTP_REQUESTS,
        HTTP_DURATION,
        HTTP_CLIENT_REQUEST_BODY_SIZE,
        HTTP_CLIENT_REQUEST_DURATION,
        HTTP_CLIENT_RESPONSE_BODY_SIZE,
        HTTP_SERVER_REQUEST_BODY_SIZE,
        HTTP_SERVER_REQUEST_DURATION,
        HTTP_SERVER_RESPONSE_BODY_SIZE,
        RPC_CLIENT_CALL_DURATION,
        RPC_SERVER_CALL_DURATION,
    ]
    .contains(&name)
}

/// Returns the name of the event for a request's error.
pub(crate) fn exception_event(side: Side, is_call: bool) -> &'static str {
    match (side, is_call) {
        (Side::Server, false) => "http.server.request.exception",
        (Side::Client, false) => "http.client.request.exception",
        (Side::Server, true) => "rpc.server.call.exception",
        (Side::Client, true) => "rpc.client.call.exception",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_for_samplers_is_in_a_set_only_after_it_was_added() {
        const KEYS: [&str; 11] = [
            CLIENT_ADDRESS,
            HTTP_REQUEST_METHOD,
            RPC_METHOD,
            RPC_SYSTEM_NAME,
            SERVER_ADDRESS,
            SERVER_PORT,
            URL_FULL,
            URL_PATH,
            URL_QUERY,
            URL_SCHEME,
            USER_AGENT_ORIGINAL,
        ];
        for key in KEYS {
            assert!(is_for_samplers(key), "{key}");
            let mut keys = SamplerKeys::default();
            assert!(keys.insert(key), "{key}");
            let contained = KEYS.iter().filter(|one| keys.contains(one));
            assert_eq!(contained.collect::<Vec<_>>(), [&key]);
        }
        let mut keys = SamplerKeys::default();
        for other in [HTTP_ROUTE, "messaging.system", "http.request.header.a", ""] {
            assert!(!keys.insert(other) && !keys.contains(other), "{other}");
        }
    }
}
