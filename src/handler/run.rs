//! One run of a piece of handler code in a span: how it starts, fails and ends.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::mem;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use opentelemetry::trace::{Link, SpanContext, SpanKind, SpanRef, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};

use crate::attribute_set;
use crate::concurrent::caught::guarded;
use crate::current_context::{self, Attached};
#[cfg(feature = "tokio")]
use crate::propagation::current_span_with_state;
use crate::providers::function_durations::FunctionEnd;
use crate::providers::in_context;
use crate::providers::scope;
use crate::providers::scope::Current;
use crate::providers::start_span::{DescribeSpan, NewSpan, Parent, Started};
use crate::semconv::messaging::{Destination, Operation};
use crate::semconv::{self, SensitiveParameters};

/// Adds the attributes of a span to a list.
pub(crate) type Attributes<'a> = dyn Fn(&mut Vec<KeyValue>) + 'a;

/// A function or a piece of code that is to run in a span.
pub(crate) struct Function {
    /// The component whose tracer starts the span.
    pub(crate) component: &'static str,
    /// The name of the span.
    pub(crate) name: Cow<'static, str>,
    /// The kind of the span.
    pub(crate) kind: SpanKind,
    /// The duration that is recorded.
    pub(crate) metrics: Option<Measured>,
    /// Boxed, because few spans have any of it.
    pub(crate) extra: Option<Box<Extra>>,
}

/// The work whose duration is recorded.
pub(crate) enum Measured {
    /// A function: the module or type that it is in, and its name.
    #[cfg_attr(
        not(feature = "macros"),
        allow(dead_code, reason = "the macro alone measures functions")
    )]
    Function(&'static str, &'static str),
    Messages(Operation, Arc<Destination>),
}

/// The parts of a span that only a builder gives.
#[derive(Default)]
pub(crate) struct Extra {
    pub(crate) attributes: Vec<KeyValue>,
    pub(crate) links: Vec<Link>,
    /// The context whose span is the parent, in place of the current one.
    pub(crate) parent: Option<Context>,
}

/// A run that has started. Dropped, it ends.
pub struct Run {
    span: Option<OpenSpan>,
    metrics: Option<Metrics>,
    /// Whether it is a future that has not completed, or code that waits for a thread.
    pending: bool,
    /// Whether a panic of the thread is no fault of this run: it began before, or passes elsewhere.
    was_panicking: bool,
    error: Option<&'static str>,
}

/// A span that is to be ended.
struct OpenSpan {
    cx: Context,
    /// False where the span of the context may be another, which is not to be ended here.
    is_recording: bool,
}

struct Metrics {
    /// The providers at the start: a future may be dropped outside of its request.
    providers: Current,
    measured: Measured,
    start: Instant,
}

impl Function {
    pub(crate) fn new(component: &'static str, name: Cow<'static, str>) -> Self {
        Self {
            component,
            name,
            kind: SpanKind::Internal,
            metrics: None,
            extra: None,
        }
    }

    /// Starts a run in a span below the current one, or below that of the parent that was given.
    /// Nothing is built for a span that is dropped.
    pub(crate) fn start(mut self, attributes: &Attributes) -> Run {
        if let Some(parent) = self.extra.as_mut().and_then(|extra| extra.parent.take()) {
            let cx = with_surroundings(parent);
            let _attached = current_context::attach(&cx);
            let mut run = self.start(attributes);
            // Current also where no span is needed: spans below must not find another parent.
            run.span.get_or_insert(OpenSpan {
                cx,
                is_recording: false,
            });
            return run;
        }
        let Some(providers) = scope::current() else {
            return Run::new(None, None);
        };
        if providers.drops_below_current() {
            let metrics = self.metrics;
            return Run::new(
                None,
                metrics.map(|measured| Metrics::start(providers, measured)),
            );
        }
        self.start_below(&current_context::get(), providers, attributes)
    }

    /// The same, in a new trace with a link to the current span.
    #[cfg(feature = "tokio")]
    pub(crate) fn start_linked(mut self) -> Run {
        let Some(providers) = scope::current() else {
            return Run::new(None, None);
        };
        if let Some(current) = current_context::map(current_span_with_state) {
            self.link(current);
        }
        self.start_below(&in_context::without_span(), providers, &|_| {})
    }

    /// Adds a link to a span, if that is one.
    pub(crate) fn link(&mut self, span_context: SpanContext) {
        if span_context.is_valid() {
            let links = &mut self.extra.get_or_insert_default().links;
            links.push(Link::with_context(span_context));
        }
    }

    fn start_below(mut self, parent: &Context, providers: Current, attributes: &Attributes) -> Run {
        let tracer = providers.component(self.component);
        let metrics = self
            .metrics
            .take()
            .map(|measured| Metrics::start(providers, measured));
        let mut description = Description {
            function: self,
            attributes,
        };
        let parent = Parent {
            cx: parent,
            span_context: None,
        };
        let Started { cx, is_recording } = tracer.start(parent, &mut description);
        Run::new(Some(OpenSpan { cx, is_recording }), metrics)
    }
}

/// Describes the span of a run.
struct Description<'a> {
    function: Function,
    attributes: &'a Attributes<'a>,
}

