//! Finds the error that a function returns, and records it.
//!
//! `#[with_tracer]` has no access to types. Its expansion calls a method named `fail` through
//! several references, and the compiler selects a trait by removing one reference at a time: traits
//! that are implemented for more references come first. The first trait whose bounds are met is
//! used.

use std::any::type_name;
use std::error::Error;
use std::fmt::{self, Display};
use std::ops::Deref;

use crate::concurrent::caught::guarded;
use crate::handler::run::{Run, message_of};
#[cfg(feature = "tonic")]
use crate::semconv::rpc::Code;
use crate::semconv::{self, ErrorChain, Phase, SensitiveParameters};

/// The return value of a function whose return type is named `Result`.
#[derive(Debug)]
pub struct Returned<'a, T>(pub &'a T);

/// Access to the error of a `Result`.
pub trait IsResult<'a> {
    /// The type of the error.
    type Error;

    /// Returns the error, if there is one.
    fn error(&self) -> Option<&'a Self::Error>;
}

impl<'a, T, E> IsResult<'a> for Returned<'a, Result<T, E>> {
    type Error = E;

    fn error(&self) -> Option<&'a E> {
        self.0.as_ref().err()
    }
}

/// The counterpart of [`IsResult`] for a type that is not a `Result`.
pub trait IsNoResult {
    /// Returns `None`.
    fn error(&self) -> Option<&'static NoError> {
        None
    }
}

impl<T> IsNoResult for &Returned<'_, T> {}

/// A placeholder for the error of a type that is not a `Result`.
#[derive(Debug)]
pub struct NoError;

/// An error of any type.
#[derive(Debug)]
pub struct Failed<'a, E>(pub &'a E);

/// A marker for error types that are known to be `'static`, so that they can be downcast.
pub trait KnownError: Error + 'static {}

macro_rules! known_errors {
    ($($type:ty),* $(,)?) => { $(impl KnownError for $type {})* };
}

known_errors! {
    std::fmt::Error,
    std::io::Error,
    std::net::AddrParseError,
    std::num::ParseFloatError,
    std::num::ParseIntError,
    std::num::TryFromIntError,
    std::str::ParseBoolError,
    std::str::Utf8Error,
    std::string::FromUtf8Error,
    std::time::SystemTimeError,
    http::Error,
    hyper::Error,
    hyper_util::client::legacy::Error,
    tokio::time::error::Elapsed,
}

#[cfg(feature = "reqwest")]
known_errors!(reqwest::Error, reqwest_middleware::Error);

#[cfg(feature = "tonic")]
known_errors!(tonic::Status, tonic::transport::Error);

/// Records a [`KnownError`].
pub trait FailAsKnown {
    /// Fails the run with the messages of the error and its sources.
    fn fail(&self, run: &mut Run);
}

impl<E: KnownError> FailAsKnown for &&&&Failed<'_, E> {
    fn fail(&self, run: &mut Run) {
        let chain = chain(|| Some(self.0));
        let error_type = error_type(&chain).unwrap_or_else(|| chain.path(type_name::<E>()));
        run.fail(error_type, || message(None, &chain));
    }
}

/// A trait object of an error, behind a pointer.
pub trait DynError {
    /// Returns the error.
    fn as_error(&self) -> &(dyn Error + 'static);
}

impl DynError for dyn Error + 'static {
    fn as_error(&self) -> &(dyn Error + 'static) {
        self
    }
}

impl DynError for dyn Error + Send + 'static {
    fn as_error(&self) -> &(dyn Error + 'static) {
        self
    }
}

impl DynError for dyn Error + Send + Sync + 'static {
    fn as_error(&self) -> &(dyn Error + 'static) {
        self
    }
}

/// Records an error behind a pointer, such as a `Box` or an `anyhow::Error`.
pub trait FailAsDyn {
    /// Fails the run with the messages of the error and its sources.
    fn fail(&self, run: &mut Run);
}

impl<E: Deref<Target: DynError>> FailAsDyn for &&&Failed<'_, E> {
    fn fail(&self, run: &mut Run) {
        let chain = chain(|| Some(self.0.as_error()));
        let error_type = error_type(&chain).unwrap_or_else(|| chain.path(type_name::<dyn Error>()));
        run.fail(error_type, || message(None, &chain));
    }
}

/// Records an error that may have sources.
pub trait FailWithSources {
    /// Fails the run with the messages of the error and its sources.
    fn fail(&self, run: &mut Run);
}

impl<E: Error> FailWithSources for &&Failed<'_, E> {
    fn fail(&self, run: &mut Run) {
        let sources = chain(|| self.0.source());
        let error_type = error_type(&sources).unwrap_or_else(|| path::<E>());
        run.fail(error_type, || message(Some(self.0), &sources));
    }
}

/// Records an error that can be displayed.
pub trait FailWithMessage {
    /// Fails the run with the type and the message of the error.
    fn fail(&self, run: &mut Run);
}

impl<E: Display> FailWithMessage for &Failed<'_, E> {
    fn fail(&self, run: &mut Run) {
        run.fail(path::<E>(), || message_of(self.0));
    }
}

/// Records an error of any other type.
pub trait FailWithType {
    /// Fails the run with the type of the error only.
    fn fail(&self, run: &mut Run);
}

impl<E> FailWithType for Failed<'_, E> {
    fn fail(&self, run: &mut Run) {
        run.fail(path::<E>(), String::new);
    }
}

/// Returns an error and its sources. Finding them runs application code, which may panic.
fn chain<'a>(outermost: impl FnOnce() -> Option<&'a (dyn Error + 'static)>) -> ErrorChain<'a> {
    guarded(|| ErrorChain::from_error(outermost())).unwrap_or_default()
}

/// Returns the path of a type.
fn path<E>() -> &'static str {
    ErrorChain::default().path(type_name::<E>())
}

/// Returns an `error.type` that is more specific than the type of the error: a gRPC status code or
/// the word for a cause.
fn error_type(chain: &ErrorChain) -> Option<&'static str> {
    #[cfg(feature = "tonic")]
    {
        let mut statuses = chain.iter().filter_map(|error| error.downcast_ref());
        if let Some(status) = statuses.next() {
            return Some(Code::from_status(status).name());
        }
    }
    // Some causes are recognised by the `Display` of an error, which is application code.
    guarded(|| chain.error_type(Phase::Head)).flatten()
}

/// Returns the messages of an error and of its sources.
fn message(outermost: Option<&dyn Display>, sources: &ErrorChain) -> String {
    let sources: Vec<_> = sources.iter().map(WithoutSources).collect();
    let sources = sources.iter().map(|source| source as &dyn Display);
    let errors = outermost.into_iter().chain(sources);
    semconv::redacted_message(errors, Some(&SensitiveParameters::default()))
}

/// The display of an error without its sources.
struct WithoutSources<'a>(&'a (dyn Error + 'static));

impl Display for WithoutSources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(feature = "tonic")]
        if let Some(status) = self.0.downcast_ref::<tonic::Status>() {
            // Its `Display` includes all of its metadata.
            return f.write_str(status.message());
        }
        Display::fmt(self.0, f)
    }
}
