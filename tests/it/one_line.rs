//! Applies `#[with_tracer]` to functions on one line, with every warning an error.

#![deny(warnings, clippy::all, clippy::pedantic)]
#![allow(clippy::unused_async, clippy::trivially_copy_pass_by_ref, clippy::must_use_candidate, clippy::needless_pass_by_value, clippy::unnecessary_wraps, clippy::missing_errors_doc, clippy::let_and_return, reason = "these lints are about the functions themselves")]

use std::future::Future;
use std::pin::Pin;

use tower_telemetry::with_tracer;

type Failure = std::num::ParseIntError;

#[with_tracer("test")] fn unit() {}
#[with_tracer("test")] fn add_one(a: i32) -> i32 { a + 1 }
#[with_tracer("test")] fn call(a: i32) -> i32 { add_one(a) }
#[with_tracer("test")] fn statement(a: i32) { add_one(a); }
#[with_tracer("test")] fn block(a: i32) -> i32 { let b = a; b }
#[with_tracer("test")] fn constant() -> &'static str { "a" }
#[with_tracer("test")] fn borrowed(a: &str) -> &str { a }
#[with_tracer("test")] fn generic<T: Clone>(a: &T) -> T { a.clone() }
#[with_tracer("test")] fn iterator(n: u32) -> impl Iterator<Item = u32> { 0..n }
#[with_tracer("test")] fn closure(n: u32) -> impl Fn(u32) -> u32 { move |m| n + m }
#[with_tracer("test")] fn tuple(a: i32) -> (i32, i32) { (a, a) }
#[with_tracer("test")] fn choice(a: bool) -> i32 { if a { 1 } else { 2 } }
#[with_tracer("test")] fn matched(a: Option<i32>) -> i32 { match a { Some(a) => a + 1, None => 0 } }
#[with_tracer("test")] fn macro_call(a: i32) -> String { format!("{a}") }
#[with_tracer("test")] fn never(a: bool) { if a { exits() } }
#[with_tracer("test")] fn exits() -> ! { panic!("on purpose") }
#[with_tracer("test")] fn parse(a: &str) -> Result<i32, Failure> { a.parse() }
#[with_tracer("test")] fn question(a: &str) -> Result<i32, Failure> { Ok(a.parse::<i32>()? + 1) }
#[with_tracer("test", err = false)] fn expected(a: &str) -> Result<i32, Failure> { a.parse() }
#[with_tracer("test", record(a), metrics)] fn recorded(a: i32) -> i32 { a }
#[with_tracer("test")] async fn future(a: i32) -> i32 { a }
#[with_tracer("test")] async fn awaits(a: i32) -> i32 { future(a).await }
#[with_tracer("test")] async fn fails(a: &str) -> Result<i32, Failure> { a.parse() }
#[with_tracer("test")] async fn nothing() {}
#[with_tracer("test")] fn returns_future(a: i32) -> impl Future<Output = i32> { async move { a } }
#[with_tracer("test")] fn returns_box(a: i32) -> Pin<Box<dyn Future<Output = i32>>> { Box::pin(async move { a }) }

struct Point(i32);

impl Point {
    #[with_tracer("test")] fn new(a: i32) -> Self { Self(a) }
    #[with_tracer("test")] fn get(&self) -> i32 { self.0 }
    #[with_tracer("test")] fn set(&mut self, a: i32) { self.0 = a; }
    #[with_tracer("test")] fn take(self) -> i32 { self.0 }
    #[with_tracer("test")] async fn load(&self) -> i32 { self.0 }
}

trait Shape {
    #[with_tracer("test")] fn sides(&self) -> u32 { 4 }
}

impl Shape for Point {}

#[async_trait::async_trait]
trait Store {
    async fn get(&self) -> i32;
}

#[async_trait::async_trait]
impl Store for Point {
    #[with_tracer("test")] async fn get(&self) -> i32 { self.0 }
}

#[test]
fn a_one_line_function_causes_no_warning_and_keeps_its_behaviour() {
    unit();
    statement(1);
    never(false);
    assert!(std::panic::catch_unwind(|| never(true)).is_err());
    assert_eq!(call(add_one(block(1))), 3);
    assert_eq!((constant(), borrowed("b")), ("a", "b"));
    assert_eq!(generic(&7), 7);
    assert_eq!(iterator(3).sum::<u32>(), 3);
    assert_eq!(closure(1)(2), 3);
    assert_eq!(tuple(1), (1, 1));
    assert_eq!((choice(true), matched(None), matched(Some(2))), (1, 0, 3));
    assert_eq!(macro_call(7), "7");
    assert_eq!((parse("1"), question("2"), expected("3")), (Ok(1), Ok(3), Ok(3)));
    assert_eq!(recorded(1), 1);
    let mut point = Point::new(1);
    point.set(2);
    assert_eq!((point.get(), point.sides()), (2, 4));
    crate::support::block_on(async {
        nothing().await;
        assert_eq!((future(1).await, awaits(2).await, fails("3").await), (1, 2, Ok(3)));
        assert_eq!((returns_future(1).await, returns_box(2).await), (1, 2));
        assert_eq!((point.load().await, Store::get(&point).await), (2, 2));
    });
    assert_eq!(point.take(), 2);
}
