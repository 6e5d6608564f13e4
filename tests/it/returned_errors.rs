//! Tests the telemetry of `#[with_tracer]` for the errors that functions return, by return type.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use opentelemetry::trace::Status;
use opentelemetry_sdk::trace::SpanData;
use tower_telemetry::with_tracer;

use crate::functions::{block_on, in_request};
use crate::support::{Attributes, TestTelemetry, span_attributes, tree};

/// Returns the only span below the span of the request.
fn only(handler: impl Future<Output = ()>) -> SpanData {
    let telemetry = TestTelemetry::new();
    block_on(in_request(&telemetry, handler));
    let mut spans = telemetry.spans();
    assert_eq!(spans.len(), 2, "{:?}", tree(&spans));
    spans.remove(0)
}

/// Returns the `error.type` of a span and the description of its status, if it failed.
fn failure(span: &SpanData) -> Option<(String, String)> {
    let mut attributes = span_attributes(span);
    let error_type = attributes.remove("error.type");
    assert_eq!(attributes, Attributes::new());
    match (&span.status, error_type) {
        (Status::Error { description }, Some(error_type)) => {
            Some((error_type, description.to_string()))
        }
        (Status::Unset, None) => None,
        odd => panic!("{odd:?}"),
    }
}

/// An error with an optional source.
#[derive(Debug)]
struct Wrapped(&'static str, Option<Box<dyn Error + Send + Sync>>);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Wrapped {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.1.as_deref().map(|source| source as _)
    }
}

fn wrapped(message: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Wrapped {
    Wrapped(message, Some(source.into()))
}

fn alone(message: &'static str) -> Wrapped {
    Wrapped(message, None)
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, "no one listens")
}

fn parse_error() -> std::num::ParseIntError {
    "many".parse::<u32>().expect_err("the text is not a number")
}

/// An error that borrows.
#[derive(Debug)]
struct Borrows<'a>(&'a str);

impl fmt::Display for Borrows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Borrows<'_> {}

type AppResult<T> = Result<T, Wrapped>;
type UnitResult = Result<(), Wrapped>;
type BorrowedResult<'a, T> = Result<T, Borrows<'a>>;

mod named {
    pub(super) type Result<T, E = super::Wrapped> = std::result::Result<T, E>;
}

#[with_tracer("test")]
fn alias() -> AppResult<u32> {
    Err(alone("alias"))
}

#[with_tracer("test")]
fn alias_without_arguments() -> UnitResult {
    Err(alone("alias"))
}

#[with_tracer("test")]
fn alias_of_another_module() -> self::named::Result<u32> {
    Err(alone("alias"))
}

#[with_tracer("test")]
fn alias_that_borrows(text: &str) -> BorrowedResult<'_, &str> {
    Err(Borrows(text))
}

#[with_tracer("test")]
fn io_alias() -> io::Result<()> {
    Err(refused())
}

#[with_tracer("test")]
fn anyhow_alias(text: &str) -> anyhow::Result<&str> {
    use anyhow::Context;
    let number = text.parse::<u32>().context("no such page")?;
    Ok(if number == 0 { text } else { "" })
}

#[with_tracer("test")]
fn anyhow_of_a_text() -> anyhow::Result<()> {
    anyhow::bail!("as text")
}

#[with_tracer("test")]
fn anyhow_twice() -> Result<(), anyhow::Error> {
    Err(anyhow::Error::new(refused())
        .context("inner")
        .context("outer"))
}

#[with_tracer("test")]
async fn anyhow_async(text: &str) -> anyhow::Result<&str> {
    tokio::task::yield_now().await;
    anyhow_plain(text)
}

fn anyhow_plain(text: &str) -> anyhow::Result<&str> {
    let _: u32 = text.parse()?;
    Ok(text)
}

#[with_tracer("test")]
fn boxed() -> Result<(), Box<dyn Error + Send + Sync>> {
    Err(Box::new(wrapped("outer", parse_error())))
}

#[with_tracer("test")]
fn boxed_here() -> Result<&'static str, Box<dyn Error>> {
    Err(Box::new(alone("here")))
}

#[with_tracer("test")]
fn boxed_text() -> Result<(), Box<dyn Error + Send>> {
    Err(Box::new(alone("as text")))
}

#[with_tracer("test")]
fn shared() -> Result<(), Arc<dyn Error + Send + Sync>> {
    Err(Arc::new(refused()))
}

#[with_tracer("test")]
fn boxed_that_borrows(text: &str) -> Result<(), Box<dyn Error + '_>> {
    Err(Box::new(Borrows(text)))
}

#[with_tracer("test")]
fn boxed_by_its_type() -> Result<(), Box<Wrapped>> {
    Err(Box::new(wrapped("outer", "inner")))
}

#[with_tracer("test")]
fn borrows(text: &str) -> Result<(), Borrows<'_>> {
    Err(Borrows(text))
}

#[allow(mismatched_lifetime_syntaxes, reason = "the macro has to accept it")]
#[with_tracer("test")]
fn borrows_unseen(text: &str) -> Result<(), Borrows> {
    Err(Borrows(text))
}

