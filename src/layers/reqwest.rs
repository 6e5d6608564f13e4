//! The client layer as a `reqwest` middleware.

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
/// After a middleware that retries, such as `reqwest-retry`, it records and counts each attempt.
/// `reqwest` follows redirects below all middleware: all hops are recorded as one span, and each
/// hop gets the headers of the first. If not every server may receive the context, disable
/// redirects in the client.
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
        // All attempts at a request share the counter.
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

/// Converts the response to one of `http`. Its URL is kept in an extension that only `reqwest` can
/// read.
fn with_url(response: reqwest::Response) -> Result<Response<Body>> {
    let builder = Response::builder().url(response.url().clone());
    let url = builder.body(()).map_err(Error::middleware)?;
    let mut response = Response::<Body>::from(response);
    let extensions = url.into_parts().0.extensions;
    response.extensions_mut().extend(extensions);
    Ok(response)
}
