//! A gRPC call in flight.

use std::borrow::Cow;

use bytes::Buf;
use http::request::Parts;
use http::{HeaderMap, StatusCode, Uri};
use opentelemetry::KeyValue;

use crate::instruments::Instruments;
use crate::request::request_end::RequestEnd;
use crate::semconv::rpc::{self, Code};
use crate::semconv::{self, ErrorType, ServerRequest, Side, WebFrames};

/// The facts about a gRPC call.
#[derive(Default)]
pub(crate) struct GrpcCall {
    /// The method in the request.
    pub(crate) method: Cow<'static, str>,
    /// Whether the server is known to have the method. If not, an incoming request may not be a gRPC
    /// call.
    pub(crate) known: bool,
    /// The code in the response; `None` until it arrives, for example if the client disconnects.
    pub(crate) code: Option<Code>,
    /// Whether the response contains a message, which shows that the server has the method.
    pub(crate) has_message: bool,
    /// The reader of gRPC-Web frames; `None` if the response is not gRPC-Web.
    pub(crate) web: Option<Box<WebFrames>>,
    /// The request as an HTTP request, until the response shows that it is a gRPC call.
    pub(crate) request: Option<Box<ServerRequest>>,
    /// The message of a call that failed.
    pub(crate) message: Option<Box<str>>,
}

/// Returns whether the call comes from generated client code. The method is then certain to exist.
fn is_generated(request: &Parts) -> bool {
    #[cfg(feature = "tonic")]
    {
        let method = request.extensions.get::<tonic::GrpcMethod<'static>>();
        method.is_some()
    }
    #[cfg(not(feature = "tonic"))]
    {
        let _ = request;
        false
    }
}

impl GrpcCall {
    /// Reads a request that may be a gRPC call; `None` if it does not look like one. `uri` is the
    /// target after changes by routers.
    #[inline]
    pub(crate) fn of(request: &Parts, uri: &Uri, instruments: &Instruments) -> Option<Self> {
        if !rpc::is_call(request) {
            return None;
        }
        let method = rpc::called_method(uri);
        let known = if instruments.side == Side::Client && is_generated(request) {
            instruments.learn_grpc_method(method)
        } else {
            let known = instruments.grpc_method(method);
            // A router that removes a prefix may be further inside.
            known.or_else(|| instruments.grpc_method(rpc::without_prefix(method)?))
        };
        Some(Self {
            method: known.map_or_else(|| method.to_owned().into(), Cow::Borrowed),
            known: known.is_some(),
            ..Self::default()
        })
    }

    /// Handles the head of the response.
    pub(crate) fn on_head(&mut self, head: &HeaderMap) {
        self.code = Code::in_headers(head);
        if self.code.is_none() && rpc::is_web(head) {
            self.web = Some(Box::default());
        }
    }

    /// Handles data of the response body.
    pub(crate) fn on_data(&mut self, data: &impl Buf) {
        let Some(web) = &mut self.web else {
            self.has_message |= data.has_remaining();
            return;
        };
        web.read(data);
        self.has_message = web.has_message();
        self.code = web.status().map(Code::parse).or(self.code);
    }

    pub(crate) fn span_name(&self) -> Cow<'static, str> {
        match &self.method {
            method if self.known => method.clone(),
            _ => Cow::Borrowed(rpc::SYSTEM),
        }
    }

    pub(crate) fn attributes(&self, add: &mut impl FnMut(KeyValue)) {
        add(rpc::system_attribute());
        if self.known {
            add(KeyValue::new(semconv::RPC_METHOD, self.method.clone()));
        } else {
            add(KeyValue::new(semconv::RPC_METHOD, semconv::OTHER));
            add(rpc::original_method_attribute(&self.method));
        }
    }

    /// Returns the code and the `error.type` of a call that ended.
    pub(crate) fn result(
        &self,
        side: Side,
        end: &RequestEnd,
        status: Option<StatusCode>,
    ) -> (Code, Option<ErrorType>) {
        let code = match (end, self.code) {
            (RequestEnd::Panicked, _) => {
                return (Code::INTERNAL, Some(ErrorType::Name(semconv::PANIC)));
            }
            // An error code takes precedence over how the body ends.
            (_, Some(code)) if !code.is_ok() => code,
            (RequestEnd::Failed(failure), _) => {
                let code = match side {
                    Side::Client => failure.code,
                    Side::Server => Code::INTERNAL,
                };
                let error = failure.name.unwrap_or_else(|| match side {
                    Side::Client => code.name(),
                    Side::Server => failure.path,
                });
                return (code, Some(ErrorType::Name(error)));
            }
            (_, Some(code)) => code,
            (RequestEnd::Cancelled, None) => match status {
                // The response is not gRPC, and its body was not read to the end.
                Some(status) if side == Side::Client && status != StatusCode::OK => {
                    Code::from_http_status(status)
                }
                // The caller cancelled the call.
                _ => return (Code::CANCELLED, None),
            },
            (RequestEnd::Complete | RequestEnd::Incomplete, None) => {
                status.map_or(Code::UNKNOWN, Code::from_http_status)
            }
        };
        let error = code.is_error(side);
        (code, error.then(|| ErrorType::Name(code.name())))
    }

    /// Returns the method if the server is known to have it, and stores it if the response shows
    /// that.
    pub(crate) fn learn(&self, instruments: &Instruments) -> Option<&'static str> {
        // Other responses may come from a layer that rejects calls before they are routed to a
        // method.
        if self.has_message || self.code.is_some_and(Code::is_ok) {
            instruments.learn_grpc_method(&self.method)
        } else {
            instruments.grpc_method(&self.method)
        }
    }
}
