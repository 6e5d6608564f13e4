//! One run of a piece of handler code in a span: how it starts, fails and ends.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::future::Future;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::{Instant, SystemTime};

use opentelemetry::trace::{Link, SpanKind, Status, TraceContextExt};
use opentelemetry::{Context, ContextGuard, KeyValue};
use pin_project_lite::pin_project;

use crate::function_durations::FunctionEnd;
use crate::options::guarded;
#[cfg(feature = "tokio")]
use crate::propagation::whole_current;
use crate::providers::{self, Current, NewSpan, Parent, Started};
use crate::semconv::{self, SensitiveParameters};
use crate::unique;

/// Adds the attributes of a span to a list.
pub(crate) type Attributes<'a> = dyn Fn(&mut Vec<KeyValue>) + 'a;

/// What is to be run in a span.
pub(crate) struct Function {
    /// Whose tracer starts the span.
    pub(crate) component: &'static str,
    /// The name of the span.
    pub(crate) name: Cow<'static, str>,
    /// What the span stands for.
    pub(crate) kind: SpanKind,
    /// Where metrics are recorded of the function: the module or type that it is in, and its name.
    pub(crate) metrics: Option<(&'static str, &'static str)>,
}

/// A run that has started. Dropped, it ends.
pub struct Call {
    span: Option<OpenSpan>,
    metrics: Option<Metrics>,
    /// Whether it is a future that has not completed, or code that waits for a thread.
    pending: bool,
    /// Whether the thread was panicking when this started, which then is no fault of its own.
    was_panicking: bool,
    error: Option<&'static str>,
}

/// A span that is to be ended.
struct OpenSpan {
    cx: Context,
    /// False where the span of the context may be another, which is not to be ended here.
    recording: bool,
}

struct Metrics {
    /// Those of the start: where a future is dropped, it may be outside of its request.
    providers: Current,
    function: (&'static str, &'static str),
    start: Instant,
}

impl Function {
    pub(crate) fn new(component: &'static str, name: Cow<'static, str>) -> Self {
        Self {
            component,
            name,
            kind: SpanKind::Internal,
            metrics: None,
        }
    }

    /// Starts a run in a span below the current one. Nothing is built for a span that is dropped.
    pub(crate) fn start(self, attributes: &Attributes) -> Call {
        let Some(providers) = providers::current() else {
            return Call::new(None, None);
        };
        if providers.drops_below_current() {
            let metrics = self.metrics;
            return Call::new(
                None,
                metrics.map(|function| Metrics::start(providers, function)),
            );
        }
        self.start_below(&Context::current(), Vec::new(), providers, attributes)
    }

    /// The same, in a new trace with a link to the current span.
    #[cfg(feature = "tokio")]
    pub(crate) fn start_linked(self) -> Call {
        let current = Context::map_current(whole_current);
        let Some(providers) = providers::current() else {
            return Call::new(None, None);
        };
        let links = current.map(Link::with_context).into_iter().collect();
        self.start_below(&providers::without_span(), links, providers, &|_| {})
    }

    fn start_below(
        self,
        parent: &Context,
        links: Vec<Link>,
        providers: Current,
        attributes: &Attributes,
    ) -> Call {
        let tracer = providers.component(self.component);
        let metrics = self
            .metrics
            .map(|function| Metrics::start(providers, function));
        let (mut name, mut links) = (Some(self.name), links);
        let mut describe = |new: &mut NewSpan| {
            new.name = name.take().unwrap_or_default();
            new.kind = self.kind.clone();
            new.start_time = SystemTime::now();
            new.links = std::mem::take(&mut links);
            attributes(&mut new.attributes);
            unique::make_unique(&mut new.attributes);
        };
        let parent = Parent {
            cx: parent,
            span_context: None,
        };
        let Started { cx, recording } = tracer.start(parent, &mut describe);
        Call::new(Some(OpenSpan { cx, recording }), metrics)
    }
}

impl Metrics {
    fn start(providers: Current, function: (&'static str, &'static str)) -> Self {
        Self {
            providers,
            function,
            start: Instant::now(),
        }
    }
}

impl Call {
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

    /// Makes the span current on this thread until the guard is dropped, which ends the run.
    pub fn enter(self) -> CallGuard {
        CallGuard {
            _attached: self.attach(),
            call: self,
        }
    }

    fn attach(&self) -> Option<ContextGuard> {
        self.span.as_ref().map(|span| span.cx.clone().attach())
    }

