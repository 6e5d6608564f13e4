//! Applies `#[with_tracer]` to functions of every kind.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::trace::SpanData;
use tower_telemetry::{add_span_attributes, attributes, get_span_id, with_tracer};

use crate::functions::{block_on, in_request};
use crate::support::{
    Attributes, Point, TestTelemetry, Value, attributes as map, span_attributes, tree,
};

/// Runs a handler in a request and returns its spans. The span of the request is the last one.
fn spans(handler: impl Future<Output = ()>) -> Vec<SpanData> {
    let telemetry = TestTelemetry::new();
    block_on(in_request(&telemetry, handler));
    telemetry.spans()
}

/// Returns the only span below the span of the request.
fn only(handler: impl Future<Output = ()>) -> SpanData {
    let mut spans = spans(handler);
    assert_eq!(spans.len(), 2, "{:?}", tree(&spans));
    spans.remove(0)
}

#[derive(Debug)]
struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refused {}

/// An error without `Display`.
struct Silent;

#[with_tracer("test")]
fn plain() {}

#[with_tracer("test")]
fn parse(text: &str) -> Result<u32, std::num::ParseIntError> {
    if text.is_empty() {
        return Ok(0);
    }
    let number = text.parse::<u32>()?;
    Ok(number)
}

#[with_tracer("test")]
fn countdown(n: u32) -> u32 {
    if n == 0 { 0 } else { 1 + countdown(n - 1) }
}

#[with_tracer("test")]
async fn async_countdown(n: u32) -> u32 {
    if n == 0 {
        return 0;
    }
    1 + Box::pin(async_countdown(n - 1)).await
}

#[with_tracer("test")]
async fn load(id: u32) -> Result<u32, Refused> {
    tokio::task::yield_now().await;
    if id == 0 { Err(Refused) } else { Ok(id) }
}

#[test]
fn a_function_runs_in_a_span_with_its_name() {
    let span = only(async { plain() });
    assert_eq!(span.name, "plain");
    assert_eq!(span.span_kind, SpanKind::Internal);
    assert_eq!(span.instrumentation_scope.name(), "test");
    assert_eq!(span.status, Status::Unset);
    assert_eq!(span_attributes(&span), Attributes::new());
}

#[test]
fn recursive_calls_form_a_tree() {
    let expected = ["GET", "  countdown", "    countdown", "      countdown"];
    assert_eq!(
        tree(&spans(async { assert_eq!(countdown(2), 2) })),
        expected
    );
    let expected = expected.map(|line| line.replace("countdown", "async_countdown"));
    let spans = spans(async { assert_eq!(async_countdown(2).await, 2) });
    assert_eq!(tree(&spans), expected);
}

#[test]
fn a_returned_error_is_an_error_of_the_span() {
    let span = only(async { assert_eq!(parse("7"), Ok(7)) });
    assert_eq!(span.status, Status::Unset);
    assert_eq!(span_attributes(&span), Attributes::new());

    let span = only(async { assert!(parse("seven").is_err()) });
    assert_eq!(span.status, Status::error("invalid digit found in string"));
    assert_eq!(
        span_attributes(&span),
        map([("error.type", "std::num::ParseIntError")])
    );

    let span = only(async { assert!(load(0).await.is_err()) });
    assert_eq!(span.status, Status::error("refused"));
    let refused = std::any::type_name::<Refused>();
    assert_eq!(span_attributes(&span), map([("error.type", refused)]));
    assert!(span.events.is_empty());
    assert_eq!(
        only(async { assert!(load(1).await.is_ok()) }).status,
        Status::Unset
    );
}

#[with_tracer("test")]
fn silent() -> Result<(), Silent> {
    Err(Silent)
}

#[with_tracer("test")]
fn any_error<E>(error: E) -> Result<(), E> {
    Err(error)
}

#[with_tracer("test")]
async fn async_silent(fails: bool) -> Result<(), Silent> {
    check(fails)?;
    Ok(())
}

fn check(fails: bool) -> Result<(), Silent> {
    if fails { Err(Silent) } else { Ok(()) }
}

#[with_tracer("test")]
async fn async_any_error<E>(error: E) -> Result<(), E> {
    Err(error)
}

#[with_tracer("test")]
fn silent_iterator() -> Result<impl Iterator<Item = u32>, Silent> {
    check(true)?;
    Ok([1].into_iter())
}

