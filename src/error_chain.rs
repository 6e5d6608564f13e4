//! An error and its sources, as one message.

use std::error::Error;
use std::fmt::{self, Display};
use std::iter;

use crate::bounded_text::bounded_text;
use crate::function::MAX_MESSAGE;

/// How many sources of an error are looked at. A source may be its own.
const MAX_SOURCES: usize = 16;

/// Displays an error and its sources, joined by `: `. A source whose message is in those before it
/// is left out.
pub(crate) struct Chain<'a> {
    error: &'a dyn Display,
    source: Option<&'a (dyn Error + 'static)>,
}

impl<'a> Chain<'a> {
    pub(crate) fn new(error: &'a dyn Display, source: Option<&'a (dyn Error + 'static)>) -> Self {
        Self { error, source }
    }
}

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut message = bounded_text(format_args!("{}", self.error), MAX_MESSAGE);
        for source in sources(self.source) {
            if message.len() >= MAX_MESSAGE {
                break;
            }
            let text = bounded_text(format_args!("{}", Said(source)), MAX_MESSAGE);
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
        }
        f.write_str(&message)
    }
}

/// Returns an error, its source, the source of that, and so on.
pub(crate) fn sources<'a>(
    first: Option<&'a (dyn Error + 'static)>,
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(first, |&error| error.source()).take(MAX_SOURCES)
}

/// Displays an error without its sources.
pub(crate) struct Said<'a>(pub(crate) &'a (dyn Error + 'static));

impl Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(feature = "tonic")]
        if let Some(status) = self.0.downcast_ref::<tonic::Status>() {
            // Its `Display` shows all of its metadata, too.
            return f.write_str(status.message());
        }
        Display::fmt(self.0, f)
    }
}
