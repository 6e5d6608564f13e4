//! Where the layers and the handler functions get tracers and meters.
//!
//! In this order: the providers given to the layer that serves the current request, those that
//! [`init`](crate::init) made, the global ones of OpenTelemetry. `generations` has the last two.

pub(crate) mod bound;
pub(crate) mod exceptions;
pub(crate) mod function_durations;
pub(crate) mod generations;
pub(crate) mod registry;
pub(crate) mod series_budget;
mod unique_span;

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

#[cfg(feature = "tokio")]
use opentelemetry::baggage::{BaggageExt, KeyValueMetadata};
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::trace::{
    Link, Span, SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope, Key, KeyValue, global};

use crate::attribute_set;
use crate::concurrent::table::Table;
use crate::current_context;
use crate::propagation::{self, Decision, RANDOM_FLAG};
use crate::providers::exceptions::Exceptions;
use crate::providers::function_durations::FunctionDurations;
use crate::providers::registry::Registry;
use crate::providers::series_budget::Room;
use crate::providers::unique_span::UniqueSpan;
use crate::semconv::{self, CapturedRequest, Side};

/// More components than this get their tracer made anew at each call.
const MAX_COMPONENTS: usize = 256;

pub(crate) struct Providers {
    tracers: Arc<dyn MakeTracer>,
    follows_unsampled: bool,
    meters: Arc<dyn MeterProvider + Send + Sync>,
    components: Table<&'static str, Arc<dyn StartSpan>>,
    /// The instruments that handler functions created by name.
    pub(crate) functions: Registry,
    pub(crate) function_durations: FunctionDurations,
    /// Room in the instruments of servers, and in those of clients.
    rooms: [Arc<Room>; 2],
    pub(crate) exceptions: Exceptions,
}

impl Providers {
    /// Makes the providers. The SDK behind `meters` keeps `max_series` series of an instrument of the
    /// layers.
    pub(crate) fn new(
        tracers: Arc<dyn MakeTracer>,
        meters: Arc<dyn MeterProvider + Send + Sync>,
        max_series: usize,
    ) -> Self {
        let meter = meters.meter_with_scope(handler_scope());
        Self {
            follows_unsampled: tracers.follows_unsampled(),
            tracers,
            meters,
            components: Table::new(MAX_COMPONENTS),
            function_durations: FunctionDurations::new(meter.clone()),
            functions: Registry::new(meter),
            rooms: [Room::new(max_series), Room::new(max_series)],
            exceptions: Exceptions::default(),
        }
    }

    /// Sets where exceptions are recorded.
    #[cfg(feature = "init")]
    pub(crate) fn with_exceptions(self, exceptions: Exceptions) -> Self {
        Self { exceptions, ..self }
    }

    /// Returns the room in the instruments of one side.
    pub(crate) fn room(&self, side: Side) -> Arc<Room> {
        let [server, client] = &self.rooms;
        match side {
            Side::Server => server.clone(),
            Side::Client => client.clone(),
        }
    }

    /// The tracer for the spans of this crate's layers.
    pub(crate) fn tracer(&self) -> Arc<dyn StartSpan> {
        self.tracers.make(scope())
    }

    /// The meter for the instruments of this crate's layers.
    pub(crate) fn meter(&self) -> Meter {
        self.meters.meter_with_scope(scope())
    }

    /// Whether a span below the current one would be dropped for certain.
    pub(crate) fn drops_below_current(&self) -> bool {
        self.follows_unsampled
            && current_context::map(|cx| {
                let span = cx.span();
                let span_context = span.span_context();
                span_context.is_valid()
                    && !span_context.is_sampled()
                    && propagation::decision_in(cx) != Some(Decision::Deferred)
            })
    }

    /// The tracer of a component of the application.
    pub(crate) fn component(&self, name: &'static str) -> Arc<dyn StartSpan> {
        let make = || {
            self.tracers
                .make(InstrumentationScope::builder(name).build())
        };
        match self.components.get_or_insert_with(&name, make) {
            Ok(tracer) => tracer.clone(),
            Err(tracer) => tracer,
        }
    }
}

