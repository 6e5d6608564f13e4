//! Context in the headers of requests, and the ids of the trace in the headers of responses.

mod allowed;
#[cfg(feature = "init")]
mod b3;
mod b3_names;
mod baggage;
mod baggage_attributes;
mod byte_class;
mod extracted;
mod header_value;
pub(crate) mod hex;
mod other;
mod pairs;
mod propagators;
mod response_headers;
mod span_context;
#[cfg(feature = "init")]
mod text_map;
mod trace_context;
mod trace_extra;

pub(crate) use allowed::{Allowed, all_names, remove_forbidden};
#[cfg(feature = "init")]
pub(crate) use b3::B3Form;
#[cfg(feature = "init")]
pub(crate) use baggage::is_key as is_baggage_key;
pub(crate) use baggage_attributes::BaggageAttributes;
pub(crate) use extracted::Extracted;
pub(crate) use propagators::{Format, Propagators};
pub(crate) use response_headers::ResponseHeaders;
pub(crate) use span_context::RANDOM_FLAG;
#[cfg(feature = "init")]
pub(crate) use span_context::{with_flags, with_state};
#[cfg(feature = "init")]
pub(crate) use text_map::TextMap;
#[cfg(feature = "tokio")]
pub(crate) use trace_extra::current_span_with_state;
pub(crate) use trace_extra::{
    Decision, decision_in, for_started_span, has_trace_extra, with_parent_of_sdk, with_state_text,
};
#[cfg(feature = "init")]
pub(crate) use trace_extra::{TraceExtra, child_state, is_small_state, state_text, with_parent};
