//! The OTLP message for spans, encoded directly from the recorded data.
//!
//! A busy service exports many thousands of spans per second, most of them for requests. Request
//! attributes are encoded straight from the captured text, without building `KeyValue`s.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use opentelemetry::trace::{self, SpanContext, SpanId};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::common::v1 as common;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{
    self as proto, ResourceSpans, Span, SpanFlags, Status, span, status,
};
use opentelemetry_proto::transform::common::tonic::{Attributes, ResourceAttributesWithSchema};
use opentelemetry_sdk::trace::SpanLimits;
use prost::Message;

#[cfg(feature = "http-json")]
use crate::otlp::messages::in_json;
use crate::otlp::messages::{Request, Splittable};
use crate::otlp::retention::Retention;
use crate::pipeline::limits::{cut, cut_all, cut_text};
use crate::pipeline::spans::ended::{EndedSpan, View, truncate};
use crate::pipeline::spans::protobuf::{
    KEY, VARINT, begin, bytes, delimited_length, key_of, varint, varint_length,
};
use crate::pipeline::unique_keys;
use crate::semconv::AttributeValue;

/// The approximate size in bytes of an encoded span with request attributes.
const SPAN: usize = 512;

/// The number of spans that are encoded between two pauses, in about 0.1 ms.
const SPANS_PER_PART: usize = 128;

/// An `ExportTraceServiceRequest`.
pub(crate) struct SpanMessage {
    spans: Vec<EndedSpan>,
    header: Arc<BatchHeader>,
}

/// The data shared by all messages.
pub(crate) struct BatchHeader {
    /// The encoded fields of `ResourceSpans` other than spans.
    head: Vec<u8>,
    limits: SpanLimits,
    /// The maximum length of a value in characters.
    value_length: Option<usize>,
}

impl BatchHeader {
    pub(crate) fn new(
        resource: ResourceAttributesWithSchema,
        limits: SpanLimits,
        value_length: Option<usize>,
    ) -> Arc<Self> {
        let head = ResourceSpans {
            resource: Some(Resource {
                attributes: resource.attributes.0,
                ..Resource::default()
            }),
            scope_spans: Vec::new(),
            schema_url: resource.schema_url.unwrap_or_default(),
        };
        Arc::new(Self {
            head: head.encode_to_vec(),
            limits,
            value_length,
        })
    }
}

/// The spans of one scope.
struct ScopeSpans<'a> {
    scope: &'a InstrumentationScope,
    /// The encoded fields of `ScopeSpans` other than spans.
    head: Vec<u8>,
    spans: Vec<u8>,
}

impl<'a> ScopeSpans<'a> {
    fn of(scope: &'a InstrumentationScope) -> Self {
        let mut proto_scope = Some((scope, None).into());
        unique_keys::in_scope(&mut proto_scope);
        let head = proto::ScopeSpans {
            scope: proto_scope,
            spans: Vec::new(),
            schema_url: scope.schema_url().unwrap_or_default().to_owned(),
        };
        Self {
            scope,
            head: head.encode_to_vec(),
            spans: Vec::new(),
        }
    }
}

impl SpanMessage {
    pub(crate) fn new(spans: Vec<EndedSpan>, header: Arc<BatchHeader>) -> Self {
        Self { spans, header }
    }
}

impl Splittable for SpanMessage {
    fn count(&self) -> usize {
        self.spans.len()
    }

    fn split_off(&mut self, keep: usize) -> Self {
        Self {
            spans: self.spans.split_off(keep.min(self.spans.len())),
            header: self.header.clone(),
        }
    }
}

