//! Tests the functions for handler code.

use std::convert::Infallible;
use std::fmt;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use opentelemetry::trace::{SpanKind, Status};
use opentelemetry::{KeyValue, Value as AnyValue};
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{
    add_span_attributes, add_span_event, add_to_counter, add_to_up_down_counter,
    async_try_with_tracer, async_with_tracer, attributes, bind_counter, bind_gauge, bind_histogram,
    bind_up_down_counter, get_span_id, get_trace_id, get_tracer, increment_counter,
    record_histogram_value, set_gauge, set_span_error, set_span_error_with_sources,
    start_as_current_span, start_timer, try_with_tracer, with_tracer,
};

use crate::support::{
    Attributes, Point, TestTelemetry, Value, attributes as map, span_attributes, tree,
};

/// Runs `handler` in a request, so that it uses the same providers.
pub(crate) async fn in_request<F: Future<Output = ()>>(telemetry: &TestTelemetry, handler: F) {
    let mut handler = Some(handler);
    let service = telemetry.layer().layer(service_fn(|_: Request<()>| {
        let handler = handler.take().expect("the test sends one request");
        async move {
            handler.await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    }));
    service
        .oneshot(Request::new(()))
        .await
        .expect("the service cannot fail");
}

#[tokio::test]
async fn spans_of_handler_code_form_a_tree_below_the_request() {
    const TRACER: tower_telemetry::handler::Tracer = get_tracer("orders");
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let request = get_span_id();
        async_with_tracer("orders", "load", async {
            tokio::task::yield_now().await;
            let sum = with_tracer("orders", "parse", || {
                let _inner = start_as_current_span(&TRACER, "tokenize");
                2 + 2
            });
            assert_eq!(sum, 4);
        })
        .await;
        {
            let _outer = start_as_current_span(&TRACER, String::from("store"));
            let _inner = start_as_current_span(&TRACER, "write");
        }
        assert_eq!(get_span_id(), request);
    })
    .await;

    let spans = telemetry.spans();
    assert_eq!(
        tree(&spans),
        [
            "GET",
            "  load",
            "    parse",
            "      tokenize",
            "  store",
            "    write"
        ]
    );
    for span in &spans[..spans.len() - 1] {
        assert_eq!(span.span_kind, SpanKind::Internal);
        assert_eq!(span.instrumentation_scope.name(), "orders");
        assert_eq!(span.status, Status::Unset);
        assert_eq!(span_attributes(span), Attributes::new());
        assert_eq!(
            span.span_context.trace_id(),
            spans[0].span_context.trace_id()
        );
    }
}

#[tokio::test]
async fn a_dropped_future_ends_its_span() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let mut future = Box::pin(async_with_tracer("test", "given up", async {
            std::future::pending::<()>().await;
        }));
        let waker = std::task::Waker::noop();
        let polled = future
            .as_mut()
            .poll(&mut std::task::Context::from_waker(waker));
        assert!(polled.is_pending());
    })
    .await;
    assert_eq!(tree(&telemetry.spans()), ["GET", "  given up"]);
}

#[tokio::test]
async fn a_span_that_does_not_start_ends_no_other_span() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        {
            let _suppressed = opentelemetry::Context::enter_telemetry_suppressed_scope();
            with_tracer("test", "suppressed", || {});
        }
        add_span_attributes(attributes! { "still" => "open" });
    })
    .await;
    let span = telemetry.only_span().await;
    let found = span_attributes(&span);
    assert_eq!(found["still"], "open");
    assert_eq!(found["http.response.status_code"], "200");
}

#[tokio::test]
async fn a_panic_in_a_span_is_an_error_of_that_span() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let result = std::panic::catch_unwind(|| {
            with_tracer("test", "falls", || panic!("on purpose"));
        });
        assert!(result.is_err());
    })
    .await;
    let spans = telemetry.spans();
    assert_eq!(spans[0].name, "falls");
    assert_eq!(spans[0].status, Status::error(""));
    assert_eq!(span_attributes(&spans[0]), map([("error.type", "panic")]));
    assert_eq!(spans[1].status, Status::Unset);
}

