//! Tests spans and durations of messages.

use std::convert::Infallible;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceContextExt};
use opentelemetry::{Array, Context, KeyValue, Value as AnyValue};
use opentelemetry_sdk::trace::{Sampler, SpanData};
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::messaging::{Destination, Producer};
use tower_telemetry::{add_span_attributes, carriers, get_span_id, get_trace_id};

use crate::support::{
    Attributes, TRACE_ID, TRACEPARENT, TestTelemetry, Value, attributes, span_attributes,
};

/// Runs code with the providers of `telemetry`, and without a current span.
async fn in_no_span<F: Future<Output = ()>>(telemetry: &TestTelemetry, code: F) {
    let mut code = Some(code);
    let layer = telemetry.layer().with_filter(|_| false);
    let service = layer.layer(service_fn(|_: Request<()>| {
        let code = code.take().expect("the test runs the code once");
        async move {
            code.await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    }));
    let response = service.oneshot(Request::new(())).await;
    response.expect("the service cannot fail");
}

fn message() -> Context {
    carriers::extract([("traceparent", TRACEPARENT), ("tracestate", "a=1")])
}

fn span_context(cx: &Context) -> SpanContext {
    cx.span().span_context().clone()
}

fn links(span: &SpanData) -> Vec<SpanContext> {
    let links = span.links.iter().map(|link| link.span_context.clone());
    links.collect()
}

/// Returns the attributes and the count of each point of a duration.
fn durations(telemetry: &TestTelemetry, name: &str) -> Vec<(Attributes, u64)> {
    let points = telemetry.points(name).into_iter();
    let points = points.map(|point| (point.attributes, point.value.histogram().0));
    points.collect()
}

#[tokio::test]
async fn a_message_has_a_producer_span_and_a_consumer_span() {
    let telemetry = TestTelemetry::new();
    let orders = Destination::new("nats", "orders.eu.7")
        .with_template("orders.{region}.{id}")
        .with_consumer_group("billing")
        .with_server("nats.internal", 4222);
    in_no_span(&telemetry, async {
        let mut headers = Vec::new();
        orders.send().run(|| {
            carriers::inject(|name, value| headers.push((name.to_owned(), value.to_owned())));
        });
        let handle = async {
            assert!(get_span_id().is_some());
            add_span_attributes([KeyValue::new("messaging.message.id", "1")]);
        };
        let span = orders.process(carriers::extract(headers));
        span.run_future(handle).await;
    })
    .await;
    let spans = telemetry.spans();
    let [sent, handled] = &spans[..] else {
        panic!("{spans:#?}");
    };
    let common = [
        ("messaging.system", "nats"),
        ("messaging.destination.name", "orders.eu.7"),
        ("messaging.destination.template", "orders.{region}.{id}"),
        ("server.address", "nats.internal"),
        ("server.port", "4222"),
    ];
    let with = |more: &[(&str, &str)]| {
        let mut all = attributes(common);
        for (key, value) in more {
            all.insert((*key).to_owned(), (*value).to_owned());
        }
        all
    };
    let send = [
        ("messaging.operation.name", "send"),
        ("messaging.operation.type", "send"),
    ];
    let process = [
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.consumer.group.name", "billing"),
    ];
    assert_eq!(sent.name, "send orders.{region}.{id}");
    assert_eq!(sent.span_kind, SpanKind::Producer);
    assert_eq!(span_attributes(sent), with(&send));
    assert_eq!(sent.parent_span_id, SpanId::INVALID);
    assert_eq!(handled.name, "process orders.{region}.{id}");
    assert_eq!(handled.span_kind, SpanKind::Consumer);
    let mut expected = with(&process);
    expected.insert("messaging.message.id".to_owned(), "1".to_owned());
    assert_eq!(span_attributes(handled), expected);
    assert_eq!(handled.parent_span_id, sent.span_context.span_id());
    assert_eq!(links(handled)[0].span_id(), sent.span_context.span_id());
    for span in &spans {
        let scope = &span.instrumentation_scope;
        assert_eq!(scope.name(), "tower-telemetry");
        assert_eq!(scope.version(), Some(env!("CARGO_PKG_VERSION")));
        let schema = scope.schema_url();
        assert_eq!(schema, Some("https://opentelemetry.io/schemas/1.45.0"));
        assert_eq!(span.status, Status::Unset);
    }

    for (metric, operation) in [
        ("messaging.client.operation.duration", &send[..]),
        ("messaging.process.duration", &process[..]),
    ] {
        let mut expected = with(operation);
        expected.remove("messaging.destination.name");
        assert_eq!(durations(&telemetry, metric), [(expected, 1)]);
        let metrics = telemetry.metrics();
        assert_eq!(metrics[metric].unit, "s");
        assert_eq!(metrics[metric].scope.name(), "tower-telemetry");
        let Value::Histogram { bounds, .. } = &metrics[metric].points[0].value else {
            panic!("the duration is a histogram");
        };
        assert_eq!((bounds[0], bounds.len()), (0.005, 14));
    }
}

#[tokio::test]
async fn the_producer_is_the_parent_or_a_link_as_the_conventions_require() {
    let message = span_context(&message());
    // Whether another span is current, and whether that span or the producer is the parent.
    for (producer, ambient, below_ambient, below_producer) in [
        (Producer::ParentOutsideOfSpans, false, false, true),
        (Producer::ParentOutsideOfSpans, true, true, false),
        (Producer::Parent, false, false, true),
        (Producer::Parent, true, false, true),
        (Producer::Link, false, false, false),
        (Producer::Link, true, true, false),
    ] {
        let case = format!("{producer:?} {ambient}");
        let telemetry = TestTelemetry::new();
        let orders = Destination::new("kafka", "orders").with_producer(producer);
        let cx = self::message().with_value(7_u8);
        in_no_span(&telemetry, async {
            let handle = || {
                orders.process(cx).run(|| {
                    let is_in_its_trace = get_trace_id() == Some(message.trace_id());
                    assert_eq!(is_in_its_trace, below_producer, "{case}");
                    let has_its_values = Context::current().get::<u8>().is_some();
                    assert_eq!(has_its_values, below_producer, "{case}");
                });
            };
            if ambient {
                tower_telemetry::with_tracer("test", "ambient", handle);
            } else {
                handle();
            }
        })
        .await;
        let spans = telemetry.spans();
        let handled = &spans[0];
        assert_eq!(handled.name, "process orders");
        let mut expected = vec![message.clone()];
        let parent = if below_producer {
            message.span_id()
        } else if below_ambient {
            spans[1].span_context.span_id()
        } else {
            SpanId::INVALID
        };
        assert_eq!(handled.parent_span_id, parent, "{case}");
        if ambient && below_producer {
            expected.push(spans[1].span_context.clone());
        }
        assert_eq!(links(handled), expected, "{case}");
    }
}

#[tokio::test]
async fn the_outcome_of_a_message_is_recorded_on_its_span_and_duration() {
    let telemetry = TestTelemetry::new();
    let orders = &Destination::new("aws_sqs", "orders");
    in_no_span(&telemetry, async {
        let number = "many".parse::<u32>();
        let failed = orders.process(message()).try_run_future(async { number });
        assert!(failed.await.is_err());
        let failed = orders.send().try_run(|| Err::<(), _>("the broker is gone"));
        assert!(failed.is_err());
        let panics = || orders.process(message()).run(|| panic!("on purpose"));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        let mut given_up = Box::pin(orders.process(message()).run_future(pending::<()>()));
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(given_up.as_mut().poll(cx)));
        assert!(polled.await.is_pending());
        drop(given_up);
        // A future that is never polled records nothing.
        drop(orders.process(message()).run_future(pending::<()>()));
    })
    .await;
    let ends: Vec<_> = telemetry
        .spans()
        .into_iter()
        .map(|span| {
            let error = span_attributes(&span).remove("error.type");
            (span.status, error.expect("the message failed"))
        })
        .collect();
    let parse = "core::num::error::ParseIntError";
    let end = |status, error: &str| (status, error.to_owned());
    assert_eq!(
        ends,
        [
            end(Status::error("invalid digit found in string"), parse),
            end(Status::error("the broker is gone"), "&str"),
            end(Status::error(""), "panic"),
            end(Status::Unset, "cancelled"),
        ]
    );
    let errors = |name| {
        let points = durations(&telemetry, name).into_iter();
        let mut errors: Vec<_> = points
            .map(|(mut attributes, count)| (attributes.remove("error.type"), count))
            .collect();
        errors.sort();
        errors
    };
    let some = |error: &str| (Some(error.to_owned()), 1);
    assert_eq!(
        errors("messaging.process.duration"),
        [some("cancelled"), some(parse), some("panic")]
    );
    let sent = errors("messaging.client.operation.duration");
    assert_eq!(sent, [some("&str")]);
}

