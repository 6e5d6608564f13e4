//! `tracing` spans that represent an existing OpenTelemetry span.

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

/// The name by which the tracer recognises such a span.
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

/// Calls `f` with the attributes of a span that represents another span.
pub(super) fn with_attributes(f: impl FnOnce(&Attributes<'_>)) {
    f(&Attributes::new(
        &METADATA,
        &METADATA.fields().value_set(&[]),
    ));
}

/// Calls `f` with the attributes of a new span, but without their values.
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
    /// The request spans entered on this thread. Each has the guard of its context, unless the
    /// context was already current.
    static ENTERED: RefCell<Vec<(Id, Option<ContextGuard>)>> = const { RefCell::new(Vec::new()) };
}

/// The context of the represented span, stored in the span that represents it.
#[derive(Clone)]
pub(super) struct RepresentedSpan(pub(super) Context);

impl RepresentedSpan {
    fn span_id(cx: &Context) -> SpanId {
        cx.span().span_context().span_id()
    }

    /// Attaches the context, unless it is already current.
    pub(super) fn enter(&self, id: &Id) {
        let is_current = current_context::map(Self::span_id) == Self::span_id(&self.0);
        let guard = if is_current {
            None
        } else {
            current_context::attach_scoped(&self.0)
        };
        // If the thread is ending, this fails and drops the guard.
        let _ = ENTERED.try_with(|entered| entered.borrow_mut().push((id.clone(), guard)));
    }

    /// Detaches the context attached by `enter`.
    pub(super) fn exit(id: &Id) {
        let guard = ENTERED.try_with(|entered| {
            let mut entered = entered.borrow_mut();
            let place = entered.iter().rposition(|(one, _)| one == id)?;
            entered.remove(place).1
        });
        drop(guard);
    }
}
