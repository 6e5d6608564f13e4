//! The error of a function that has failed: whether there is one, and what it says.
//!
//! `#[with_tracer]` knows no types. It calls one method by one name, and the compiler takes the first
//! trait of these whose conditions the type fulfils: it looks at more references before fewer.

use std::error::Error;
use std::fmt::Display;
use std::ops::Deref;

use crate::error_chain::{Chain, Said, sources};
use crate::function::Call;
#[cfg(feature = "tonic")]
use crate::semconv::rpc::Code;

/// What a function has returned, whose type is a `Result` by its name.
#[derive(Debug)]
pub struct Returned<'a, T>(pub &'a T);

/// Of a type that is a `Result`.
pub trait IsResult<'a> {
    /// The type of its error.
    type Error;

    /// The error.
    fn error(&self) -> Option<&'a Self::Error>;
}

impl<'a, T, E> IsResult<'a> for Returned<'a, Result<T, E>> {
    type Error = E;

    fn error(&self) -> Option<&'a E> {
        self.0.as_ref().err()
    }
}

/// Of every other type.
pub trait IsNoResult {
    /// There is no error.
    fn error(&self) -> Option<&'static NoError> {
        None
    }
}

impl<T> IsNoResult for &Returned<'_, T> {}

/// The error of what is no `Result`.
#[derive(Debug)]
pub struct NoError;

/// An error of any type.
#[derive(Debug)]
pub struct Failed<'a, E>(pub &'a E);

/// An error of a type that this crate knows.
pub trait KnownError: Error + 'static {}

impl KnownError for std::io::Error {}

#[cfg(feature = "tonic")]
impl KnownError for tonic::Status {}

/// Of an error that is known.
pub trait FailAsKnown {
    /// Fails with the messages of the error and its sources.
    fn fail(&self, call: &mut Call);
}

impl<E: KnownError> FailAsKnown for &&&&Failed<'_, E> {
    fn fail(&self, call: &mut Call) {
        fail_as_dyn(self.0, std::any::type_name::<E>(), call);
    }
}

/// A pointer's target that is an error of some type.
pub trait DynError {
    /// The error.
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

/// Of what points to an error: a box, `anyhow::Error` and its like.
pub trait FailAsDyn {
    /// Fails with the messages of the error and its sources.
    fn fail(&self, call: &mut Call);
}

impl<E: Deref<Target: DynError>> FailAsDyn for &&&Failed<'_, E> {
    fn fail(&self, call: &mut Call) {
        fail_as_dyn(self.0.as_error(), std::any::type_name::<E>(), call);
    }
}

/// Of an error that may have sources.
pub trait FailWithSources {
    /// Fails with the messages of the error and its sources.
    fn fail(&self, call: &mut Call);
}

impl<E: Error> FailWithSources for &&Failed<'_, E> {
    fn fail(&self, call: &mut Call) {
        let chain = Chain::new(self.0, self.0.source());
        call.fail(std::any::type_name::<E>(), Some(&chain));
    }
}

/// Of an error that can be displayed.
pub trait FailWithMessage {
    /// Fails with type and message.
    fn fail(&self, call: &mut Call);
}

impl<E: Display> FailWithMessage for &Failed<'_, E> {
    fn fail(&self, call: &mut Call) {
        call.fail(std::any::type_name::<E>(), Some(self.0));
    }
}

/// Of every other.
pub trait FailWithType {
    /// Fails with the type alone.
    fn fail(&self, call: &mut Call);
}

impl<E> FailWithType for Failed<'_, E> {
    fn fail(&self, call: &mut Call) {
        call.fail(std::any::type_name::<E>(), None);
    }
}

/// Fails with the messages of an error and its sources. `error.type` is what is known of them, or
/// else the name of the type that the function returns.
fn fail_as_dyn(error: &(dyn Error + 'static), type_name: &'static str, call: &mut Call) {
    let error_type = sources(Some(error)).filter_map(known_type).last();
    let said = Said(error);
    let chain = Chain::new(&said, error.source());
    call.fail(error_type.unwrap_or(type_name), Some(&chain));
}

fn known_type(error: &(dyn Error + 'static)) -> Option<&'static str> {
    #[cfg(feature = "tonic")]
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        return Some(Code::of_status(status).name());
    }
    let _ = error;
    None
}
