//! Selects the tracers and meters for layers and handler functions.
//!
//! The providers are, in this order of precedence: those of the layer that serves the current
//! request, those created by [`init`](crate::init), and the global providers of OpenTelemetry.
//! `scope` selects the first kind, and `generations` stores the other two.

pub(crate) mod baggage_spans;
pub(crate) mod bound;
pub(crate) mod collections;
pub(crate) mod exceptions;
pub(crate) mod excluded_paths;
#[cfg_attr(
    not(feature = "init"),
    allow(dead_code, reason = "only the exporter of `init` reads exemplars")
)]
pub(crate) mod exemplars;
pub(crate) mod function_durations;
pub(crate) mod generations;
pub(crate) mod in_context;
pub(crate) mod layer_variables;
pub(crate) mod message_durations;
#[cfg(feature = "init")]
pub(crate) mod recurring;
pub(crate) mod registry;
pub(crate) mod scope;
pub(crate) mod series_budget;
pub(crate) mod start_span;
pub(crate) mod tracer;
mod unique_span;
pub(crate) mod variables;

use std::sync::{Arc, OnceLock};

use opentelemetry::metrics::Meter;
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, InstrumentationScope, KeyValue};

use crate::concurrent::table::Table;
use crate::current_context;
use crate::propagation::{self, Decision};
use crate::providers::bound::Meters;
use crate::providers::collections::Collections;
use crate::providers::exceptions::Exceptions;
use crate::providers::function_durations::FunctionDurations;
use crate::providers::message_durations::MessageDurations;
#[cfg(feature = "init")]
use crate::providers::recurring::{Recurring, Set};
use crate::providers::registry::{Instrument, Kind, Measurement, Registry};
use crate::providers::series_budget::SeriesBudget;
use crate::providers::start_span::{MakeTracer, StartSpan};
use crate::semconv::{self, Side};

/// The maximum number of components whose tracer is cached. Other components get a new tracer for
/// each span.
const MAX_COMPONENTS: usize = 256;

pub(crate) struct Providers {
    tracers: Arc<dyn MakeTracer>,
    follows_unsampled: bool,
    meters: Meters,
    components: Table<&'static str, Arc<dyn StartSpan>>,
    /// The instruments created by name in handler functions.
    functions: Registry,
    #[cfg(feature = "init")]
    recurring: Recurring,
    pub(crate) function_durations: FunctionDurations,
    pub(crate) message_durations: MessageDurations,
    /// The series budgets of server instruments and of client instruments.
    budgets: [Arc<SeriesBudget>; 2],
    collections: OnceLock<Arc<Collections>>,
    pub(crate) exceptions: Exceptions,
}

impl Providers {
    /// Creates the providers. `max_series` is the number of series that the SDK behind `meters`
    /// keeps per instrument of the layers.
    pub(crate) fn new(tracers: Arc<dyn MakeTracer>, meters: Meters, max_series: usize) -> Self {
        let meter = meters.meter_with_scope(handler_scope());
        Self {
            follows_unsampled: tracers.follows_unsampled(),
            tracers,
            components: Table::new(MAX_COMPONENTS),
            function_durations: FunctionDurations::new(meter.clone()),
            message_durations: MessageDurations::new(
                meters.meter_with_scope(instrumentation_scope()),
            ),
            functions: Registry::new(meter),
            #[cfg(feature = "init")]
            recurring: Recurring::default(),
            meters,
            budgets: [SeriesBudget::new(max_series), SeriesBudget::new(max_series)],
            collections: OnceLock::new(),
            exceptions: Exceptions::default(),
        }
    }

    /// Sets where exceptions are recorded.
    #[cfg(feature = "init")]
    pub(crate) fn with_exceptions(self, exceptions: Exceptions) -> Self {
        Self { exceptions, ..self }
    }

    /// Declares that the meter provider has no reader, and is never collected.
    #[cfg(feature = "init")]
    pub(crate) fn without_collections(self) -> Self {
        let _ = self.collections.set(Collections::new());
        self
    }

    /// Returns the series budget of one side's instruments.
    pub(crate) fn budget(&self, side: Side) -> Arc<SeriesBudget> {
        let [server, client] = &self.budgets;
        match side {
            Side::Server => server.clone(),
            Side::Client => client.clone(),
        }
    }

