//! HTTP for the exporters of `opentelemetry-otlp`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};

use crate::otlp::answer::AttemptError;
use crate::otlp::attempt::Answer;
use crate::otlp::client::OtlpClient;

/// Sends the messages of one exporter, and keeps the end of the last one: the exporter says no more of a
/// failure than a text, and nothing of the answer.
pub(crate) struct Exchange {
    client: Arc<OtlpClient>,
    last: Mutex<Option<Result<Answer, AttemptError>>>,
}

impl Exchange {
    pub(crate) fn new(client: Arc<OtlpClient>) -> Self {
        Self {
            client,
            last: Mutex::new(None),
        }
    }

    /// Takes the end of the last message; `None` where there was none.
    pub(crate) fn take(&self) -> Option<Result<Answer, AttemptError>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.take()
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

/// The client that an exporter is given.
#[derive(Debug)]
pub(crate) struct Http(pub(crate) Arc<Exchange>);

#[async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        // Without the rest of its headers, which the exporter reads from variables once more.
        let mut headers = self.0.client.request_headers();
        headers.remove(CONTENT_ENCODING);
        for name in [CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT] {
            if let Some(value) = head.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        let end = self.0.client.post(body, headers).await;
        let response = match &end {
            Ok(answer) => {
                let mut response = Response::new(answer.body.clone());
                *response.headers_mut() = answer.headers.clone();
                Ok(response)
            }
            Err(error) => Err(error.detail.clone().into()),
        };
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        response
    }
}
