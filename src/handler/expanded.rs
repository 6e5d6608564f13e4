//! Functions that the expansion of `#[with_tracer]` calls.

use std::fmt::{Arguments, Debug, Display};
use std::future::Future;

use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;

use crate::concurrent::caught::guarded;
use crate::handler::attributes::IntoOptionalValue;
use crate::handler::bounded_text::bounded_text;
use crate::handler::run::{Attributes, Function, Measured, Run};
use crate::handler::span_future::SpanFuture;

/// Starts a run of a function.
pub fn start(
    component: &'static str,
    name: &'static str,
    kind: SpanKind,
    metrics: Option<(&'static str, &'static str)>,
    attributes: &Attributes,
) -> Run {
    Function {
        component,
        name: name.into(),
        kind,
        metrics: metrics.map(|(place, name)| Measured::Function(place, name)),
        extra: None,
    }
    .start(attributes)
}

/// The maximum length of a value that is recorded with `Display` or `Debug`, in bytes.
const MAX_TEXT: usize = 1024;

/// Adds an attribute, unless its value is missing.
pub fn record(attributes: &mut Vec<KeyValue>, key: &'static str, value: impl IntoOptionalValue) {
    let value = value.into_optional_value();
    attributes.extend(value.map(|value| KeyValue::new(key, value)));
}

/// Adds an attribute with the `Display` of a value.
pub fn record_display<T: Display + ?Sized>(
    attributes: &mut Vec<KeyValue>,
    key: &'static str,
    value: &T,
) {
    record_text(attributes, key, format_args!("{value}"));
}

/// Adds an attribute with the `Debug` of a value.
pub fn record_debug<T: Debug + ?Sized>(
    attributes: &mut Vec<KeyValue>,
    key: &'static str,
    value: &T,
) {
    record_text(attributes, key, format_args!("{value:?}"));
}

fn record_text(attributes: &mut Vec<KeyValue>, key: &'static str, text: Arguments) {
    // Formatting runs application code, which may panic.
    let text = guarded(|| bounded_text(text, MAX_TEXT));
    attributes.extend(text.map(|text| KeyValue::new(key, text)));
}

/// Runs a future in the span of `run`.
pub fn in_span<F: Future>(run: Run, future: F) -> SpanFuture<F> {
    SpanFuture::started(run, future, |_, _| {})
}

/// Runs a future that may fail in the span of `run`. `observe` sets the error of the run.
pub fn observed<F: Future>(
    run: Run,
    future: F,
    // A function pointer, not a generic type: the compiler must infer the type of the output before
    // it checks the closure.
    observe: fn(&F::Output, &mut Run),
) -> SpanFuture<F> {
    SpanFuture::started(run, future, observe)
}

/// A value for code that never runs, from which the compiler infers the return type of a function.
pub fn never<T>() -> T {
    loop {
        std::thread::park();
    }
}