impl DescribeSpan for Description<'_> {
    fn describe(&mut self, span: &mut NewSpan) {
        let function = &mut self.function;
        span.name = mem::take(&mut function.name);
        span.kind = function.kind.clone();
        span.start_time = SystemTime::now();
        if let Some(extra) = &mut function.extra {
            span.links = mem::take(&mut extra.links);
            span.attributes.append(&mut extra.attributes);
        }
        (self.attributes)(&mut span.attributes);
        attribute_set::make_unique(&mut span.attributes);
    }
}

/// The context of a parent that was given, in which telemetry goes where it would go without one.
fn with_surroundings(parent: Context) -> Context {
    current_context::map(|current| {
        let own = parent.clone();
        let cx = in_context::in_scope_of(parent, current);
        // Its own providers stay: it may come from a request that is served elsewhere.
        let cx = in_context::in_scope_of(cx, &own);
        if current.is_telemetry_suppressed() {
            cx.with_telemetry_suppressed()
        } else {
            cx
        }
    })
}

/// The context of the current span; it is not valid where there is none.
pub(crate) fn current_span_context() -> SpanContext {
    current_context::map(|cx| cx.span().span_context().clone())
}

impl Metrics {
    fn start(providers: Current, measured: Measured) -> Self {
        Self {
            providers,
            measured,
            start: Instant::now(),
        }
    }

    fn record(&self, error: Option<&'static str>) {
        let seconds = self.start.elapsed().as_secs_f64();
        match &self.measured {
            Measured::Function(place, name) => {
                let function = (*place, *name);
                let end = FunctionEnd { function, error };
                self.providers.function_durations.record(end, seconds);
            }
            Measured::Messages(operation, destination) => {
                let durations = &self.providers.message_durations;
                durations.record(*operation, destination, error, seconds);
            }
        }
    }
}

impl Run {
    fn new(span: Option<OpenSpan>, metrics: Option<Metrics>) -> Self {
        Self {
            span,
            metrics,
            pending: false,
            was_panicking: std::thread::panicking(),
            error: None,
        }
    }

    /// Says whether what is to be run has yet to complete.
    pub(crate) fn set_pending(&mut self, pending: bool) {
        self.pending = pending;
    }

    /// Ends the run, for a reason that is no panic of its own.
    pub(crate) fn give_up(&mut self) {
        self.was_panicking = true;
    }

    /// Makes the span current on this thread until the guard is dropped, which ends the run.
    pub fn enter(self) -> RunGuard {
        RunGuard {
            _attached: self.attach(),
            run: self,
        }
    }

    pub(crate) fn attach(&self) -> Option<Attached> {
        self.span
            .as_ref()
            .map(|span| current_context::attach(&span.cx))
    }

    /// The span, where what is written to it is kept.
    pub(crate) fn span(&self) -> Option<SpanRef<'_>> {
        let span = self.span.as_ref().filter(|span| span.is_recording)?;
        Some(span.cx.span())
    }

    /// The context of the span, or that of the current one, where there is no need for another:
    /// none below it is sampled.
    pub(crate) fn span_context(&self) -> SpanContext {
        match &self.span {
            Some(span) => span.cx.span().span_context().clone(),
            None => current_span_context(),
        }
    }

    /// Says that the run has failed, with an error of this type and message.
    pub(crate) fn fail(&mut self, error_type: &'static str, message: impl FnOnce() -> String) {
        self.error = Some(error_type);
        if let Some(span) = self.span() {
            // The `Display` of an error is code of the application, and may panic.
            span.set_status(Status::error(guarded(message).unwrap_or_default()));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.span.is_none() && self.metrics.is_none() {
            return;
        }
        let panics = std::thread::panicking() && !self.was_panicking;
        let error = match self.error {
            Some(error) => Some(error),
            None if panics => Some(semconv::PANIC),
            None if self.pending => Some(semconv::CANCELLED),
            None => None,
        };
        if let Some(metrics) = &self.metrics {
            metrics.record(error);
        }
        if let Some(OpenSpan {
            cx,
            is_recording: true,
        }) = &self.span
        {
            let span = cx.span();
            if let Some(error) = error {
                attribute_set::write_as_crate(|| {
                    span.set_attribute(KeyValue::new(semconv::ERROR_TYPE, error));
                });
            }
            if panics && self.error.is_none() {
                span.set_status(Status::error(""));
            }
            span.end();
        }
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").finish_non_exhaustive()
    }
}

/// A run that is current on this thread.
pub struct RunGuard {
    // Dropped in this order: the span is no longer current when it ends.
    _attached: Option<Attached>,
    run: Run,
}

impl RunGuard {
    pub(crate) fn current_run(&self) -> &Run {
        &self.run
    }

    /// Runs what may fail, and has `observe` say whether it has.
    pub fn run<T>(mut self, run: impl FnOnce() -> T, observe: impl FnOnce(&T, &mut Run)) -> T {
        let output = run();
        observe(&output, &mut self.run);
        output
    }
}

impl fmt::Debug for RunGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunGuard").finish_non_exhaustive()
    }
}

/// Returns the message of an error, without the secrets in URLs.
pub(crate) fn message_of(error: &dyn Display) -> String {
    semconv::redacted_message([error], Some(&SensitiveParameters::default()))
}
