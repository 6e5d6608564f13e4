//! A request, captured when its span starts. The thread that exports the span makes the attributes.

use crate::semconv::client_request::ClientRequest;
use crate::semconv::server_request::ServerRequest;
use crate::semconv::values::AttributeValue;

/// A captured request of either side.
#[derive(Clone)]
pub(crate) enum CapturedRequest {
    Server(ServerRequest),
    Client(ClientRequest),
}

impl CapturedRequest {
    /// Adds the attributes that the span has from its start.
    pub(crate) fn attributes(&self, add: &mut impl FnMut(&'static str, AttributeValue<'_>)) {
        match self {
            Self::Server(request) => request.attributes(add),
            Self::Client(request) => request.attributes(add),
        }
    }

    /// Returns the memory on the heap, in bytes.
    #[cfg(feature = "init")]
    pub(crate) fn heap_size(&self) -> usize {
        match self {
            Self::Server(request) => request.text.heap_size(),
            Self::Client(request) => request.text.heap_size(),
        }
    }
}