#[with_tracer("test")]
fn boxed_silent() -> Pin<Box<dyn Future<Output = Result<(), Silent>> + Send>> {
    Box::pin(async move {
        check(true)?;
        Ok(())
    })
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[with_tracer("test")]
fn aliased(text: &str) -> BoxFuture<'_, Result<u32, std::num::ParseIntError>> {
    Box::pin(async move { text.parse() })
}

#[with_tracer("test", err = false)]
fn expected() -> Result<(), Refused> {
    Err(Refused)
}

type Outcome = Result<(), Refused>;

#[with_tracer("test", err)]
fn renamed() -> Outcome {
    Err(Refused)
}

#[with_tracer("test")]
fn boxed() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Err("as text".into())
}

#[with_tracer("test")]
fn verbose() -> Result<(), String> {
    Err("x".repeat(1000))
}

#[test]
fn errors_of_every_kind_are_recorded_unless_disabled() {
    let span = only(async { drop(silent()) });
    assert_eq!(span.status, Status::error(""));
    let silent = std::any::type_name::<Silent>();
    assert_eq!(span_attributes(&span), map([("error.type", silent)]));
    let span = only(async { drop(any_error(Silent)) });
    assert_eq!(span_attributes(&span), map([("error.type", silent)]));
    for span in [
        only(async { drop(async_silent(true).await) }),
        only(async { drop(async_any_error(Silent).await) }),
        only(async { drop(silent_iterator()) }),
        only(async { drop(boxed_silent().await) }),
    ] {
        assert_eq!(span.status, Status::error(""));
        assert_eq!(span_attributes(&span), map([("error.type", silent)]));
    }
    let span = only(async { assert!(async_silent(false).await.is_ok()) });
    assert_eq!(span.status, Status::Unset);
    let span = only(async { drop(aliased("x").await) });
    assert_eq!(span.status, Status::error("invalid digit found in string"));
    assert_eq!(only(async { drop(expected()) }).status, Status::Unset);
    assert_eq!(
        only(async { drop(renamed()) }).status,
        Status::error("refused")
    );
    assert_eq!(
        only(async { drop(boxed()) }).status,
        Status::error("as text")
    );
    let message = format!("{}…", "x".repeat(253));
    assert_eq!(
        only(async { drop(verbose()) }).status,
        Status::error(message)
    );
}

#[with_tracer("test", name = "renamed", kind = client, record(
    id,
    name,
    list,
    order.total = id as f64 / 2.0,
    "odd key" = name.len(),
))]
fn described(id: u64, name: String, list: &[&str], _secret: &str) -> String {
    format!("{name}{id}{}", list.len())
}

#[with_tracer("test", record(id))]
async fn described_async(id: u64, _secret: String) {
    tokio::task::yield_now().await;
}

#[test]
fn only_listed_arguments_are_recorded() {
    let span = only(async {
        described(7, "Ada".to_owned(), &["a", "b"], "canary");
    });
    assert_eq!(span.name, "renamed");
    assert_eq!(span.span_kind, SpanKind::Client);
    assert_eq!(
        span_attributes(&span),
        map([
            ("id", "7"),
            ("name", "Ada"),
            ("list", "[\"a\",\"b\"]"),
            ("order.total", "3.5"),
            ("odd key", "3"),
        ])
    );
    let span = only(described_async(7, "canary".to_owned()));
    assert_eq!(span_attributes(&span), map([("id", "7")]));
}

#[test]
fn a_dropped_future_is_cancelled_and_not_an_error() {
    let span = only(async {
        let mut future = Box::pin(load(1));
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    });
    assert_eq!(span.name, "load");
    assert_eq!(span.status, Status::Unset);
    assert_eq!(span_attributes(&span), map([("error.type", "cancelled")]));

    // A future that was never polled has not started.
    let telemetry = TestTelemetry::new();
    block_on(in_request(&telemetry, async { drop(load(1)) }));
    assert_eq!(tree(&telemetry.spans()), ["GET"]);
}

#[with_tracer("test")]
fn panics() -> Result<(), Refused> {
    panic!("on purpose")
}

#[with_tracer("test")]
async fn panics_async() {
    panic!("on purpose")
}

#[test]
fn a_panic_is_an_error() {
    for panicking in [(|| drop(panics())) as fn(), || {
        let mut future = Box::pin(panics_async());
        let _ = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
    }] {
        let span = only(async { assert!(std::panic::catch_unwind(panicking).is_err()) });
        assert_eq!(span.status, Status::error(""));
        assert_eq!(span_attributes(&span), map([("error.type", "panic")]));
    }
}

