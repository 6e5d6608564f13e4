//! The OpenTelemetry semantic conventions, version 1.45: pure functions from HTTP types to names
//! and attribute values. Nothing else in this crate knows a name of the conventions.

use std::borrow::Cow;

use opentelemetry::KeyValue;

mod client_request;
mod descriptors;
mod error_chain;
mod error_message;
mod error_type;
mod forwarded;
mod grpc_web;
pub(crate) mod http;
mod kept;
mod redact;
#[cfg(feature = "init")]
pub(crate) mod resource;
pub(crate) mod rpc;
mod rpc_error;
mod server_request;

pub(crate) use client_request::ClientRequest;
pub(crate) use descriptors::grpc_methods;
pub(crate) use error_chain::{ErrorChain, NameError, error_and_sources, error_text};
pub(crate) use error_message::{grpc_message, redacted_message};
pub(crate) use error_type::{BODY_INCOMPLETE, CANCELLED, ErrorType, PANIC, Phase};
pub use forwarded::ForwardedHeader;
pub(crate) use forwarded::{Forwarded, TrustedProxies};
pub(crate) use grpc_web::WebFrames;
pub(crate) use kept::{CapturedRequest, is_for_samplers, is_request_key};
pub(crate) use opentelemetry_semantic_conventions::attribute::{
    CLIENT_ADDRESS, CODE_FUNCTION_NAME, ERROR_TYPE, EXCEPTION_MESSAGE, EXCEPTION_TYPE,
    HTTP_REQUEST_HEADER, HTTP_REQUEST_METHOD, HTTP_REQUEST_METHOD_ORIGINAL,
    HTTP_REQUEST_RESEND_COUNT, HTTP_RESPONSE_HEADER, HTTP_RESPONSE_STATUS_CODE, HTTP_ROUTE,
    NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT, NETWORK_PROTOCOL_VERSION, RPC_METHOD,
    RPC_METHOD_ORIGINAL, RPC_SYSTEM_NAME, SERVER_ADDRESS, SERVER_PORT, URL_FULL, URL_PATH,
    URL_QUERY, URL_SCHEME, USER_AGENT_ORIGINAL,
};
pub(crate) use opentelemetry_semantic_conventions::metric::{
    HTTP_CLIENT_ACTIVE_REQUESTS, HTTP_CLIENT_REQUEST_BODY_SIZE, HTTP_CLIENT_REQUEST_DURATION,
    HTTP_CLIENT_RESPONSE_BODY_SIZE, HTTP_SERVER_ACTIVE_REQUESTS, HTTP_SERVER_REQUEST_BODY_SIZE,
    HTTP_SERVER_REQUEST_DURATION, HTTP_SERVER_RESPONSE_BODY_SIZE, RPC_CLIENT_CALL_DURATION,
    RPC_SERVER_CALL_DURATION,
};
pub(crate) use redact::{SensitiveParameters, is_sensitive_header, truncate};
pub(crate) use server_request::ServerRequest;

/// A value of an attribute, as it is before anybody keeps it.
pub(crate) enum AttributeValue<'a> {
    /// One that is the same for many requests, or was made for this one.
    Name(Cow<'static, str>),
    Text(&'a str),
    Number(i64),
}

impl AttributeValue<'_> {
    fn name(name: &'static str) -> Self {
        Self::Name(Cow::Borrowed(name))
    }

    pub(crate) fn attribute(self, key: &'static str) -> KeyValue {
        match self {
            Self::Name(name) => KeyValue::new(key, name),
            Self::Text(text) => KeyValue::new(key, text.to_owned()),
            Self::Number(number) => KeyValue::new(key, number),
        }
    }
}

/// The version of the conventions that all telemetry of this crate follows. The crate with the
/// names stops at an older version.
pub(crate) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.45.0";

/// The name of a gRPC status (RPC conventions, stable as of 1.45).
pub(crate) const RPC_STATUS_CODE: &str = "rpc.status_code";

/// Which end of a request is described.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Side {
    #[default]
    Server,
    Client,
}

/// Stands in for a value outside of the known set.
pub(crate) const OTHER: &str = "_OTHER";

/// The event that records an error on a span.
pub(crate) const EXCEPTION_EVENT: &str = "exception";

/// The event of an error that a request has ended with.
pub(crate) fn exception_event(side: Side, is_call: bool) -> &'static str {
    match (side, is_call) {
        (Side::Server, false) => "http.server.request.exception",
        (Side::Client, false) => "http.client.request.exception",
        (Side::Server, true) => "rpc.server.call.exception",
        (Side::Client, true) => "rpc.client.call.exception",
    }
}

/// The request counter that this crate is asked for besides those of the conventions.
pub(crate) const HTTP_REQUESTS: &str = "http.requests";

/// The request duration in milliseconds that this crate is asked for besides the conventions' own.
pub(crate) const HTTP_DURATION: &str = "http.duration";

/// How long the functions took that are measured; the conventions have none for it.
pub(crate) const FUNCTION_DURATION: &str = "function.duration";

/// Whether a metric is one that is recorded for each request.
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

/// Whether a layer has an attribute with this key on metrics of its requests.
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

/// The mark of a series that holds what others have no room for (Metrics SDK, "Overflow attribute").
pub(crate) const METRIC_OVERFLOW: &str = "otel.metric.overflow";

/// Bucket boundaries for durations in seconds.
pub(crate) const SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Bucket boundaries for durations in milliseconds.
pub(crate) const MILLISECONDS: [f64; 14] = [
    5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0,
    10000.0,
];
