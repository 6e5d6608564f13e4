//! The future of a response.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use crate::layers::body::ResponseBody;
use crate::request::ActiveRequest;

pin_project! {
    /// Response future of [`Telemetry`](crate::layers::Telemetry).
    ///
    /// The request's context is current while the inner future is polled or dropped.
    pub struct ResponseFuture<F> {
        // `None` after the future has completed, and during `drop`.
        #[pin]
        inner: Option<F>,
        // Moves to the body with the head of the response.
        request: ActiveRequest,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.inner.is_some() {
                let _entered = this.request.enter();
                this.inner.set(None);
            }
        }
    }
}

impl<F> ResponseFuture<F> {
    pub(crate) fn new(inner: F, request: ActiveRequest) -> Self {
        Self {
            inner: Some(inner),
            request,
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: 'static,
    B: http_body::Body,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let result = {
            let Some(inner) = this.inner.as_mut().as_pin_mut() else {
                // A completed future must not be polled again.
                return Poll::Pending;
            };
            let _entered = this.request.enter();
            let result = ready!(inner.poll(cx));
            this.inner.set(None);
            result
        };
        let mut request = mem::replace(this.request, ActiveRequest::none());
        Poll::Ready(match result {
            Ok(response) => {
                let (mut head, body) = response.into_parts();
                request.on_head(&mut head);
                let body = ResponseBody::new(body, &head.headers, request);
                Ok(Response::from_parts(head, body))
            }
            Err(error) => {
                request.fail(&error);
                Err(error)
            }
        })
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
