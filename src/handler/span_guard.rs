//! The guard of a current span.

use std::borrow::Cow;
use std::fmt::{self, Display};

use opentelemetry::trace::{SpanContext, SpanRef};
use opentelemetry::{Key, KeyValue};

use crate::handler::attributes::IntoOptionalValue;
use crate::handler::run::RunGuard;
use crate::handler::span_error::set_span_error;

/// The guard of a current span, created by
/// [`start_as_current_span`](crate::start_as_current_span).
///
/// Its methods change this span, even while a child of it is current. The span ends when the guard
/// is dropped.
///
/// ```
/// use tower_telemetry::{get_tracer, start_as_current_span};
///
/// fn parse(input: &str) -> Result<u32, std::num::ParseIntError> {
///     let span = start_as_current_span(&get_tracer("parser"), "parse");
///     span.set_attribute("parser.input.size", input.len());
///     input.parse().inspect_err(|error| span.set_error(error))
/// }
/// # assert_eq!(parse("7"), Ok(7));
/// ```
#[must_use = "the span ends when the guard is dropped; bind it to a name, `let _span = ..`"]
pub struct SpanGuard {
    run: RunGuard,
}

impl SpanGuard {
    pub(crate) fn new(run: RunGuard) -> Self {
        Self { run }
    }

    fn span(&self) -> Option<SpanRef<'_>> {
        self.run.current_run().span()
    }

    /// Sets an attribute. Does nothing if the value is `None`.
    pub fn set_attribute(&self, key: impl Into<Key>, value: impl IntoOptionalValue) {
        if let Some(span) = self.span()
            && let Some(value) = value.into_optional_value()
        {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Sets attributes, like [`add_span_attributes`](crate::add_span_attributes).
    pub fn set_attributes(&self, attributes: impl IntoIterator<Item = KeyValue>) {
        // Collected first, because the caller's iterator may call this function.
        let attributes: Vec<_> = attributes.into_iter().collect();
        if let Some(span) = self.span() {
            span.set_attributes(attributes);
        }
    }

    /// Adds an event, like [`add_span_event`](crate::add_span_event).
    pub fn add_event(
        &self,
        name: impl Into<Cow<'static, str>>,
        attributes: impl IntoIterator<Item = KeyValue>,
    ) {
        let attributes = attributes.into_iter().collect();
        if let Some(span) = self.span() {
            span.add_event(name, attributes);
        }
    }

    /// Links the span to another span. Ignores an invalid span context.
    pub fn add_link(&self, span_context: SpanContext) {
        if span_context.is_valid()
            && let Some(span) = self.span()
        {
            span.add_link(span_context, Vec::new());
        }
    }

    /// Records an error, like [`set_span_error`]. Does nothing if the span is not recorded.
    pub fn set_error<E: Display + ?Sized>(&self, error: &E) {
        if self.span().is_some() {
            let _attached = self.run.current_run().attach();
            set_span_error(error);
        }
    }

    /// Changes the name of the span. The sampling decision was made with the name at the start.
    pub fn update_name(&self, name: impl Into<Cow<'static, str>>) {
        if let Some(span) = self.span() {
            span.update_name(name);
        }
    }

    /// Returns the context of the span, which contains its ids and flags. Use it, for example, to
    /// link another span to this one.
    ///
    /// If no span was created, because telemetry is switched off or the parent is not sampled, this
    /// is the context of the current span, which is invalid outside of a trace.
    pub fn span_context(&self) -> SpanContext {
        self.run.current_run().span_context()
    }
}

impl fmt::Debug for SpanGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanGuard").finish_non_exhaustive()
    }
}