/// Runs a function during the unwinding of a panic. The function succeeds.
struct SpanOnDrop;

impl Drop for SpanOnDrop {
    fn drop(&mut self) {
        clean_up();
    }
}

#[with_tracer("test")]
fn clean_up() {}

#[test]
fn a_function_called_during_unwinding_has_not_failed_and_a_panicked_future_has() {
    let all = spans(async {
        let result = std::panic::catch_unwind(|| {
            let _span_on_drop = SpanOnDrop;
            panic!("on purpose");
        });
        assert!(result.is_err());
        // The future still exists after its panic was caught.
        let mut future = Box::pin(panics_async());
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
        }));
        assert!(result.is_err());
        drop(future);
    });
    assert_eq!(tree(&all), ["GET", "  clean_up", "  panics_async"]);
    assert_eq!(all[0].status, Status::Unset);
    assert_eq!(span_attributes(&all[0]), Attributes::new());
    assert_eq!(all[1].status, Status::error(""));
    assert_eq!(span_attributes(&all[1]), map([("error.type", "panic")]));
}

struct User {
    name: String,
}

#[with_tracer("test", record(name = user.name, list = list))]
fn places(user: &User, list: Vec<u32>) -> usize {
    #![allow(
        clippy::needless_pass_by_value,
        reason = "the argument must not be moved"
    )]
    user.name.len() + list.len()
}

#[test]
fn a_field_or_argument_is_recorded_without_being_moved() {
    let span = only(async {
        let name = "Ada".to_owned();
        assert_eq!(places(&User { name }, vec![1, 2]), 5);
    });
    assert_eq!(
        span_attributes(&span),
        map([("name", "Ada"), ("list", "[1,2]")])
    );
}

struct Shelf(Vec<String>);

impl Shelf {
    #[with_tracer("test")]
    fn first(&mut self) -> Result<&mut String, Refused> {
        self.0.first_mut().ok_or(Refused)
    }

    #[with_tracer("test")]
    fn longest<'a>(&'a self, other: &'a str) -> &'a str {
        self.0
            .iter()
            .map(String::as_str)
            .fold(other, |a, b| if a.len() < b.len() { b } else { a })
    }

    #[with_tracer("test")]
    fn take(mut self, n: usize) -> impl Iterator<Item = String> {
        self.0.truncate(n);
        self.0.into_iter()
    }

    #[with_tracer("test")]
    fn try_take(self) -> Result<impl Iterator<Item = String>, Refused> {
        if self.0.is_empty() {
            return Err(Refused);
        }
        Ok(self.0.into_iter())
    }

    #[with_tracer("test")]
    async fn add<T>(&mut self, (first, mut rest): (T, Vec<T>)) -> &mut Self
    where
        T: Into<String>,
    {
        rest.insert(0, first);
        tokio::task::yield_now().await;
        self.0.extend(rest.into_iter().map(Into::into));
        self
    }
}

trait Animal {
    fn name(&self) -> Result<String, Refused>;

    #[with_tracer("test")]
    fn greet(&self) -> String {
        "hello".to_owned()
    }

    fn run(&self) -> impl Future<Output = u32> + Send;
}

struct Cat;

impl Animal for Cat {
    #[with_tracer("test")]
    fn name(&self) -> Result<String, Refused> {
        Err(Refused)
    }

    #[with_tracer("test")]
    async fn run(&self) -> u32 {
        tokio::task::yield_now().await;
        4
    }
}

#[async_trait::async_trait]
trait Store {
    async fn get(&self, key: &str) -> Result<u32, Refused>;

    #[with_tracer("test")]
    async fn twice(&self, key: &str) -> Result<u32, Refused> {
        Ok(2 * self.get(key).await?)
    }
}

#[async_trait::async_trait]
impl Store for Shelf {
    #[with_tracer("test", record(key))]
    async fn get(&self, key: &str) -> Result<u32, Refused> {
        tokio::task::yield_now().await;
        let index = self.0.iter().position(|one| one == key);
        u32::try_from(index.ok_or(Refused)?).map_err(|_| Refused)
    }
}

#[with_tracer("test")]
fn returns_boxed(n: u32) -> Pin<Box<dyn Future<Output = Result<u32, Refused>> + Send>> {
    let n = n + 1;
    Box::pin(async move {
        tokio::task::yield_now().await;
        Err::<u32, _>(Refused)?;
        Ok(n)
    })
}