#[tokio::test]
async fn a_span_dropped_by_the_panic_of_another_span_is_cancelled() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let unaffected = async_with_tracer("test", "innocent", std::future::pending::<()>());
        let panics = async_with_tracer("test", "panics", async {
            tokio::task::yield_now().await;
            panic!("on purpose")
        });
        let both = async { tokio::join!(unaffected, panics) };
        let result = catch_panic(both).await;
        assert!(result.is_err());
    })
    .await;
    let mut spans = telemetry.spans();
    spans.sort_by_key(|span| span.name.clone());
    let named = |name: &str| spans.iter().find(|span| span.name == name);
    let unaffected = named("innocent").expect("the span has ended");
    assert_eq!(
        span_attributes(unaffected),
        map([("error.type", "cancelled")])
    );
    assert_eq!(unaffected.status, Status::Unset);
    let panics = named("panics").expect("the span has ended");
    assert_eq!(span_attributes(panics), map([("error.type", "panic")]));
    assert_eq!(panics.status, Status::error(""));
}

/// Returns the panic of a future. The future is dropped during the unwinding.
async fn catch_panic<T>(future: impl Future<Output = T>) -> std::thread::Result<T> {
    let mut future = Some(Box::pin(future));
    std::future::poll_fn(move |cx| {
        let poll = std::panic::AssertUnwindSafe(|| {
            // The closure owns the future, so that the panic drops it.
            let mut owned = future
                .take()
                .expect("the future is not polled after it has ended");
            let polled = owned.as_mut().poll(cx);
            (owned, polled)
        });
        match std::panic::catch_unwind(poll) {
            Ok((_, std::task::Poll::Ready(output))) => std::task::Poll::Ready(Ok(output)),
            Ok((owned, std::task::Poll::Pending)) => {
                future = Some(owned);
                std::task::Poll::Pending
            }
            Err(panic) => std::task::Poll::Ready(Err(panic)),
        }
    })
    .await
}

#[tokio::test]
async fn attributes_and_events_are_added_to_the_current_span() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        with_tracer("test", "child", || {
            add_span_attributes(attributes! { "user.id" => "42", "user.name" => "Ada" });
            add_span_event(
                "cache-miss",
                attributes! { "cache.key" => format!("user:{}", 42) },
            );
        });
    })
    .await;
    let spans = telemetry.spans();
    assert_eq!(spans[0].name, "child");
    assert_eq!(
        span_attributes(&spans[0]),
        map([("user.id", "42"), ("user.name", "Ada")])
    );
    assert_eq!(spans[0].events.len(), 1);
    assert_eq!(spans[0].events[0].name, "cache-miss");
    assert_eq!(
        spans[0].events[0].attributes,
        [KeyValue::new("cache.key", "user:42")]
    );
    assert!(spans[1].events.is_empty());
}

#[test]
fn attribute_values_have_the_type_of_their_source() {
    let big = u64::MAX;
    let found = attributes! {
        "bool" => true,
        "u8" => 8_u8,
        "u64" => big,
        "usize" => 64_usize,
        "f32" => 0.5_f32,
        "str" => "text",
        String::from("string") => String::from("owned"),
    };
    let values: Vec<_> = found.into_iter().map(|one| one.value).collect();
    assert_eq!(
        values,
        [
            AnyValue::Bool(true),
            AnyValue::I64(8),
            AnyValue::String("18446744073709551615".into()),
            AnyValue::I64(64),
            AnyValue::F64(0.5),
            AnyValue::String("text".into()),
            AnyValue::String("owned".into()),
        ]
    );
    assert!(attributes! {}.is_empty());
}

#[derive(Debug)]
struct Refused(usize);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused{}", "!".repeat(self.0))
    }
}

impl std::error::Error for Refused {}

#[tokio::test]
async fn an_error_is_recorded_with_its_type_and_a_bounded_message() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        set_span_error(&Refused(1000));
    })
    .await;
    let span = telemetry.only_span().await;
    let message = format!("refused{}…", "!".repeat(246));
    assert_eq!(span.status, Status::error(message.clone()));
    assert_eq!(span.events.len(), 1);
    assert_eq!(span.events[0].name, "exception");
    assert_eq!(
        span.events[0].attributes,
        [
            KeyValue::new("exception.type", std::any::type_name::<Refused>()),
            KeyValue::new("exception.message", message),
        ]
    );
}