#[tokio::test]
async fn a_batch_links_to_a_bounded_number_of_message_senders() {
    let traceparent = |n: usize| format!("00-{TRACE_ID}-{:016x}-01", n + 1);
    for (count, links_kept) in [(0, 0), (3, 3), (1000, 128)] {
        let telemetry = TestTelemetry::new();
        let orders = Destination::new("kafka", "orders").with_producer(Producer::Parent);
        in_no_span(&telemetry, async {
            let messages = (0..count).map(|n| carriers::extract([("traceparent", traceparent(n))]));
            // One message has no context.
            let messages = messages.chain([Context::new()]);
            orders.process_batch(messages).run(|| {});
        })
        .await;
        let span = telemetry.only_span().await;
        assert_eq!(span.parent_span_id, SpanId::INVALID);
        let ids: Vec<_> = links(&span).iter().map(SpanContext::span_id).collect();
        let expected = (1..=links_kept).map(|n: u64| SpanId::from(n));
        assert_eq!(ids, expected.collect::<Vec<_>>());
        let messages = span_attributes(&span).remove("messaging.batch.message_count");
        assert_eq!(messages, Some((count + 1).to_string()));
        let points = durations(&telemetry, "messaging.process.duration");
        assert_eq!(points.len(), 1);
        assert!(!points[0].0.contains_key("messaging.batch.message_count"));
    }
}

