//! The tracers for spans of the layers and handler functions.
//!
//! The samplers of `init` decide by the parent or the trace id alone, so spans can be created here
//! without the SDK. A dropped span is only its ids. A sampled span is queued as it was recorded,
//! and encoded on the export thread.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::{
    Event, Link, SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanEvents};
use smallvec::SmallVec;

use crate::attribute_set;
use crate::concurrent::table::Table;
use crate::pipeline::spans::ended::{EndedSpan, truncate};
use crate::pipeline::spans::queues::SpanQueues;
use crate::pipeline::spans::record::{Scope, SpanRecord};
use crate::pipeline::spans::sampling::Sampling;
use crate::propagation::{
    RANDOM_FLAG, TraceExtra, child_state, is_small_state, state_text, with_parent, with_state,
};
use crate::providers::start_span::{DescribeSpan, MakeTracer, NewSpan, Parent, StartSpan, Started};
use crate::semconv;

/// The maximum number of scopes that are shared. Further scopes are copied to each span.
const MAX_SCOPES: usize = 512;

/// Creates the tracers of the process.
pub(crate) struct Tracers {
    /// Never freed, because a shared reference count would be contended by every thread.
    queues: &'static SpanQueues,
    sampling: Sampling,
    scopes: Table<InstrumentationScope, &'static InstrumentationScope>,
}

impl Tracers {
    pub(crate) fn new(queues: &'static SpanQueues, sampling: Sampling) -> Self {
        Self {
            queues,
            sampling,
            scopes: Table::new(MAX_SCOPES),
        }
    }
}

impl MakeTracer for Tracers {
    fn make(&self, scope: InstrumentationScope) -> Arc<dyn StartSpan> {
        let scope = if let Some(scope) = self.scopes.get(&scope) {
            Scope::Kept(scope)
        } else if self.scopes.is_full() {
            Scope::Own(Box::new(scope))
        } else {
            let kept = Box::leak(Box::new(scope.clone()));
            self.scopes.insert(scope, kept);
            Scope::Kept(kept)
        };
        Arc::new(Tracer {
            queues: self.queues,
            sampling: self.sampling.clone(),
            scope,
        })
    }

    fn follows_unsampled(&self) -> bool {
        self.sampling.follows_unsampled()
    }
}

struct Tracer {
    queues: &'static SpanQueues,
    sampling: Sampling,
    scope: Scope,
}

impl StartSpan for Tracer {
    fn start(&self, parent: Parent<'_>, description: &mut dyn DescribeSpan) -> Started {
        let cx = parent.cx;
        let current = cx.span();
        let given = parent.span_context;
        let current = || Some(current.span_context()).filter(|current| current.is_valid());
        let parent = given.or_else(current);
        if cx.is_telemetry_suppressed() || self.queues.has_stopped() {
            return Started {
                cx: match given {
                    Some(parent) => with_parent(cx, parent),
                    None => cx.clone(),
                },
                is_recording: false,
            };
        }
        let ids = RandomIdGenerator::default();
        let trace_id = parent.map_or_else(|| ids.new_trace_id(), SpanContext::trace_id);
        let extra = TraceExtra::of(cx, parent);
        let decision = extra.and_then(|extra| extra.decision(parent));
        let is_sampled = self.sampling.samples(parent, decision, trace_id);
        // The id of a new trace is random (Trace Context Level 2, "random-trace-id flag").
        let random = parent.map_or(RANDOM_FLAG, |parent| {
            parent.trace_flags().to_u8() & RANDOM_FLAG
        });
        let state = parent.and_then(|parent| state_text(parent, extra));
        // The span context of a request's span contains the `tracestate`. Child spans contain it
        // only if it is small, because each copy takes two allocations per member. Headers and
        // exported spans are written from the text, which all spans share.
        let held = state.as_deref();
        let held = held.filter(|text| given.is_some() || is_small_state(text));
        let span_context = SpanContext::new(
            trace_id,
            ids.new_span_id(),
            TraceFlags::new(random).with_sampled(is_sampled),
            false,
            held.map_or(TraceState::NONE, |text| child_state(parent, text)),
        );
        let cx = TraceExtra::child_context(cx, extra, &span_context, state.as_ref());
        if !is_sampled {
            return Started {
                cx: cx.with_remote_span_context(span_context),
                is_recording: false,
            };
        }
        self.queues.add_live(1);
        // Written in place: the record is large, and would otherwise be moved to the heap.
        let place = Box::new_uninit();
        let mut record = Box::write(
            place,
            SpanRecord {
                new: NewSpan::default(),
                parent_span_id: parent.map_or(SpanId::INVALID, SpanContext::span_id),
                parent_span_is_remote: parent.is_some_and(SpanContext::is_remote),
                state,
                end_time: None,
                attributes: SmallVec::new(),
                dropped_attributes: 0,
                events: SpanEvents::default(),
                dropped_links: 0,
                status: Status::Unset,
                scope: self.scope.clone(),
            },
        );
        description.describe(&mut record.new);
        let span = Span {
            span_context,
            queues: self.queues,
            record: Some(record),
        };
        Started {
            cx: cx.with_span(span),
            is_recording: true,
        }
    }
}

