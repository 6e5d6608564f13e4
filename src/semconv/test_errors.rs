//! Errors for tests.

use std::error::Error;
use std::fmt;

pub(crate) type Erased = Box<dyn Error + Send + Sync>;

/// An error of an unknown type with a source.
#[derive(Debug)]
pub(crate) struct Wrapped(pub(crate) Erased);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it failed")
    }
}

impl Error for Wrapped {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}