impl Request for SpanMessage {
    fn encode(&self, limit: usize, retention: &Retention) -> Option<Vec<u8>> {
        let header = &*self.header;
        let mut scopes: Vec<ScopeSpans<'_>> = Vec::new();
        let mut span = Vec::with_capacity(SPAN);
        let mut written = 0;
        for (n, ended) in self.spans.iter().enumerate() {
            if n % SPANS_PER_PART == 0 {
                retention.pause();
            }
            let view = ended.view(&header.limits);
            let is_same = |scope: &InstrumentationScope| {
                std::ptr::eq(scope, view.scope) || scope == view.scope
            };
            let index = scopes.iter().position(|one| is_same(one.scope));
            let index = index.unwrap_or_else(|| {
                scopes.push(ScopeSpans::of(view.scope));
                scopes.len() - 1
            });
            span.clear();
            write_span(&view, header.value_length, &mut span);
            bytes(2, &span, &mut scopes[index].spans);
            written += span.len();
            if written > limit {
                return None;
            }
        }
        let length_of = |one: &ScopeSpans<'_>| one.head.len() + one.spans.len();
        let scopes_length: usize = scopes
            .iter()
            .map(|one| KEY + delimited_length(length_of(one)))
            .sum();
        let resource_spans = header.head.len() + scopes_length;
        let length = KEY + delimited_length(resource_spans);
        if length > limit {
            return None;
        }
        let mut request = Vec::with_capacity(length);
        begin(1, resource_spans, &mut request);
        request.extend_from_slice(&header.head);
        for one in &scopes {
            begin(2, length_of(one), &mut request);
            request.extend_from_slice(&one.head);
            request.extend_from_slice(&one.spans);
        }
        Some(request)
    }

    fn rejected(response: Bytes) -> Option<(i64, String)> {
        let response = ExportTraceServiceResponse::decode(response).ok()?;
        let partial = response.partial_success.unwrap_or_default();
        Some((partial.rejected_spans, partial.error_message))
    }

    #[cfg(feature = "http-json")]
    fn to_json(&self, limit: usize, retention: &Retention) -> Option<Vec<u8>> {
        use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

        // The protobuf encoding is shorter than JSON, so `limit` applies to it as well.
        let message = self.encode(limit, retention)?;
        let message = ExportTraceServiceRequest::decode(&*message).ok()?;
        in_json(crate::otlp::json::to_vec(&message), limit)
    }
}

/// Encodes a span whose values are no longer than `limit`. Fields that every span has are encoded
/// here, the rest by prost.
fn write_span(view: &View<'_>, limit: Option<usize>, span: &mut Vec<u8>) {
    let span_context = view.span_context;
    bytes(1, &span_context.trace_id().to_bytes(), span);
    bytes(2, &span_context.span_id().to_bytes(), span);
    if view.parent_span_id != SpanId::INVALID {
        bytes(4, &view.parent_span_id.to_bytes(), span);
    }
    bytes(5, view.name.as_bytes(), span);
    let mut room = view.max_attributes;
    let mut dropped_attributes = view.dropped_attributes;
    let mut add = |key: &str, value: Written<'_>| {
        if room == 0 {
            dropped_attributes += 1;
        } else {
            room -= 1;
            attribute(key, value.cut(limit), span);
        }
    };
    let unique;
    let mut others = view.attributes;
    if view.may_repeat {
        unique = view.unique_attributes();
        others = [&unique, &[]];
    }
    let is_set = |key: &str| {
        let mut others = others.into_iter().flatten();
        others.any(|one| one.key.as_str() == key)
    };
    if let Some(request) = view.request {
        request.attributes(&mut |key, fact| {
            if view.may_repeat && is_set(key) {
                return;
            }
            let value = match &fact {
                AttributeValue::Name(name) => Written::Text(name),
                AttributeValue::Text(text) => Written::Text(text),
                AttributeValue::Number(number) => Written::Number(*number),
            };
            add(key, value);
        });
    }
    for KeyValue { key, value, .. } in others.into_iter().flatten() {
        let value = match value {
            Value::String(text) => Written::Text(text.as_str()),
            Value::I64(number) => Written::Number(*number),
            other => Written::Other(other.clone().into()),
        };
        add(key.as_str(), value);
    }
    let max_links = usize::try_from(view.max_links).unwrap_or(usize::MAX);
    let cut_links = view.links.len().saturating_sub(max_links);
    let rest = Span {
        trace_state: view.trace_state(),
        kind: span::SpanKind::from(view.kind.clone()).into(),
        start_time_unix_nano: nanoseconds(view.start_time),
        end_time_unix_nano: nanoseconds(view.end_time),
        dropped_attributes_count: dropped_attributes,
        events: view
            .events
            .iter()
            .map(|event| span::Event {
                time_unix_nano: nanoseconds(event.timestamp),
                name: event.name.clone().into_owned(),
                attributes: attributes(&event.attributes, limit),
                dropped_attributes_count: event.dropped_attributes_count,
            })
            .collect(),
        dropped_events_count: view.events.dropped_count,
        links: view
            .links
            .iter()
            .take(max_links)
            .map(|link| {
                let mut attributes = attributes(&link.attributes, limit);
                let dropped = truncate(&mut attributes, view.max_link_attributes);
                span::Link {
                    trace_id: link.span_context.trace_id().to_bytes().into(),
                    span_id: link.span_context.span_id().to_bytes().into(),
                    trace_state: link.span_context.trace_state().header(),
                    attributes,
                    dropped_attributes_count: link.dropped_attributes_count + dropped,
                    flags: flags(&link.span_context, link.span_context.is_remote()),
                }
            })
            .collect(),
        dropped_links_count: view.dropped_links + u32::try_from(cut_links).unwrap_or(u32::MAX),
        status: Some(Status {
            code: status::StatusCode::from(view.status).into(),
            message: match view.status {
                trace::Status::Error { description } => description.clone().into_owned(),
                _ => String::new(),
            },
        }),
        flags: flags(span_context, view.parent_span_is_remote),
        ..Span::default()
    };
    // Encoding fails only if there is no room, and a `Vec` grows.
    let _ = rest.encode(span);
}

