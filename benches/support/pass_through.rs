//! The cost that every layer over requests has.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

/// A layer with the shape of every layer over requests that does nothing. It has shared options
/// like other layers, because axum clones a layer with each request.
#[derive(Clone, Default)]
pub struct PassThroughLayer {
    options: Arc<()>,
}

impl<S> Layer<S> for PassThroughLayer {
    type Service = PassThrough<S>;

    fn layer(&self, inner: S) -> PassThrough<S> {
        PassThrough {
            inner,
            _options: self.options.clone(),
        }
    }
}

#[derive(Clone)]
pub struct PassThrough<S> {
    inner: S,
    _options: Arc<()>,
}

impl<S, B, R> Service<Request<B>> for PassThrough<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<PassThroughBody<R>>;
    type Error = S::Error;
    type Future = PassThroughFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        PassThroughFuture {
            inner: self.inner.call(Request::from_parts(head, body)),
        }
    }
}

pin_project! {
    pub struct PassThroughFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, B, E> Future for PassThroughFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<PassThroughBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.project().inner.poll(cx))?;
        let (head, inner) = response.into_parts();
        Poll::Ready(Ok(Response::from_parts(head, PassThroughBody { inner })))
    }
}

pin_project! {
    pub struct PassThroughBody<B> {
        #[pin]
        inner: B,
    }
}

impl<B: Body> Body for PassThroughBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
