//! The names of the conventions.

pub(crate) use opentelemetry_semantic_conventions::attribute::{
    CLIENT_ADDRESS, CODE_FUNCTION_NAME, ERROR_TYPE, EXCEPTION_MESSAGE, EXCEPTION_TYPE,
    HTTP_REQUEST_HEADER, HTTP_REQUEST_METHOD, HTTP_REQUEST_METHOD_ORIGINAL,
    HTTP_REQUEST_RESEND_COUNT, HTTP_RESPONSE_HEADER, HTTP_RESPONSE_STATUS_CODE, HTTP_ROUTE,
    MESSAGING_BATCH_MESSAGE_COUNT, MESSAGING_CONSUMER_GROUP_NAME, MESSAGING_DESTINATION_NAME,
    MESSAGING_DESTINATION_TEMPLATE, MESSAGING_OPERATION_NAME, MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM, NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT, NETWORK_PROTOCOL_VERSION,
    RPC_METHOD, RPC_METHOD_ORIGINAL, RPC_SYSTEM_NAME, SERVER_ADDRESS, SERVER_PORT, URL_FULL,
    URL_PATH, URL_QUERY, URL_SCHEME, USER_AGENT_ORIGINAL,
};
pub(crate) use opentelemetry_semantic_conventions::metric::{
    HTTP_CLIENT_ACTIVE_REQUESTS, HTTP_CLIENT_REQUEST_BODY_SIZE, HTTP_CLIENT_REQUEST_DURATION,
    HTTP_CLIENT_RESPONSE_BODY_SIZE, HTTP_SERVER_ACTIVE_REQUESTS, HTTP_SERVER_REQUEST_BODY_SIZE,
    HTTP_SERVER_REQUEST_DURATION, HTTP_SERVER_RESPONSE_BODY_SIZE,
    MESSAGING_CLIENT_OPERATION_DURATION, MESSAGING_PROCESS_DURATION, RPC_CLIENT_CALL_DURATION,
    RPC_SERVER_CALL_DURATION,
};

/// The version of the conventions that this crate follows. The constants of the crate
/// `opentelemetry-semantic-conventions` have an older version.
pub(crate) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.45.0";

/// The name of a gRPC status (RPC conventions, stable since 1.45).
pub(crate) const RPC_STATUS_CODE: &str = "rpc.status_code";

/// Replaces a value that is not in the known set.
pub(crate) const OTHER: &str = "_OTHER";

/// The name of the event that records an error on a span.
pub(crate) const EXCEPTION_EVENT: &str = "exception";

/// The target of `tracing` spans that represent requests.
pub(crate) const REQUEST_TARGET: &str = "tower_telemetry::request";

/// The request counter of this crate, in addition to the metrics of the conventions.
pub(crate) const HTTP_REQUESTS: &str = "http.requests";

/// The request duration of this crate in milliseconds, in addition to the metrics of the conventions.
pub(crate) const HTTP_DURATION: &str = "http.duration";

/// The duration of measured functions. The conventions have no metric for it.
pub(crate) const FUNCTION_DURATION: &str = "function.duration";

/// Marks the series for measurements beyond the cardinality limit (Metrics SDK, "Overflow
/// attribute").
pub(crate) const METRIC_OVERFLOW: &str = "otel.metric.overflow";
