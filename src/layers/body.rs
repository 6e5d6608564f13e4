//! The body of a response.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::{CONTENT_LENGTH, HeaderMap};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::request::ActiveRequest;

pin_project! {
    /// Response body of [`Telemetry`](crate::layers::Telemetry), which passes on the inner body's
    /// frames.
    ///
    /// The request ends when the last frame has been returned, when the body fails, or when the
    /// body is dropped.
    pub struct ResponseBody<B> {
        // `None` only during `drop`.
        #[pin]
        inner: Option<B>,
        request: ActiveRequest,
    }

    impl<B> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // A body that was read to its end does nothing more for its request.
            if !this.request.has_whole_body() {
                let _entered = this.request.enter();
                this.inner.set(None);
            }
        }
    }
}

impl<B: Body> ResponseBody<B> {
    pub(crate) fn new(inner: B, head: &HeaderMap, mut request: ActiveRequest) -> Self {
        if request.is_some() {
            let hinted = inner.size_hint().exact();
            request.on_body(content_length(head), hinted, inner.is_end_stream());
        }
        Self {
            inner: Some(inner),
            request,
        }
    }
}

/// Returns the body length in the head. An HTTP/1 server sends exactly this length.
#[inline]
fn content_length(head: &HeaderMap) -> Option<u64> {
    // Most heads have few headers. Comparing each takes half of the instructions of a lookup.
    let (_, length) = head.iter().find(|(name, _)| **name == CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

impl<B: Body> Body for ResponseBody<B>
where
    B::Error: 'static,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let Some(mut inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(None);
        };
        let frame = {
            let _entered = this.request.enter();
            ready!(inner.as_mut().poll_frame(cx))
        };
        if this.request.is_some() {
            match &frame {
                // Servers check for the end of the stream instead of polling once more.
                Some(Ok(frame)) => this.request.on_frame(frame, inner.is_end_stream()),
                Some(Err(error)) => this.request.fail(error),
                None => this.request.on_end(),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self {
            inner: Some(B::default()),
            request: ActiveRequest::none(),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