/// The instrumentation scope of this crate, the same for spans and metrics.
pub(crate) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(semconv::SCHEMA_URL)
        .build()
}

/// The scope of metrics that handler code records. Not that of the layers: a name used in both
/// would be recorded to one instrument.
fn handler_scope() -> InstrumentationScope {
    InstrumentationScope::builder("tower-telemetry.handlers")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
}

/// Providers that hold for one request, carried by its context.
struct Scoped(Arc<Providers>);

/// A context in which the handler functions use `providers`.
pub(crate) fn scoped(providers: Arc<Providers>) -> Context {
    Context::new().with_value(Scoped(providers))
}

/// `cx` with the providers of `root`, where that has any.
pub(crate) fn in_scope_of(cx: Context, root: &Context) -> Context {
    match root.get::<Scoped>() {
        Some(Scoped(providers)) => cx.with_value(Scoped(providers.clone())),
        None => cx,
    }
}

/// The current context without its span.
#[cfg(feature = "tokio")]
pub(crate) fn without_span() -> Context {
    current_context::map(without_span_of)
}

/// A context without its span.
#[cfg(feature = "tokio")]
pub(crate) fn without_span_of(current: &Context) -> Context {
    let cx = match current.get::<Scoped>() {
        Some(Scoped(providers)) => scoped(providers.clone()),
        None => Context::new(),
    };
    let cx = if current.is_telemetry_suppressed() {
        cx.with_telemetry_suppressed()
    } else {
        cx
    };
    let baggage = current.baggage();
    if baggage.is_empty() {
        cx
    } else {
        cx.with_baggage(baggage.iter().map(|(key, (value, metadata))| {
            KeyValueMetadata::new(key.clone(), value.clone(), metadata.clone())
        }))
    }
}

/// The providers in force here and now; `None` where telemetry is switched off.
pub(crate) fn current() -> Option<Current> {
    // Cloned out, because whoever records with them must be free to attach a context.
    let scoped = current_context::map(|cx| cx.get::<Scoped>().map(|scoped| scoped.0.clone()));
    match scoped {
        Some(providers) => Some(Current::Scoped(providers)),
        None => generations::process().map(Current::Process),
    }
}

/// The tracers of OpenTelemetry's global provider.
pub(crate) fn global_tracers() -> Arc<dyn MakeTracer> {
    Arc::new(GlobalTracers)
}

pub(crate) enum Current {
    Process(&'static Providers),
    Scoped(Arc<Providers>),
}

impl Deref for Current {
    type Target = Providers;

    fn deref(&self) -> &Providers {
        match self {
            Self::Process(providers) => providers,
            Self::Scoped(providers) => providers,
        }
    }
}

/// What makes tracers.
pub(crate) trait MakeTracer: Send + Sync {
    fn make(&self, scope: InstrumentationScope) -> Arc<dyn StartSpan>;

