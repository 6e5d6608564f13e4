//! Spans without the SDK: sampling, recording, ending and OTLP encoding.

pub(crate) mod b3_sampler;
pub(crate) mod ended;
pub(crate) mod message;
mod protobuf;
pub(crate) mod queues;
pub(crate) mod record;
pub(crate) mod sampling;
pub(crate) mod span_data;
pub(crate) mod tracer;