#[with_tracer("test")]
fn returns_impl(n: u32) -> impl Future<Output = u32> + Send {
    async move {
        tokio::task::yield_now().await;
        n
    }
}

#[test]
fn methods_traits_and_generic_functions_keep_their_signatures() {
    let shelf = || Shelf(vec!["a".to_owned(), "bcd".to_owned()]);
    let all = spans(async {
        let mut mine = shelf();
        mine.first().expect("the shelf has a book").push('x');
        assert_eq!(mine.longest("zz"), "bcd");
        assert_eq!(mine.add(("e", vec!["f"])).await.0.len(), 4);
        assert_eq!(mine.take(1).collect::<Vec<_>>(), ["ax"]);
        assert_eq!(shelf().try_take().map_or(0, Iterator::count), 2);
        assert!(Cat.name().is_err());
        assert_eq!(Cat.greet(), "hello");
        assert_eq!(Cat.run().await, 4);
    });
    let names: Vec<_> = all.iter().map(|span| &*span.name).collect();
    let expected = [
        "first", "longest", "add", "take", "try_take", "name", "greet", "run", "GET",
    ];
    assert_eq!(names, expected);
    assert_eq!(all[5].status, Status::error("refused"));

    let all = spans(async {
        assert_eq!(shelf().twice("bcd").await.ok(), Some(2));
    });
    assert_eq!(tree(&all), ["GET", "  twice", "    get"]);
    assert_eq!(span_attributes(&all[0]), map([("key", "bcd")]));
    let all = spans(async { assert!(shelf().twice("none").await.is_err()) });
    assert_eq!(all[0].status, Status::error("refused"));
    assert_eq!(all[1].status, Status::error("refused"));

    let span = only(async { assert!(returns_boxed(1).await.is_err()) });
    assert_eq!(span.status, Status::error("refused"));
    assert_eq!(
        only(async { assert_eq!(returns_impl(1).await, 1) }).name,
        "returns_impl"
    );
}

#[test]
fn the_span_is_current_only_while_the_function_runs() {
    #[with_tracer("test")]
    async fn inner() {
        add_span_attributes(attributes! { "before" => true });
        tokio::task::yield_now().await;
        add_span_attributes(attributes! { "after" => true });
    }
    let span = only(async {
        let outside = get_span_id();
        let mut future = Box::pin(inner());
        let mut polls = 0;
        std::future::poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            assert_eq!(get_span_id(), outside);
            polls += 1;
            polled
        })
        .await;
        assert_eq!(polls, 2);
    });
    assert_eq!(
        span_attributes(&span),
        map([("before", "true"), ("after", "true")])
    );
}

#[test]
fn a_future_is_send_exactly_when_its_body_is() {
    fn is_send<T: Send>(_: &T) {}

    #[with_tracer("test", record(cell = cell.get()))]
    async fn from_cell(cell: &std::cell::Cell<u32>) -> u32 {
        let value = cell.get();
        value + 1
    }

    is_send(&load(1));
    is_send(&Cat.run());
    is_send(&Shelf(Vec::new()).get("key"));
    // Values that are not `Send` can be used. `tests/ui` shows that the future is then not `Send` either.
    let cell = std::cell::Cell::new(6);
    block_on(async { assert_eq!(from_cell(&cell).await, 7) });
}

#[with_tracer("test", metrics)]
fn measured(fails: bool) -> Result<(), Refused> {
    if fails { Err(Refused) } else { Ok(()) }
}

#[with_tracer("test", metrics)]
async fn measured_async() {
    std::future::pending::<()>().await;
}

impl Cat {
    #[with_tracer("test", metrics)]
    fn measured(&self) {}
}

#[test]
fn metrics_distinguish_methods_of_different_types() {
    let telemetry = TestTelemetry::new();
    block_on(in_request(&telemetry, async { Cat.measured() }));
    let name = format!("{}::Cat::measured", module_path!());
    assert_eq!(
        telemetry.point("function.duration").attributes,
        map([("code.function.name", &*name)])
    );
}