    /// Whether it drops every span below one that is not sampled, so that there is no need to ask.
    fn follows_unsampled(&self) -> bool {
        false
    }
}

/// A [`Tracer`] of any type. The span goes straight into its context, boxed once.
pub(crate) trait StartSpan: Send + Sync {
    /// Starts a span below `parent`. What it is like is asked for at most once, and not at all where
    /// it is known before that it is dropped.
    fn start(&self, parent: Parent<'_>, describe: &mut dyn FnMut(&mut NewSpan)) -> Started;
}

/// What a span starts below.
pub(crate) struct Parent<'a> {
    /// What the context of the span has besides the span.
    pub(crate) cx: &'a Context,
    /// The span that is the parent; that of `cx`, where none is given.
    pub(crate) span_context: Option<&'a SpanContext>,
}

/// What a span is like when it starts.
#[derive(Clone)]
pub(crate) struct NewSpan {
    pub(crate) name: Cow<'static, str>,
    pub(crate) kind: SpanKind,
    pub(crate) start_time: SystemTime,
    pub(crate) links: Vec<Link>,
    /// The request that it stands for.
    pub(crate) request: Option<CapturedRequest>,
    /// Besides those of the request.
    pub(crate) attributes: Vec<KeyValue>,
    /// Whether the application has set an attribute that the request has, too.
    pub(crate) overrides_request: bool,
}

/// A span that was started.
pub(crate) struct Started {
    /// The context in which the span is active.
    pub(crate) cx: Context,
    /// False where nothing written to the span will ever be exported.
    pub(crate) recording: bool,
}

/// Room for the attributes of a server span: more of them would have to grow it.
const ATTRIBUTES: usize = 16;

impl Default for NewSpan {
    #[inline]
    fn default() -> Self {
        Self {
            name: Cow::Borrowed(""),
            kind: SpanKind::Internal,
            start_time: SystemTime::UNIX_EPOCH,
            links: Vec::new(),
            request: None,
            attributes: Vec::new(),
            overrides_request: false,
        }
    }
}

impl NewSpan {
    /// Sets an attribute of the application's, in place of one with its key.
    pub(crate) fn set(&mut self, attribute: KeyValue) {
        self.overrides_request |= semconv::is_request_key(attribute.key.as_str());
        attribute_set::set(&mut self.attributes, attribute);
    }

    /// All attributes of a span: those of its request, unless the others have them, too.
    pub(crate) fn all_attributes(
        request: Option<&CapturedRequest>,
        overrides_request: bool,
        others: impl IntoIterator<Item = KeyValue>,
    ) -> Vec<KeyValue> {
        let mut all = Vec::with_capacity(if request.is_some() { ATTRIBUTES } else { 0 });
        if let Some(request) = request {
            request.attributes(&mut |key, fact| all.push(fact.attribute(key)));
        }
        all.extend(others);
        if overrides_request {
            attribute_set::make_unique(&mut all);
        }
        all
    }
}

/// Whether a layer has a tracer provider of its own.
static LAYER_HAS_TRACERS: AtomicBool = AtomicBool::new(false);

/// Takes note of a layer with a tracer provider of its own.
pub(crate) fn note_tracers_of_a_layer() {
    LAYER_HAS_TRACERS.store(true, Ordering::Relaxed);
}

/// OpenTelemetry's global provider, whichever that is when a span starts.
struct GlobalTracers;

impl MakeTracer for GlobalTracers {
    fn make(&self, scope: InstrumentationScope) -> Arc<dyn StartSpan> {
        Arc::new(GlobalTracer {
            scope,
            found: OnceLock::new(),
        })
    }
}

/// A tracer of the global provider: looked for again with each span until it is one that does
/// something, and kept then.
struct GlobalTracer {
    scope: InstrumentationScope,
    found: OnceLock<TracerOf<global::BoxedTracer>>,
}

impl StartSpan for GlobalTracer {
    fn start(&self, parent: Parent<'_>, describe: &mut dyn FnMut(&mut NewSpan)) -> Started {
        if let Some(tracer) = self.found.get() {
            return tracer.start(parent, describe);
        }
        let above = match parent.span_context {
            Some(span_context) => span_context.span_id(),
            None => parent.cx.span().span_context().span_id(),
        };
        let tracer = TracerOf(global::tracer_provider().tracer_with_scope(self.scope.clone()));
        let started = tracer.start(parent, describe);
        // Without a provider, the span of the parent is passed on, or none.
        let id = started.cx.span().span_context().span_id();
        if started.recording || (id != SpanId::INVALID && id != above) {
            let _ = self.found.set(tracer);
        } else if LAYER_HAS_TRACERS.load(Ordering::Relaxed) {
            warn_of_lost_spans();
        }
        started
    }
}

#[cold]
fn warn_of_lost_spans() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            target: "tower_telemetry",
            "a span goes nowhere: a layer has a tracer provider of its own, which holds inside of \
             its requests, and there is no other; give it to \
             `opentelemetry::global::set_tracer_provider`, too"
        );
    }
}

