//! OTLP: one message to one receiver, and its outcome.

mod answer;
mod attempt;
pub(crate) mod client;
pub(crate) mod connection;
mod dial;
mod first_bytes;
#[cfg(feature = "http-json")]
pub(crate) mod json;
pub(crate) mod messages;
pub(crate) mod outcome;
mod reconnects;
mod trust;
