//! An error of any type and its sources.

use std::any::Any;
use std::error::Error;
use std::io;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::semconv::names::OTHER;

/// The maximum number of errors that are read from a chain.
const MAX_ERRORS: usize = 16;

/// Names errors of one type, with a function of the application.
pub(crate) trait NameError: Send + Sync {
    /// Returns `error` as an error if it is a value of the type or a pointer to one.
    fn reveal<'a>(&self, error: &'a dyn Any) -> Option<&'a (dyn Error + 'static)>;

    /// Returns the name of an error in a chain; `None` if it has another type or no name.
    fn name(&self, error: &(dyn Error + 'static)) -> Option<&'static str>;
}

/// An error and its sources, outermost first. Empty if the type of the outermost value is not a
/// known error type.
#[derive(Default)]
pub(crate) struct ErrorChain<'a>(SmallVec<[&'a (dyn Error + 'static); 8]>);

impl<'a> ErrorChain<'a> {
    pub(crate) fn new(error: &'a dyn Any, names: &[Arc<dyn NameError>]) -> Self {
        let named = || names.iter().find_map(|name| name.reveal(error));
        let outer = reveal(error).or_else(named);
        Self(error_and_sources(outer).collect())
    }

    /// Returns the chain of an error whose type is erased.
    #[cfg(feature = "macros")]
    pub(crate) fn from_error(outermost: Option<&'a (dyn Error + 'static)>) -> Self {
        Self(error_and_sources(outermost).collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
        self.0.iter().copied()
    }

    /// Returns the path of the outermost error's type, which the compiler calls `type_name`. For an
    /// erased type, returns the path of the innermost error with a known type.
    pub(crate) fn path(&self, type_name: &'static str) -> &'static str {
        let name = pointee(type_name);
        if name.starts_with("dyn ") {
            let innermost = self.0.iter().rev();
            let mut known = innermost.filter_map(|error| known_path(*error));
            return known.next().unwrap_or(OTHER);
        }
        let outermost = self.0.first();
        outermost
            .and_then(|error| known_path(*error))
            .unwrap_or_else(|| public_path(name))
    }
}

/// Returns an error and its sources, outermost first.
pub(crate) fn error_and_sources<'a>(
    outermost: Option<&'a (dyn Error + 'static)>,
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    walk_errors(outermost, source)
}

/// Returns an error and the errors that `source` finds below it, at most [`MAX_ERRORS`] in total.
pub(crate) fn walk_errors<'a>(
    outermost: Option<&'a (dyn Error + 'static)>,
    source: impl Fn(&'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)>,
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(outermost, move |error| source(*error)).take(MAX_ERRORS)
}

/// Returns the text of an error that is a `String` or a `&str`.
pub(crate) fn error_text(error: &dyn Any) -> Option<&str> {
    let owned = error.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| error.downcast_ref::<&'static str>().copied())
}

/// Returns the next error of a chain, including errors that `Error::source` skips.
fn source<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref::<io::Error>()
        && let Some(inner) = error.get_ref()
    {
        return Some(inner);
    }
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        return error.get_io().map(|error| error as _);
    }
    if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        return Some(&**shared);
    }
    #[cfg(feature = "reqwest")]
    if let Some(error) = error.downcast_ref::<reqwest_middleware::Error>() {
        return Some(match error {
            reqwest_middleware::Error::Middleware(error) => error.as_ref(),
            reqwest_middleware::Error::Reqwest(error) => error,
        });
    }
    error.source()
}

/// Returns `$error` as an error if it is a value of one of the types or a pointer to one.
macro_rules! reveal_as {
    ($error:ident: $($type:ty),* $(,)?) => {
        $(
            if let Some(error) = $error.downcast_ref::<$type>() {
                return Some(error);
            }
            if let Some(error) = $error.downcast_ref::<Box<$type>>() {
                return Some(&**error);
            }
            if let Some(error) = $error.downcast_ref::<Arc<$type>>() {
                return Some(&**error);
            }
        )*
    };
}

