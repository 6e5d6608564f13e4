//! What `#[with_tracer]` expands to calls of.

use std::fmt::Display;
use std::future::Future;

use opentelemetry::trace::SpanKind;

use crate::function::{Attributes, Call, Function, SpanFuture};

/// Starts a run of a function.
pub fn start(
    component: &'static str,
    name: &'static str,
    kind: SpanKind,
    metrics: Option<(&'static str, &'static str)>,
    attributes: &Attributes,
) -> Call {
    Function {
        component,
        name: name.into(),
        kind,
        metrics,
    }
    .start(attributes)
}

/// Runs a future that may fail in the span of `call`, and has `observe` say whether it has.
pub fn observed<F, O>(call: Call, future: F, observe: O) -> SpanFuture<F, O>
where
    F: Future,
    // Said here, so that the compiler knows the type of the output before it looks at a closure.
    O: Fn(&F::Output, &mut Call),
{
    SpanFuture::new(call, future, observe)
}

/// Stands for what a function returns where it is never run, so that the compiler knows its type.
pub fn never<T>() -> T {
    loop {
        std::thread::park();
    }
}

/// An error of any type: whether it can be displayed is found out by which of two methods the
/// compiler finds first.
#[derive(Debug)]
pub struct Failed<'a, E>(pub &'a E);

/// Of an error that can be displayed.
pub trait FailWithMessage {
    /// Fails with type and message.
    fn fail(&self, call: &mut Call);
}

impl<E: Display> FailWithMessage for Failed<'_, E> {
    fn fail(&self, call: &mut Call) {
        call.fail(std::any::type_name::<E>(), Some(self.0));
    }
}

/// Of every other.
pub trait FailWithType {
    /// Fails with the type alone.
    fn fail(&self, call: &mut Call);
}

impl<E> FailWithType for &Failed<'_, E> {
    fn fail(&self, call: &mut Call) {
        call.fail(std::any::type_name::<E>(), None);
    }
}
