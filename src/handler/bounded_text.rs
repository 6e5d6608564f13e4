//! Formatting of text up to a maximum length.

use std::fmt::{self, Arguments, Write};

use crate::semconv;

/// Formats a text up to `limit` bytes. A longer text is truncated and ends with `…`.
pub(crate) fn bounded_text(text: Arguments<'_>, limit: usize) -> String {
    // One more byte than is kept, to detect a longer text.
    let mut bounded = Bounded {
        text: String::new(),
        room: limit + 1,
    };
    // Fails if the text is too long.
    let _ = bounded.write_fmt(text);
    semconv::truncate(&bounded.text, limit).into_owned()
}

struct Bounded {
    text: String,
    room: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() <= self.room {
            self.room -= text.len();
            self.text.push_str(text);
            return Ok(());
        }
        let end = (0..=self.room)
            .rev()
            .find(|&end| text.is_char_boundary(end))
            .unwrap_or(0);
        self.text.push_str(&text[..end]);
        // If a character does not fit, `…` fills the rest, so that the text is too long all the
        // same.
        self.text.push_str(if end < self.room { "…" } else { "" });
        self.room = 0;
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_text_ends_at_a_whole_character_with_a_mark() {
        for (text, expected) in [
            ("", ""),
            ("12345678", "12345678"),
            ("123456789", "12345…"),
            ("1234567é", "12345…"),
            ("123456é", "123456é"),
            ("éééé", "éééé"),
            ("ééééé", "éé…"),
            ("12345é78", "12345…"),
            ("1234567890123456789", "12345…"),
        ] {
            assert_eq!(bounded_text(format_args!("{text}"), 8), expected, "{text}");
            let (a, b) = text.split_at(text.char_indices().nth(3).map_or(0, |(at, _)| at));
            assert_eq!(bounded_text(format_args!("{a}{b}"), 8), expected, "{text}");
        }
    }

    #[test]
    fn formatting_stops_at_the_limit() {
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("abc")?;
                }
            }
        }
        assert_eq!(bounded_text(format_args!("{Endless}"), 8), "abcab…");
    }
}
