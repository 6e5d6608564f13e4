//! The OpenTelemetry semantic conventions, version 1.45: pure functions from HTTP types to names
//! and attribute values. No other module of this crate contains names of the conventions.

mod address;
mod buckets;
mod captured_request;
mod client_request;
mod descriptors;
mod error_chain;
mod error_message;
mod error_type;
mod forwarded;
mod grpc_web;
pub(crate) mod http;
mod keys;
pub(crate) mod messaging;
mod names;
#[cfg(all(feature = "runtime-metrics", target_os = "linux"))]
pub(crate) mod process;
mod redact;
mod request_text;
#[cfg(feature = "init")]
pub(crate) mod resource;
pub(crate) mod rpc;
mod rpc_error;
mod scheme;
mod server_request;
#[cfg(test)]
mod test_errors;
mod text;
mod values;

pub(crate) use address::{Server, response_peer_attributes, split_authority, truncated_host};
pub(crate) use buckets::{BUCKETS_IN_MILLISECONDS, BUCKETS_IN_SECONDS, DEFAULT_BUCKETS};
pub(crate) use captured_request::CapturedRequest;
pub(crate) use client_request::ClientRequest;
pub(crate) use descriptors::grpc_methods;
pub(crate) use error_chain::{ErrorChain, NameError, error_and_sources, error_text};
pub(crate) use error_message::{grpc_message, redacted_message};
pub(crate) use error_type::{BODY_INCOMPLETE, CANCELLED, ErrorType, PANIC, Phase};
pub use forwarded::ForwardedHeader;
pub(crate) use forwarded::{Forwarded, TrustedProxies};
pub(crate) use grpc_web::WebFrames;
#[cfg(feature = "init")]
pub(crate) use keys::is_request_metric;
pub(crate) use keys::{
    SamplerKeys, exception_event, is_for_samplers, is_metric_key, is_request_key,
};
pub(crate) use names::*;
pub(crate) use redact::{SensitiveParameters, is_sensitive_header};
pub(crate) use scheme::Scheme;
pub(crate) use server_request::{ServerRequest, UncapturedRequest};
pub(crate) use text::{MAX_PATH, truncate};
pub(crate) use values::{
    AddAttribute, AttributeValue, Side, is_defined, protocol_version, status_attribute,
};
