//! Where the layers and the handler functions get tracers and meters.
//!
//! In this order: the providers given to the layer that serves the current request, those that
//! [`init`](crate::init) made, the global ones of OpenTelemetry.

use std::ops::Deref;
use std::sync::{Arc, LazyLock, OnceLock};

#[cfg(feature = "tokio")]
use opentelemetry::baggage::{BaggageExt, KeyValueMetadata};
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceState, Tracer,
    TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, global};

use crate::metrics::Registry;
use crate::propagation::Propagators;
use crate::semconv;
use crate::table::Table;

/// More components than this get their tracer made anew at each call.
const MAX_COMPONENTS: usize = 256;

/// The bit of the trace flags which says that the trace id is random (Trace Context Level 2).
const RANDOM: u8 = 0x02;

pub(crate) struct Providers {
    tracers: Arc<dyn MakeTracer>,
    sampler: KnownSampler,
    meters: Arc<dyn MeterProvider + Send + Sync>,
    components: Table<&'static str, Arc<dyn StartSpan>>,
    /// The instruments that handler functions created by name.
    pub(crate) functions: Registry,
}

impl Providers {
    pub(crate) fn new(
        tracers: Arc<dyn MakeTracer>,
        meters: Arc<dyn MeterProvider + Send + Sync>,
    ) -> Self {
        let functions = Registry::new(meters.meter_with_scope(handler_scope()));
        Self {
            sampler: tracers.sampler(),
            tracers,
            meters,
            components: Table::new(MAX_COMPONENTS),
            functions,
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
        Context::map_current(|cx| {
            let span = cx.span();
            let parent = span.span_context();
            parent.is_valid() && self.sampler.decision(Some(parent)) == Decision::Drop
        })
    }

    /// The tracer of a component of the application.
    pub(crate) fn component(&self, name: &'static str) -> Arc<dyn StartSpan> {
        let make = || {
            self.tracers
                .make(InstrumentationScope::builder(name).build())
        };
        match self.components.get_or_insert_with(&name, make) {
            Ok(tracer) | Err(tracer) => tracer,
        }
    }
}

/// The instrumentation scope of this crate, the same for spans and metrics.
fn scope() -> InstrumentationScope {
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

static INSTALLED: OnceLock<Option<Providers>> = OnceLock::new();

static PROPAGATORS: OnceLock<Propagators> = OnceLock::new();

/// Providers that hold for one request, carried by its context.
struct Scoped(Arc<Providers>);

/// Makes `providers` and `propagators` those of the process; no providers switch telemetry off.
///
/// It has an effect once.
#[cfg(feature = "init")]
pub(crate) fn install(providers: Option<Providers>, propagators: Propagators) {
    let _ = PROPAGATORS.set(propagators);
    let _ = INSTALLED.set(providers);
}

/// How context comes with requests.
pub(crate) fn propagators() -> &'static Propagators {
    PROPAGATORS.get().unwrap_or_else(|| Propagators::w3c())
}

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
    Context::map_current(|current| {
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
    })
}

/// Whether [`install`] was called.
pub(crate) fn is_installed() -> bool {
    INSTALLED.get().is_some()
}

/// The providers in force here and now; `None` where telemetry is switched off.
pub(crate) fn current() -> Option<Current> {
    // Cloned out, because whoever records with them must be free to attach a context.
    let scoped = Context::map_current(|cx| cx.get::<Scoped>().map(|scoped| scoped.0.clone()));
    match scoped {
        Some(providers) => Some(Current::Scoped(providers)),
        None => process().map(Current::Process),
    }
}

/// The providers of the process; `None` where telemetry is switched off.
pub(crate) fn process() -> Option<&'static Providers> {
    static GLOBAL: LazyLock<Providers> =
        LazyLock::new(|| Providers::new(global_tracers(), global::meter_provider()));
    match INSTALLED.get() {
        Some(installed) => installed.as_ref(),
        None => Some(&GLOBAL),
    }
}

/// The tracers of OpenTelemetry's global provider.
pub(crate) fn global_tracers() -> Arc<dyn MakeTracer> {
    Arc::new(TracersOf::new(
        global::tracer_provider(),
        KnownSampler::default(),
    ))
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

/// What is known of the sampler of a provider; by default, nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KnownSampler {
    /// What it decides below a span that is sampled, below one that is not, and without a parent.
    pub(crate) below_sampled: Decision,
    pub(crate) below_unsampled: Decision,
    pub(crate) at_root: Decision,
    /// How its provider makes span ids, for spans that it need not be asked for.
    pub(crate) new_span_id: Option<fn() -> SpanId>,
}

/// What a sampler decides, as far as that is known before it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is asked, and may read the attributes.
    #[default]
    Unknown,
    /// It is asked, and reads no attributes.
    Open,
    Sample,
    Drop,
}

impl KnownSampler {
    fn decision(&self, parent: Option<&SpanContext>) -> Decision {
        match parent {
            Some(parent) if parent.is_sampled() => self.below_sampled,
            Some(_) => self.below_unsampled,
            None => self.at_root,
        }
    }
}

