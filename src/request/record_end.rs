//! The end of a recorded request: its metrics, its log lines and the end of its span.

use std::borrow::Cow;
use std::mem;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use opentelemetry::trace::{SpanContext, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};

use crate::attribute_set;
use crate::instruments::{CallKey, Measured, Route, SeriesKey};
use crate::layer_state::access_log;
use crate::providers::exceptions::{Exception, LogException};
use crate::providers::exemplars::Origin;
use crate::request::grpc_call::GrpcCall;
use crate::request::in_flight::InFlight;
use crate::request::received::Received;
use crate::request::request_end::RequestEnd;
use crate::semconv::is_defined;
use crate::semconv::status_attribute;
use crate::semconv::{self, ErrorType, Side};

impl InFlight {
    /// Records the metrics of a request, logs it and ends its span.
    #[inline]
    pub(crate) fn finish(&mut self, cx: &Context, end: RequestEnd) {
        let duration = self.start.elapsed();
        if self.call.is_some() && self.status.is_none() && self.http.active {
            // Only the content type suggests a gRPC call, and there is no response to confirm it.
            self.become_http(cx);
        }
        let extra = self.take_extra(cx);
        let measured = Measured {
            duration,
            received: self.received.as_ref().and_then(Received::bytes),
            sent: self.sent,
            origin: self.origin_of_exemplars(cx, duration),
        };
        let instruments = &self.state.instruments;
        let route = instruments.route(&self.http.route);
        if self.http.active {
            instruments.add_active(route, self.http.scheme, -1);
        }
        let error = match &self.call {
            Some(call) => self.finish_call(call, cx, &end, route, extra, &measured),
            None => self.finish_http(cx, &end, route, extra, &measured),
        };
        if let Some(log) = &self.state.exceptions.log {
            self.log_exception(&**log, &end, cx.span().span_context());
        }
        if self.access.is_some() {
            self.log_access(cx, &end, error, duration);
        }
        self.end_span(cx, end, error, duration);
    }

    /// Returns the origin of the request's exemplars; `None` if it must not become an exemplar.
    #[inline]
    fn origin_of_exemplars(&self, cx: &Context, duration: Duration) -> Option<Origin> {
        let exemplars = self.state.instruments.exemplars.as_deref()?;
        // A fast check for most unsampled requests, which have no recording span.
        if !self.span_is_recording && self.signals.traces && !exemplars.selects_all {
            return None;
        }
        let span = cx.span();
        let span_context = span.span_context();
        if !exemplars.selects(span_context) {
            return None;
        }
        // Computed, because the system clock is slow to read.
        let end = self.start_time.map(|start| start + duration);
        Some(Origin::new(
            span_context,
            end.unwrap_or_else(SystemTime::now),
        ))
    }

    #[inline]
    fn set_on_span(&self, cx: &Context, attribute: KeyValue) {
        if self.span_is_recording {
            attribute_set::write_as_crate(|| cx.span().set_attribute(attribute));
        }
    }

    /// Adds the attributes of hooks and the handler to the span, and returns those that are valid
    /// on metrics.
    #[inline]
    fn take_extra(&mut self, cx: &Context) -> Vec<KeyValue> {
        let extra = mem::take(&mut self.extra);
        if extra.is_empty() {
            return extra;
        }
        if self.span_is_recording {
            // Most of them are already on the span and are not replaced.
            for attribute in &extra {
                self.set_on_span(cx, attribute.clone());
            }
        }
        self.state.instruments.apply_limits(extra)
    }

    #[inline]
    fn defined_status(&self) -> Option<StatusCode> {
        self.status.filter(|status| is_defined(*status))
    }

    /// Records a gRPC call and returns its error.
    fn finish_call(
        &self,
        call: &GrpcCall,
        cx: &Context,
        end: &RequestEnd,
        route: &Route,
        extra: Vec<KeyValue>,
        measured: &Measured,
    ) -> Option<ErrorType> {
        let instruments = &self.state.instruments;
        let (code, error) = call.result(instruments.side, end, self.status);
        let known = call.learn(instruments);
        let key = CallKey {
            code,
            status: self.defined_status(),
            error,
            extra,
        };
        if self.signals.metrics {
            instruments.record_call(route, known, &key, measured);
        }
        if !call.known {
            let known = GrpcCall {
                method: known.map_or_else(|| call.method.clone(), Cow::Borrowed),
                known: known.is_some(),
                ..GrpcCall::default()
            };
            known.attributes(&mut |attribute| self.set_on_span(cx, attribute));
            if self.span_is_recording && !self.http.has_own_name {
                cx.span().update_name(known.span_name());
            }
        }
        let code = KeyValue::new(semconv::RPC_STATUS_CODE, code.name());
        self.set_on_span(cx, code);
        error
    }