#[tokio::test]
async fn metrics_are_recorded_with_name_description_and_attributes() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        for name in ["a", "a", "b"] {
            increment_counter("test.count", "Counted.", attributes! { "name" => name });
        }
        add_to_counter("test.count", "Counted.", 40, attributes! { "name" => "b" });
        record_histogram_value("test.values", "Values.", 1.5, []);
        record_histogram_value("test.values", "Values.", 2.5, []);
        record_histogram_value("test.values", "Values.", f64::NAN, []);
        record_histogram_value("test.values", "Values.", f64::INFINITY, []);
        set_gauge("test.level", "Level.", 3.0, []);
        set_gauge("test.level", "Level.", 4.0, []);
        set_gauge("test.level", "Level.", f64::NEG_INFINITY, []);
    })
    .await;
    let point = |name, value| Point {
        attributes: map([("name", name)]),
        value: Value::Count(value),
    };
    assert_eq!(
        telemetry.points("test.count"),
        [point("a", 2), point("b", 41)]
    );
    assert_eq!(telemetry.point("test.values").value.histogram(), (2, 4.0));
    assert_eq!(telemetry.point("test.level").value, Value::F64(4.0));
}

#[tokio::test]
async fn a_sum_of_huge_values_stays_finite() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        for _ in 0..4 {
            record_histogram_value("test.huge", "Huge.", f64::MAX, []);
        }
    })
    .await;
    let (count, sum) = telemetry.point("test.huge").value.histogram();
    assert_eq!((count, sum), (4, 4e18));
}

/// Returns the warnings that this crate logs on this thread while `f` runs.
fn warnings(f: impl FnOnce()) -> Vec<String> {
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::prelude::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("the lock is not poisoned").write(text)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .with_filter(tracing_subscriber::filter::filter_fn(|metadata| {
            metadata.target().starts_with("tower_telemetry")
        }));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), f);
    let text = lines.0.lock().expect("the lock is not poisoned").clone();
    let text = String::from_utf8(text).expect("the text is UTF-8");
    text.lines().map(str::to_owned).collect()
}

pub(crate) fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("the runtime can be built").block_on(future);
}

#[test]
fn a_misused_metric_name_is_warned_about_once_and_records_nothing() {
    let telemetry = TestTelemetry::new();
    let warnings = warnings(|| {
        block_on(in_request(&telemetry, async {
            increment_counter("test.kind", "Counted.", []);
            for _ in 0..3 {
                set_gauge("test.kind", "Level.", 1.0, []);
                increment_counter("not a name\n", "Counted.", []);
                increment_counter("", "Counted.", []);
            }
        }));
    });
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    assert!(
        warnings[0].contains("it is already a counter"),
        "{warnings:#?}"
    );
    assert!(warnings[1].contains("\"not a name\\\\n\""), "{warnings:#?}");
    assert_eq!(telemetry.point("test.kind").value, Value::Count(1));
    let names: Vec<_> = telemetry.metrics().into_keys().collect();
    assert!(
        names
            .iter()
            .all(|name| name.starts_with("http.") || name == "test.kind"),
        "{names:?}"
    );
}

#[test]
fn metric_names_beyond_the_first_256_are_dropped_with_one_warning() {
    let telemetry = TestTelemetry::new();
    let warnings = warnings(|| {
        block_on(in_request(&telemetry, async {
            for n in 0..10_000 {
                increment_counter(&format!("test.name{n}"), "Counted.", []);
            }
            increment_counter("test.name7", "Counted.", []);
        }));
    });
    let metrics = telemetry.metrics();
    let count = metrics
        .keys()
        .filter(|name| name.starts_with("test."))
        .count();
    assert_eq!(count, 256);
    assert_eq!(metrics["test.name7"].points[0].value, Value::Count(2));
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].contains("there are 256 metrics already"));
}

