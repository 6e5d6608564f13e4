//! The end of a request.

use crate::semconv::rpc::Code;

/// The way in which a request ended.
pub(crate) enum RequestEnd {
    /// The whole response was returned.
    Complete,
    /// The response body is shorter than its head announces.
    Incomplete,
    /// The service returned an error instead of a response, or instead of the rest of its body.
    Failed(Box<Failure>),
    /// A panic passed through the service.
    Panicked,
    /// The response's future or body was dropped before its end.
    Cancelled,
}

/// The recorded facts about an error.
pub(crate) struct Failure {
    /// The name from a hook, or the word for the error's cause.
    pub(crate) name: Option<&'static str>,
    /// The path of the error's type.
    pub(crate) path: &'static str,
    /// The code that the caller receives, for a client's gRPC call.
    pub(crate) code: Code,
    /// The message; empty if neither the span nor a log record contains it.
    pub(crate) message: String,
}
