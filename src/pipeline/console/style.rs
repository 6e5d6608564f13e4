//! Colours, where the standard output shows them.

use std::fmt;

use crate::logs::{LogWriter, stdout_has_colors};

/// Whether text has colours.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    has_colors: bool,
}

/// A colour, by its number in an escape sequence (ECMA-48, "SGR").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Color {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}

const DIM: u8 = 2;

impl Style {
    /// Returns the style for the standard output of the process.
    pub(crate) fn of_stdout() -> Self {
        Self {
            has_colors: stdout_has_colors(),
        }
    }

    #[cfg(test)]
    pub(crate) fn new(has_colors: bool) -> Self {
        Self { has_colors }
    }

    /// Returns a text in a colour.
    pub(crate) fn colored<T: fmt::Display>(self, color: Color, text: T) -> impl fmt::Display {
        self.styled(color as u8, text)
    }

    /// Returns a text that stays in the background.
    pub(crate) fn dim<T: fmt::Display>(self, text: T) -> impl fmt::Display {
        self.styled(DIM, text)
    }

    fn styled<T: fmt::Display>(self, code: u8, text: T) -> Styled<T> {
        let code = self.has_colors.then_some(code);
        Styled { code, text }
    }
}

struct Styled<T> {
    code: Option<u8>,
    text: T,
}

impl<T: fmt::Display> fmt::Display for Styled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "\x1b[{code}m{}\x1b[0m", self.text),
            None => self.text.fmt(f),
        }
    }
}

/// Prints without blocking the export thread, even if nobody reads the standard output.
pub(crate) fn print(text: &str) {
    LogWriter::stdout().push(text.as_bytes());
}
