//! The failure of a request, read from the service's error.

use std::any::{Any, type_name};
use std::fmt::Display;

use crate::concurrent::caught::guarded;
use crate::request::in_flight::InFlight;
use crate::request::request_end::Failure;
use crate::semconv::rpc::Code;
use crate::semconv::{ErrorChain, Phase, Side, error_text, redacted_message};

impl InFlight {
    /// Converts the error that ends the request.
    pub(crate) fn failure<E: 'static>(&self, error: &E) -> Failure {
        self.failure_of(error, type_name::<E>())
    }

    fn failure_of(&self, error: &dyn Any, type_name: &'static str) -> Failure {
        let options = &self.state.options;
        // Sources and messages come from application code, which may panic.
        let chain = guarded(|| ErrorChain::new(error, &options.error_types)).unwrap_or_default();
        let phase = match self.status {
            None => Phase::Head,
            Some(_) => Phase::Body,
        };
        let hooks = &options.error_types;
        let named = chain.iter().find_map(|error| {
            let mut names = hooks.iter().filter_map(|hook| hook.name(error));
            names.next()
        });
        let name = named.or_else(|| guarded(|| chain.error_type(phase)).flatten());
        let is_client = self.state.instruments.side == Side::Client;
        let code = if is_client && self.call.is_some() {
            let code = || Code::from_error(chain.iter().next(), phase == Phase::Body);
            guarded(code).unwrap_or(Code::UNKNOWN)
        } else {
            Code::INTERNAL
        };
        let message = || {
            let sensitive = options.sensitive_parameters.as_ref();
            let text = error_text(error);
            let text = text.iter().map(|text| text as &dyn Display);
            let errors = chain.iter().map(|error| error as &dyn Display);
            redacted_message(text.chain(errors), sensitive)
        };
        Failure {
            name,
            path: chain.path(type_name),
            code,
            message: if is_client && self.span_is_recording || self.state.exceptions.log.is_some() {
                guarded(message).unwrap_or_default()
            } else {
                String::new()
            },
        }
    }
}