/// Defines the error types that are known without any feature, with their public paths.
macro_rules! known_types {
    ($($type:ty => $path:literal,)*) => {
        fn reveal_known(error: &dyn Any) -> Option<&(dyn Error + 'static)> {
            reveal_as!(error: $($type),*);
            None
        }

        /// Returns the public path of a known error type.
        fn known_path(error: &(dyn Error + 'static)) -> Option<&'static str> {
            $(
                if error.is::<$type>() {
                    return Some($path);
                }
            )*
            None
        }
    };
}

known_types! {
    std::io::Error => "std::io::Error",
    std::fmt::Error => "std::fmt::Error",
    std::num::ParseIntError => "std::num::ParseIntError",
    std::num::ParseFloatError => "std::num::ParseFloatError",
    std::num::TryFromIntError => "std::num::TryFromIntError",
    std::str::ParseBoolError => "std::str::ParseBoolError",
    std::str::Utf8Error => "std::str::Utf8Error",
    std::string::FromUtf8Error => "std::string::FromUtf8Error",
    std::net::AddrParseError => "std::net::AddrParseError",
    std::time::SystemTimeError => "std::time::SystemTimeError",
    http::Error => "http::Error",
    http::uri::InvalidUri => "http::uri::InvalidUri",
    http::header::InvalidHeaderValue => "http::header::InvalidHeaderValue",
    hyper::Error => "hyper::Error",
    hyper_util::client::legacy::Error => "hyper_util::client::legacy::Error",
    h2::Error => "h2::Error",
    tokio::time::error::Elapsed => "tokio::time::error::Elapsed",
    tower::timeout::error::Elapsed => "tower::timeout::error::Elapsed",
    tower::load_shed::error::Overloaded => "tower::load_shed::error::Overloaded",
}

/// Returns a value as an error if it has a known error type or points to one.
fn reveal(error: &dyn Any) -> Option<&(dyn Error + 'static)> {
    macro_rules! erased {
        ($($type:ty),*) => {
            $(
                if let Some(error) = error.downcast_ref::<Box<$type>>() {
                    return Some(&**error);
                }
                if let Some(error) = error.downcast_ref::<Arc<$type>>() {
                    return Some(&**error);
                }
            )*
        };
    }
    erased!(dyn Error + Send + Sync, dyn Error + Send, dyn Error);
    #[cfg(feature = "axum")]
    reveal_as!(error: axum::Error);
    #[cfg(feature = "reqwest")]
    reveal_as!(error: reqwest::Error, reqwest_middleware::Error);
    #[cfg(feature = "tonic")]
    reveal_as!(error: tonic::Status, tonic::transport::Error);
    reveal_known(error)
}

/// Returns the name of the type that a `Box` or an `Arc` points to.
fn pointee(type_name: &'static str) -> &'static str {
    let mut name = type_name;
    while let Some(inner) = ["alloc::boxed::Box<", "alloc::sync::Arc<"]
        .iter()
        .find_map(|pointer| name.strip_prefix(pointer)?.strip_suffix('>'))
    {
        name = inner;
    }
    name
}

/// Returns the public path of a type. The compiler's name contains private modules.
fn public_path(type_name: &'static str) -> &'static str {
    match type_name {
        "alloc::string::String" => "std::string::String",
        "axum_core::error::Error" => "axum::Error",
        "reqwest::error::Error" => "reqwest::Error",
        "reqwest_middleware::error::Error" => "reqwest_middleware::Error",
        "tonic::status::Status" => "tonic::Status",
        "tonic::transport::error::Error" => "tonic::transport::Error",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::any::type_name;
    use std::fmt;

    use super::*;

    fn path<E: 'static>(error: &E) -> &'static str {
        ErrorChain::new(error, &[]).path(type_name::<E>())
    }

    fn parse_error() -> std::num::ParseIntError {
        "many".parse::<u32>().expect_err("the text is not a number")
    }

    #[derive(Debug)]
    struct Unknown;

    impl fmt::Display for Unknown {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("unknown")
        }
    }

    impl Error for Unknown {}

    #[test]
    fn a_type_has_its_public_path() {
        let unknown = type_name::<Unknown>();
        assert_eq!(path(&Unknown), unknown);
        assert_eq!(path(&Box::new(Unknown)), unknown);
        assert_eq!(path(&Arc::new(Box::new(Unknown))), unknown);
        assert_eq!(path(&io::Error::other(Unknown)), "std::io::Error");
        assert_eq!(path(&Box::new(io::Error::other("a"))), "std::io::Error");
        assert_eq!(path(&Arc::new(io::Error::other("a"))), "std::io::Error");
        assert_eq!(path(&parse_error()), "std::num::ParseIntError");
        assert_eq!(path(&"a text".to_owned()), "std::string::String");
        assert_eq!(path(&"a text"), "&str");
    }

    #[test]
    fn an_erased_error_has_the_path_of_the_innermost_known_type() {
        type Erased = Box<dyn Error + Send + Sync>;
        let inner = || io::Error::other(parse_error());
        assert_eq!(
            path(&Erased::from(parse_error())),
            "std::num::ParseIntError"
        );
        assert_eq!(path(&Erased::from(inner())), "std::num::ParseIntError");
        assert_eq!(
            path(&Erased::from(io::Error::other(Unknown))),
            "std::io::Error"
        );
        assert_eq!(path(&Erased::from(Unknown)), "_OTHER");
        assert_eq!(path(&Erased::from("a text")), "_OTHER");
        let local: Box<dyn Error> = Box::new(std::fmt::Error);
        assert_eq!(path(&local), "std::fmt::Error");
        let sent: Box<dyn Error + Send> = Box::new(std::fmt::Error);
        assert_eq!(path(&sent), "std::fmt::Error");
        let shared: Arc<dyn Error + Send + Sync> = Arc::new(std::fmt::Error);
        assert_eq!(path(&shared), "std::fmt::Error");
        let no_error: Box<dyn Any + Send> = Box::new(1);
        assert_eq!(path(&no_error), "_OTHER");
    }

    /// The compiler's names of types may change.
    #[test]
    fn private_paths_match_the_libraries() {
        assert_eq!(public_path(type_name::<axum::Error>()), "axum::Error");
        assert_eq!(public_path(type_name::<tonic::Status>()), "tonic::Status");
        assert_eq!(
            public_path(type_name::<tonic::transport::Error>()),
            "tonic::transport::Error"
        );
        #[cfg(feature = "reqwest")]
        {
            assert_eq!(public_path(type_name::<reqwest::Error>()), "reqwest::Error");
            assert_eq!(
                public_path(type_name::<reqwest_middleware::Error>()),
                "reqwest_middleware::Error"
            );
        }
    }
}