#[test]
fn concurrent_threads_lose_no_measurement() {
    const THREADS: u64 = 16;
    const EACH: u64 = 10_000;
    let telemetry = TestTelemetry::new();
    block_on(in_request(&telemetry, async {
        let cx = opentelemetry::Context::current();
        let recorded = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Metrics are collected all the time.
            let (telemetry, is_done) = (&telemetry, &recorded);
            scope.spawn(move || {
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    telemetry.metrics();
                }
            });
            let mut threads = Vec::new();
            for thread in 0..THREADS {
                let cx = cx.clone();
                threads.push(scope.spawn(move || {
                    let _attached = cx.attach();
                    let bound = bind_counter("test.bound", "Counted.", []);
                    for n in 0..EACH {
                        bound.add(1);
                        increment_counter("test.total", "Counted.", []);
                        increment_counter(&format!("test.{}", (n + thread) % 8), "Counted.", []);
                    }
                }));
            }
            for thread in threads {
                thread.join().expect("the thread does not panic");
            }
            recorded.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }));
    assert_eq!(
        telemetry.point("test.bound").value,
        Value::Count(THREADS * EACH)
    );
    assert_eq!(
        telemetry.point("test.total").value,
        Value::Count(THREADS * EACH)
    );
    let metrics = telemetry.metrics();
    let sum: u64 = (0..8)
        .map(|n| match metrics[&format!("test.{n}")].points[0].value {
            Value::Count(count) => count,
            _ => panic!("test.n is a counter"),
        })
        .sum();
    assert_eq!(sum, THREADS * EACH);
}

#[test]
fn without_telemetry_the_functions_do_nothing() {
    assert_eq!(get_trace_id(), None);
    assert_eq!(get_span_id(), None);
    add_span_attributes(attributes! { "a" => 1 });
    add_span_event("event", []);
    set_span_error(&Refused(0));
    increment_counter("test.unseen", "Counted.", []);
    set_gauge("test.unseen", "Level.", 1.0, []);
    let _span = start_as_current_span(&get_tracer("test"), "unseen");
    assert_eq!(get_trace_id(), None);
    assert_eq!(with_tracer("test", "unseen", || 7), 7);
}

#[derive(Debug)]
struct Outer(Refused);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("outer")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[tokio::test]
async fn the_sources_of_an_error_are_recorded_only_on_request() {
    for (with_sources, message) in [
        (false, "outer".to_owned()),
        (true, "outer: refused!".to_owned()),
    ] {
        let telemetry = TestTelemetry::new();
        in_request(&telemetry, async {
            let error = Outer(Refused(1));
            if with_sources {
                set_span_error_with_sources(&error);
            } else {
                set_span_error(&error);
            }
        })
        .await;
        let span = telemetry.only_span().await;
        assert_eq!(span.status, Status::error(message));
    }
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        set_span_error_with_sources(&Outer(Refused(1000)));
    })
    .await;
    let span = telemetry.only_span().await;
    let message = format!("outer: refused{}…", "!".repeat(239));
    assert_eq!(span.status, Status::error(message));
}

#[tokio::test]
async fn any_displayable_value_can_be_an_error() {
    let boxed: Box<dyn std::error::Error> = "boxed".into();
    for (set, message) in [
        (&(|| set_span_error("text")) as &dyn Fn(), "text"),
        (&|| set_span_error(&boxed), "boxed"),
        (&|| set_span_error(&*boxed), "boxed"),
        (&|| set_span_error(&format_args!("{}", 1)), "1"),
    ] {
        let telemetry = TestTelemetry::new();
        in_request(&telemetry, async { set() }).await;
        let span = telemetry.only_span().await;
        assert_eq!(span.status, Status::error(message));
    }
}

#[tokio::test]
async fn a_failing_closure_or_future_is_an_error_of_its_span() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        for fails in [false, true] {
            let result = || if fails { Err(Refused(1)) } else { Ok(7) };
            let found = try_with_tracer("test", "sync", result);
            assert_eq!(found.is_err(), fails);
            let found = async_try_with_tracer("test", "async", async {
                tokio::task::yield_now().await;
                result()
            });
            assert_eq!(found.await.is_err(), fails);
            assert_eq!(with_tracer("test", "unseen", result).is_err(), fails);
        }
    })
    .await;
    let spans = telemetry.spans();
    for (span, fails) in spans
        .iter()
        .zip([false, false, false, true, true, false, false])
    {
        let (status, found) = if fails {
            let refused = std::any::type_name::<Refused>();
            (Status::error("refused!"), map([("error.type", refused)]))
        } else {
            (Status::Unset, Attributes::new())
        };
        assert_eq!(span.status, status, "{}", span.name);
        if span.name != "GET" {
            assert_eq!(span_attributes(span), found, "{}", span.name);
        }
    }
    assert_eq!(spans.len(), 7);
}

