//! Errors on the current span.

use std::error::Error;
use std::fmt::Display;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Status, TraceContextExt};

use crate::current_context;
use crate::handler::run::message_of;
use crate::providers::exceptions::Exception;
use crate::providers::scope;
use crate::semconv::{self, SensitiveParameters};

/// Records an error on the current span. Sets the status of the span to error, and adds an
/// `exception` event with the type and the message of the error.
///
/// If exceptions are recorded as log records (`OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN`), a log record
/// is written instead of the event or in addition to it.
///
/// The error can be any value with a [`Display`]. Its message is truncated to 256 bytes. The user
/// and the password in URLs are redacted, and so are the values of the query parameters that are
/// redacted in `url.query`. The messages of its sources are omitted, because they often contain
/// internal details; see [`set_span_error_with_sources`].
///
/// ```
/// use tower_telemetry::set_span_error;
///
/// if let Err(error) = "many".parse::<u32>() {
///     set_span_error(&error);
/// }
/// ```
pub fn set_span_error<E: Display + ?Sized>(error: &E) {
    record_error(std::any::type_name::<E>(), || message_of(&error));
}

/// Records an error and its sources on the current span, like [`set_span_error`].
///
/// The messages are joined with `: `, without repetitions, and truncated to 256 bytes in total.
///
/// ```
/// # use std::error::Error;
/// use tower_telemetry::set_span_error_with_sources;
///
/// # fn load() -> Result<(), Box<dyn Error>> { Err("no such file".into()) }
/// if let Err(error) = load() {
///     set_span_error_with_sources(&*error);
/// }
/// ```
pub fn set_span_error_with_sources<E: Error + ?Sized>(error: &E) {
    record_error(std::any::type_name::<E>(), || {
        let sources = semconv::error_and_sources(error.source());
        let sources = sources.map(|source| source as &dyn Display);
        let errors = std::iter::once(&error as &dyn Display).chain(sources);
        semconv::redacted_message(errors, Some(&SensitiveParameters::default()))
    });
}

fn record_error(error_type: &'static str, message: impl FnOnce() -> String) {
    let cx = current_context::get();
    let span = cx.span();
    let providers = scope::current();
    let log = providers
        .as_ref()
        .and_then(|one| one.exceptions.log.as_ref());
    let is_recording = span.is_recording();
    if !is_recording && log.is_none() {
        return;
    }
    let message = message();
    if let Some(log) = log {
        log.log(&Exception {
            event: semconv::EXCEPTION_EVENT,
            is_error: true,
            error_type,
            message: &message,
            span_context: span.span_context(),
        });
    }
    if providers.as_ref().is_none_or(|one| one.exceptions.on_spans) {
        span.add_event(
            semconv::EXCEPTION_EVENT,
            vec![
                KeyValue::new(semconv::EXCEPTION_TYPE, error_type),
                KeyValue::new(semconv::EXCEPTION_MESSAGE, message.clone()),
            ],
        );
    }
    span.set_status(Status::error(message));
}
