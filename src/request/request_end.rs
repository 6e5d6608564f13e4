//! The end of a request.

use crate::semconv::rpc::Code;

/// How a request ended.
pub(crate) enum RequestEnd {
    /// The whole response was handed over.
    Complete,
    /// The body of the response ended before the length that its head announces.
    Incomplete,
    /// The service returned an error instead of a response, or instead of the rest of its body.
    Failed(Box<Failure>),
    /// A panic passed through the service.
    Panicked,
    /// The future or the body of the response was dropped before its end.
    Cancelled,
}

/// The facts that are recorded of an error.
pub(crate) struct Failure {
    /// The name from a hook, or the word for the error's cause.
    pub(crate) name: Option<&'static str>,
    /// The path of the error's type.
    pub(crate) path: &'static str,
    /// The code that the caller sees, if the request is a gRPC call of a client.
    pub(crate) code: Code,
    /// Empty if neither the span nor a log record takes a message.
    pub(crate) message: String,
}
