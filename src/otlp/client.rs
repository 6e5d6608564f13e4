//! One OTLP export: splits a message to size, encodes it, sends it, reads the response, and keeps
//! the message for another attempt if that can help.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Uri};
use tokio::time::{Instant, timeout};

use crate::config::settings::headers::HeadersFrom;
use crate::config::settings::{Compression, Protocol};
use crate::otlp::connection::Connection;
use crate::otlp::messages;
use crate::otlp::outcome::SendOutcome;
use crate::otlp::response::AttemptError;
use crate::otlp::retention::Retention;
use crate::otlp::retries::{Retries, RetryPolicy, SendError};
use crate::stats::Failure;

/// The maximum length of a message in bytes. gRPC receivers accept 4 MiB by default.
pub(crate) const MAX_MESSAGE: usize = 3584 * 1024;

/// Sends the telemetry of one signal to its receiver.
pub(crate) struct OtlpClient {
    pub(crate) connection: Arc<Connection>,
    pub(crate) uri: Uri,
    pub(crate) protocol: Protocol,
    pub(crate) compression: Compression,
    pub(crate) headers: HeaderMap,
    pub(crate) headers_from: Option<HeadersFrom>,
    /// The timeout of one attempt.
    pub(crate) timeout: Duration,
    pub(crate) retries: Retries,
}

impl OtlpClient {
    /// Sends a message, split into parts if it is too large, and returns the outcome.
    pub(crate) async fn export<Q: messages::Request>(
        &self,
        message: Q,
        policy: RetryPolicy,
        retention: &Retention,
    ) -> SendOutcome {
        let give_up_at = self.retries.give_up_at();
        let mut outcome = SendOutcome::default();
        let mut parts = vec![message];
        while let Some(mut part) = parts.pop() {
            let items = part.count();
            let count = items as u64;
            let Some(body) = self.encode(&part, retention) else {
                if items > 1 {
                    parts.push(part.split_off(items / 2));
                    parts.push(part);
                } else {
                    let detail = format!(
                        "a single item is larger than {MAX_MESSAGE} bytes, or cannot be encoded"
                    );
                    outcome.fail(count, Failure::TooLarge, detail);
                }
                continue;
            };
            // The encoded message may be kept for minutes. One copy in memory is enough.
            retention.pause();
            drop(part);
            let body = self.compress_and_frame(body, retention);
            retention.pause();
            let sent = self.send::<Q>(body, give_up_at, policy, retention).await;
            if outcome.add(count, sent) {
                let rest: usize = parts.drain(..).map(|part| part.count()).sum();
                outcome.dropped += rest as u64;
            }
        }
        outcome
    }

    /// Sends one message, with retries, and returns how many items the receiver rejected.
    async fn send<Q: messages::Request>(
        &self,
        body: Bytes,
        give_up_at: Instant,
        policy: RetryPolicy,
        retention: &Retention,
    ) -> Result<(i64, String), SendError> {
        let attempt = || async {
            let limit = self.retries.limit(self.timeout);
            let attempt = timeout(limit, self.attempt(body.clone())).await;
            let Ok(result) = attempt else {
                self.connection.renew();
                return Err(AttemptError::timeout());
            };
            self.rejected::<Q>(result?).ok_or_else(|| {
                AttemptError::no_receiver("the response does not come from an OTLP receiver")
            })
        };
        // The pause is here and not in the attempt: while a message waits here, the queue can drop
        // it to make room for newer items.
        let not_before = || self.connection.pause_until();
        let run = self
            .retries
            .run(attempt, not_before, give_up_at, policy, retention);
        run.await
    }

    /// Returns the receiver's URL and protocol for log lines. The query and any unusual path are
    /// left out, because they may contain a secret.
    pub(crate) fn receiver(&self) -> String {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let host = self.uri.host().unwrap_or_default();
        let port = self.uri.port().map(|port| format!(":{port}"));
        let is_usual = ["/v1/traces", "/v1/metrics", "/v1/logs"].contains(&self.uri.path());
        let path = if is_usual { self.uri.path() } else { "" };
        let port = port.unwrap_or_default();
        format!("{scheme}://{host}{port}{path} ({})", self.protocol.name())
    }

    /// Returns the encoded message; `None` if it is too large or cannot be encoded.
    fn encode<Q: messages::Request>(&self, message: &Q, retention: &Retention) -> Option<Vec<u8>> {
        match self.protocol {
            Protocol::Grpc | Protocol::HttpProtobuf => message.encode(MAX_MESSAGE, retention),
            #[cfg(feature = "http-json")]
            Protocol::HttpJson => message.to_json(MAX_MESSAGE, retention),
        }
    }
}
