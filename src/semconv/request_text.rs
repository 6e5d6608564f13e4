//! The text of a captured request: several pieces in one buffer.

use std::borrow::Cow;

use ::http::Uri;
use ::http::request::Parts;
use smallvec::SmallVec;

use crate::semconv::names::OTHER;
use crate::semconv::redact::{self, SensitiveParameters};
use crate::semconv::text::{MAX_METHOD, MAX_QUERY, truncate};

/// The inline capacity, enough for most requests. Longer text is stored on the heap.
const ROOM: usize = 192;

/// Concatenated pieces of text. The owner stores the length of each piece.
#[derive(Clone, Default)]
pub(crate) struct RequestText(SmallVec<[u8; ROOM]>);

impl RequestText {
    /// Adds a piece and returns its length.
    #[inline]
    pub(crate) fn add(&mut self, piece: &[u8]) -> u16 {
        self.0.extend_from_slice(piece);
        u16::try_from(piece.len()).unwrap_or(u16::MAX)
    }

    /// Adds the query with the parameters redacted. Returns `None` if there is no query, or if
    /// queries are not recorded.
    #[inline]
    pub(crate) fn add_query(
        &mut self,
        uri: &Uri,
        sensitive_parameters: Option<&SensitiveParameters>,
    ) -> Option<u16> {
        let query = recorded_query(uri, sensitive_parameters)?;
        Some(self.add(query.as_bytes()))
    }

    /// Adds the method of the request if it is not a known method.
    #[inline]
    pub(crate) fn add_original_method(&mut self, method: &str, request: &Parts) -> u16 {
        original_method(method, request).map_or(0, |original| self.add(original.as_bytes()))
    }

    pub(crate) fn pieces(&self) -> Pieces<'_> {
        Pieces(&self.0)
    }

    /// Returns the last piece.
    pub(crate) fn last_piece(&self, length: u16) -> &str {
        let start = self.0.len().saturating_sub(length.into());
        Pieces(&self.0[start..]).next(length)
    }

    /// Returns the size of the heap memory in bytes.
    #[cfg(feature = "init")]
    pub(crate) fn heap_size(&self) -> usize {
        if self.0.spilled() {
            self.0.capacity()
        } else {
            0
        }
    }
}

/// Returns the query with the parameters redacted. Returns `None` if there is no query, or if
/// queries are not recorded.
#[inline]
pub(crate) fn recorded_query<'a>(
    uri: &'a Uri,
    sensitive_parameters: Option<&SensitiveParameters>,
) -> Option<Cow<'a, str>> {
    let (query, sensitive) = uri.query().zip(sensitive_parameters)?;
    Some(redact::query(query, MAX_QUERY, sensitive))
}

/// Returns the method of the request if `method` only says that it is not a known method.
#[inline]
pub(crate) fn original_method<'a>(method: &str, request: &'a Parts) -> Option<Cow<'a, str>> {
    (method == OTHER).then(|| truncate(request.method.as_str(), MAX_METHOD))
}

/// The pieces of a text that have not been read yet.
pub(crate) struct Pieces<'a>(&'a [u8]);

impl<'a> Pieces<'a> {
    /// Returns the next piece, or an empty text if it is not UTF-8.
    pub(crate) fn next(&mut self, length: u16) -> &'a str {
        str::from_utf8(self.next_bytes(length)).unwrap_or_default()
    }

    /// Returns the bytes of the next piece, in any encoding.
    pub(crate) fn next_bytes(&mut self, length: u16) -> &'a [u8] {
        let (piece, rest) = self.0.split_at_checked(length.into()).unwrap_or_default();
        self.0 = rest;
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_as_they_were_added() {
        let mut text = RequestText::default();
        let long = "l".repeat(ROOM);
        let pieces = ["a", "", &long, "ä"];
        let lengths = pieces.map(|piece| text.add(piece.as_bytes()));
        let no_text = text.add(b"\xe4");
        let mut read = text.pieces();
        assert_eq!(lengths.map(|length| read.next(length)), pieces);
        assert_eq!(read.next(no_text), "");
        assert_eq!(read.next(1), "");
    }

    #[cfg(feature = "init")]
    #[test]
    fn text_beyond_the_inline_capacity_is_on_the_heap() {
        let mut text = RequestText::default();
        text.add(&[b't'; ROOM]);
        assert_eq!(text.heap_size(), 0);
        text.add(b"t");
        assert!(text.heap_size() > ROOM);
    }
}
