//! gRPC for the exporters of `opentelemetry-otlp`.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::USER_AGENT;
use http::{HeaderMap, Uri};
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tower_service::Service;

use crate::otlp::client::OtlpClient;
use crate::otlp::connector::Connector;
use crate::otlp::http_client::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};
use crate::otlp::response::{self, AttemptError, Retry};
use crate::semconv::rpc::Code;

/// Creates a channel that connects when it is first used. Requires a tokio runtime.
pub(crate) fn channel(client: &OtlpClient) -> Result<Channel, tonic::transport::Error> {
    let authority = client.uri.authority().map_or("", |one| one.as_str());
    // The scheme is `http` because the connector does TLS. Calls have the real scheme.
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))?
        .origin(client.uri.clone())
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    Ok(endpoint.connect_with_connector_lazy(ToReceiver {
        connector: client.connection.connector(),
        uri: client.uri.clone(),
    }))
}

/// Connects to the receiver, whichever URI the channel requests.
struct ToReceiver {
    connector: Connector,
    uri: Uri,
}

impl Service<Uri> for ToReceiver {
    type Response = <Connector as Service<Uri>>::Response;
    type Error = <Connector as Service<Uri>>::Error;
    type Future = <Connector as Service<Uri>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        self.connector.call(self.uri.clone())
    }
}

/// Sets the metadata of calls.
#[derive(Clone)]
pub(crate) struct Metadata(pub(crate) Arc<OtlpClient>);

impl Interceptor for Metadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let given = std::mem::take(request.metadata_mut()).into_headers();
        // Only the user agent is kept. The exporter's other headers come from variables that this
        // crate has read already.
        let mut headers = self.0.configured_headers();
        if let Some(agent) = given.get(USER_AGENT) {
            headers.insert(USER_AGENT, agent.clone());
        }
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        Ok(request)
    }
}

/// Returns the failure for the gRPC status in the error message of an export; `None` if it contains
/// no status from a receiver.
///
/// The exporter hides the message and the details of a status, because they may contain secrets. So
/// a delay that the receiver requests (`RetryInfo`) is unknown.
pub(crate) fn status(text: &str) -> Option<AttemptError> {
    let (_, name) = text.split_once("gRPC code: ")?;
    // Without the name of a status, the text describes a connection error.
    let code = (0..=16).find(|code| format!("{:?}", tonic::Code::from_i32(*code)) == name)?;
    let code = Code(u8::try_from(code).ok()?);
    let mut error = response::failed(code, &HeaderMap::new());
    // The receiver may have requested a retry, and an unnecessary attempt loses nothing.
    if code == Code(tonic::Code::ResourceExhausted as u8) {
        error.retry = Retry::Soon;
    }
    Some(error)
}