#[tokio::test]
async fn endless_destination_names_are_truncated_and_share_one_series() {
    let telemetry = TestTelemetry::new();
    in_no_span(&telemetry, async {
        for n in 0..1000 {
            let name = format!("{n}-{}", "ä".repeat(1000));
            let queue = Destination::new("redis", name).with_consumer_group(format!("group {n}"));
            queue.process(message()).run(|| {});
        }
    })
    .await;
    for span in telemetry.spans() {
        assert!(span.name.len() <= "process ".len() + 255, "{}", span.name);
        for attribute in &span.attributes {
            assert!(attribute.value.as_str().len() <= 255);
            assert!(!matches!(
                attribute.value,
                AnyValue::Array(Array::String(_))
            ));
        }
    }
    let mut points = durations(&telemetry, "messaging.process.duration");
    let counts: u64 = points.iter().map(|(_, count)| count).sum();
    assert_eq!((points.len(), counts), (257, 1000));
    points.retain(|(attributes, _)| attributes["messaging.destination.name"] == "_OTHER");
    let expected = attributes([
        ("messaging.system", "redis"),
        ("messaging.destination.name", "_OTHER"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
    ]);
    assert_eq!(points, [(expected, 744)]);
}

#[tokio::test]
async fn an_unsampled_message_is_measured_and_its_trace_is_continued() {
    let telemetry = TestTelemetry::with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)));
    let traceparent = TRACEPARENT.replace("-01", "-00");
    in_no_span(&telemetry, async {
        let cx = carriers::extract([("traceparent", &traceparent)]);
        Destination::new("kafka", "orders").process(cx).run(|| {
            carriers::inject(|_, value| assert!(value.ends_with("-00"), "{value}"));
            assert_eq!(
                get_trace_id().map(|id| id.to_string()).as_deref(),
                Some(TRACE_ID)
            );
        });
    })
    .await;
    assert_eq!(telemetry.spans().len(), 0);
    assert_eq!(durations(&telemetry, "messaging.process.duration").len(), 1);
}

#[test]
fn without_providers_the_context_of_a_message_is_current_while_it_is_handled() {
    for (producer, is_current) in [(Producer::Parent, true), (Producer::Link, false)] {
        let orders = Destination::new("kafka", "orders").with_producer(producer);
        let trace = orders.process(message()).run(get_trace_id);
        assert_eq!(trace.is_some(), is_current);
        orders.process_batch([message()]).run(|| {});
    }
}
