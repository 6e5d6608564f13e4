//! Spans of `tracing` that stand for a span which a layer has made.

use std::cell::RefCell;

use opentelemetry::trace::{SpanId, TraceContextExt};
use opentelemetry::{Context, ContextGuard};
use tracing::callsite::{Callsite, Identifier};
use tracing::field::FieldSet;
use tracing::metadata::Kind;
use tracing::span::{Attributes, Id};
use tracing::subscriber::Interest;
use tracing::{Level, Metadata};

use crate::current_context;

/// The name by which the tracer knows such a span.
const NAME: &str = "tower-telemetry stand-in";

pub(super) fn is_name(name: &str) -> bool {
    name == NAME
}

struct NoCallsite;

impl Callsite for NoCallsite {
    fn set_interest(&self, _: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        &METADATA
    }
}

static METADATA: Metadata<'static> = Metadata::new(
    NAME,
    "tower_telemetry",
    Level::INFO,
    None,
    None,
    None,
    FieldSet::new(&[], Identifier(&NoCallsite)),
    Kind::SPAN,
);

/// Passes the attributes of a new span that stands for another to `f`.
pub(super) fn with_attributes(f: impl FnOnce(&Attributes<'_>)) {
    f(&Attributes::new(
        &METADATA,
        &METADATA.fields().value_set(&[]),
    ));
}

/// Passes the attributes of a new span to `f`, without its values.
pub(super) fn without_values(attributes: &Attributes<'_>, f: impl FnOnce(&Attributes<'_>)) {
    let metadata = attributes.metadata();
    let values = metadata.fields().value_set(&[]);
    f(&match attributes.parent() {
        Some(parent) => Attributes::child_of(parent.clone(), metadata, &values),
        None if attributes.is_contextual() => Attributes::new(metadata, &values),
        None => Attributes::new_root(metadata, &values),
    });
}

thread_local! {
    /// The spans of requests that are entered on this thread, each with the guard of its context where
    /// it was not current before.
    static ENTERED: RefCell<Vec<(Id, Option<ContextGuard>)>> = const { RefCell::new(Vec::new()) };
}

/// The context of the span that another stands for.
#[derive(Clone)]
pub(super) struct StandIn(pub(super) Context);

impl StandIn {
    fn span_id(cx: &Context) -> SpanId {
        cx.span().span_context().span_id()
    }

    /// Makes the context current, unless it is.
    pub(super) fn enter(&self, id: &Id) {
        let is_current = current_context::map(Self::span_id) == Self::span_id(&self.0);
        let guard = if is_current {
            None
        } else {
            current_context::attach_scoped(&self.0)
        };
        // It fails on a thread that ends, and the guard is dropped then.
        let _ = ENTERED.try_with(|entered| entered.borrow_mut().push((id.clone(), guard)));
    }

    /// Leaves the context that `enter` has made current.
    pub(super) fn exit(id: &Id) {
        let guard = ENTERED.try_with(|entered| {
            let mut entered = entered.borrow_mut();
            let place = entered.iter().rposition(|(one, _)| one == id)?;
            entered.remove(place).1
        });
        drop(guard);
    }
}