/// A [`TracerProvider`] of any type.
pub(crate) trait MakeTracer: Send + Sync {
    fn make(&self, scope: InstrumentationScope) -> Arc<dyn StartSpan>;

    fn sampler(&self) -> KnownSampler;
}

pub(crate) struct TracersOf<P> {
    provider: P,
    sampler: KnownSampler,
}

impl<P> TracersOf<P> {
    pub(crate) fn new(provider: P, sampler: KnownSampler) -> Self {
        Self { provider, sampler }
    }
}

impl<P> MakeTracer for TracersOf<P>
where
    P: TracerProvider + Send + Sync,
    P::Tracer: Send + Sync + 'static,
    <P::Tracer as Tracer>::Span: Send + Sync + 'static,
{
    fn make(&self, scope: InstrumentationScope) -> Arc<dyn StartSpan> {
        Arc::new(TracerOf {
            tracer: self.provider.tracer_with_scope(scope),
            sampler: self.sampler,
        })
    }

    fn sampler(&self) -> KnownSampler {
        self.sampler
    }
}

/// A [`Tracer`] of any type. The span goes straight into its context, boxed once.
pub(crate) trait StartSpan: Send + Sync {
    /// Starts a span below `parent`; `attributes` are asked for at most once, and room is made for
    /// `capacity` of them.
    fn start(
        &self,
        span: SpanBuilder,
        parent: Parent<'_>,
        capacity: usize,
        attributes: &Attributes,
    ) -> Started;
}

/// What a span starts below.
pub(crate) struct Parent<'a> {
    /// What the context of the span has besides the span.
    pub(crate) cx: &'a Context,
    /// The span that is the parent; that of `cx`, where none is given.
    pub(crate) span_context: Option<SpanContext>,
}

/// Adds the attributes of a span to a list.
pub(crate) type Attributes<'a> = dyn Fn(&mut Vec<KeyValue>) + 'a;

/// A span that was started.
pub(crate) struct Started {
    /// The context in which the span is active.
    pub(crate) cx: Context,
    /// False where nothing written to the span will ever be exported.
    pub(crate) recording: bool,
}

struct TracerOf<T> {
    tracer: T,
    sampler: KnownSampler,
}

impl<T> StartSpan for TracerOf<T>
where
    T: Tracer + Send + Sync,
    T::Span: Send + Sync + 'static,
{
    fn start(
        &self,
        mut builder: SpanBuilder,
        parent: Parent<'_>,
        capacity: usize,
        attributes: &Attributes,
    ) -> Started {
        let current;
        let span_context = match &parent.span_context {
            Some(span_context) => Some(span_context),
            None => {
                current = parent.cx.span();
                Some(current.span_context()).filter(|span_context| span_context.is_valid())
            }
        };
        let decision = self.sampler.decision(span_context);
        if let (Decision::Drop, Some(span_context), Some(new_span_id)) =
            (decision, span_context, self.sampler.new_span_id)
            && !parent.cx.is_telemetry_suppressed()
        {
            return Started::dropped(parent.cx, new_span_id(), span_context);
        }
        let random = span_context.map_or(0, |one| one.trace_flags().to_u8() & RANDOM);
        let with_parent;
        let parent = match parent.span_context {
            Some(span_context) => {
                with_parent = parent.cx.with_remote_span_context(span_context);
                &with_parent
            }
            None => parent.cx,
        };
        // The builder's vector becomes that of the span: reserved here, it grows no more.
        let is_open = matches!(decision, Decision::Open | Decision::Drop);
        let mut list = Vec::with_capacity(if is_open { 0 } else { capacity });
        if !is_open {
            attributes(&mut list);
        }
        builder.attributes = Some(list);
        let mut span = self.tracer.build_with_context(builder, parent);
        if span.is_recording() {
            if is_open {
                let mut list = Vec::with_capacity(capacity);
                attributes(&mut list);
                span.set_attributes(list);
            }
            return Started {
                cx: parent.with_span(span),
                recording: true,
            };
        }
        let span_context = span.span_context();
        let cx = if span_context.is_valid() {
            // Its bare context does what a boxed span would, for less.
            parent.with_remote_span_context(with_random_flag(span_context, random))
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

impl Started {
    /// A span that is dropped, below `parent`.
    fn dropped(cx: &Context, span_id: SpanId, parent: &SpanContext) -> Self {
        let flags = parent.trace_flags().to_u8() & RANDOM;
        let state = parent.trace_state().clone();
        let flags = TraceFlags::new(flags);
        let span_context = SpanContext::new(parent.trace_id(), span_id, flags, false, state);
        Self {
            cx: cx.with_remote_span_context(span_context),
            recording: false,
        }
    }
}

/// The SDK clears all flags of a span that it drops, but the random flag must be passed on.
fn with_random_flag(span_context: &SpanContext, random: u8) -> SpanContext {
    SpanContext::new(
        span_context.trace_id(),
        span_context.span_id(),
        TraceFlags::new(span_context.trace_flags().to_u8() | random),
        false,
        TraceState::clone(span_context.trace_state()),
    )
}