fn attributes(attributes: &[KeyValue], limit: Option<usize>) -> Vec<common::KeyValue> {
    let mut attributes = Attributes::from(attributes.iter().cloned()).0;
    unique_keys::in_attributes(&mut attributes);
    if let Some(limit) = limit {
        cut_all(&mut attributes, limit);
    }
    attributes
}

/// Returns the flags of a span, with whether its parent is remote, or of a link, with whether the
/// linked span is remote.
fn flags(span_context: &SpanContext, is_remote: bool) -> u32 {
    let flags = u32::from(span_context.trace_flags().to_u8());
    let remote = if is_remote {
        SpanFlags::ContextIsRemoteMask as u32
    } else {
        0
    };
    flags | SpanFlags::ContextHasIsRemoteMask as u32 | remote
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// An attribute value to be encoded.
enum Written<'a> {
    Text(&'a str),
    Number(i64),
    Other(common::AnyValue),
}

impl Written<'_> {
    /// Truncates the value to `limit`, if there is a limit.
    fn cut(self, limit: Option<usize>) -> Self {
        let Some(limit) = limit else {
            return self;
        };
        match self {
            Self::Text(text) => Self::Text(cut_text(text, limit)),
            Self::Number(number) => Self::Number(number),
            Self::Other(mut value) => {
                cut(&mut value, limit);
                Self::Other(value)
            }
        }
    }

    /// Returns the length of an encoded `AnyValue` that contains this value.
    fn length(&self) -> usize {
        match self {
            Self::Text(text) => KEY + delimited_length(text.len()),
            Self::Number(number) => KEY + varint_length(*number),
            Self::Other(value) => value.encoded_len(),
        }
    }
}