    /// Records an HTTP request and returns its error.
    #[inline]
    fn finish_http(
        &self,
        cx: &Context,
        end: &RequestEnd,
        route: &Route,
        extra: Vec<KeyValue>,
        measured: &Measured,
    ) -> Option<ErrorType> {
        let error = self.http_error(end);
        let key = SeriesKey {
            counted: measured.received.is_some(),
            scheme: self.http.scheme,
            version: self.http.version,
            status: self.defined_status(),
            error,
            extra,
        };
        if self.signals.metrics {
            self.state.instruments.record_http(route, &key, measured);
        }
        if self.span_is_recording
            && let Some(status) = self.status
        {
            self.set_on_span(cx, status_attribute(status));
        }
        error
    }

    /// Returns the error of an HTTP request. An error status takes precedence over how the body
    /// ends.
    #[inline]
    fn http_error(&self, end: &RequestEnd) -> Option<ErrorType> {
        let side = self.state.instruments.side;
        let of_status = |status| ErrorType::from_status(side, status);
        let of_end = || match end {
            RequestEnd::Failed(failure) => Some(failure.name.unwrap_or(failure.path)),
            RequestEnd::Panicked => Some(semconv::PANIC),
            RequestEnd::Incomplete => Some(semconv::BODY_INCOMPLETE),
            RequestEnd::Cancelled if side == Side::Server => {
                let options = &self.state.options;
                options.cancelled_error_type.then_some(semconv::CANCELLED)
            }
            // A client may drop a response body that it does not need.
            RequestEnd::Complete | RequestEnd::Cancelled => None,
        };
        let error = self.status.and_then(of_status);
        error.or_else(|| of_end().map(ErrorType::Name))
    }

    /// Logs the error or the panic that ended the request, if any.
    #[cold]
    fn log_exception(&self, log: &dyn LogException, end: &RequestEnd, span: &SpanContext) {
        let (error_type, message) = match end {
            RequestEnd::Failed(failure) => (failure.path, &*failure.message),
            RequestEnd::Panicked => (semconv::PANIC, ""),
            RequestEnd::Complete | RequestEnd::Cancelled | RequestEnd::Incomplete => return,
        };
        let side = self.state.instruments.side;
        log.log(&Exception {
            event: semconv::exception_event(side, self.call.is_some()),
            is_error: side == Side::Server,
            error_type,
            message,
            span_context: span,
        });
    }

    /// Writes the line in the access log.
    #[cold]
    fn log_access(
        &mut self,
        cx: &Context,
        end: &RequestEnd,
        error: Option<ErrorType>,
        duration: Duration,
    ) {
        let Some(access) = self.access.take() else {
            return;
        };
        let instruments = &self.state.instruments;
        let route = instruments.route(&self.http.route);
        let code = |call: &GrpcCall| call.result(instruments.side, end, self.status).0.name();
        let end = access_log::End {
            method: route.method,
            route: route.route.as_deref(),
            status: self.status,
            code: self.call.as_ref().map(code),
            error: error.map(|error| error.attribute().value.to_string()),
            duration,
        };
        access.write(cx, &end);
    }

    #[inline]
    fn end_span(
        &mut self,
        cx: &Context,
        end: RequestEnd,
        error: Option<ErrorType>,
        duration: Duration,
    ) {
        if !self.span_is_recording {
            return;
        }
        let span = cx.span();
        if let Some(error) = error {
            attribute_set::write_as_crate(|| span.set_attribute(error.attribute()));
            // The server did not fail if the client disconnected.
            let is_cancelled = error == ErrorType::Name(semconv::CANCELLED)
                && matches!(end, RequestEnd::Cancelled);
            if !is_cancelled {
                span.set_status(Status::error(self.error_description(end)));
            }
        }
        if let Some(start_time) = self.start_time {
            span.end_with_timestamp(start_time + duration);
        }
    }

    /// Returns the description of the span's error status.
    fn error_description(&mut self, end: RequestEnd) -> String {
        let of_call = self.call.as_mut().and_then(|call| call.message.take());
        let is_client = self.state.instruments.side == Side::Client;
        match (of_call, end) {
            (Some(message), _) => message.into(),
            (None, RequestEnd::Failed(failure)) if is_client => failure.message,
            (None, _) => String::new(),
        }
    }
}
