//! A request that is captured when its span starts. The export thread builds the attributes.

use crate::semconv::client_request::ClientRequest;
use crate::semconv::server_request::ServerRequest;
use crate::semconv::values::AttributeValue;

/// A captured request of a server or a client.
#[derive(Clone)]
pub(crate) enum CapturedRequest {
    Server(ServerRequest),
    Client(ClientRequest),
}

impl CapturedRequest {
    /// Adds the attributes that the span has when it starts.
    #[cfg(feature = "init")]
    pub(crate) fn attributes(&self, add: &mut impl FnMut(&'static str, AttributeValue<'_>)) {
        self.attributes_for_samplers(add);
        self.other_attributes(add);
    }

    /// Adds those of the span's first attributes that a sampler may read.
    pub(crate) fn attributes_for_samplers(
        &self,
        add: &mut impl FnMut(&'static str, AttributeValue<'_>),
    ) {
        match self {
            Self::Server(request) => request.attributes_for_samplers(add),
            Self::Client(request) => request.attributes_for_samplers(add),
        }
    }

    /// Adds the other attributes that the span has when it starts.
    pub(crate) fn other_attributes(&self, add: &mut impl FnMut(&'static str, AttributeValue<'_>)) {
        match self {
            Self::Server(request) => request.other_attributes(add),
            Self::Client(request) => request.other_attributes(add),
        }
    }

    /// Returns the size of the heap memory in bytes.
    #[cfg(feature = "init")]
    pub(crate) fn heap_size(&self) -> usize {
        match self {
            Self::Server(request) => request.text.heap_size(),
            Self::Client(request) => request.text.heap_size(),
        }
    }
}