#[test]
fn lists_and_references_can_be_attribute_values() {
    let texts = vec![String::from("a"), String::from("b")];
    let found = attributes! {
        "texts" => &texts,
        "numbers" => [1_u8, 2],
        "floats" => vec![0.5, 1.0],
        "flags" => &[true, false][..],
        "mixed" => [1_u64, u64::MAX],
        "empty" => Vec::<bool>::new(),
        "char" => 'x',
        "large" => u128::MAX,
        "reference" => &&7_i32,
    };
    let values: Vec<_> = found.into_iter().map(|one| one.value).collect();
    let strings = |texts: &[&'static str]| {
        let texts = texts.iter().map(|text| (*text).into());
        AnyValue::Array(opentelemetry::Array::String(texts.collect()))
    };
    assert_eq!(
        values,
        [
            strings(&["a", "b"]),
            AnyValue::Array(vec![1_i64, 2].into()),
            AnyValue::Array(vec![0.5, 1.0].into()),
            AnyValue::Array(vec![true, false].into()),
            strings(&["1", "18446744073709551615"]),
            strings(&[]),
            AnyValue::String("x".into()),
            AnyValue::String(u128::MAX.to_string().into()),
            AnyValue::I64(7),
        ]
    );
}

#[tokio::test]
async fn a_timer_records_seconds_on_drop_unless_it_is_discarded() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let mut timer = start_timer("test.time", "Time.", attributes! { "a" => 1 });
        timer.add_attribute(KeyValue::new("b", 2));
        tokio::task::yield_now().await;
        drop(timer);
        start_timer("test.time", "Time.", []).discard();
        let result = std::panic::catch_unwind(|| {
            let _timer = start_timer("test.time", "Time.", []);
            panic!("on purpose");
        });
        assert!(result.is_err());
    })
    .await;
    let metric = telemetry
        .metrics()
        .remove("test.time")
        .expect("the timer was recorded");
    assert_eq!(metric.unit, "s");
    assert_eq!(metric.points.len(), 2);
    for point in metric.points {
        assert!([map([]), map([("a", "1"), ("b", "2")])].contains(&point.attributes));
        let Value::Histogram { count, sum, bounds } = point.value else {
            panic!("a timer is a histogram");
        };
        assert_eq!(count, 1);
        assert!(sum > 0.0 && sum < 20.0);
        assert_eq!(bounds[0], 0.005);
    }
}

#[tokio::test]
async fn handles_record_to_the_same_instruments_as_the_functions() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let unused = bind_counter("test.unused", "Counted.", []);
        let counter = bind_counter("test.count", "Counted.", attributes! { "a" => 1 });
        let histogram = bind_histogram("test.values", "Values.", []);
        let gauge = bind_gauge("test.level", "Level.", []);
        let wrong = bind_gauge("test.count", "Level.", []);
        increment_counter("test.count", "Counted.", attributes! { "a" => 1 });
        for _ in 0..3 {
            counter.add(2);
            histogram.record(1.5);
            histogram.record(f64::NAN);
            gauge.set(4.0);
            gauge.set(f64::INFINITY);
            wrong.set(1.0);
        }
        drop(unused);
    })
    .await;
    assert_eq!(telemetry.point("test.count").value, Value::Count(7));
    assert_eq!(telemetry.point("test.values").value.histogram(), (3, 4.5));
    assert_eq!(telemetry.point("test.level").value, Value::F64(4.0));
    assert!(!telemetry.metrics().contains_key("test.unused"));
}

#[tokio::test]
async fn an_iterator_of_attributes_may_use_the_span_itself() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        add_span_attributes(["a", "b"].map(|key| {
            add_span_event("seen", []);
            KeyValue::new(key, 1)
        }));
        add_span_attributes(["c"].into_iter().map(|key| {
            add_span_event("seen", []);
            KeyValue::new(key, 1)
        }));
    })
    .await;
    let span = telemetry.only_span().await;
    assert_eq!(span.events.len(), 3);
    assert_eq!(span_attributes(&span)["c"], "1");
}

