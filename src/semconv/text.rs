//! Length limits, in bytes, for text from requests.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};

use ::http::HeaderValue;

pub(crate) const MAX_METHOD: usize = 32;
pub(crate) const MAX_HOST: usize = 255;
/// The limit for an authority while it is captured. Its host is truncated to [`MAX_HOST`] later.
pub(crate) const MAX_AUTHORITY: usize = 1024;
pub(crate) const MAX_USER_AGENT: usize = 256;
pub(crate) const MAX_PATH: usize = 1024;
pub(crate) const MAX_QUERY: usize = 1024;

/// Truncates `text` to at most `limit` bytes at a character boundary, and marks the cut with `…`.
#[inline]
pub(crate) fn truncate(text: &str, limit: usize) -> Cow<'_, str> {
    const MARK: &str = "…";
    if text.len() <= limit {
        return Cow::Borrowed(text);
    }
    let kept = prefix(text, limit.saturating_sub(MARK.len()));
    Cow::Owned([kept, MARK].concat())
}

/// Converts bytes in any encoding to text of at most `limit` bytes.
#[inline]
pub(crate) fn lossy_text(bytes: &[u8], limit: usize) -> Cow<'_, str> {
    let bytes = bounded_bytes(bytes, limit);
    // Faster than the lossy conversion, which almost no text needs.
    if let Ok(text) = str::from_utf8(bytes) {
        return truncate(text, limit);
    }
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(text) => truncate(text, limit),
        Cow::Owned(text) => Cow::Owned(truncate(&text, limit).into_owned()),
    }
}

/// Returns the value of a header as text of at most `limit` bytes.
#[inline]
pub(crate) fn header_text(value: &HeaderValue, limit: usize) -> Cow<'_, str> {
    // Faster for the usual ASCII text.
    if value.len() <= limit
        && let Ok(text) = value.to_str()
    {
        return Cow::Borrowed(text);
    }
    lossy_text(value.as_bytes(), limit)
}

/// Returns the first `limit` bytes and a few more, so that [`lossy_text`] can mark the cut later.
#[inline]
pub(crate) fn bounded_bytes(bytes: &[u8], limit: usize) -> &[u8] {
    // A character has at most four bytes, so no split character is within the limit.
    const MORE: usize = 4;
    bytes.get(..limit + MORE).unwrap_or(bytes)
}

/// Returns the longest prefix that has at most `limit` bytes and ends at a character boundary.
pub(crate) fn prefix(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    let end = (0..=limit).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

/// Formats at most `limit` bytes of a value, and returns whether it was truncated. Formatting stops
/// at the limit, because the message of an error may be long.
pub(crate) fn display_prefix(value: &dyn Display, limit: usize) -> (String, bool) {
    struct Bounded {
        text: String,
        limit: usize,
    }
    impl Write for Bounded {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let kept = prefix(text, self.limit - self.text.len());
            self.text.push_str(kept);
            if kept.len() < text.len() {
                return Err(fmt::Error);
            }
            Ok(())
        }
    }
    let mut bounded = Bounded {
        text: String::new(),
        limit,
    };
    let is_cut = write!(bounded, "{value}").is_err();
    (bounded.text, is_cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_truncated_at_a_whole_character() {
        assert_eq!(truncate("short", 16), "short");
        assert_eq!(truncate("0123456789", 8), "01234…");
        assert_eq!(truncate("ääääääää", 9), "äää…");
        assert_eq!(truncate("🦀🦀🦀🦀", 3), "…");
    }
}
