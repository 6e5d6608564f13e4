//! Converts ended spans to the SDK's `SpanData`, for exporters and processors of the SDK's traits.

use opentelemetry::trace::Event;
use opentelemetry::{Array, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanLimits, SpanLinks};

use crate::attribute_set;
use crate::pipeline::limits::cut_text;
use crate::pipeline::spans::ended::{EndedSpan, truncate};
use crate::pipeline::spans::record::{Scope, SpanRecord};
use crate::propagation::with_state_text;
use crate::providers::start_span::NewSpan;

impl EndedSpan {
    /// Converts the span to the data that a tracer of the SDK would export. `limits` apply only to
    /// spans of this crate, because the SDK has already applied them to its own. Values are
    /// truncated to `value_length` characters, which the SDK does not support.
    ///
    /// The content is moved and not copied. Each collection of attributes has unique keys.
    pub(crate) fn into_span_data(
        self,
        limits: &SpanLimits,
        value_length: Option<usize>,
    ) -> SpanData {
        let mut data = match self {
            Self::Own(span_context, record) => {
                let span_context = with_state_text(&span_context, record.state.as_deref());
                data_of(*record, span_context, limits)
            }
            Self::Sdk(span) => {
                let mut data = *span;
                make_keys_unique(&mut data);
                data
            }
        };
        if let Some(length) = value_length {
            cut_values(&mut data, length);
        }
        data
    }
}

/// Keeps only the last attribute of each key, in each collection of a span.
pub(crate) fn make_keys_unique(span: &mut SpanData) {
    attribute_set::make_unique(&mut span.attributes);
    for event in &mut span.events.events {
        attribute_set::make_unique(&mut event.attributes);
    }
    for link in &mut span.links.links {
        attribute_set::make_unique(&mut link.attributes);
    }
}

fn data_of(
    record: SpanRecord,
    span_context: opentelemetry::trace::SpanContext,
    limits: &SpanLimits,
) -> SpanData {
    let new = record.new;
    let others = new.attributes.into_iter().chain(record.attributes);
    let mut attributes =
        NewSpan::all_attributes(new.request.as_ref(), new.overrides_request, others);
    let dropped_attributes = truncate(&mut attributes, limits.max_attributes_per_span);
    let mut links = SpanLinks::default();
    links.links = new.links;
    links.dropped_count = record.dropped_links;
    links.dropped_count += truncate(&mut links.links, limits.max_links_per_span);
    for link in &mut links.links {
        // Links that were added later are already truncated.
        let dropped = truncate(&mut link.attributes, limits.max_attributes_per_link);
        link.dropped_attributes_count += dropped;
    }
    SpanData {
        span_context,
        parent_span_id: record.parent_span_id,
        parent_span_is_remote: record.parent_span_is_remote,
        span_kind: new.kind,
        name: new.name,
        start_time: new.start_time,
        end_time: record.end_time.unwrap_or(new.start_time),
        attributes,
        dropped_attributes_count: record.dropped_attributes + dropped_attributes,
        events: record.events,
        links,
        status: record.status,
        instrumentation_scope: match record.scope {
            Scope::Kept(scope) => scope.clone(),
            Scope::Own(scope) => *scope,
        },
    }
}

fn cut_values(data: &mut SpanData, length: usize) {
    cut_all(&mut data.attributes, length);
    for Event { attributes, .. } in &mut data.events.events {
        cut_all(attributes, length);
    }
    for link in &mut data.links.links {
        cut_all(&mut link.attributes, length);
    }
}

fn cut_all(attributes: &mut [KeyValue], length: usize) {
    for attribute in attributes {
        match &mut attribute.value {
            Value::String(text) => cut(text, length),
            Value::Array(Array::String(texts)) => {
                for text in texts {
                    cut(text, length);
                }
            }
            _ => {}
        }
    }
}