#[test]
fn metrics_record_the_duration_of_a_function_and_its_outcome() {
    let telemetry = TestTelemetry::new();
    block_on(in_request(&telemetry, async {
        for fails in [true, false, false] {
            drop(measured(fails));
        }
        let mut future = Box::pin(measured_async());
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }));
    let metric = telemetry.metrics().remove("function.duration");
    let metric = metric.expect("function.duration is recorded");
    assert_eq!(metric.unit, "s");
    let found = |name: &str, error: &str| {
        let name = format!("{}::{name}", module_path!());
        let mut expected = map([("code.function.name", &*name)]);
        if !error.is_empty() {
            expected.insert("error.type".to_owned(), error.to_owned());
        }
        let mut points = metric.points.iter();
        let point = points.find(|point| point.attributes == expected);
        point.map(|Point { value, .. }: &Point| match value {
            Value::Histogram { count, .. } => *count,
            _ => panic!("function.duration is a histogram"),
        })
    };
    assert_eq!(found("measured", ""), Some(2));
    assert_eq!(found("measured", std::any::type_name::<Refused>()), Some(1));
    assert_eq!(found("measured_async", "cancelled"), Some(1));
    assert_eq!(metric.points.len(), 3);
}

#[test]
fn without_telemetry_a_function_behaves_as_before() {
    assert_eq!(parse("7"), Ok(7));
    assert_eq!(countdown(3), 3);
    block_on(async { assert_eq!(async_countdown(3).await, 3) });
}

/// A type without a conversion to an attribute value. It counts how often it is formatted.
struct Id(&'static std::sync::atomic::AtomicU32, &'static str);

impl Id {
    fn format(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match self.1 {
            "panics" => panic!("on purpose"),
            "fails" => Err(std::fmt::Error),
            text => f.write_str(text),
        }
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.format(f)
    }
}

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.format(f)
    }
}

#[derive(Debug)]
#[allow(dead_code, reason = "its fields are only formatted")]
struct Filter {
    min: u32,
    tags: Vec<&'static str>,
}

#[with_tracer("test", record(
    %id,
    ?filter,
    user.id = %id,
    user.filter = ?filter,
    "odd key" = %format_args!("{}-{}", filter.min, 1),
    plan,
    missing,
    borrowed,
    some.sum = Some(filter.min + 1),
    none.at.all = None::<bool>,
    %unsized_text,
    error = ?Err::<(), _>(1),
))]
fn formatted(
    id: &Id,
    filter: &Filter,
    plan: Option<&str>,
    missing: Option<u64>,
    borrowed: &Option<String>,
    unsized_text: &str,
) -> u32 {
    #![allow(clippy::ref_option, reason = "the macro has to accept it")]
    let _ = (id, plan, missing, borrowed, unsized_text);
    filter.min
}

#[test]
fn displayed_and_debugged_values_are_recorded_and_missing_values_are_left_out() {
    static READS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let filter = Filter {
        min: 1,
        tags: vec!["a"],
    };
    let span = only(async {
        let id = Id(&READS, "67e55044-10b1-426f-9247-bb680e5fe0c8");
        let name = Some("Ada".to_owned());
        formatted(&id, &filter, Some("free"), None, &name, "text");
    });
    let shown = "Filter { min: 1, tags: [\"a\"] }";
    assert_eq!(
        span_attributes(&span),
        map([
            ("id", "67e55044-10b1-426f-9247-bb680e5fe0c8"),
            ("filter", shown),
            ("user.id", "67e55044-10b1-426f-9247-bb680e5fe0c8"),
            ("user.filter", shown),
            ("odd key", "1-1"),
            ("plan", "free"),
            ("borrowed", "Ada"),
            ("some.sum", "2"),
            ("unsized_text", "text"),
            ("error", "Err(1)"),
        ])
    );
}

#[with_tracer("test", record(%id, after = 1))]
fn displayed(id: &Id) {
    let _ = id;
}

#[with_tracer("test", record(?id, after = 1))]
async fn debugged(id: &Id) {
    let _ = id;
}

#[test]
fn recorded_text_is_bounded_and_left_out_if_formatting_panics() {
    static READS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let long: &str = "x".repeat(5000).leak();
    let cut = format!("{}…", "x".repeat(1021));
    for (text, expected) in [
        (long, Some(&*cut)),
        ("short", Some("short")),
        ("", Some("")),
        ("panics", None),
        ("fails", Some("")),
    ] {
        let mut attributes = map([("after", "1")]);
        if let Some(text) = expected {
            attributes.insert("id".to_owned(), text.to_owned());
        }
        let id = &Id(&READS, text);
        assert_eq!(span_attributes(&only(async { displayed(id) })), attributes);
        assert_eq!(span_attributes(&only(debugged(id))), attributes);
    }
}
