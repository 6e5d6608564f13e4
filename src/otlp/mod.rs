//! OTLP: sends one message to one receiver, and returns the outcome.

mod attempt;
pub(crate) mod backoff;
pub(crate) mod client;
pub(crate) mod connection;
mod connector;
mod dial;
mod failure;
mod first_bytes;
mod http_client;
#[cfg(feature = "http-json")]
pub(crate) mod json;
pub(crate) mod messages;
pub(crate) mod outcome;
mod reconnects;
#[cfg(feature = "opentelemetry-otlp")]
pub(crate) mod reference;
pub(crate) mod response;
pub(crate) mod retention;
pub(crate) mod retries;
mod trust;
pub(crate) mod window;
