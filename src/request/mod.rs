//! One request in flight, from its start to its end.

pub(crate) mod attempts;
mod begin;
mod failure;
mod grpc_call;
pub(crate) mod handler_attributes;
mod in_flight;
mod incoming;
mod lifecycle;
mod outgoing;
pub(crate) mod received;
mod record_end;
mod request_end;

pub(crate) use lifecycle::ActiveRequest;
