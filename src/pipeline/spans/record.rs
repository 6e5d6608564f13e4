//! The data of a span of this crate, from start to export.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::{SpanId, Status};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::SpanEvents;
use smallvec::SmallVec;

use crate::providers::start_span::NewSpan;

/// The data of one span.
#[derive(Clone)]
pub(crate) struct SpanRecord {
    pub(crate) new: NewSpan,
    pub(crate) parent_span_id: SpanId,
    pub(crate) parent_span_is_remote: bool,
    /// The text of the `tracestate`.
    pub(crate) state: Option<Arc<str>>,
    pub(crate) end_time: Option<SystemTime>,
    /// Attributes set after the start. Most requests add only their status.
    pub(crate) attributes: SmallVec<[KeyValue; 2]>,
    pub(crate) dropped_attributes: u32,
    pub(crate) events: SpanEvents,
    pub(crate) dropped_links: u32,
    pub(crate) status: Status,
    pub(crate) scope: Scope,
}

impl fmt::Debug for SpanRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanRecord").finish_non_exhaustive()
    }
}

/// The scope of a span. It is shared by many spans, and a reference count would be contended.
#[derive(Clone)]
pub(crate) enum Scope {
    Kept(&'static InstrumentationScope),
    Own(Box<InstrumentationScope>),
}