/// A recorded span that has not ended.
#[derive(Debug)]
struct Span {
    span_context: SpanContext,
    queues: &'static SpanQueues,
    record: Option<Box<SpanRecord>>,
}

/// Returns whether a list is shorter than a configured limit.
fn has_room<T>(list: &[T], limit: u32) -> bool {
    usize::try_from(limit).is_ok_and(|limit| list.len() < limit)
}

impl opentelemetry::trace::Span for Span {
    fn add_event_with_timestamp<T>(
        &mut self,
        name: T,
        timestamp: SystemTime,
        mut attributes: Vec<KeyValue>,
    ) where
        T: Into<Cow<'static, str>>,
    {
        let Some(record) = &mut self.record else {
            return;
        };
        let limits = &self.queues.limits;
        if has_room(&record.events.events, limits.max_events_per_span) {
            attribute_set::make_unique(&mut attributes);
            let dropped = truncate(&mut attributes, limits.max_attributes_per_event);
            let event = Event::new(name, timestamp, attributes, dropped);
            record.events.events.push(event);
        } else {
            record.events.dropped_count += 1;
        }
    }

    fn span_context(&self) -> &SpanContext {
        &self.span_context
    }

    fn is_recording(&self) -> bool {
        self.record.is_some()
    }

    fn set_attribute(&mut self, attribute: KeyValue) {
        let Some(record) = &mut self.record else {
            return;
        };
        let is_by_crate = attribute_set::is_crate_writing();
        let before = attribute_set::find(&mut record.attributes, &attribute.key)
            .or_else(|| attribute_set::find(&mut record.new.attributes, &attribute.key));
        if let Some(before) = before {
            if !is_by_crate {
                *before = attribute;
            }
            return;
        }
        let limits = &self.queues.limits;
        if has_room(&record.attributes, limits.max_attributes_per_span) {
            if !is_by_crate && record.new.request.is_some() {
                let key = attribute.key.as_str();
                record.new.overrides_request |= semconv::is_request_key(key);
            }
            record.attributes.push(attribute);
        } else {
            record.dropped_attributes += 1;
        }
    }

    fn set_status(&mut self, status: Status) {
        if let Some(record) = &mut self.record
            // Ok takes precedence over Error, and Error over Unset (Trace API, "Set Status").
            && status > record.status
        {
            record.status = status;
        }
    }

    fn update_name<T>(&mut self, name: T)
    where
        T: Into<Cow<'static, str>>,
    {
        if let Some(record) = &mut self.record {
            record.new.name = name.into();
        }
    }

    fn add_link(&mut self, span_context: SpanContext, mut attributes: Vec<KeyValue>) {
        let Some(record) = &mut self.record else {
            return;
        };
        let limits = &self.queues.limits;
        if has_room(&record.new.links, limits.max_links_per_span) {
            attribute_set::make_unique(&mut attributes);
            let dropped = truncate(&mut attributes, limits.max_attributes_per_link);
            let link = Link::new(span_context, attributes, dropped);
            record.new.links.push(link);
        } else {
            record.dropped_links += 1;
        }
    }