#[test]
fn a_timer_does_not_record_to_a_histogram_of_another_unit() {
    let telemetry = TestTelemetry::new();
    let warnings = warnings(|| {
        block_on(in_request(&telemetry, async {
            record_histogram_value("test.mixed", "Values.", 1.0, []);
            drop(start_timer("test.mixed", "Time.", []));
        }));
    });
    assert_eq!(telemetry.point("test.mixed").value.histogram(), (1, 1.0));
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
}

#[test]
fn an_attribute_without_a_value_is_left_out() {
    let owned = Some(String::from("owned"));
    let found = attributes! {
        "some" => Some(1),
        "none" => None::<i64>,
        "plain" => "a",
        "text" => owned.as_deref(),
        "borrowed" => &owned,
        "nested" => Some(Some(true)),
        "nested none" => Some(None::<bool>),
        "borrowed none" => &None::<u8>,
        "list" => Some([1, 2]),
        String::from("last") => Some(0.5),
    };
    let expected = [
        ("some", AnyValue::I64(1)),
        ("plain", "a".into()),
        ("text", "owned".into()),
        ("borrowed", "owned".into()),
        ("nested", true.into()),
        ("list", AnyValue::Array(vec![1_i64, 2].into())),
        ("last", 0.5.into()),
    ]
    .map(|(key, value)| KeyValue::new(key, value));
    assert_eq!(found, expected);
    assert_eq!(found.len(), 7);
    assert_eq!(found[1], expected[1]);
    assert_eq!(format!("{found:?}"), format!("{:?}", &found[..]));
    assert_eq!(found.as_ref(), expected);
    assert!(found.iter().eq(&expected));
    assert!((&found).into_iter().eq(&expected));
    assert!(found.clone().into_iter().eq(expected.clone()));
    assert_eq!(Vec::<KeyValue>::from(found), expected);

    let none = attributes! { "a" => None::<i64>, "b" => None::<&str> };
    assert!(none.is_empty());
    assert_eq!(none.into_iter().count(), 0);
    assert_eq!(attributes! {}.into_iter().count(), 0);
}

#[tokio::test]
async fn every_function_with_attributes_leaves_out_those_without_a_value() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let some = || attributes! { "a" => None::<i64>, "b" => Some("x"), "c" => None::<bool> };
        add_span_attributes(some());
        add_span_event("event", some());
        increment_counter("test.count", "Counted.", some());
        record_histogram_value("test.values", "Values.", 1.5, some());
        let borrowed = &some();
        set_gauge("test.level", "Level.", 3.0, borrowed);
        add_to_up_down_counter("test.open", "Open.", 1, some());
        drop(start_timer("test.time", "Time.", some()));
        bind_counter("test.bound", "Counted.", some()).add(1);
        bind_up_down_counter("test.bound.open", "Open.", some()).add(1);
    })
    .await;
    let span = telemetry.only_span().await;
    let found = span_attributes(&span);
    assert_eq!(found["b"], "x");
    assert!(!found.contains_key("a") && !found.contains_key("c"));
    assert_eq!(span.events[0].attributes, [KeyValue::new("b", "x")]);
    let metrics = telemetry.metrics();
    let ours: Vec<_> = metrics
        .values()
        .filter(|metric| metric.name.starts_with("test."))
        .collect();
    assert_eq!(ours.len(), 7);
    for metric in ours {
        assert_eq!(metric.points.len(), 1, "{}", metric.name);
        assert_eq!(metric.points[0].attributes, map([("b", "x")]));
    }
}

#[tokio::test]
async fn an_up_down_counter_is_the_sum_of_its_increments_and_decrements() {
    let telemetry = TestTelemetry::new();
    in_request(&telemetry, async {
        let bound = bind_up_down_counter("test.open", "Open.", attributes! { "kind" => "a" });
        let unused = bind_up_down_counter("test.unused", "Open.", []);
        for (kind, delta) in [("a", 3), ("a", -1), ("b", -7), ("b", 7), ("c", -4)] {
            let attributes = attributes! { "kind" => kind };
            add_to_up_down_counter("test.open", "Open.", delta, attributes);
        }
        bound.add(10);
        bound.add(-2);
        drop(unused);
    })
    .await;
    let point = |kind, value| Point {
        attributes: map([("kind", kind)]),
        value: Value::Sum(value),
    };
    assert_eq!(
        telemetry.points("test.open"),
        [point("a", 10), point("b", 0), point("c", -4)]
    );
    assert!(!telemetry.metrics().contains_key("test.unused"));
}