/// A [`TracerProvider`] of any type.
pub(crate) struct TracersOf<P>(pub(crate) P);

impl<P> MakeTracer for TracersOf<P>
where
    P: TracerProvider + Send + Sync,
    P::Tracer: Send + Sync + 'static,
    <P::Tracer as Tracer>::Span: Send + Sync + 'static,
{
    fn make(&self, scope: InstrumentationScope) -> Arc<dyn StartSpan> {
        Arc::new(TracerOf(self.0.tracer_with_scope(scope)))
    }
}

struct TracerOf<T>(T);

impl<T> StartSpan for TracerOf<T>
where
    T: Tracer + Send + Sync,
    T::Span: Send + Sync + 'static,
{
    fn start(&self, parent: Parent<'_>, describe: &mut dyn FnMut(&mut NewSpan)) -> Started {
        let with_parent;
        let parent = match parent.span_context {
            Some(span_context) => {
                with_parent = propagation::with_parent_of_sdk(parent.cx, span_context);
                &with_parent
            }
            None => parent.cx,
        };
        #[cfg(feature = "init")]
        if propagation::decision_in(parent) == Some(Decision::Deny)
            && !parent.is_telemetry_suppressed()
        {
            return denied(parent);
        }
        let mut new = NewSpan::default();
        describe(&mut new);
        let mut builder = SpanBuilder::from_name(new.name).with_kind(new.kind);
        builder.start_time = Some(new.start_time);
        builder.links = Some(new.links).filter(|links| !links.is_empty());
        let mut attributes =
            NewSpan::all_attributes(new.request.as_ref(), new.overrides_request, new.attributes);
        // An SDK cannot replace what a span starts with, so that it starts with what samplers are to see.
        let later = attributes
            .extract_if(.., |one| !semconv::is_for_samplers(one.key.as_str()))
            .collect();
        let keys: Vec<Key> = attributes.iter().map(|one| one.key.clone()).collect();
        builder.attributes = Some(attributes);
        let span = self.0.build_with_context(builder, parent);
        let parent = &*propagation::for_started_span(parent, span.span_context());
        if span.is_recording() {
            return Started {
                cx: parent.with_span(UniqueSpan::new(span, keys, later)),
                recording: true,
            };
        }
        let span_context = span.span_context();
        let cx = if span_context.is_valid() {
            // Its bare context does what a boxed span would, for less.
            parent.with_remote_span_context(with_random_flag(span_context, parent))
        } else {
            // An invalid span in a context would be taken for an unsampled parent.
            parent.clone()
        };
        Started {
            cx,
            recording: false,
        }
    }
}

/// A span that is dropped without asking a sampler, because the caller has decided so.
#[cfg(feature = "init")]
fn denied(cx: &Context) -> Started {
    use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

    let ids = RandomIdGenerator::default();
    let parent = cx.span();
    let parent = Some(parent.span_context()).filter(|parent| parent.is_valid());
    let random = parent.map_or(RANDOM_FLAG, |parent| {
        parent.trace_flags().to_u8() & RANDOM_FLAG
    });
    let span_context = SpanContext::new(
        parent.map_or_else(|| ids.new_trace_id(), SpanContext::trace_id),
        ids.new_span_id(),
        TraceFlags::new(random),
        false,
        parent.map_or(TraceState::NONE, |parent| parent.trace_state().clone()),
    );
    let cx = propagation::for_started_span(cx, &span_context);
    Started {
        cx: cx.with_remote_span_context(span_context),
        recording: false,
    }
}

/// The SDK clears all flags of a span that it drops, but the random flag must be passed on.
fn with_random_flag(span_context: &SpanContext, parent: &Context) -> SpanContext {
    let parent = parent.span();
    let inherited = parent.span_context().trace_flags().to_u8() & RANDOM_FLAG;
    SpanContext::new(
        span_context.trace_id(),
        span_context.span_id(),
        TraceFlags::new(span_context.trace_flags().to_u8() | inherited),
        false,
        TraceState::clone(span_context.trace_state()),
    )
}