    fn end_with_timestamp(&mut self, timestamp: SystemTime) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        self.queues.add_live(-1);
        // A span that ends after the shutdown is not counted, because it would never be exported.
        if !self.queues.has_stopped() {
            record.end_time = Some(timestamp);
            // The `tracestate` is removed, because the record has it as text.
            let span_context = with_state(&self.span_context, TraceState::NONE);
            self.queues.push(EndedSpan::Own(span_context, record));
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if self.record.is_some() {
            opentelemetry::trace::Span::end(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry::Context;
    use opentelemetry::trace::{SpanKind, TraceId};
    use opentelemetry_sdk::trace::{
        InMemorySpanExporter, Sampler as SdkSampler, SdkTracerProvider, SpanData, SpanLimits,
    };

    use super::*;
    use crate::config::settings::{Batch, Sampler};
    use crate::pipeline::queue::{Item, Queue};
    use crate::pipeline::spans::sampling::ParentRule;
    use crate::propagation::{self, Decision};
    use crate::providers::tracer::AnyTracerProvider;
    use crate::semconv::{CapturedRequest, ClientRequest};

    const LIMITS: SpanLimits = SpanLimits {
        max_events_per_span: 2,
        max_attributes_per_span: 4,
        max_links_per_span: 2,
        max_attributes_per_event: 1,
        max_attributes_per_link: 1,
    };

    /// A tracer of this crate and a tracer of the SDK with the same sampler, and their exported
    /// spans.
    struct Both {
        tracers: Tracers,
        own: Arc<dyn StartSpan>,
        queue: Arc<Queue<EndedSpan>>,
        sdk: Arc<dyn StartSpan>,
        exporter: InMemorySpanExporter,
    }

    impl Both {
        fn new(sampler: &Sampler) -> Self {
            let sampling = Sampling::of(sampler).expect("the sampler is built in");
            let queue = Arc::new(Queue::new(Batch::default(), Arc::default()));
            let queues = Box::leak(Box::new(SpanQueues::to(queue.clone(), LIMITS)));
            let own = Tracers::new(queues, sampling.clone());
            let exporter = InMemorySpanExporter::default();
            let provider = SdkTracerProvider::builder();
            let provider = match sampling.parent_rule {
                ParentRule::Parent => {
                    provider.with_sampler(SdkSampler::parent_based(sampling.root))
                }
                ParentRule::Root => provider.with_sampler(sampling.root),
            };
            let provider = provider
                .with_span_limits(LIMITS)
                .with_simple_exporter(exporter.clone());
            let scope = || InstrumentationScope::builder("scope").build();
            Self {
                own: own.make(scope()),
                tracers: own,
                queue,
                sdk: AnyTracerProvider::new(provider.build(), false).make(scope()),
                exporter,
            }
        }

        fn exported(&self) -> [Vec<SpanData>; 2] {
            let own = self.queue.drain();
            let own = own
                .into_iter()
                .map(|span| span.into_span_data(&LIMITS, None))
                .collect();
            let sdk = self.exporter.get_finished_spans();
            [own, sdk.expect("the exporter is not shut down")]
        }
    }

    fn new_span(new: &mut NewSpan) {
        *new = NewSpan {
            name: "name".into(),
            kind: SpanKind::Server,
            start_time: SystemTime::UNIX_EPOCH,
            links: vec![Link::with_context(span_context(0x01, true))],
            request: None,
            attributes: vec![KeyValue::new("a", 1), KeyValue::new("b", 2)],
            overrides_request: false,
        };
    }

    fn span_context(flags: u8, is_remote: bool) -> SpanContext {
        let state = "vendor=value".parse().expect("a valid tracestate");
        let (trace_id, span_id) = (TraceId::from(0x1a2b), SpanId::from(0x3c4d));
        SpanContext::new(trace_id, span_id, TraceFlags::new(flags), is_remote, state)
    }

    #[test]
    fn a_span_equals_that_of_the_sdk() {
        let both = Both::new(&Sampler::AlwaysOn);
        for tracer in [&both.own, &both.sdk] {
            let parent = Parent {
                cx: &Context::new(),
                span_context: Some(&span_context(0x03, true)),
            };
            let cx = tracer.start(parent, &mut new_span).cx;
            let span = cx.span();
            assert!(span.is_recording());
            for key in ["c", "d", "e"] {
                span.set_attribute(KeyValue::new(key, 3));
            }
            let two = || vec![KeyValue::new("x", 1), KeyValue::new("y", 2)];
            for event in ["first", "second", "third"] {
                span.add_event_with_timestamp(event, SystemTime::UNIX_EPOCH, two());
            }
            for _ in 0..3 {
                span.add_link(span_context(0x00, false), two());
            }
            span.set_status(Status::error("first"));
            span.set_status(Status::Unset);
            span.set_status(Status::Ok);
            span.set_status(Status::error("last"));
            span.update_name("other");
            span.end_with_timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(1));
            // The span has ended.
            assert!(!span.is_recording());
            span.set_attribute(KeyValue::new("late", 1));
            span.end();
        }
        let [mut own, sdk] = both.exported();
        assert_eq!((own.len(), sdk.len()), (1, 1));
        // Only the ids differ.
        own[0].span_context = sdk[0].span_context.clone();
        assert_eq!(own, sdk);
        assert_eq!(own[0].dropped_attributes_count, 1);
    }

    #[test]
    fn equal_scopes_are_stored_once_up_to_a_limit() {
        let both = Both::new(&Sampler::AlwaysOn);
        let scope_of = |name: String| {
            let tracer = both
                .tracers
                .make(InstrumentationScope::builder(name).build());
            let root = &Context::new();
            let parent = Parent {
                cx: root,
                span_context: None,
            };
            drop(tracer.start(parent, &mut new_span));
            let mut ended = both.queue.drain();
            match ended.pop() {
                Some(EndedSpan::Own(_, record)) => record.scope.clone(),
                ended => panic!("{ended:?}"),
            }
        };
        let kept = |name: &str| match scope_of(name.to_owned()) {
            Scope::Kept(scope) => std::ptr::from_ref(scope),
            Scope::Own(scope) => panic!("{scope:?}"),
        };
        assert_eq!(kept("first"), kept("first"));
        for n in 0..MAX_SCOPES {
            scope_of(format!("scope{n}"));
        }
        assert!(
            matches!(scope_of("one more".to_owned()), Scope::Own(scope) if scope.name() == "one more")
        );
        assert_eq!(kept("first"), kept("first"));
    }

    #[test]
    fn the_estimated_size_of_a_span_covers_all_of_its_parts() {
        let both = Both::new(&Sampler::AlwaysOn);
        let bytes = |description: &mut dyn DescribeSpan| {
            let root = &Context::new();
            let parent = Parent {
                cx: root,
                span_context: None,
            };
            drop(both.own.start(parent, description));
            both.queue.drain()[0].estimated_size()
        };
        let text = || "t".repeat(1000);
        let empty = bytes(&mut |_: &mut NewSpan| ());
        assert!(empty >= size_of::<SpanRecord>());
        let link = || Link::new(span_context(0, true), vec![KeyValue::new("key", text())], 0);
        let request = || {
            let path = format!("/{}", "p".repeat(999));
            let request = http::Request::get(path).body(());
            let (request, ()) = request.expect("a valid request").into_parts();
            let mut kept = ClientRequest::new("GET", None);
            kept.read(&request, None, None, None);
            CapturedRequest::Client(kept)
        };
        for (case, description) in [
            (
                "request",
                &mut (|new: &mut NewSpan| new.request = Some(request())) as &mut dyn DescribeSpan,
            ),
            (
                "name",
                &mut (|new: &mut NewSpan| new.name = text().into()) as &mut dyn DescribeSpan,
            ),
            ("attribute", &mut |new: &mut NewSpan| {
                new.attributes.push(KeyValue::new("key", text()));
            }),
            ("link", &mut |new: &mut NewSpan| new.links.push(link())),
        ] {
            let bytes = bytes(description);
            assert!(
                (empty + 1000..empty + 1300).contains(&bytes),
                "{case}: {bytes}"
            );
        }
    }

    #[test]
    fn a_span_that_was_not_ended_ends_when_it_is_dropped() {
        let both = Both::new(&Sampler::AlwaysOn);
        for tracer in [&both.own, &both.sdk] {
            let cx = &Context::new();
            let parent = Parent {
                cx,
                span_context: None,
            };
            drop(tracer.start(parent, &mut new_span));
        }
        for spans in both.exported() {
            assert_eq!(spans.len(), 1);
            assert!(spans[0].end_time > spans[0].start_time);
        }
    }

    #[test]
    fn samplers_decide_as_in_the_sdk() {
        let parents = [
            None,
            Some(span_context(0x01, true)),
            Some(span_context(0x03, true)),
            Some(span_context(0x00, true)),
            Some(span_context(0x02, true)),
            Some(span_context(0x01, false)),
            Some(span_context(0x00, false)),
        ];
        for sampler in [
            Sampler::AlwaysOn,
            Sampler::AlwaysOff,
            Sampler::TraceIdRatio(1.0),
            Sampler::TraceIdRatio(0.0),
            Sampler::TraceIdRatio(0.5),
            Sampler::ParentBasedAlwaysOn,
            Sampler::ParentBasedAlwaysOff,
            Sampler::ParentBasedTraceIdRatio(0.0),
            Sampler::ParentBasedTraceIdRatio(1.0),
        ] {
            let both = Both::new(&sampler);
            for parent in &parents {
                // The SDK does not set the random flag of a new trace.
                let random =
                    [0, if parent.is_none() { RANDOM_FLAG } else { 0 }].map(TraceFlags::new);
                let tracers = [(&both.own, random[0]), (&both.sdk, random[1])];
                let started = tracers.map(|(tracer, random)| {
                    let parent = Parent {
                        cx: &Context::new(),
                        span_context: parent.as_ref(),
                    };
                    let started = tracer.start(parent, &mut new_span);
                    let span = started.cx.span();
                    let own = span.span_context();
                    assert!(own.is_valid() && !own.is_remote());
                    let trace_id = parent_trace(own, &parents);
                    (
                        started.is_recording,
                        trace_id,
                        own.trace_flags() | random,
                        own.trace_state().clone(),
                    )
                });
                // Without a parent, the two tracers create different ids, and a ratio may decide
                // differently.
                if parent.is_some() || sampler.to_string() != "traceidratio(0.5)" {
                    assert_eq!(started[0], started[1], "{sampler} {parent:?}");
                }
            }
        }
    }

    #[test]
    fn a_b3_decision_has_priority_over_the_sampler() {
        use Decision::{Accept, Debug, Deferred, Deny};

        let samplers = [
            Sampler::ParentBasedAlwaysOn,
            Sampler::ParentBasedAlwaysOff,
            Sampler::AlwaysOn,
            Sampler::AlwaysOff,
        ];
        for (decision, flags, expected) in [
            (Some(Deferred), Some(0), [true, false, true, false]),
            (None, Some(0), [false, false, true, false]),
            (Some(Debug), Some(1), [true, true, true, false]),
            (None, None, [true, false, true, false]),
            (Some(Accept), None, [true, true, true, false]),
            (Some(Debug), None, [true, true, true, false]),
            (Some(Deny), None, [false; 4]),
        ] {
            for (sampler, expected) in samplers.iter().zip(expected) {
                let case = format!("{decision:?} {flags:?} {sampler}");
                let both = Both::new(sampler);
                let remote = flags.map(|flags| span_context(flags, true));
                let mut cx = Context::new();
                if decision.is_some() {
                    cx = cx.with_value(TraceExtra::new(remote.as_ref(), None, decision));
                }
                let parent = Parent {
                    cx: &cx,
                    span_context: remote.as_ref(),
                };
                let started = both.own.start(parent, &mut new_span);
                assert_eq!(started.is_recording, expected, "{case}");
                let span = started.cx.span().span_context().clone();
                assert_eq!(span.is_sampled(), expected, "{case}");
                let continues = remote.map(|remote| remote.trace_id() == span.trace_id());
                assert!(continues.unwrap_or(span.trace_flags().to_u8() & RANDOM_FLAG != 0));
                // Child spans inherit the decision.
                let below = Parent {
                    cx: &started.cx,
                    span_context: None,
                };
                let below = both.own.start(below, &mut new_span);
                assert_eq!(below.is_recording, expected, "below {case}");
                let kept = propagation::decision_in(&below.cx);
                let passed_on = decision.filter(|one| matches!(one, Deny | Debug));
                assert_eq!(kept, passed_on, "{case}");
            }
        }
    }

    #[test]
    fn a_deferred_b3_decision_is_not_treated_as_unsampled() {
        use crate::providers::{Providers, bound};

        let both = Both::new(&Sampler::ParentBasedAlwaysOn);
        let meters = opentelemetry_sdk::metrics::SdkMeterProvider::default();
        let providers = Providers::new(Arc::new(both.tracers), bound::of_type(meters), 2000);
        let remote = span_context(0x00, true);
        for (decision, drops) in [(None, true), (Some(Decision::Deferred), false)] {
            let extra = TraceExtra::new(Some(&remote), None, decision);
            let cx = Context::new().with_value(extra);
            let _attached = cx.with_remote_span_context(remote.clone()).attach();
            assert_eq!(providers.drops_children_of_current(), drops, "{decision:?}");
        }
    }

    #[test]
    fn spans_share_the_text_of_a_tracestate_and_store_a_short_one() {
        let text = |count: usize| {
            let members: Vec<_> = (0..count).map(|n| format!("k{n}=v")).collect();
            members.join(",")
        };
        for (case, state, holds, child_holds) in [
            ("none", String::new(), true, true),
            ("one", text(1), true, true),
            ("four", text(4), true, true),
            ("five", text(5), true, false),
            ("all", text(32), true, false),
            ("of Level 2", "x@y@z=1".to_owned(), false, false),
        ] {
            let both = Both::new(&Sampler::AlwaysOn);
            let remote = with_state(&span_context(0x01, true), TraceState::NONE);
            let shared: Option<Arc<str>> =
                Some(&*state).filter(|text| !text.is_empty()).map(Arc::from);
            let extra = TraceExtra::new(Some(&remote), shared.clone(), None);
            let root = Context::new().with_value(extra);
            let parent = Parent {
                cx: &root,
                span_context: Some(&remote),
            };
            let request = both.own.start(parent, &mut new_span).cx;
            let below = |cx: &Context| {
                let parent = Parent {
                    cx,
                    span_context: None,
                };
                both.own.start(parent, &mut new_span).cx
            };
            let child = below(&request);
            let grandchild = below(&child);
            let held = |cx: &Context| cx.span().span_context().trace_state().header();
            let expected = |holds| if holds { &*state } else { "" };
            assert_eq!(held(&request), expected(holds), "{case}");
            assert_eq!(held(&child), expected(child_holds), "{case}");
            assert_eq!(held(&grandchild), expected(child_holds), "{case}");
            drop((request, child, grandchild));
            let ended = both.queue.drain();
            assert_eq!(ended.len(), 3);
            let bytes: usize = ended.iter().map(Item::estimated_size).sum();
            assert!(bytes >= 3 * (size_of::<SpanRecord>() + state.len()));
            for ended in ended {
                assert_eq!(ended.view(&LIMITS).trace_state(), state, "{case}");
                let data = ended.clone().into_span_data(&LIMITS, None);
                assert_eq!(
                    data.span_context.trace_state().header(),
                    expected(holds),
                    "{case}"
                );
                let EndedSpan::Own(_, record) = ended else {
                    panic!("every span is of this crate");
                };
                let is_shared = match (&record.state, &shared) {
                    (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                    (one, other) => one.is_none() && other.is_none(),
                };
                assert!(is_shared, "{case}");
            }
        }
    }

    #[test]
    fn a_tracestate_without_its_text_reaches_all_child_spans() {
        let both = Both::new(&Sampler::AlwaysOn);
        let members = (0..9).map(|n| (format!("k{n}"), "v"));
        let state = TraceState::from_key_value(members).expect("a valid tracestate");
        let remote = with_state(&span_context(0x01, true), state.clone());
        let mut cx = Context::new().with_remote_span_context(remote);
        for _ in 0..3 {
            let parent = Parent {
                cx: &cx,
                span_context: None,
            };
            cx = both.own.start(parent, &mut new_span).cx;
        }
        drop(cx);
        let ended = both.queue.drain();
        assert_eq!(ended.len(), 3);
        for ended in ended {
            assert_eq!(ended.view(&LIMITS).trace_state(), state.header());
        }
    }

    /// Returns the trace id of a span if it is the trace of a parent.
    fn parent_trace(span: &SpanContext, parents: &[Option<SpanContext>]) -> Option<TraceId> {
        let mut parents = parents.iter().flatten();
        let parent = parents.find(|parent| parent.trace_id() == span.trace_id());
        parent.map(SpanContext::trace_id)
    }

    #[test]
    fn with_suppressed_telemetry_the_parent_context_is_passed_on() {
        let both = Both::new(&Sampler::AlwaysOn);
        let remote = span_context(0x01, true);
        let cx = Context::new().with_telemetry_suppressed();
        let below = |cx: &Context, span_context| {
            let parent = Parent { cx, span_context };
            let started = both.own.start(parent, &mut new_span);
            assert!(!started.is_recording);
            started.cx
        };
        let started = below(&cx, Some(&remote));
        assert_eq!(started.span().span_context(), &remote);
        assert!(!below(&cx, None).has_active_span());
        // Suppression does not affect a span that is already recorded.
        let open = Parent {
            cx: &Context::new(),
            span_context: None,
        };
        let open = both.own.start(open, &mut new_span).cx;
        let inside = below(&open.with_telemetry_suppressed(), None);
        inside.span().set_attribute(KeyValue::new("inside", true));
        drop((open, inside));
        let [own, _] = both.exported();
        assert_eq!(own.len(), 1);
        assert!(own[0].attributes.contains(&KeyValue::new("inside", true)));
    }
}