    /// Says that the run has failed, with an error of this type and message.
    pub fn fail(&mut self, error_type: &'static str, message: Option<&dyn Display>) {
        self.error = Some(error_type);
        if let Some(OpenSpan {
            cx,
            recording: true,
        }) = &self.span
        {
            // What an error says of itself is code of the application, and may panic.
            let message = message.and_then(|message| guarded(|| message_of(message)));
            let message = message.unwrap_or_default();
            cx.span().set_status(Status::error(message));
        }
    }
}

impl Drop for Call {
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
            let end = FunctionEnd {
                function: metrics.function,
                error,
            };
            let elapsed = metrics.start.elapsed().as_secs_f64();
            metrics.providers.function_durations.record(end, elapsed);
        }
        if let Some(OpenSpan {
            cx,
            recording: true,
        }) = &self.span
        {
            let span = cx.span();
            if let Some(error) = error {
                unique::by_crate(|| {
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

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

/// A run that is current on this thread.
pub struct CallGuard {
    // Dropped in this order: the span is no longer current when it ends.
    _attached: Option<ContextGuard>,
    call: Call,
}

impl CallGuard {
    /// Runs what may fail, and has `observe` say whether it has.
    pub fn run<T>(mut self, run: impl FnOnce() -> T, observe: impl FnOnce(&T, &mut Call)) -> T {
        let output = run();
        observe(&output, &mut self.call);
        output
    }
}

impl fmt::Debug for CallGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallGuard").finish_non_exhaustive()
    }
}

/// Sees what a future has come to.
pub trait Observe<T> {
    /// Tells the call whether it has failed.
    fn observe(&self, output: &T, call: &mut Call);
}

impl<T, F: Fn(&T, &mut Call)> Observe<T> for F {
    fn observe(&self, output: &T, call: &mut Call) {
        self(output, call);
    }
}

/// Takes no error for a failure.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl<T> Observe<T> for Nothing {
    fn observe(&self, _: &T, _: &mut Call) {}
}

/// Takes every `Err` for a failure.
#[derive(Clone, Copy, Debug)]
pub struct Errors;

impl<T, E: Display> Observe<Result<T, E>> for Errors {
    fn observe(&self, output: &Result<T, E>, call: &mut Call) {
        if let Err(error) = output {
            call.fail(std::any::type_name::<E>(), Some(error));
        }
    }
}

pin_project! {
    /// A future in a span, see [`async_with_tracer`](crate::async_with_tracer).
    #[must_use = "futures do nothing unless they are polled"]
    pub struct SpanFuture<F, O = Nothing> {
        // `None` once it has completed, and while it is being dropped.
        #[pin]
        inner: Option<F>,
        call: Option<Call>,
        observe: O,
    }

    impl<F, O> PinnedDrop for SpanFuture<F, O> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _attached = this.call.as_ref().map(Call::attach);
            this.inner.set(None);
        }
    }
}

impl<F: Future, O: Observe<F::Output>> SpanFuture<F, O> {
    /// Runs `inner` in the span of `call`.
    pub fn new(mut call: Call, inner: F, observe: O) -> Self {
        call.set_pending(true);
        Self {
            inner: Some(inner),
            call: Some(call),
            observe,
        }
    }
}

/// Ends a run while a panic passes. Whoever catches it drops the future later, when the thread is no
/// longer panicking.
struct EndOnPanic<'a>(&'a mut Option<Call>);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        *self.0 = None;
    }
}

impl<F: Future, O: Observe<F::Output>> Future for SpanFuture<F, O> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let output = {
            let _attached = this.call.as_ref().map(Call::attach);
            let Some(inner) = this.inner.as_mut().as_pin_mut() else {
                return Poll::Pending;
            };
            let unwinding = EndOnPanic(this.call);
            let polled = inner.poll(cx);
            std::mem::forget(unwinding);
            let output = ready!(polled);
            this.inner.set(None);
            output
        };
        if let Some(call) = this.call {
            call.set_pending(false);
            this.observe.observe(&output, call);
        }
        *this.call = None;
        Poll::Ready(output)
    }
}

impl<F, O> fmt::Debug for SpanFuture<F, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanFuture").finish_non_exhaustive()
    }
}

/// Returns the message of an error, without the secrets in URLs.
pub(crate) fn message_of(error: &dyn Display) -> String {
    semconv::message([error], Some(&SensitiveParameters::default()))
}