    /// Returns the collections of the meter provider.
    pub(crate) fn collections(&self) -> Arc<Collections> {
        let watch = || Collections::watch(&self.meter());
        self.collections.get_or_init(watch).clone()
    }

    /// Records a measurement of handler code to the instrument with a name, creating it if
    /// necessary.
    #[inline]
    pub(crate) fn measure(
        &self,
        name: &str,
        description: &str,
        measurement: Measurement,
        attributes: &[KeyValue],
    ) {
        #[cfg(feature = "init")]
        if self.meters.are_fast_if_bound
            && let Some(set) = Set::of(name, attributes)
        {
            if !self.recurring.record(&set, measurement) {
                self.measure_unbound(&set, description, measurement);
            }
            return;
        }
        let kind = measurement.kind();
        self.with_instrument(name, description, kind, |instrument| {
            instrument.record(measurement, attributes)
        });
    }

    /// Records a measurement to an instrument without a bound series.
    #[cfg(feature = "init")]
    #[cold]
    fn measure_unbound(&self, set: &Set<'_>, description: &str, measurement: Measurement) {
        let kind = measurement.kind();
        self.with_instrument(set.name, description, kind, |instrument| {
            let is_recorded = instrument.record(measurement, set.attributes);
            if is_recorded {
                let collections = self.collections.get();
                self.recurring.note(set, instrument, collections);
            }
            is_recorded
        });
    }

    /// Passes the instrument with a name to `write`, as [`Registry::record`] does.
    pub(crate) fn with_instrument(
        &self,
        name: &str,
        description: &str,
        kind: &Kind,
        write: impl FnOnce(&Instrument) -> bool,
    ) {
        #[cfg(feature = "init")]
        let instruments = self.functions.len();
        self.functions.record(name, description, kind, write);
        // Only after an instrument was created: both take a lock of the SDK, which it also holds
        // while it calls the application's callbacks.
        #[cfg(feature = "init")]
        if self.functions.len() != instruments && self.meters.are_fast_if_bound {
            self.collections();
        }
    }

    /// The tracer for the spans of this crate's layers.
    pub(crate) fn tracer(&self) -> Arc<dyn StartSpan> {
        self.tracers.make(instrumentation_scope())
    }

    /// Returns the meter for the instruments of this crate's layers.
    pub(crate) fn meter(&self) -> Meter {
        self.meters.meter_with_scope(instrumentation_scope())
    }

    /// Returns whether a child of the current span is certain not to be sampled.
    pub(crate) fn drops_children_of_current(&self) -> bool {
        self.follows_unsampled && current_context::map(|cx| self.drops_children(cx))
    }

    /// Returns whether a child of the span in `cx` is certain not to be sampled.
    pub(crate) fn drops_children(&self, cx: &Context) -> bool {
        self.follows_unsampled && {
            let span = cx.span();
            let span_context = span.span_context();
            span_context.is_valid()
                && !span_context.is_sampled()
                && propagation::decision_in(cx) != Some(Decision::Deferred)
        }
    }

    /// Returns the tracer for a component of the application.
    pub(crate) fn component(&self, name: &'static str) -> Arc<dyn StartSpan> {
        let make = || {
            // This crate creates some spans itself, such as those of messages.
            let is_own = name == env!("CARGO_PKG_NAME");
            self.tracers.make(if is_own {
                instrumentation_scope()
            } else {
                InstrumentationScope::builder(name).build()
            })
        };
        match self.components.get_or_insert_with(&name, make) {
            Ok(tracer) => tracer.clone(),
            Err(tracer) => tracer,
        }
    }
}

/// Returns the instrumentation scope of this crate for spans and metrics.
pub(crate) fn instrumentation_scope() -> InstrumentationScope {
    InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(semconv::SCHEMA_URL)
        .build()
}

/// Returns the scope for metrics recorded by handler code. It differs from the scope of the layers,
/// because the same name in one scope would be the same instrument.
fn handler_scope() -> InstrumentationScope {
    InstrumentationScope::builder("tower-telemetry.handlers")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
}
