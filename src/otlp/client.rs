//! One OTLP export: cut to size, encode, send, judge the answer, try again where that can help.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Uri};
use tokio::time::{Instant, sleep, timeout};

use crate::config::settings::headers::HeadersFrom;
use crate::config::settings::{Compression, Protocol};
use crate::otlp::answer::{AttemptError, Retry};
use crate::otlp::connection::{Connection, MAX_QUIET};
use crate::otlp::messages;
use crate::otlp::outcome::SendOutcome;
use crate::semconv;
use crate::stats::Failure;

/// Receivers of gRPC take 4 MiB, unless told otherwise.
const MAX_MESSAGE: usize = 3584 * 1024;

/// Attempts at one export, and the pauses between them, doubled each time.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Sends the telemetry of one signal to its receiver.
pub(crate) struct OtlpClient {
    pub(crate) connection: Arc<Connection>,
    pub(crate) uri: Uri,
    pub(crate) protocol: Protocol,
    pub(crate) compression: Compression,
    pub(crate) headers: HeaderMap,
    pub(crate) headers_from: Option<HeadersFrom>,
    /// For one message, all attempts together.
    pub(crate) timeout: Duration,
}

impl OtlpClient {
    /// Sends a message, in parts where it is too large, and says what became of what it holds.
    pub(crate) async fn export<Q: messages::Request>(&self, message: Q) -> SendOutcome {
        let mut outcome = SendOutcome::default();
        let mut parts = vec![message];
        while let Some(mut part) = parts.pop() {
            let items = part.count();
            let count = items as u64;
            let Some(body) = self.encode(&part) else {
                if items > 1 {
                    parts.push(part.split_off(items / 2));
                    parts.push(part);
                } else {
                    let detail = format!(
                        "one alone is larger than {MAX_MESSAGE} bytes, or cannot be written"
                    );
                    outcome.lose(count, Failure::TooLarge, detail);
                }
                continue;
            };
            match self.send::<Q>(self.packed(body)).await {
                Ok((rejected, reason)) => {
                    let rejected = u64::try_from(rejected).unwrap_or(0).min(count);
                    let reason = semconv::truncate(&reason, 256);
                    outcome.exported += count - rejected;
                    if rejected > 0 {
                        let detail = format!("the receiver rejected some: {reason}");
                        outcome.lose(rejected, Failure::Rejected, detail);
                    } else if !reason.is_empty() {
                        outcome.warning = Some(reason.into_owned());
                    }
                }
                Err(error) => outcome.lose(count, error.failure, error.detail),
            }
        }
        outcome
    }

    /// Sends one message within the timeout, and says how many the receiver rejected of it.
    async fn send<Q: messages::Request>(&self, body: Bytes) -> Result<(i64, String), AttemptError> {
        let give_up = Instant::now() + MAX_QUIET;
        let mut budget = self.timeout;
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        let mut previous = None;
        loop {
            // It is the receiver who wants this; it does not use up the time for the export.
            self.connection.may_be_used().await;
            let start = Instant::now();
            let error = match timeout(budget, self.attempt(body.clone())).await {
                Ok(Ok(answer)) => {
                    return self.rejected::<Q>(answer).ok_or_else(|| {
                        AttemptError::no_receiver("the answer is not that of an OTLP receiver")
                    });
                }
                Ok(Err(error)) => error,
                // What little time was left proves nothing.
                Err(_) if budget < self.timeout / 2 && previous.is_some() => {
                    return Err(previous.unwrap_or_else(AttemptError::timeout));
                }
                Err(_) => {
                    self.connection.renew();
                    AttemptError::timeout()
                }
            };
            let wait = match error.retry {
                Retry::Never => return Err(error),
                Retry::Soon => pause + jitter(),
                Retry::After(quiet) => {
                    self.connection
                        .keep_quiet(quiet.max(pause).saturating_add(jitter()));
                    pause = (pause * 2).min(self.timeout);
                    if Instant::now() >= give_up {
                        return Err(error);
                    }
                    previous = Some(error);
                    continue;
                }
            };
            budget = budget.saturating_sub(start.elapsed());
            if attempt == ATTEMPTS || wait >= budget {
                return Err(error);
            }
            sleep(wait).await;
            budget = budget.saturating_sub(wait);
            attempt += 1;
            pause *= 2;
            previous = Some(error);
        }
    }

    /// `None` where the message is too large, or cannot be written.
    fn encode<Q: messages::Request>(&self, message: &Q) -> Option<Vec<u8>> {
        match self.protocol {
            Protocol::Grpc | Protocol::HttpProtobuf => message.encode(MAX_MESSAGE),
            #[cfg(feature = "http-json")]
            Protocol::HttpJson => message.to_json(MAX_MESSAGE),
        }
    }
}

/// Keeps clients that failed together from coming back together.
fn jitter() -> Duration {
    Duration::from_millis(RandomState::new().hash_one(()) % 100)
}