fn cut(text: &mut StringValue, length: usize) {
    let kept = cut_text(text.as_str(), length);
    if kept.len() < text.as_str().len() {
        *text = kept.to_owned().into();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use opentelemetry::trace::{
        Link, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
        TraceState,
    };
    use opentelemetry::{Context, InstrumentationScope};
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::config::settings::{Batch, Sampler};
    use crate::pipeline::queue::Queue;
    use crate::pipeline::spans::queues::SpanQueues;
    use crate::pipeline::spans::sampling::Sampling;
    use crate::pipeline::spans::tracer::Tracers;
    use crate::propagation::TraceExtra;
    use crate::providers::start_span::{MakeTracer, Parent, StartSpan};
    use crate::providers::tracer::AnyTracerProvider;
    use crate::semconv::{CapturedRequest, ClientRequest};

    /// A change to a span.
    #[derive(Clone, Debug)]
    enum Change {
        Attribute(Value),
        /// A new value for an attribute that the span was started with.
        AttributeAgain(Value),
        Event(Vec<KeyValue>),
        Link(SpanContext, Vec<KeyValue>),
        Status(Status),
        Name(String),
    }

    #[derive(Clone, Debug)]
    struct Script {
        limits: SpanLimits,
        parent: Option<SpanContext>,
        kind: SpanKind,
        has_request: bool,
        attributes: usize,
        links: Vec<Link>,
        changes: Vec<Change>,
    }

    fn value() -> impl Strategy<Value = Value> {
        let text = "[a-c\u{e9}\u{1f600}]{0,6}";
        prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e300..1e300).prop_map(Value::from),
            Just(Value::from(f64::INFINITY)),
            text.prop_map(Value::from),
            vec(any::<bool>(), 0..3).prop_map(|list| Value::Array(Array::Bool(list))),
            vec(any::<i64>(), 0..3).prop_map(|list| Value::Array(Array::I64(list))),
            vec(-1e9..1e9, 0..3).prop_map(|list| Value::Array(Array::F64(list))),
            vec(text, 0..3).prop_map(|list| {
                let list = list.into_iter().map(StringValue::from).collect();
                Value::Array(Array::String(list))
            }),
        ]
    }

    fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
        vec(("[x-z]", value()), 0..4).prop_map(|pairs| {
            let pairs = pairs.into_iter();
            pairs
                .map(|(key, value)| KeyValue::new(key, value))
                .collect()
        })
    }

    fn span_context() -> impl Strategy<Value = SpanContext> {
        let state = prop_oneof![
            Just(""),
            Just("vendor=value"),
            Just("a=1,b=2,c=3,d=4,e=5,f=6")
        ];
        (1u128.., 1u64.., 0u8..4, any::<bool>(), state).prop_map(
            |(trace_id, span_id, flags, is_remote, state)| {
                let state = state.parse().unwrap_or(TraceState::NONE);
                let (trace_id, span_id) = (TraceId::from(trace_id), SpanId::from(span_id));
                let flags = TraceFlags::new(flags);
                SpanContext::new(trace_id, span_id, flags, is_remote, state)
            },
        )
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            value().prop_map(Change::Attribute),
            value().prop_map(Change::AttributeAgain),
            attributes().prop_map(Change::Event),
            (span_context(), attributes()).prop_map(|(span, list)| Change::Link(span, list)),
            Just(Change::Status(Status::Unset)),
            Just(Change::Status(Status::Ok)),
            "[a-z]{0,4}".prop_map(|text| Change::Status(Status::error(text))),
            "[a-z]{0,4}".prop_map(Change::Name),
        ]
    }

    fn script() -> impl Strategy<Value = Script> {
        let limits = (0u32..9, 0u32..4, 0u32..4, 0u32..4, 0u32..4).prop_map(
            |(attributes, events, links, event, link)| SpanLimits {
                max_attributes_per_span: attributes,
                max_events_per_span: events,
                max_links_per_span: links,
                max_attributes_per_event: event,
                max_attributes_per_link: link,
            },
        );
        let limits = prop_oneof![limits, Just(SpanLimits::default())];
        let kind = prop_oneof![
            Just(SpanKind::Internal),
            Just(SpanKind::Server),
            Just(SpanKind::Client),
            Just(SpanKind::Producer),
            Just(SpanKind::Consumer),
        ];
        let link = (span_context(), attributes()).prop_map(|(span, mut list)| {
            attribute_set::make_unique(&mut list);
            Link::new(span, list, 0)
        });
        (
            limits,
            proptest::option::of(span_context()),
            kind,
            any::<bool>(),
            0usize..5,
            vec(link, 0..3),
            vec(change(), 0..12),
        )
            .prop_map(
                |(limits, parent, kind, has_request, attributes, links, changes)| Script {
                    limits,
                    parent,
                    kind,
                    // Limits drop the last attributes, and the SDK gets the attributes for samplers
                    // first, so the order differs.
                    has_request: has_request && limits.max_attributes_per_span > 100,
                    attributes,
                    links,
                    changes,
                },
            )
    }

    fn time(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789)
    }

    /// Starts, changes and ends a span as described by the script.
    fn run(script: &Script, tracer: &dyn StartSpan) {
        let request = script.has_request.then(|| {
            let request = http::Request::get("https://example.com/path?q=1").body(());
            let (request, ()) = request.expect("a valid request").into_parts();
            let mut kept = ClientRequest::new("GET", None);
            kept.read(&request, None, None, None);
            CapturedRequest::Client(kept)
        });
        let mut cx = Context::new();
        if let Some(parent) = &script.parent {
            cx = cx.with_value(TraceExtra::new(Some(parent), None, None));
        }
        let parent = Parent {
            cx: &cx,
            span_context: script.parent.as_ref(),
        };
        let mut describe = |new: &mut NewSpan| {
            *new = NewSpan {
                name: "name".into(),
                kind: script.kind.clone(),
                start_time: time(1),
                links: script.links.clone(),
                request: request.clone(),
                attributes: (0..script.attributes)
                    .map(|n| KeyValue::new(format!("start{n}"), n as i64))
                    .collect(),
                overrides_request: false,
            };
        };
        let cx = tracer.start(parent, &mut describe).cx;
        let span = cx.span();
        for (n, change) in script.changes.iter().cloned().enumerate() {
            match change {
                Change::Attribute(value) => {
                    span.set_attribute(KeyValue::new(format!("later{n}"), value));
                }
                Change::AttributeAgain(value) if script.attributes > 0 => {
                    span.set_attribute(KeyValue::new("start0", value));
                }
                Change::AttributeAgain(_) => {}
                Change::Event(attributes) => {
                    span.add_event_with_timestamp(format!("event{n}"), time(2), attributes);
                }
                Change::Link(span_context, attributes) => span.add_link(span_context, attributes),
                Change::Status(status) => span.set_status(status),
                Change::Name(name) => span.update_name(name),
            }
        }
        span.end_with_timestamp(time(3));
    }

    /// Returns the spans that a tracer of this crate and a tracer of the SDK create from a script.
    fn both(script: &Script) -> [Vec<EndedSpan>; 2] {
        let scope = || {
            InstrumentationScope::builder("scope")
                .with_version("1")
                .with_schema_url("https://example.com/schema")
                .with_attributes([KeyValue::new("a", 1)])
                .build()
        };
        let queue = Arc::new(Queue::new(Batch::default(), Arc::default()));
        let queues = Box::leak(Box::new(SpanQueues::to(queue.clone(), script.limits)));
        let sampling = Sampling::of(&Sampler::AlwaysOn).expect("the sampler is built in");
        run(script, &*Tracers::new(queues, sampling).make(scope()));
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_sampler(opentelemetry_sdk::trace::Sampler::AlwaysOn)
            .with_span_limits(script.limits)
            .with_simple_exporter(exporter.clone())
            .build();
        // The provider must outlive the query, because dropping it clears the exporter.
        run(
            script,
            &*AnyTracerProvider::new(provider.clone(), false).make(scope()),
        );
        let sdk = exporter
            .get_finished_spans()
            .expect("the exporter is not shut down");
        let sdk = sdk.into_iter().map(|span| EndedSpan::Sdk(Box::new(span)));
        [queue.drain(), sdk.collect()]
    }

    proptest! {
        #[test]
        fn span_data_equals_that_of_the_sdk_for_the_same_span(script in script()) {
            let [own, sdk] = both(&script).map(|mut ended| {
                assert_eq!(ended.len(), 1);
                ended.remove(0).into_span_data(&script.limits, None)
            });
            let (own_span, sdk_span) = (&own.span_context, &sdk.span_context);
            prop_assert!(own_span.is_valid() && !own_span.is_remote());
            prop_assert_eq!(own_span.trace_state(), sdk_span.trace_state());
            prop_assert_eq!(own_span.is_sampled(), sdk_span.is_sampled());
            if script.parent.is_some() {
                prop_assert_eq!(own_span.trace_id(), sdk_span.trace_id());
            }
            prop_assert_eq!(own.parent_span_id, sdk.parent_span_id);
            prop_assert_eq!(own.parent_span_is_remote, sdk.parent_span_is_remote);
            prop_assert_eq!(own.span_kind, sdk.span_kind);
            prop_assert_eq!(own.name, sdk.name);
            prop_assert_eq!(own.start_time, sdk.start_time);
            prop_assert_eq!(own.end_time, sdk.end_time);
            let (mut own_attributes, mut sdk_attributes) = (own.attributes, sdk.attributes);
            if script.has_request {
                prop_assert!(own_attributes.iter().any(|one| one.key.as_str() == "url.full"));
                own_attributes.sort_by(|one, other| one.key.cmp(&other.key));
                sdk_attributes.sort_by(|one, other| one.key.cmp(&other.key));
            }
            prop_assert_eq!(own_attributes, sdk_attributes);
            prop_assert_eq!(own.dropped_attributes_count, sdk.dropped_attributes_count);
            prop_assert_eq!(own.events, sdk.events);
            prop_assert_eq!(own.links, sdk.links);
            prop_assert_eq!(own.status, sdk.status);
            prop_assert_eq!(own.instrumentation_scope, sdk.instrumentation_scope);
        }

        #[test]
        fn no_value_is_longer_than_the_limit(script in script(), length in 0usize..5) {
            for mut ended in both(&script) {
                let whole = ended[0].clone().into_span_data(&script.limits, None);
                let data = ended.remove(0).into_span_data(&script.limits, Some(length));
                let lists = |data: &SpanData| {
                    let mut all = data.attributes.clone();
                    all.extend(data.events.iter().flat_map(|one| one.attributes.clone()));
                    all.extend(data.links.iter().flat_map(|one| one.attributes.clone()));
                    all
                };
                let (cut, whole) = (lists(&data), lists(&whole));
                prop_assert_eq!(cut.len(), whole.len());
                let shorter = |text: &StringValue| {
                    text.as_str().chars().take(length).collect::<String>()
                };
                for (cut, whole) in cut.into_iter().zip(whole) {
                    let expected = match whole.value {
                        Value::String(text) => Value::from(shorter(&text)),
                        Value::Array(Array::String(list)) => {
                            let list = list.iter().map(|one| StringValue::from(shorter(one)));
                            Value::Array(Array::String(list.collect()))
                        }
                        other => other,
                    };
                    prop_assert_eq!(cut.value, expected);
                }
            }
        }
    }

    #[test]
    fn a_duplicate_key_of_a_span_of_the_sdk_has_its_last_value() {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        use opentelemetry::trace::{Span, Tracer, TracerProvider};
        let twice = || vec![KeyValue::new("a", 1), KeyValue::new("a", 2)];
        let mut span = provider.tracer("scope").start("name");
        span.set_attributes(twice());
        span.add_event("event", twice());
        span.add_link(SpanContext::empty_context(), twice());
        span.end();
        let span = exporter
            .get_finished_spans()
            .expect("the exporter is not shut down")
            .remove(0);
        let data = EndedSpan::Sdk(Box::new(span)).into_span_data(&SpanLimits::default(), None);
        let once = [KeyValue::new("a", 2)];
        assert_eq!(data.attributes, once);
        assert_eq!(data.events.events[0].attributes, once);
        assert_eq!(data.links.links[0].attributes, once);
    }
}
