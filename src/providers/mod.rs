//! Where the layers and the handler functions get tracers and meters.
//!
//! In this order: the providers given to the layer that serves the current request, those that
//! [`init`](crate::init) made, the global ones of OpenTelemetry. `scope` finds the first, `generations`
//! keeps the last two.

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
pub(crate) mod registry;
pub(crate) mod scope;
pub(crate) mod series_budget;
pub(crate) mod start_span;
pub(crate) mod tracer;
mod unique_span;
pub(crate) mod variables;

use std::sync::{Arc, OnceLock};

use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, InstrumentationScope};

use crate::concurrent::table::Table;
use crate::current_context;
use crate::propagation::{self, Decision};
use crate::providers::collections::Collections;
use crate::providers::exceptions::Exceptions;
use crate::providers::function_durations::FunctionDurations;
use crate::providers::message_durations::MessageDurations;
use crate::providers::registry::Registry;
use crate::providers::series_budget::Room;
use crate::providers::start_span::{MakeTracer, StartSpan};
use crate::semconv::{self, Side};

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
    pub(crate) message_durations: MessageDurations,
    /// Room in the instruments of servers, and in those of clients.
    rooms: [Arc<Room>; 2],
    collections: OnceLock<Arc<Collections>>,
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
            components: Table::new(MAX_COMPONENTS),
            function_durations: FunctionDurations::new(meter.clone()),
            message_durations: MessageDurations::new(
                meters.meter_with_scope(instrumentation_scope()),
            ),
            functions: Registry::new(meter),
            meters,
            rooms: [Room::new(max_series), Room::new(max_series)],
            collections: OnceLock::new(),
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

    /// Returns the collections of the meter provider.
    pub(crate) fn collections(&self) -> Arc<Collections> {
        let watch = || Collections::watch(&self.meter());
        self.collections.get_or_init(watch).clone()
    }

    /// The tracer for the spans of this crate's layers.
    pub(crate) fn tracer(&self) -> Arc<dyn StartSpan> {
        self.tracers.make(instrumentation_scope())
    }

    /// The meter for the instruments of this crate's layers.
    pub(crate) fn meter(&self) -> Meter {
        self.meters.meter_with_scope(instrumentation_scope())
    }

    /// Whether a span below the current one would be dropped for certain.
    pub(crate) fn drops_below_current(&self) -> bool {
        self.follows_unsampled && current_context::map(|cx| self.drops_below(cx))
    }

    /// Whether a span below that of `cx` would be dropped for certain.
    pub(crate) fn drops_below(&self, cx: &Context) -> bool {
        self.follows_unsampled && {
            let span = cx.span();
            let span_context = span.span_context();
            span_context.is_valid()
                && !span_context.is_sampled()
                && propagation::decision_in(cx) != Some(Decision::Deferred)
        }
    }

    /// The tracer of a component of the application.
    pub(crate) fn component(&self, name: &'static str) -> Arc<dyn StartSpan> {
        let make = || {
            // Spans that this crate describes itself, such as those of messages.
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

/// The instrumentation scope of this crate, the same for spans and metrics.
pub(crate) fn instrumentation_scope() -> InstrumentationScope {
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
