//! Environment variables as text, and warnings about invalid values.

use std::ffi::OsString;
use std::fmt;

use crate::semconv;

/// The maximum length of a value in a warning, in bytes.
const MAX_SHOWN: usize = 128;

/// A configuration value that cannot be used, and the value used instead.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "init"),
    expect(unreachable_pub, reason = "it is public in `config`, a part of `init`")
)]
pub struct ConfigWarning {
    pub(crate) variable: String,
    /// `None` if the value must not be shown.
    pub(crate) value: Option<String>,
    pub(crate) consequence: String,
}

impl ConfigWarning {
    /// Creates a warning. The value is shortened, and omitted if it may be a secret.
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

/// Returns whether a value may contain credentials, based on the variable's name or on the value's
/// form.
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

/// Reads variables and collects warnings about invalid values.
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

    /// Returns the trimmed value of a variable; `None` if it is not set or empty.
    ///
    /// A value that is not UTF-8 is ignored. One warning is added, no matter how often it is read.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let value = match (self.lookup)(name)?.into_string() {
            Ok(value) => value,
            Err(value) => {
                let shown = value.to_string_lossy();
                let warning = ConfigWarning::new(name, Some(&shown), "is not UTF-8; it is ignored");
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