/// Encodes an element of the field `attributes` of a `Span`.
fn attribute(key: &str, value: Written<'_>, span: &mut Vec<u8>) {
    let length = value.length();
    let whole = KEY + delimited_length(key.len()) + KEY + delimited_length(length);
    begin(9, whole, span);
    bytes(1, key.as_bytes(), span);
    begin(2, length, span);
    match value {
        Written::Text(text) => bytes(1, text.as_bytes(), span),
        Written::Number(number) => {
            span.push(key_of(3, VARINT));
            varint(number, span);
        }
        Written::Other(value) => {
            let _ = value.encode(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};
    use opentelemetry::trace::{
        Event, Link, SpanContext, SpanKind, TraceContextExt, TraceFlags, TraceId,
    };
    use opentelemetry::{Array, Context, StringValue};
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
    use opentelemetry_sdk::Resource as SdkResource;

    use super::*;
    use crate::config::settings::{Batch, Sampler};
    use crate::pipeline::queue::Queue;
    use crate::pipeline::spans::queues::SpanQueues;
    use crate::pipeline::spans::sampling::Sampling;
    use crate::pipeline::spans::tracer::Tracers;
    use crate::providers::start_span::{MakeTracer, NewSpan, Parent};
    use crate::request_headers::RequestHeaders;
    use crate::semconv::{
        CapturedRequest, ClientRequest, Forwarded, Scheme, SensitiveParameters, Server,
        ServerRequest,
    };

    fn span_context(flags: u8, is_remote: bool) -> SpanContext {
        let state = "vendor=value,other=1".parse().expect("a valid tracestate");
        let (trace_id, span_id) = (TraceId::from(0x1a2b), SpanId::from(0x3c4d));
        SpanContext::new(trace_id, span_id, TraceFlags::new(flags), is_remote, state)
    }

    fn request() -> CapturedRequest {
        let request = http::Request::builder()
            .method("BREW")
            .uri("/users/42?name=Ada")
            .header(header::HOST, "example.com:8080")
            .header(header::USER_AGENT, HeaderValue::from_static("curl/8.5.0"))
            .body(());
        let (request, ()) = request.expect("a valid request").into_parts();
        let route = Some("/users/{id}".into());
        let mut kept = ServerRequest::new("_OTHER", route, Scheme::Https);
        kept.read(
            &request,
            &RequestHeaders::find_in(&request.headers),
            &Forwarded::default(),
            Some(&SensitiveParameters::default()),
        );
        CapturedRequest::Server(kept)
    }

    fn outgoing() -> CapturedRequest {
        let request = http::Request::get("https://user@example.com/users?name=Ada").body(());
        let (request, ()) = request.expect("a valid request").into_parts();
        let mut kept = ClientRequest::new("GET", Some(1));
        let sensitive = SensitiveParameters::default();
        kept.read(
            &request,
            Server::in_uri(&request.uri),
            None,
            Some(&sensitive),
        );
        CapturedRequest::Client(kept)
    }

    fn values() -> Vec<KeyValue> {
        let texts = ["ä text that is long", "b"].map(StringValue::from).to_vec();
        vec![
            KeyValue::new("text", "ä text that is long"),
            KeyValue::new("empty", ""),
            KeyValue::new("", "no key"),
            KeyValue::new("number", -1),
            KeyValue::new("none", 0),
            KeyValue::new("one byte", 127),
            KeyValue::new("two bytes", 128),
            KeyValue::new("least", i64::MIN),
            KeyValue::new("large", i64::MAX),
            KeyValue::new("fraction", 0.5),
            KeyValue::new("flag", true),
            KeyValue::new("texts", Value::Array(Array::String(texts))),
            KeyValue::new("numbers", Value::Array(Array::I64(vec![1, -2]))),
            KeyValue::new("nothing", Value::Array(Array::Bool(Vec::new()))),
        ]
    }

    /// Returns ended spans of all kinds.
    fn spans(limits: SpanLimits) -> Vec<EndedSpan> {
        let queue = Arc::new(Queue::new(Batch::default(), Arc::default()));
        let queues = Box::leak(Box::new(SpanQueues::to(queue.clone(), limits)));
        let sampling = Sampling::of(&Sampler::AlwaysOn).expect("the sampler is built in");
        let tracers = Tracers::new(queues, sampling);
        let tracer = |name| tracers.make(InstrumentationScope::builder(name).build());
        let parents = [
            None,
            Some(span_context(1, true)),
            Some(span_context(3, false)),
        ];
        let kinds = [SpanKind::Server, SpanKind::Internal, SpanKind::Producer];
        for (n, (parent, kind)) in parents.iter().zip(kinds).enumerate() {
            let root = &Context::new();
            let parent = Parent {
                cx: root,
                span_context: parent.as_ref(),
            };
            let scope = ["first", "second", "first"][n];
            let started = tracer(scope).start(parent, &mut |new: &mut NewSpan| {
                new.name = scope.into();
                new.kind = kind.clone();
                new.start_time =
                    UNIX_EPOCH + std::time::Duration::from_nanos(1_700_000_000_000_000_123);
                new.request = [Some(request()), Some(outgoing()), None][n].take();
                new.attributes = values();
                let link = || Link::new(span_context(0, true), values(), 3);
                new.links = (0..n * 2).map(|_| link()).collect();
            });
            let span = started.cx.span();
            span.set_attributes(values());
            if n > 0 {
                span.add_event("event", values());
                span.add_event("other", Vec::new());
                span.set_status(trace::Status::error("it failed"));
            }
            if n == 2 {
                span.set_status(trace::Status::Ok);
            }
            span.end();
        }
        let mut ended = queue.drain();
        let mut data = ended[1].clone().into_span_data(&limits, None);
        data.name = "of the SDK".into();
        data.span_kind = SpanKind::Client;
        data.events.events = vec![Event::with_name("event")];
        ended.push(EndedSpan::Sdk(Box::new(data)));
        ended
    }

    /// Returns the message that the OpenTelemetry crates create from the same spans.
    fn expected(
        ended: &[EndedSpan],
        resource: &SdkResource,
        limits: &SpanLimits,
        value_length: Option<usize>,
    ) -> ExportTraceServiceRequest {
        let data = ended
            .iter()
            .map(|span| span.clone().into_span_data(limits, None))
            .collect();
        let mut resource_spans = group_spans_by_resource_and_scope(data, &resource.into());
        let scopes = resource_spans
            .iter_mut()
            .flat_map(|one| &mut one.scope_spans);
        for span in scopes.flat_map(|scope| &mut scope.spans) {
            let events = span.events.iter_mut().map(|event| &mut event.attributes);
            let links = span.links.iter_mut().map(|link| &mut link.attributes);
            for attributes in events.chain(links).chain([&mut span.attributes]) {
                if let Some(length) = value_length {
                    cut_all(attributes, length);
                }
            }
        }
        ExportTraceServiceRequest { resource_spans }
    }

    #[test]
    fn other_threads_run_between_the_parts_of_a_long_message() {
        let spans = spans(SpanLimits::default());
        let spans = spans.into_iter().cycle().take(2 * SPANS_PER_PART + 1);
        let resource = SdkResource::builder_empty().build();
        let header = BatchHeader::new((&resource).into(), SpanLimits::default(), None);
        let message = SpanMessage::new(spans.collect(), header);
        let retention = Retention::default();
        message.encode(usize::MAX, &retention);
        assert_eq!(retention.take_pauses(), 3);
    }

    #[test]
    fn a_message_equals_that_of_the_opentelemetry_crates() {
        let few = SpanLimits {
            max_events_per_span: 1,
            max_attributes_per_span: 12,
            max_links_per_span: 1,
            max_attributes_per_event: 2,
            max_attributes_per_link: 2,
        };
        let resource = SdkResource::builder_empty()
            .with_schema_url(
                [KeyValue::new("service.name", "shop"), KeyValue::new("n", 1)],
                "https://example.com/schema",
            )
            .build();
        for (limits, value_length) in [
            (SpanLimits::default(), None),
            (SpanLimits::default(), Some(3)),
            (few, None),
            (few, Some(0)),
        ] {
            let ended = spans(limits);
            let expected = expected(&ended, &resource, &limits, value_length);
            let header = BatchHeader::new((&resource).into(), limits, value_length);
            let mut message = SpanMessage::new(ended, header);
            let retention = Retention::default();
            let encode = |message: &SpanMessage| {
                let encoded = message.encode(usize::MAX, &retention);
                encoded.expect("the size has no limit")
            };
            let decode = |encoded: &[u8]| {
                ExportTraceServiceRequest::decode(encoded).expect("the message is OTLP")
            };
            let encoded = encode(&message);
            assert_eq!(decode(&encoded), expected, "{value_length:?}");
            assert_eq!(expected.resource_spans[0].scope_spans.len(), 2);
            let length = encoded.len();
            assert!(message.encode(length, &retention).is_some());
            assert!(message.encode(length - 1, &retention).is_none());
            // Splitting it does not change the content.
            let rest = message.split_off(3);
            assert_eq!((message.count(), rest.count()), (3, 1));
            let rest = decode(&encode(&rest));
            let [scope] = &*rest.resource_spans[0].scope_spans else {
                panic!("the rest has one scope");
            };
            assert_eq!(scope.spans[0].name, "of the SDK");
            assert_eq!(
                rest.resource_spans[0].resource,
                expected.resource_spans[0].resource
            );
        }
    }
}
