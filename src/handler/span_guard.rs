//! The guard of a current span.

use std::borrow::Cow;
use std::fmt::{self, Display};

use opentelemetry::trace::{SpanContext, SpanRef};
use opentelemetry::{Key, KeyValue};

use crate::handler::attributes::IntoOptionalValue;
use crate::handler::run::RunGuard;
use crate::handler::span_error::set_span_error;

/// Guard of a current span, see [`start_as_current_span`](crate::start_as_current_span).
///
/// Its methods write on this very span, also while another one below it is current.
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

    /// Sets an attribute. `None` sets none.
    pub fn set_attribute(&self, key: impl Into<Key>, value: impl IntoOptionalValue) {
        if let Some(span) = self.span()
            && let Some(value) = value.into_optional_value()
        {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Sets attributes, as [`add_span_attributes`](crate::add_span_attributes) does.
    pub fn set_attributes(&self, attributes: impl IntoIterator<Item = KeyValue>) {
        // Collected first: the caller's iterator may come back here.
        let attributes: Vec<_> = attributes.into_iter().collect();
        if let Some(span) = self.span() {
            span.set_attributes(attributes);
        }
    }

    /// Adds an event, as [`add_span_event`](crate::add_span_event) does.
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

    /// Links the span to another one. A span context that is not valid is left out.
    pub fn add_link(&self, span_context: SpanContext) {
        if span_context.is_valid()
            && let Some(span) = self.span()
        {
            span.add_link(span_context, Vec::new());
        }
    }

    /// Records an error, as [`set_span_error`] does.
    pub fn set_error<E: Display + ?Sized>(&self, error: &E) {
        if self.span().is_some() {
            let _attached = self.run.current_run().attach();
            set_span_error(error);
        }
    }

    /// Changes the name of the span. Samplers have seen the one that it had before.
    pub fn update_name(&self, name: impl Into<Cow<'static, str>>) {
        if let Some(span) = self.span() {
            span.update_name(name);
        }
    }

    /// Returns the context of the span: its ids and flags, for a link of another span for instance.
    ///
    /// It is not valid where telemetry is switched off.
    pub fn span_context(&self) -> SpanContext {
        self.run.current_run().span_context()
    }
}

impl fmt::Debug for SpanGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanGuard").finish_non_exhaustive()
    }
}
