//! HTTP for the exporters of `opentelemetry-otlp`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};

use crate::otlp::attempt::Accepted;
use crate::otlp::client::OtlpClient;
use crate::otlp::response::AttemptError;

/// Sends the messages of one exporter and keeps the result of the last one. The exporter itself
/// returns only the text of an error, and nothing of the response.
pub(crate) struct Exchange {
    client: Arc<OtlpClient>,
    last: Mutex<Option<Result<Accepted, AttemptError>>>,
}

impl Exchange {
    pub(crate) fn new(client: Arc<OtlpClient>) -> Self {
        Self {
            client,
            last: Mutex::new(None),
        }
    }

    /// Takes the result of the last message; `None` if none was sent.
    pub(crate) fn take(&self) -> Option<Result<Accepted, AttemptError>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.take()
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

/// The HTTP client of an exporter.
#[derive(Debug)]
pub(crate) struct Http(pub(crate) Arc<Exchange>);

#[async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        // Only three headers are kept. The exporter's other headers come from variables that this
        // crate has read already.
        let mut headers = self.0.client.request_headers();
        headers.remove(CONTENT_ENCODING);
        for name in [CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT] {
            if let Some(value) = head.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        let end = self.0.client.post(body, headers).await;
        let response = match &end {
            Ok(accepted) => {
                let mut response = Response::new(accepted.body.clone());
                *response.headers_mut() = accepted.headers.clone();
                Ok(response)
            }
            Err(error) => Err(error.detail.clone().into()),
        };
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        response
    }
}
