//! The client layer as a middleware of `reqwest`.

use http::{Extensions, Response};
use reqwest::{Body, ResponseBuilderExt};
use reqwest_middleware::{Error, Middleware, Next, Result};

use crate::layers::client::ClientTelemetryLayer;
use crate::layers::future::ResponseFuture;
use crate::request::attempts::Attempts;

/// Records each request of a `reqwest` client:
///
/// ```
/// use tower_telemetry::ClientTelemetryLayer;
///
/// let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
///     .with(ClientTelemetryLayer::new())
///     .build();
/// ```
///
/// Added after a middleware that sends again, such as that of `reqwest-retry`, it records each
/// attempt, and counts them. Redirects are followed by `reqwest` itself, below all middleware: all
/// hops are one span, and the headers of the first go to each. Where context may not go everywhere,
/// have the client follow none.
#[async_trait::async_trait]
impl Middleware for ClientTelemetryLayer {
    async fn handle(
        &self,
        mut request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<reqwest::Response> {
        let uri = request.url().as_str();
        let head = http::Request::builder()
            .method(request.method())
            .uri(uri)
            .version(request.version());
        let head = head.body(()).map_err(Error::middleware)?;
        let (mut head, ()) = head.into_parts();
        head.headers = std::mem::take(request.headers_mut());
        // The same for all attempts at one request.
        let attempts = extensions.get_or_insert_default::<Attempts>().clone();
        head.extensions.insert(attempts);
        let mut active = self.send(&mut head);
        *request.headers_mut() = head.headers;
        let inner = {
            let _entered = active.enter();
            next.run(request, extensions)
        };
        let inner = async { inner.await.and_then(with_url) };
        let (head, body) = ResponseFuture::new(inner, active).await?.into_parts();
        Ok(Response::from_parts(head, Body::wrap(body)).into())
    }
}

/// The response as one of `http`, which keeps its URL where only `reqwest` can read it.
fn with_url(response: reqwest::Response) -> Result<Response<Body>> {
    let builder = Response::builder().url(response.url().clone());
    let url = builder.body(()).map_err(Error::middleware)?;
    let mut response = Response::<Body>::from(response);
    let extensions = url.into_parts().0.extensions;
    response.extensions_mut().extend(extensions);
    Ok(response)
}