#[with_tracer("test")]
fn refers(error: &Wrapped) -> Result<(), &Wrapped> {
    Err(error)
}

#[with_tracer("test")]
fn any<E: Error>(error: E) -> Result<(), E> {
    Err(error)
}

#[with_tracer("test")]
async fn any_async<E: Error>(error: E) -> Result<(), E> {
    Err(error)
}

struct Shelf<E>(E);

impl<E: Error + Clone> Shelf<E> {
    #[with_tracer("test")]
    fn take(&self) -> Result<(), E> {
        Err(self.0.clone())
    }
}

#[with_tracer("test")]
fn some_error() -> Result<(), impl Error> {
    Err(wrapped("outer", "inner"))
}

#[with_tracer("test")]
fn static_text() -> Result<(), &'static str> {
    Err("as text")
}

#[with_tracer("test")]
fn text() -> Result<(), String> {
    Err("as text".to_owned())
}

#[with_tracer("test")]
fn repeats() -> AppResult<()> {
    let inner = wrapped("the disk is full", alone("the disk is full"));
    Err(wrapped("could not store: the disk is full", inner))
}

#[with_tracer("test")]
fn deep() -> AppResult<()> {
    let error = wrapped("two", wrapped("three", refused()));
    Err(wrapped("one", error))
}

#[with_tracer("test")]
fn long() -> AppResult<()> {
    let part: &'static str = "x".repeat(200).leak();
    Err(wrapped(part, wrapped("outer", part.replace('x', "y"))))
}

#[with_tracer("test")]
fn secret() -> anyhow::Result<()> {
    Err(anyhow::anyhow!("GET https://a:b@host/?sig=SECRET failed").context("no answer"))
}

#[derive(Debug)]
struct Loops;

impl fmt::Display for Loops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("loops")
    }
}

impl Error for Loops {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self)
    }
}

#[with_tracer("test")]
fn loops() -> Result<(), Loops> {
    Err(Loops)
}

#[test]
fn an_error_is_recorded_with_its_sources_and_the_best_known_type() {
    let own = std::any::type_name::<Wrapped>;
    let borrowed = std::any::type_name::<Borrows<'_>>();
    let is_long = format!("{}: outer: {}…", "x".repeat(200), "y".repeat(44));
    let error = &wrapped("outer", "inner");
    macro_rules! check {
        ($($call:expr => $error_type:expr, $message:expr;)*) => {$(
            let span = only(async { assert!($call.is_err()) });
            let expected = ($error_type.to_owned(), $message.to_owned());
            assert_eq!(failure(&span), Some(expected), "{}", span.name);
        )*};
    }
    check! {
        alias() => own(), "alias";
        alias_without_arguments() => own(), "alias";
        alias_of_another_module() => own(), "alias";
        alias_that_borrows("text") => borrowed, "text";
        io_alias() => "connection_refused", "no one listens";
        anyhow_alias("x") => "std::num::ParseIntError", "no such page: invalid digit found in string";
        anyhow_of_a_text() => "_OTHER", "as text";
        anyhow_twice() => "connection_refused", "outer: inner: no one listens";
        anyhow_async("x").await => "std::num::ParseIntError", "invalid digit found in string";
        boxed() => "std::num::ParseIntError", "outer: invalid digit found in string";
        boxed_here() => "_OTHER", "here";
        boxed_text() => "_OTHER", "as text";
        shared() => "connection_refused", "no one listens";
        boxed_that_borrows("text") => "_OTHER", "text";
        boxed_by_its_type() => own(), "outer: inner";
        borrows("text") => borrowed, "text";
        borrows_unseen("text") => borrowed, "text";
        refers(error) => format!("&{}", own()), "outer: inner";
        any(Borrows("text")) => borrowed, "text";
        any(alone("a")) => own(), "a";
        any_async(wrapped("a", "b")).await => own(), "a: b";
        Shelf(parse_error()).take() => "core::num::error::ParseIntError", "invalid digit found in string";
        some_error() => own(), "outer: inner";
        static_text() => "&str", "as text";
        text() => "std::string::String", "as text";
        repeats() => own(), "could not store: the disk is full";
        deep() => "connection_refused", "one: two: three: no one listens";
        long() => own(), is_long;
        secret() => "_OTHER", "no answer: GET https://REDACTED:REDACTED@host/?sig=REDACTED failed";
        loops() => std::any::type_name::<Loops>(), "loops";
    }
}

#[cfg(feature = "tonic")]
mod grpc {
    use tonic::{Code, Status};

    use super::*;

    fn status() -> Status {
        let mut status = Status::new(Code::ResourceExhausted, "no more tea");
        let secret = "canary".parse().expect("a legal value");
        status.metadata_mut().insert("authorization", secret);
        status
    }

    #[with_tracer("test")]
    fn plain() -> Result<u32, Status> {
        Err(status())
    }

    #[with_tracer("test")]
    async fn handler(text: &str) -> Result<tonic::Response<&str>, Status> {
        if text.is_empty() {
            Err(status())
        } else {
            Ok(tonic::Response::new(text))
        }
    }

    #[with_tracer("test")]
    fn boxed() -> Result<(), Box<Status>> {
        Err(Box::new(status()))
    }

