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

/// Bound, in bytes, of a value that is recorded by its `Display` or `Debug`.
const MAX_TEXT: usize = 1024;

/// Adds an attribute, unless its value is missing.
pub fn record(attributes: &mut Vec<KeyValue>, key: &'static str, value: impl IntoOptionalValue) {
    let value = value.into_optional_value();
    attributes.extend(value.map(|value| KeyValue::new(key, value)));
}

/// Adds an attribute whose value is what `value` displays.
pub fn record_display<T: Display + ?Sized>(
    attributes: &mut Vec<KeyValue>,
    key: &'static str,
    value: &T,
) {
    record_text(attributes, key, format_args!("{value}"));
}

/// Adds an attribute whose value is what `value` shows of itself for debugging.
pub fn record_debug<T: Debug + ?Sized>(
    attributes: &mut Vec<KeyValue>,
    key: &'static str,
    value: &T,
) {
    record_text(attributes, key, format_args!("{value:?}"));
}

fn record_text(attributes: &mut Vec<KeyValue>, key: &'static str, text: Arguments) {
    // To format is code of the application, and may panic.
    let text = guarded(|| bounded_text(text, MAX_TEXT));
    attributes.extend(text.map(|text| KeyValue::new(key, text)));
}

/// Runs a future in the span of `call`.
pub fn in_span<F: Future>(run: Run, future: F) -> SpanFuture<F> {
    SpanFuture::started(run, future, |_, _| {})
}

/// Runs a future that may fail in the span of `call`, and has `observe` say whether it has.
pub fn observed<F: Future>(
    run: Run,
    future: F,
    // A function of a type that is said here: the compiler must know that of the output before it
    // looks at a closure.
    observe: fn(&F::Output, &mut Run),
) -> SpanFuture<F> {
    SpanFuture::started(run, future, observe)
}

/// Stands for what a function returns where it is never run, so that the compiler knows its type.
pub fn never<T>() -> T {
    loop {
        std::thread::park();
    }
}
