//! Parses variables, with warnings for invalid values.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::config::settings::batch::MAX_TIME;
use crate::config::settings::otlp::PemFile;
use crate::providers::variables::{ConfigWarning, Variables};

/// The maximum duration in a variable, in milliseconds.
const MAX_MILLISECONDS: u64 = MAX_TIME.as_secs() * 1000;

impl Variables<'_> {
    pub(crate) fn warn(
        &mut self,
        variable: &str,
        value: Option<&str>,
        consequence: impl Into<String>,
    ) {
        let warning = ConfigWarning::new(variable, value, consequence);
        self.warnings.push(warning);
    }

    pub(crate) fn warn_of_unsupported(&mut self, variable: &str) {
        if let Some(value) = self.text(variable) {
            self.warn(variable, Some(&value), "is not supported and has no effect");
        }
    }

    pub(crate) fn flag(&mut self, name: &str, default: bool) -> bool {
        let otherwise = format!("using {default}");
        self.flag_or(name, &otherwise).unwrap_or(default)
    }

    /// Returns a flag; `None` if it is unset or invalid.
    pub(crate) fn flag_or(&mut self, name: &str, otherwise: &str) -> Option<bool> {
        let value = self.text(name)?;
        match value.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                let consequence = format!("is neither true nor false; {otherwise}");
                self.warn(name, Some(&value), consequence);
                None
            }
        }
    }

    pub(crate) fn number<T>(&mut self, name: &str, range: RangeInclusive<T>, default: T) -> T
    where
        T: Copy + Display + FromStr + PartialOrd,
    {
        let otherwise = format!("using {default}");
        self.number_or(name, range, &otherwise).unwrap_or(default)
    }

    /// Returns a number; `None` if it is unset or invalid.
    pub(crate) fn number_or<T>(
        &mut self,
        name: &str,
        range: RangeInclusive<T>,
        otherwise: &str,
    ) -> Option<T>
    where
        T: Copy + Display + FromStr + PartialOrd,
    {
        let value = self.text(name)?;
        match value.parse() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                let (start, end) = (range.start(), range.end());
                let consequence =
                    format!("is not a whole number from {start} to {end}; {otherwise}");
                self.warn(name, Some(&value), consequence);
                None
            }
        }
    }

    pub(crate) fn milliseconds(&mut self, name: &str, default: Duration) -> Duration {
        let otherwise = format!("using {}", default.as_millis());
        self.milliseconds_or(name, &otherwise).unwrap_or(default)
    }

    /// Returns a duration; `None` if it is unset or invalid.
    pub(crate) fn milliseconds_or(&mut self, name: &str, otherwise: &str) -> Option<Duration> {
        self.number_or(name, 1..=MAX_MILLISECONDS, otherwise)
            .map(Duration::from_millis)
    }

    pub(crate) fn ratio(&mut self, name: &str, otherwise: &str) -> Option<f64> {
        let value = self.text(name)?;
        match value.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Some(ratio),
            _ => {
                let consequence = format!("is not a number from 0 to 1; {otherwise}");
                self.warn(name, Some(&value), consequence);
                None
            }
        }
    }

    /// Returns a comma-separated list; an empty one for `none`. Returns `None` if the list has no
    /// valid entry; the warnings then end with `otherwise`.
    pub(crate) fn list_of<T>(
        &mut self,
        name: &str,
        known: &str,
        otherwise: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.text(name)?;
        let mut words = Vec::new();
        let mut unknown = Vec::new();
        let mut none = false;
        for word in value.split(',').map(str::trim) {
            let lower = word.to_ascii_lowercase();
            match parse(&lower) {
                Some(parsed) => words.push(parsed),
                None if lower == "none" => none = true,
                None if lower.is_empty() => {}
                None => unknown.push(word),
            }
        }
        let is_usable = none || !words.is_empty();
        for word in unknown {
            let otherwise = if is_usable {
                "it is ignored"
            } else {
                otherwise
            };
            let consequence = format!("is not one of {known}; {otherwise}");
            self.warn(name, Some(word), consequence);
        }
        is_usable.then_some(words)
    }

    /// Returns the value for one of several words, in any case; `None` if it is unset or invalid.
    pub(crate) fn one_of<T>(
        &mut self,
        name: &str,
        known: &[(&str, T)],
        otherwise: &str,
    ) -> Option<T>
    where
        T: Copy,
    {
        let value = self.text(name)?;
        let found = known
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(&value));
        if found.is_none() {
            let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
            let consequence = format!("is not one of {}; {otherwise}", words.join(", "));
            self.warn(name, Some(&value), consequence);
        }
        found.map(|(_, meaning)| *meaning)
    }

    pub(crate) fn file(&mut self, name: &str) -> Option<PemFile> {
        Some(PemFile::new(name, self.text(name)?))
    }
}
