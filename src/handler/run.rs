//! One run of handler code in a span, from its start to its end.

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

/// A function that adds the attributes of a span to a list.
pub(crate) type Attributes<'a> = dyn Fn(&mut Vec<KeyValue>) + 'a;

/// A function or a piece of code that runs in a span.
pub(crate) struct Function {
    /// The component, which is the instrumentation scope of the span.
    pub(crate) component: &'static str,
    pub(crate) name: Cow<'static, str>,
    pub(crate) kind: SpanKind,
    /// The duration metric of the run; `None` if there is none.
    pub(crate) metrics: Option<Measured>,
    /// Boxed to keep the struct small.
    pub(crate) extra: Option<Box<Extra>>,
}

/// The work whose duration is recorded.
pub(crate) enum Measured {
    /// A function: its module or type, and its name.
    #[cfg_attr(
        not(feature = "macros"),
        allow(dead_code, reason = "the macro alone measures functions")
    )]
    Function(&'static str, &'static str),
    Messages(Operation, Arc<Destination>),
}

/// The parts of a span that few spans have.
#[derive(Default)]
pub(crate) struct Extra {
    pub(crate) attributes: Vec<KeyValue>,
    pub(crate) links: Vec<Link>,
    /// The context with the parent span; `None` for the current context.
    pub(crate) parent: Option<Context>,
}

/// A run that has started. It ends when it is dropped.
pub struct Run {
    span: Option<OpenSpan>,
    metrics: Option<Metrics>,
    /// Whether the run is a future or a blocking task that has not completed.
    pending: bool,
    /// Whether a panic of the thread is not the run's own: it began earlier or in other code.
    was_panicking: bool,
    error: Option<&'static str>,
}

/// The context of a run's span.
struct OpenSpan {
    cx: Context,
    /// Whether the span is recorded. If not, the context may contain another span, which must not
    /// be ended here.
    is_recording: bool,
}

struct Metrics {
    /// The providers at the start, because a future may be dropped outside of its request.
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

    /// Starts a run in a child of the current span, or of the parent that was set. `attributes` is
    /// not called for a span that is dropped.
    pub(crate) fn start(mut self, attributes: &Attributes) -> Run {
        if let Some(parent) = self.extra.as_mut().and_then(|extra| extra.parent.take()) {
            let cx = with_surroundings(parent);
            let _attached = current_context::attach(&cx);
            let mut run = self.start(attributes);
            // Current even without a span of its own, so that descendants get the same parent.
            run.span.get_or_insert(OpenSpan {
                cx,
                is_recording: false,
            });
            return run;
        }
        let Some(providers) = scope::current() else {
            return Run::new(None, None);
        };
        if providers.drops_children_of_current() {
            let metrics = self.metrics;
            return Run::new(
                None,
                metrics.map(|measured| Metrics::start(providers, measured)),
            );
        }
        self.start_child(&current_context::get(), providers, attributes)
    }

    /// Starts a run in a new trace with a link to the current span.
    #[cfg(feature = "tokio")]
    pub(crate) fn start_linked(mut self) -> Run {
        let Some(providers) = scope::current() else {
            return Run::new(None, None);
        };
        if let Some(current) = current_context::map(current_span_with_state) {
            self.link(current);
        }
        self.start_child(&in_context::without_span(), providers, &|_| {})
    }

    /// Adds a link to a span, if its context is valid.
    pub(crate) fn link(&mut self, span_context: SpanContext) {
        if span_context.is_valid() {
            let links = &mut self.extra.get_or_insert_default().links;
            links.push(Link::with_context(span_context));
        }
    }

    fn start_child(mut self, parent: &Context, providers: Current, attributes: &Attributes) -> Run {
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

/// The description of the span of a run.
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

/// Returns the context of a parent that was set. Telemetry in it has the same destination as in the
/// current context, unless the parent's context has providers of its own.
fn with_surroundings(parent: Context) -> Context {
    current_context::map(|current| {
        let own = parent.clone();
        let cx = in_context::in_scope_of(parent, current);
        // The parent's own providers take precedence, because it may belong to another request.
        let cx = in_context::in_scope_of(cx, &own);
        if current.is_telemetry_suppressed() {
            cx.with_telemetry_suppressed()
        } else {
            cx
        }
    })
}

/// Returns the context of the current span; an invalid one if there is no span.
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

    /// Sets whether the run has not completed yet.
    pub(crate) fn set_pending(&mut self, pending: bool) {
        self.pending = pending;
    }

    /// Attributes a panic that is in progress to other code than this run.
    pub(crate) fn ignore_panic(&mut self) {
        self.was_panicking = true;
    }

    /// Makes the span current on this thread. The run ends when the guard is dropped.
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

    /// Returns the span; `None` if it is not recorded.
    pub(crate) fn span(&self) -> Option<SpanRef<'_>> {
        let span = self.span.as_ref().filter(|span| span.is_recording)?;
        Some(span.cx.span())
    }

    /// Returns the context of the run's span, or of the current span if the run has none. It has
    /// none if telemetry is switched off or no child of the current span is sampled.
    pub(crate) fn span_context(&self) -> SpanContext {
        match &self.span {
            Some(span) => span.cx.span().span_context().clone(),
            None => current_span_context(),
        }
    }

    /// Sets the error of the run, with its type and message.
    pub(crate) fn fail(&mut self, error_type: &'static str, message: impl FnOnce() -> String) {
        self.error = Some(error_type);
        if let Some(span) = self.span() {
            // The `Display` of an error is application code, which may panic.
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
    // Dropped before `run`, so that the span is no longer current when it ends.
    _attached: Option<Attached>,
    run: Run,
}

impl RunGuard {
    pub(crate) fn current_run(&self) -> &Run {
        &self.run
    }

    /// Runs a function that may fail. `observe` sets the error of the run from its output.
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

/// Returns the message of an error, with secrets in URLs redacted.
pub(crate) fn message_of(error: &dyn Display) -> String {
    semconv::redacted_message([error], Some(&SensitiveParameters::default()))
}
