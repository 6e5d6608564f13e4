//! The first bytes from a peer, which reveal a port that speaks another protocol.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The number of bytes that are kept: enough for a status line and the head of a frame.
const LENGTH: usize = 32;

/// The first bytes received on the latest connection.
#[derive(Clone, Default)]
pub(crate) struct FirstBytes(Arc<Mutex<Vec<u8>>>);

impl FirstBytes {
    pub(crate) fn get(&self) -> Vec<u8> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stores the bytes that fit, and returns whether there is room for more.
    fn keep(&self, bytes: &[u8]) -> bool {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = LENGTH.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        kept.len() < LENGTH
    }

    fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// A stream whose first received bytes are stored.
pub(crate) struct Watched<T> {
    io: T,
    first: FirstBytes,
    is_watched: bool,
    is_forwarded: bool,
    is_h2: bool,
}

impl<T> Watched<T> {
    pub(crate) fn new(io: T, first: &FirstBytes) -> Self {
        first.clear();
        Self {
            io,
            first: first.clone(),
            is_watched: true,
            is_forwarded: false,
            is_h2: false,
        }
    }

    /// Adopts the properties of the underlying connection.
    pub(crate) fn with_properties_of(mut self, connected: &Connected) -> Self {
        self.is_forwarded = connected.is_proxied();
        self.is_h2 = connected.is_negotiated_h2();
        self
    }
}

impl<T> Connection for Watched<T> {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(self.is_forwarded);
        match self.is_h2 {
            true => connected.negotiated_h2(),
            false => connected,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        if self.is_watched {
            self.is_watched = self.first.keep(&buffer.filled()[before..]);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

pub(crate) const NO_GRPC: &str =
    "this port does not speak gRPC; try http/protobuf, usually on port 4318";
pub(crate) const GRPC_ONLY: &str =
    "this port speaks gRPC; try the protocol grpc, usually on port 4317";
const NO_TLS: &str = "this port does not speak TLS; try an http:// endpoint";
pub(crate) const TLS_ONLY: &str = "this port speaks TLS; try an https:// endpoint";

/// The protocol for which an endpoint is configured.
#[derive(Clone, Copy)]
pub(crate) struct ExpectedProtocol {
    pub(crate) is_grpc: bool,
    pub(crate) is_tls: bool,
}

/// Returns a hint if the peer's first bytes belong to another protocol than `expected`. `plain` is
/// the decrypted form of `raw`; without TLS, both are the same.
pub(crate) fn protocol_hint(
    expected: ExpectedProtocol,
    raw: &[u8],
    plain: &[u8],
) -> Option<&'static str> {
    if expected.is_tls && !raw.is_empty() && !is_tls_record(raw) {
        return Some(NO_TLS);
    }
    if !expected.is_tls && is_tls_record(raw) {
        return Some(TLS_ONLY);
    }
    if expected.is_grpc && plain.starts_with(b"HTTP/") {
        return Some(NO_GRPC);
    }
    (!expected.is_grpc && !expected.is_tls && is_settings_frame(plain)).then_some(GRPC_ONLY)
}

/// Returns whether the bytes begin a record of TLS 1.0 to 1.3: a type, and a version that begins
/// with 3.
fn is_tls_record(bytes: &[u8]) -> bool {
    matches!(bytes, [20..=23, 3, 0..=4, ..])
}

/// Returns whether the bytes begin a SETTINGS frame, which every HTTP/2 server sends first: a
/// length, the type 4, flags, and stream 0.
fn is_settings_frame(bytes: &[u8]) -> bool {
    matches!(bytes, [0, 0, _, 4, 0 | 1, 0, 0, 0, 0, ..])
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SETTINGS: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0x40, 0];
    const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 40];
    const HELLO: &[u8] = &[22, 3, 3, 0, 122, 2, 0, 0, 118];

    /// The expected protocol, the received bytes, their decrypted form, and the hint.
    type Row = (
        ExpectedProtocol,
        &'static [u8],
        &'static [u8],
        Option<&'static str>,
    );

    #[test]
    fn only_the_first_bytes_of_another_protocol_are_recognised() {
        let http: &[u8] = b"HTTP/1.1 400 Bad Request\r\n";
        let [grpc, grpcs, plain_http, https] =
            [(true, false), (true, true), (false, false), (false, true)]
                .map(|(is_grpc, is_tls)| ExpectedProtocol { is_grpc, is_tls });
        let table: [Row; 21] = [
            (grpc, http, http, Some(NO_GRPC)),
            (grpc, b"HTTP/1.0 505", b"HTTP/1.0 505", Some(NO_GRPC)),
            (grpc, ALERT, ALERT, Some(TLS_ONLY)),
            (grpc, SETTINGS, SETTINGS, None),
            (grpc, b"", b"", None),
            (plain_http, SETTINGS, SETTINGS, Some(GRPC_ONLY)),
            (plain_http, ALERT, ALERT, Some(TLS_ONLY)),
            (plain_http, http, http, None),
            (plain_http, b"", b"", None),
            (plain_http, b"SSH-2.0-OpenSSH", b"SSH-2.0-OpenSSH", None),
            (grpcs, http, b"", Some(NO_TLS)),
            (grpcs, SETTINGS, b"", Some(NO_TLS)),
            (grpcs, HELLO, http, Some(NO_GRPC)),
            (grpcs, HELLO, SETTINGS, None),
            (grpcs, ALERT, b"", None),
            (grpcs, b"", b"", None),
            (https, http, b"", Some(NO_TLS)),
            (https, SETTINGS, b"", Some(NO_TLS)),
            (https, HELLO, http, None),
            // The peer chose HTTP/2 in the TLS handshake.
            (https, HELLO, SETTINGS, None),
            (https, ALERT, b"", None),
        ];
        for (expected, raw, plain, hint) in table {
            let case = format!("{raw:?} {plain:?}, gRPC {}", expected.is_grpc);
            assert_eq!(protocol_hint(expected, raw, plain), hint, "{case}");
        }
    }

    #[tokio::test]
    async fn the_first_bytes_of_the_latest_connection_are_kept() {
        let first = FirstBytes::default();
        for parts in [&[1, 40, 100][..], &[100], &[3]] {
            let (near, mut far) = tokio::io::duplex(1024);
            let mut near = Watched::new(near, &first);
            let mut sent = Vec::new();
            for part in parts {
                let bytes: Vec<u8> = (0..*part).collect();
                far.write_all(&bytes).await.expect("the stream is open");
                sent.extend_from_slice(&bytes);
                let mut read = vec![0; bytes.len()];
                near.read_exact(&mut read)
                    .await
                    .expect("the stream is open");
                assert_eq!(read, bytes);
            }
            sent.truncate(LENGTH);
            assert_eq!(first.get(), sent);
        }
    }
}
