//! Records exceptions as log records (semantic conventions, "Exceptions in logs").

use std::time::SystemTime;

use opentelemetry::logs::{LogRecord, Logger, LoggerProvider, Severity};
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};

use crate::providers::exceptions::{Exception, LogException};
use crate::providers::instrumentation_scope;
use crate::semconv::{EXCEPTION_MESSAGE, EXCEPTION_TYPE};

/// Emits exceptions through the SDK's logger.
pub(crate) struct ExceptionLogger(SdkLogger);

impl ExceptionLogger {
    pub(crate) fn new(provider: &SdkLoggerProvider) -> Self {
        Self(provider.logger_with_scope(instrumentation_scope()))
    }
}

impl LogException for ExceptionLogger {
    fn log(&self, exception: &Exception<'_>) {
        let severity = if exception.is_error {
            Severity::Error
        } else {
            Severity::Warn
        };
        let mut record = self.0.create_log_record();
        let now = SystemTime::now();
        record.set_timestamp(now);
        record.set_observed_timestamp(now);
        record.set_event_name(exception.event);
        record.set_severity_number(severity);
        record.set_severity_text(severity.name());
        record.add_attribute(EXCEPTION_TYPE, exception.error_type.to_owned());
        if !exception.message.is_empty() {
            record.add_attribute(EXCEPTION_MESSAGE, exception.message.to_owned());
        }
        let span = exception.span_context;
        if span.is_valid() {
            record.set_trace_context(span.trace_id(), span.span_id(), Some(span.trace_flags()));
        }
        self.0.emit(record);
    }
}