#[test]
fn names_that_differ_in_case_are_one_instrument_with_the_first_spelling() {
    for spellings in [
        [
            "cache.Misses",
            "cache.misses",
            "CACHE.MISSES",
            "Cache.Misses",
        ],
        [
            "cache.misses",
            "cache.Misses",
            "cache.misses",
            "CACHE.misses",
        ],
        [
            "CACHE.MISSES",
            "CACHE.MISSES",
            "cache.misses",
            "cache.Misses",
        ],
    ] {
        let telemetry = TestTelemetry::new();
        let warnings = warnings(|| {
            block_on(in_request(&telemetry, async {
                for _ in 0..2 {
                    for name in spellings {
                        increment_counter(name, "Misses.", []);
                        bind_counter(name, "Misses.", []).add(1);
                    }
                }
            }));
        });
        assert_eq!(warnings, [""; 0]);
        let mut metrics = telemetry.metrics_of_all_scopes();
        metrics.retain(|metric| !metric.name.starts_with("http."));
        let names: Vec<_> = metrics.iter().map(|metric| &*metric.name).collect();
        assert_eq!(names, [spellings[0]]);
        assert_eq!(metrics[0].points.len(), 1);
        assert_eq!(metrics[0].points[0].value, Value::Count(16));
    }
}

#[test]
fn a_name_in_another_case_cannot_have_another_kind_and_uses_no_extra_slot() {
    let telemetry = TestTelemetry::new();
    let warnings = warnings(|| {
        block_on(in_request(&telemetry, async {
            increment_counter("test.kind", "Counted.", []);
            set_gauge("Test.Kind", "Level.", 1.0, []);
            set_gauge("Test.Kind", "Level.", 1.0, []);
            // These 1024 spellings would fill the table of names if each used a slot.
            for n in 0..1024_u32 {
                let name: String = "test.letters"
                    .chars()
                    .enumerate()
                    .map(|(at, one)| match n >> at & 1 {
                        1 => one.to_ascii_uppercase(),
                        _ => one,
                    })
                    .collect();
                increment_counter(&name, "Counted.", []);
            }
            increment_counter("test.more", "Counted.", []);
        }));
    });
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(
        warnings[0].contains("it is already a counter"),
        "{warnings:#?}"
    );
    assert_eq!(telemetry.point("test.kind").value, Value::Count(1));
    assert_eq!(telemetry.point("test.letters").value, Value::Count(1024));
    assert_eq!(telemetry.point("test.more").value, Value::Count(1));
}

#[test]
fn a_handler_metric_with_the_name_of_a_layer_metric_is_separate() {
    let telemetry = TestTelemetry::new();
    let names = ["http.requests", "http.server.request.duration"];
    let warnings = warnings(|| {
        block_on(in_request(&telemetry, async {
            for _ in 0..3 {
                increment_counter(
                    names[0],
                    "Requests.",
                    attributes! { "endpoint" => "/users" },
                );
            }
            record_histogram_value(names[1], "Durations.", 1.5, []);
        }));
    });
    assert_eq!(warnings, [""; 0]);
    for name in names {
        let mut metrics = telemetry.metrics_of_all_scopes();
        metrics.retain(|metric| metric.name == name);
        metrics.sort_by_key(|metric| metric.scope.name().to_owned());
        let scopes: Vec<_> = metrics.iter().map(|metric| metric.scope.name()).collect();
        assert_eq!(scopes, ["tower-telemetry", "tower-telemetry.handlers"]);
        let [layers, handlers] = &metrics[..] else {
            unreachable!("there are two metrics");
        };
        assert_eq!((layers.points.len(), handlers.points.len()), (1, 1));
        if name == names[0] {
            assert_eq!(layers.points[0].value, Value::Count(1));
            assert_eq!(handlers.points[0].value, Value::Count(3));
            assert_eq!(handlers.points[0].attributes, map([("endpoint", "/users")]));
        } else {
            assert_eq!(handlers.points[0].value.histogram(), (1, 1.5));
        }
    }
}
