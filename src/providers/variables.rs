//! Variables as text, and warnings about values that cannot be used.

use std::ffi::OsString;
use std::fmt;

use crate::semconv;

/// Longest value that a warning shows, in bytes.
const MAX_SHOWN: usize = 128;

/// A value of the configuration that cannot be used, and what is used in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "init"),
    expect(unreachable_pub, reason = "it is public in `config`, a part of `init`")
)]
pub struct ConfigWarning {
    pub(crate) variable: String,
    /// `None` where the value is not to be shown.
    pub(crate) value: Option<String>,
    pub(crate) consequence: String,
}

impl ConfigWarning {
    /// Bounds the value, and leaves it out where it may be a secret.
    pub(crate) fn new(variable: &str, value: Option<&str>, consequence: impl Into<String>) -> Self {
        let value = value.filter(|value| !may_be_secret(variable, value));
        Self {
            variable: variable.to_owned(),
            value: value.map(|value| semconv::truncate(value, MAX_SHOWN).into_owned()),
            consequence: consequence.into(),
        }
    }
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value:?} {}", self.variable, self.consequence),
            None => write!(f, "{} {}", self.variable, self.consequence),
        }
    }
}

/// Whether a value may carry credentials, rightly or by mistake: by its variable, or as a URL or a key.
fn may_be_secret(variable: &str, value: &str) -> bool {
    let ends = [
        "_HEADERS",
        "_ENDPOINT",
        "_CERTIFICATE",
        "_CLIENT_KEY",
        "_RESOURCE_ATTRIBUTES",
        "_PROXY",
        "_proxy",
    ];
    let marks = ["://", "@", "-----"];
    ends.iter().any(|end| variable.ends_with(end)) || marks.iter().any(|mark| value.contains(mark))
}

/// Reads variables, and collects warnings about values that cannot be used.
pub(crate) struct Variables<'a> {
    lookup: &'a dyn Fn(&str) -> Option<OsString>,
    pub(crate) warnings: Vec<ConfigWarning>,
}

impl<'a> Variables<'a> {
    pub(crate) fn new(lookup: &'a dyn Fn(&str) -> Option<OsString>) -> Self {
        Self {
            lookup,
            warnings: Vec::new(),
        }
    }

    /// Returns the text of a variable, trimmed; `None` for one that is not set or is empty.
    ///
    /// A value that is not UTF-8 counts as not set, with one warning however often it is read.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let value = match (self.lookup)(name)?.into_string() {
            Ok(value) => value,
            Err(value) => {
                let shown = value.to_string_lossy();
                let warning =
                    ConfigWarning::new(name, Some(&shown), "is not UTF-8; it is left out");
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
                return None;
            }
        };
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }
}
