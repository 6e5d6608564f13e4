//! gRPC-Web: the last frame of a response body contains the trailers.
//!
//! A frame is a byte of flags, a length of four bytes and the payload. Chunks of the body may split
//! a frame anywhere.

use bytes::Buf;
use std::io::IoSlice;

/// The flag of a frame with trailers. With any other flag set as well, the trailers are compressed.
const TRAILERS: u8 = 0x80;

/// The maximum length of a line of trailers in bytes. Longer lines are truncated.
const MAX_LINE: usize = 1024;

/// The maximum number of slices that are read from a chunk. Reading stops at a chunk with more.
const MAX_SLICES: usize = 16;

/// Reads the frames of a body chunk by chunk, and skips messages.
#[derive(Debug, Default)]
pub(crate) struct WebFrames {
    head: [u8; 5],
    /// The number of bytes of `head` that have been read.
    head_length: usize,
    /// The number of bytes left in the frame, once its head is complete.
    left: usize,
    /// The current line of trailers.
    line: Vec<u8>,
    /// Whether the boundaries of frames are no longer known.
    is_lost: bool,
    has_message: bool,
    /// Whether the trailers are complete.
    has_trailers: bool,
    status: Option<Vec<u8>>,
    message: Option<Vec<u8>>,
}

impl WebFrames {
    /// Reads a chunk of the body without consuming it.
    pub(crate) fn read(&mut self, chunk: &impl Buf) {
        if chunk.chunk().len() == chunk.remaining() {
            return self.read_bytes(chunk.chunk());
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let count = chunk.chunks_vectored(&mut slices);
        let slices = &slices[..count];
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        slices.iter().for_each(|slice| self.read_bytes(slice));
        self.is_lost |= length < chunk.remaining();
    }

    fn read_bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_lost {
            if self.head_length < self.head.len() {
                let missing = self.head.len() - self.head_length;
                let (piece, rest) = bytes.split_at(missing.min(bytes.len()));
                self.head[self.head_length..][..piece.len()].copy_from_slice(piece);
                self.head_length += piece.len();
                bytes = rest;
                if self.head_length == self.head.len() {
                    self.begin_frame();
                }
            } else {
                let (piece, rest) = bytes.split_at(self.left.min(bytes.len()));
                if self.head[0] == TRAILERS {
                    self.read_trailers(piece);
                }
                self.left -= piece.len();
                bytes = rest;
            }
            if self.head_length == self.head.len() && self.left == 0 {
                self.end_frame();
            }
        }
    }

    fn begin_frame(&mut self) {
        let [flags, length @ ..] = self.head;
        self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        self.has_message |= flags & TRAILERS == 0;
    }

    fn end_frame(&mut self) {
        if self.head[0] == TRAILERS {
            self.end_line();
            self.has_trailers = true;
        }
        self.head_length = 0;
    }

    fn read_trailers(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = MAX_LINE - self.line.len();
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"grpc-status") {
            self.status = Some(value.to_vec());
        } else if name.eq_ignore_ascii_case(b"grpc-message") {
            self.message = Some(value.to_vec());
        }
    }

    /// Returns whether the body contains a message. Only an existing method sends one.
    pub(crate) fn has_message(&self) -> bool {
        self.has_message
    }

    /// Returns the `grpc-status`, once the trailers are complete.
    pub(crate) fn status(&self) -> Option<&[u8]> {
        self.status.as_deref().filter(|_| self.has_trailers)
    }

    /// Takes the `grpc-message` that has been read, percent-encoded and bounded.
    pub(crate) fn take_message(&mut self) -> Option<Vec<u8>> {
        self.message.take()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn frame(flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("the payload is short");
        [&[flags], &length.to_be_bytes()[..], payload].concat()
    }

    fn read(chunks: &[&[u8]]) -> WebFrames {
        let mut frames = WebFrames::default();
        for chunk in chunks {
            frames.read(&Bytes::copy_from_slice(chunk));
        }
        frames
    }

    fn status(chunks: &[&[u8]]) -> Option<String> {
        let status = read(chunks).status()?.to_vec();
        Some(String::from_utf8(status).expect("the status is UTF-8"))
    }

    #[test]
    fn the_status_is_found_wherever_the_body_is_split() {
        let message = frame(0, b"a message with grpc-status:7\r\n in it");
        let trailers = frame(
            0x80,
            b"grpc-message:no%20way\r\ngrpc-status: 13\r\nother:x\r\n",
        );
        let body = [message.clone(), frame(1, b""), message, trailers].concat();
        for first in 0..=body.len() {
            for second in [
                first,
                (first + 1).min(body.len()),
                (first + 7).min(body.len()),
                body.len(),
            ] {
                let chunks = [&body[..first], &body[first..second], &body[second..]];
                let frames = read(&chunks);
                assert_eq!(frames.status(), Some(&b"13"[..]), "{first} {second}");
                assert_eq!(frames.message.as_deref(), Some(&b"no%20way"[..]));
                assert!(frames.has_message());
            }
        }
        let bytes: Vec<_> = body.chunks(1).collect();
        assert_eq!(status(&bytes).as_deref(), Some("13"));
    }

    #[test]
    fn only_complete_and_uncompressed_trailers_have_a_status() {
        for (case, body, expected) in [
            ("nothing", vec![], None),
            ("trailers alone", frame(0x80, b"grpc-status:0"), Some("0")),
            ("any case", frame(0x80, b"Grpc-Status:\t5 \r\n"), Some("5")),
            ("compressed", frame(0x81, b"grpc-status:0\r\n"), None),
            ("empty trailers", frame(0x80, b""), None),
            ("no colon", frame(0x80, b"grpc-status\r\n"), None),
            ("a message", frame(0, b"grpc-status:0\r\n"), None),
            (
                "a long line before",
                frame(0x80, &[&[b'x'; 100_000][..], b"\ngrpc-status:3\n"].concat()),
                Some("3"),
            ),
        ] {
            assert_eq!(status(&[&body]).as_deref(), expected, "{case}");
        }
        let cut = frame(0x80, b"grpc-status:0\r\n");
        assert_eq!(status(&[&cut[..cut.len() - 1]]), None);
    }

    #[test]
    fn all_slices_of_a_chunk_are_read() {
        let body = frame(0x80, b"grpc-status:13\r\n");
        for cut in 0..=body.len() {
            let (first, rest) = body.split_at(cut);
            let chunk = Bytes::copy_from_slice(first).chain(Bytes::copy_from_slice(rest));
            let mut frames = WebFrames::default();
            frames.read(&chunk);
            assert_eq!(frames.status(), Some(&b"13"[..]), "{cut}");
            assert_eq!(chunk.remaining(), body.len(), "the chunk is unchanged");
        }
    }

    proptest! {
        #[test]
        fn chunk_boundaries_do_not_matter_and_memory_is_bounded(
            body in proptest::collection::vec(any::<u8>(), 0..4096),
            cuts in proptest::collection::vec(0usize..4096, 0..8),
        ) {
            let whole = read(&[&body]);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            cuts.sort_unstable();
            let mut frames = WebFrames::default();
            let mut from = 0;
            for to in cuts.into_iter().chain([body.len()]) {
                frames.read(&Bytes::copy_from_slice(&body[from..to]));
                prop_assert!(frames.line.len() <= MAX_LINE);
                from = to;
            }
            prop_assert_eq!(frames.status(), whole.status());
            prop_assert_eq!(frames.message, whole.message);
        }
    }
}
