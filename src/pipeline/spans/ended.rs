//! Ended spans: their content and memory use.

use std::time::SystemTime;

use opentelemetry::trace::{Event, Link, SpanContext, SpanId, SpanKind, Status};
use opentelemetry::{Array, InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLimits};

use crate::attribute_set;
use crate::pipeline::queue::Item;
use crate::pipeline::spans::record::{Scope, SpanRecord};
use crate::semconv::CapturedRequest;

/// A span that has ended.
#[derive(Clone, Debug)]
pub(crate) enum EndedSpan {
    /// A span of this crate. Its `tracestate` is in the record, as text.
    Own(SpanContext, Box<SpanRecord>),
    /// A span of the SDK, started by other code.
    Sdk(Box<SpanData>),
}

impl Item for EndedSpan {
    fn estimated_size(&self) -> usize {
        match self {
            Self::Own(_, record) => {
                let new = &record.new;
                let request = new.request.as_ref().map_or(0, CapturedRequest::heap_size);
                let parts = estimated_size(
                    &new.name,
                    &record.status,
                    [&new.attributes, &record.attributes],
                    &record.events,
                    &new.links,
                );
                // Every span counts the shared text, because any of them may be the last owner.
                let state = record.state.as_ref().map_or(0, |text| text.len());
                size_of::<SpanRecord>() + request + state + parts
            }
            Self::Sdk(span) => {
                let parts = estimated_size(
                    &span.name,
                    &span.status,
                    [&span.attributes, &[]],
                    &span.events,
                    &span.links,
                );
                size_of::<SpanData>() + parts
            }
        }
    }
}

/// The content of an ended span, of this crate or of the SDK.
pub(crate) struct View<'a> {
    pub(crate) span_context: &'a SpanContext,
    /// The text of the `tracestate`, if the span context does not contain it.
    state: Option<&'a str>,
    pub(crate) parent_span_id: SpanId,
    pub(crate) parent_span_is_remote: bool,
    pub(crate) kind: &'a SpanKind,
    pub(crate) name: &'a str,
    pub(crate) start_time: SystemTime,
    pub(crate) end_time: SystemTime,
    /// The request. Its attributes come first.
    pub(crate) request: Option<&'a CapturedRequest>,
    pub(crate) attributes: [&'a [KeyValue]; 2],
    /// Whether a key may occur twice, also between the request's attributes and the others.
    pub(crate) may_repeat: bool,
    /// The maximum number of attributes. The rest are dropped.
    pub(crate) max_attributes: u32,
    pub(crate) dropped_attributes: u32,
    pub(crate) events: &'a SpanEvents,
    pub(crate) links: &'a [Link],
    /// The maximum number of links. The rest are dropped.
    pub(crate) max_links: u32,
    /// The maximum number of attributes per link. The rest are dropped.
    pub(crate) max_link_attributes: u32,
    pub(crate) dropped_links: u32,
    pub(crate) status: &'a Status,
    pub(crate) scope: &'a InstrumentationScope,
}

impl EndedSpan {
    /// Returns a view of the span. `limits` apply only to spans of this crate, because the SDK has
    /// already applied them to its own.
    pub(crate) fn view(&self, limits: &SpanLimits) -> View<'_> {
        match self {
            Self::Own(span_context, record) => {
                let new = &record.new;
                View {
                    span_context,
                    state: record.state.as_deref(),
                    parent_span_id: record.parent_span_id,
                    parent_span_is_remote: record.parent_span_is_remote,
                    kind: &new.kind,
                    name: &new.name,
                    start_time: new.start_time,
                    end_time: record.end_time.unwrap_or(new.start_time),
                    request: new.request.as_ref(),
                    attributes: [&new.attributes, &record.attributes],
                    may_repeat: new.overrides_request,
                    max_attributes: limits.max_attributes_per_span,
                    dropped_attributes: record.dropped_attributes,
                    events: &record.events,
                    links: &new.links,
                    max_links: limits.max_links_per_span,
                    max_link_attributes: limits.max_attributes_per_link,
                    dropped_links: record.dropped_links,
                    status: &record.status,
                    scope: match &record.scope {
                        Scope::Kept(scope) => scope,
                        Scope::Own(scope) => scope,
                    },
                }
            }
            Self::Sdk(span) => View {
                span_context: &span.span_context,
                state: None,
                parent_span_id: span.parent_span_id,
                parent_span_is_remote: span.parent_span_is_remote,
                kind: &span.span_kind,
                name: &span.name,
                start_time: span.start_time,
                end_time: span.end_time,
                request: None,
                attributes: [&span.attributes, &[]],
                may_repeat: true,
                max_attributes: u32::MAX,
                dropped_attributes: span.dropped_attributes_count,
                events: &span.events,
                links: &span.links.links,
                max_links: u32::MAX,
                max_link_attributes: u32::MAX,
                dropped_links: span.links.dropped_count,
                status: &span.status,
                scope: &span.instrumentation_scope,
            },
        }
    }
}

impl View<'_> {
    /// Returns the attributes other than those of the request, with unique keys.
    pub(crate) fn unique_attributes(&self) -> Vec<KeyValue> {
        let mut attributes: Vec<_> = self.attributes.into_iter().flatten().cloned().collect();
        attribute_set::make_unique(&mut attributes);
        attributes
    }

    /// Returns the `tracestate` as it was propagated.
    pub(crate) fn trace_state(&self) -> String {
        match self.state {
            Some(text) => text.to_owned(),
            None => self.span_context.trace_state().header(),
        }
    }
}

/// Truncates a list to a configured limit and returns the number of removed elements.
pub(crate) fn truncate<T>(list: &mut Vec<T>, limit: u32) -> u32 {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let dropped = list.len().saturating_sub(limit);
    list.truncate(limit);
    u32::try_from(dropped).unwrap_or(u32::MAX)
}

/// Returns the approximate memory use of the parts of a span in bytes.
#[inline]
fn estimated_size(
    name: &str,
    status: &Status,
    attributes: [&[KeyValue]; 2],
    events: &[Event],
    links: &[Link],
) -> usize {
    let status = match status {
        Status::Error { description } => description.len(),
        _ => 0,
    };
    let event = |event: &Event| {
        size_of_val(event) + event.name.len() + size_of_attributes(&event.attributes)
    };
    let link = |link: &Link| size_of_val(link) + size_of_attributes(&link.attributes);
    name.len()
        + status
        + attributes.map(size_of_attributes).iter().sum::<usize>()
        + events.iter().map(event).sum::<usize>()
        + links.iter().map(link).sum::<usize>()
}

/// Returns the approximate memory use of attributes in bytes.
fn size_of_attributes(attributes: &[KeyValue]) -> usize {
    let values = attributes.iter().map(|attribute| match &attribute.value {
        Value::String(text) => text.as_str().len(),
        Value::Array(Array::String(texts)) => texts.iter().map(|text| text.as_str().len()).sum(),
        Value::Array(Array::Bool(list)) => list.len(),
        Value::Array(Array::I64(list)) => size_of_val(list.as_slice()),
        Value::Array(Array::F64(list)) => size_of_val(list.as_slice()),
        _ => 0,
    });
    let keys = attributes
        .iter()
        .map(|attribute| attribute.key.as_str().len());
    size_of_val(attributes) + keys.sum::<usize>() + values.sum::<usize>()
}
