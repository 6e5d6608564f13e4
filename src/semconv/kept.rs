//! What is taken from a request when its span starts, so that its attributes can be made later, where
//! nobody waits for them.

use ::http::Uri;
use ::http::request::Parts;
use smallvec::SmallVec;

use crate::semconv::http::{MAX_METHOD, MAX_QUERY};
use crate::semconv::redact::{self, SensitiveParameters};
use crate::semconv::{
    AttributeValue, CLIENT_ADDRESS, ClientRequest, HTTP_REQUEST_HEADER, HTTP_REQUEST_METHOD,
    HTTP_REQUEST_METHOD_ORIGINAL, HTTP_REQUEST_RESEND_COUNT, HTTP_ROUTE, NETWORK_PEER_ADDRESS,
    NETWORK_PEER_PORT, NETWORK_PROTOCOL_VERSION, OTHER, RPC_METHOD, RPC_SYSTEM_NAME,
    SERVER_ADDRESS, SERVER_PORT, ServerRequest, URL_FULL, URL_PATH, URL_QUERY, URL_SCHEME,
    USER_AGENT_ORIGINAL, truncate,
};

/// Room for the text of most requests: what is longer has memory of its own.
const ROOM: usize = 192;

/// Whether a [`CapturedRequest`] may have an attribute with this key.
pub(crate) fn is_request_key(key: &str) -> bool {
    matches!(
        key,
        CLIENT_ADDRESS
            | HTTP_REQUEST_METHOD
            | HTTP_REQUEST_METHOD_ORIGINAL
            | HTTP_REQUEST_RESEND_COUNT
            | HTTP_ROUTE
            | NETWORK_PEER_ADDRESS
            | NETWORK_PEER_PORT
            | NETWORK_PROTOCOL_VERSION
            | SERVER_ADDRESS
            | SERVER_PORT
            | URL_FULL
            | URL_PATH
            | URL_QUERY
            | URL_SCHEME
            | USER_AGENT_ORIGINAL
    )
}

/// Whether a span should start with an attribute of this key, because a sampler may look at it
/// (conventions of HTTP and RPC spans, "at span creation time").
pub(crate) fn is_for_samplers(key: &str) -> bool {
    matches!(
        key,
        CLIENT_ADDRESS
            | HTTP_REQUEST_METHOD
            | RPC_METHOD
            | RPC_SYSTEM_NAME
            | SERVER_ADDRESS
            | SERVER_PORT
            | URL_FULL
            | URL_PATH
            | URL_QUERY
            | URL_SCHEME
            | USER_AGENT_ORIGINAL
    ) || key.starts_with(HTTP_REQUEST_HEADER)
}

/// What is kept of a request.
#[derive(Clone)]
pub(crate) enum CapturedRequest {
    Server(ServerRequest),
    Client(ClientRequest),
}

impl CapturedRequest {
    /// The attributes of its span that are known when it starts.
    pub(crate) fn attributes(&self, add: &mut impl FnMut(&'static str, AttributeValue<'_>)) {
        match self {
            Self::Server(request) => request.attributes(add),
            Self::Client(request) => request.attributes(add),
        }
    }

    /// The memory that it takes besides its own size.
    #[cfg(feature = "init")]
    pub(crate) fn heap_size(&self) -> usize {
        match self {
            Self::Server(request) => request.text.heap_size(),
            Self::Client(request) => request.text.heap_size(),
        }
    }
}

/// Pieces of text one after the other. Whoever adds them remembers their lengths.
#[derive(Clone, Default)]
pub(crate) struct RequestText(SmallVec<[u8; ROOM]>);

impl RequestText {
    /// Adds a piece, and gives its length.
    #[inline]
    pub(crate) fn add(&mut self, piece: &[u8]) -> u16 {
        self.0.extend_from_slice(piece);
        u16::try_from(piece.len()).unwrap_or(u16::MAX)
    }

    /// Adds the query, of which those parameters are redacted; without them it is not to be recorded.
    #[inline]
    pub(crate) fn add_query(
        &mut self,
        uri: &Uri,
        sensitive_parameters: Option<&SensitiveParameters>,
    ) -> Option<u16> {
        let (query, sensitive) = uri.query().zip(sensitive_parameters)?;
        Some(self.add(redact::query(query, MAX_QUERY, sensitive).as_bytes()))
    }

    /// Adds the method as the request has it, where that is not one that is known.
    #[inline]
    pub(crate) fn add_original_method(&mut self, method: &str, request: &Parts) -> u16 {
        if method == OTHER {
            self.add(truncate(request.method.as_str(), MAX_METHOD).as_bytes())
        } else {
            0
        }
    }

    pub(crate) fn pieces(&self) -> Pieces<'_> {
        Pieces(&self.0)
    }

    /// The memory that it takes besides its own size.
    #[cfg(feature = "init")]
    pub(crate) fn heap_size(&self) -> usize {
        if self.0.spilled() {
            self.0.capacity()
        } else {
            0
        }
    }
}

/// What has yet to be read of a text.
pub(crate) struct Pieces<'a>(&'a [u8]);

impl<'a> Pieces<'a> {
    /// The next piece; empty where it is no text.
    pub(crate) fn next(&mut self, length: u16) -> &'a str {
        str::from_utf8(self.next_bytes(length)).unwrap_or_default()
    }

    /// The next piece, in whichever encoding.
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
    fn text_that_has_no_room_takes_memory_of_its_own() {
        let mut text = RequestText::default();
        text.add(&[b't'; ROOM]);
        assert_eq!(text.heap_size(), 0);
        text.add(b"t");
        assert!(text.heap_size() > ROOM);
    }
}