    #[with_tracer("test")]
    fn erased() -> anyhow::Result<()> {
        Err(anyhow::Error::new(status()).context("no brew"))
    }

    #[with_tracer("test")]
    fn as_a_source() -> AppResult<()> {
        Err(wrapped("no brew", status()))
    }

    #[test]
    fn a_grpc_status_is_recorded_with_its_code_and_message() {
        let expected = |message: &str| Some(("RESOURCE_EXHAUSTED".to_owned(), message.to_owned()));
        let plain = only(async { assert!(plain().is_err()) });
        assert_eq!(failure(&plain), expected("no more tea"));
        let handler = only(async { assert!(handler("").await.is_err()) });
        assert_eq!(failure(&handler), expected("no more tea"));
        for span in [
            only(async { assert!(erased().is_err()) }),
            only(async { assert!(as_a_source().is_err()) }),
        ] {
            assert_eq!(failure(&span), expected("no brew: no more tea"));
        }
        let span = only(async { assert!(boxed().is_err()) });
        let (_, message) = failure(&span).expect("the call failed");
        assert!(!message.contains("canary"), "{message}");
    }

    #[test]
    fn every_grpc_code_has_its_name() {
        #[with_tracer("test")]
        fn fails(code: Code) -> Result<(), Status> {
            Err(Status::new(code, ""))
        }
        for (code, name) in [
            (Code::Cancelled, "CANCELLED"),
            (Code::Unknown, "UNKNOWN"),
            (Code::InvalidArgument, "INVALID_ARGUMENT"),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            (Code::NotFound, "NOT_FOUND"),
            (Code::AlreadyExists, "ALREADY_EXISTS"),
            (Code::PermissionDenied, "PERMISSION_DENIED"),
            (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
            (Code::FailedPrecondition, "FAILED_PRECONDITION"),
            (Code::Aborted, "ABORTED"),
            (Code::OutOfRange, "OUT_OF_RANGE"),
            (Code::Unimplemented, "UNIMPLEMENTED"),
            (Code::Internal, "INTERNAL"),
            (Code::Unavailable, "UNAVAILABLE"),
            (Code::DataLoss, "DATA_LOSS"),
            (Code::Unauthenticated, "UNAUTHENTICATED"),
        ] {
            let span = only(async { assert!(fails(code).is_err()) });
            assert_eq!(failure(&span), Some((name.to_owned(), String::new())));
        }
    }
}

struct SearchResult(u32);

enum QueryResult<'a> {
    Found(&'a str),
}

type CountResult = u32;

trait Task {
    type Result;

    fn run(&self) -> Self::Result;
}

impl Task for u32 {
    type Result = Self;

    #[with_tracer("test")]
    fn run(&self) -> Self::Result {
        *self
    }
}

impl Task for &str {
    type Result = Result<(), Wrapped>;

    #[with_tracer("test")]
    fn run(&self) -> Self::Result {
        Err(alone("associated"))
    }
}

#[with_tracer("test")]
fn search() -> SearchResult {
    SearchResult(7)
}

#[with_tracer("test")]
async fn search_async() -> SearchResult {
    SearchResult(7)
}

#[with_tracer("test")]
fn query(text: &str) -> QueryResult<'_> {
    QueryResult::Found(text)
}

#[with_tracer("test")]
fn count() -> CountResult {
    7
}

#[with_tracer("test")]
fn run_any<T: Task>(task: &T) -> T::Result {
    task.run()
}

#[with_tracer("test", err = false)]
fn not_recorded() -> AppResult<()> {
    Err(alone("expected"))
}

#[with_tracer("test", err = false)]
async fn not_recorded_async() -> anyhow::Result<()> {
    anyhow::bail!("expected")
}

#[with_tracer("test")]
fn succeeds() -> anyhow::Result<u32> {
    Ok(7)
}

#[test]
fn a_return_type_that_is_not_a_result_is_unchanged_whatever_its_name() {
    for span in [
        only(async { assert_eq!(search().0, 7) }),
        only(async { assert_eq!(search_async().await.0, 7) }),
        only(async {
            let QueryResult::Found(text) = query("a");
            assert_eq!(text, "a");
        }),
        only(async { assert_eq!(count(), 7) }),
        only(async { assert_eq!(7_u32.run(), 7) }),
        only(async { assert!(not_recorded().is_err()) }),
        only(async { assert!(not_recorded_async().await.is_err()) }),
        only(async { assert!(succeeds().is_ok()) }),
    ] {
        assert_eq!(failure(&span), None, "{}", span.name);
    }
    let span = only(async { assert!("a".run().is_err()) });
    assert_eq!(
        failure(&span).map(|(_, message)| message).as_deref(),
        Some("associated")
    );
    // The macro cannot see the `Result` behind an associated type of a generic caller.
    let telemetry = TestTelemetry::new();
    block_on(in_request(&telemetry, async {
        assert!(run_any(&"a").is_err());
    }));
    let spans = telemetry.spans();
    assert_eq!(tree(&spans), ["GET", "  run_any", "    run"]);
    assert_eq!(failure(&spans[1]), None);
}
