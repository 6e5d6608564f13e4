//! The `tracing` span of a request, opened when code asks for it.
//!
//! Opening, entering and closing a span costs more than the rest of a request, and few requests use
//! their span. The subscriber of `init` knows all its layers, so it can leave the span out until
//! code calls `Span::current()`. Spans of functions need no such parent, because their parent is in
//! OpenTelemetry's current context.

use std::cell::{Cell, RefCell};
use std::mem;
use std::sync::OnceLock;

use opentelemetry::Context;
use tracing::callsite::{Callsite, Identifier};
use tracing::dispatcher::WeakDispatch;
use tracing::field::FieldSet;
use tracing::level_filters::LevelFilter;
use tracing::metadata::Kind;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};
use tracing_core::span::Current;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::FilterId;
use tracing_subscriber::layer::Layered;
use tracing_subscriber::registry::{Data, LookupSpan};

use crate::concurrent::caught::catch_panic;
use crate::current_context;
use crate::logs::BoxedLayer;
use crate::semconv::{REQUEST_TARGET, Side};

/// The fields that code can record, as on a span that is opened at once.
const FIELDS: &[&str] = &[
    "method",
    "route",
    "status",
    "error",
    "request_id",
    "tenant",
    "user",
    "otel.name",
    "otel.status_code",
    "otel.status_description",
];

/// The callsite of a request's span. Callsites are compared by address, so it must have a size.
struct RequestCallsite(Side);

static SERVER_CALLSITE: RequestCallsite = RequestCallsite(Side::Server);
static CLIENT_CALLSITE: RequestCallsite = RequestCallsite(Side::Client);
static SERVER: Metadata<'static> = metadata("request", &SERVER_CALLSITE);
static CLIENT: Metadata<'static> = metadata("client_request", &CLIENT_CALLSITE);

const fn metadata(name: &'static str, callsite: &'static RequestCallsite) -> Metadata<'static> {
    let fields = FieldSet::new(FIELDS, Identifier(callsite));
    let level = Level::INFO;
    Metadata::new(
        name,
        REQUEST_TARGET,
        level,
        None,
        None,
        None,
        fields,
        Kind::SPAN,
    )
}

impl Callsite for RequestCallsite {
    fn set_interest(&self, _: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        match self.0 {
            Side::Server => &SERVER,
            Side::Client => &CLIENT,
        }
    }
}

/// The place of a request's span on a thread.
struct Place {
    /// The context of the request.
    cx: Context,
    side: Side,
    /// The number of spans that were entered after the request, since it became current.
    entered: u32,
    /// Boxed, because the place moves at each poll.
    opened: Option<Box<Opened>>,
}

/// An open span, which is closed with the request. Code may hold further references to it.
struct Opened {
    id: Id,
    metadata: &'static Metadata<'static>,
    dispatch: Dispatch,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.dispatch.try_close(self.id.clone());
    }
}

thread_local! {
    /// The place of the innermost request that is current on this thread.
    static CURRENT: RefCell<Option<Place>> = const { RefCell::new(None) };
    /// The callsite for which this thread has the answers of the filters.
    static FILTERED: Cell<Option<Identifier>> = const { Cell::new(None) };
    /// The innermost span that this thread is opening.
    static OPENING: Cell<Option<&'static Metadata<'static>>> = const { Cell::new(None) };
}

/// Restores the outer span that this thread is opening, even if formatting a field panics.
struct Opening(Option<&'static Metadata<'static>>);

impl Drop for Opening {
    fn drop(&mut self) {
        OPENING.set(self.0);
    }
}

/// The span of a request, which is opened when code asks for it. While the request is current, it
/// holds the place of the previous request on the thread.
pub(crate) struct OnDemandSpan(Option<Place>);

impl OnDemandSpan {
    pub(super) fn new(cx: &Context, side: Side) -> Self {
        Self(Some(Place {
            cx: cx.clone(),
            side,
            entered: 0,
            opened: None,
        }))
    }

    /// Makes the request current. Spans that are still entered are then below it.
    pub(super) fn enter(&mut self) {
        if let Some(place) = &mut self.0 {
            place.entered = 0;
        }
        self.swap();
    }

    /// Makes the previous request current again.
    pub(super) fn exit(&mut self) {
        self.swap();
    }

    fn swap(&mut self) {
        // This fails on a thread that is ending. The request then has no span there.
        let _ = CURRENT.try_with(|current| {
            if let Ok(mut current) = current.try_borrow_mut() {
                mem::swap(&mut *current, &mut self.0);
            }
        });
    }
}

/// Returns whether the current subscriber opens spans of requests on demand.
pub(super) fn is_available() -> bool {
    tracing::dispatcher::get_default(|dispatch| {
        let subscriber = dispatch.downcast_ref::<OnDemandSubscriber>();
        subscriber.is_some_and(|subscriber| subscriber.is_on_demand)
    })
}

/// Returns whether this is the subscriber of `init`, which always has a bridge.
pub(super) fn is_of_init(subscriber: &Dispatch) -> bool {
    subscriber.downcast_ref::<OnDemandSubscriber>().is_some()
}

/// A registry with the layer for spans.
pub(crate) type WithSpans = Layered<BoxedLayer<Registry>, Registry>;

/// A subscriber that opens the span of a request when code asks for the current span.
pub(super) struct OnDemandSubscriber {
    inner: Layered<BoxedLayer<WithSpans>, WithSpans>,
    is_on_demand: bool,
    dispatch: OnceLock<WeakDispatch>,
}

impl OnDemandSubscriber {
    pub(super) fn new(
        inner: Layered<BoxedLayer<WithSpans>, WithSpans>,
        is_on_demand: bool,
    ) -> Self {
        Self {
            inner,
            is_on_demand,
            dispatch: OnceLock::new(),
        }
    }

    /// Returns the span of the current request, unless another span was entered after it.
    fn request_span(&self) -> Option<Current> {
        let current = |current: &RefCell<Option<Place>>| {
            let mut current = current.try_borrow_mut().ok()?;
            let place = current.as_mut().filter(|place| place.entered == 0)?;
            if place.opened.is_none() {
                place.opened = self.open(&place.cx, place.side).map(Box::new);
            }
            let opened = place.opened.as_ref()?;
            Some(Current::new(opened.id.clone(), opened.metadata))
        };
        CURRENT.try_with(current).ok().flatten()
    }

    #[cold]
    fn open(&self, cx: &Context, side: Side) -> Option<Opened> {
        let metadata = match side {
            Side::Server => &SERVER,
            Side::Client => &CLIENT,
        };
        let dispatch = self.dispatch.get()?.upgrade()?;
        // The bridge takes the span of the request from the current context.
        let _attached = current_context::attach(cx);
        let values = metadata.fields().value_set(&[]);
        let attributes = Attributes::new(metadata, &values);
        // The registry can panic on a thread that is ending. The request then has no span there.
        let id = catch_panic(|| dispatch.new_span(&attributes))?;
        Some(Opened {
            id,
            metadata,
            dispatch,
        })
    }

    /// Asks the filters again, unless this thread still has their answers for this callsite.
    ///
    /// A layer reads the answer of its filter from the thread. Fields may log, open spans or ask for
    /// the current span when they are evaluated or formatted, which replaces the answers.
    fn restore_answers(&self, metadata: &Metadata<'_>) {
        let callsite = Some(metadata.callsite());
        if FILTERED.replace(callsite.clone()) != callsite {
            self.ask(metadata);
        }
    }

    #[cold]
    fn ask(&self, metadata: &Metadata<'_>) {
        if let Some(dispatch) = self.dispatch.get().and_then(WeakDispatch::upgrade) {
            dispatch.enabled(metadata);
        }
    }

    /// Discards the answers after the layers have read them.
    fn discard_answers(&self) {
        // In a field of a span that is being opened, the next layers still read the answers for it.
        if let Some(outer) = OPENING.get() {
            self.ask(outer);
        }
        FILTERED.set(None);
    }

    /// Changes the number of spans that were entered after the current request.
    fn count_entered(&self, change: impl FnOnce(u32) -> u32) {
        if !self.is_on_demand {
            return;
        }
        let _ = CURRENT.try_with(|current| {
            if let Ok(mut current) = current.try_borrow_mut()
                && let Some(place) = &mut *current
            {
                place.entered = change(place.entered);
            }
        });
    }
}

impl Subscriber for OnDemandSubscriber {
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        let _ = self.dispatch.set(dispatch.downgrade());
        self.inner.on_register_dispatch(dispatch);
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        self.inner.register_callsite(metadata)
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        FILTERED.set(Some(metadata.callsite()));
        self.inner.enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.inner.max_level_hint()
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let metadata = attributes.metadata();
        self.restore_answers(metadata);
        let opening = Opening(OPENING.replace(Some(metadata)));
        let id = self.inner.new_span(attributes);
        drop(opening);
        // The layer outside of this subscriber still reads its answer.
        self.restore_answers(metadata);
        self.discard_answers();
        id
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        self.inner.record(id, values);
    }

    fn record_follows_from(&self, id: &Id, follows: &Id) {
        self.inner.record_follows_from(id, follows);
    }

    fn event_enabled(&self, event: &Event<'_>) -> bool {
        self.restore_answers(event.metadata());
        self.inner.event_enabled(event)
    }

    fn event(&self, event: &Event<'_>) {
        self.inner.event(event);
        self.discard_answers();
    }

    fn enter(&self, id: &Id) {
        self.inner.enter(id);
        self.count_entered(|entered| entered.saturating_add(1));
    }

    fn exit(&self, id: &Id) {
        self.inner.exit(id);
        self.count_entered(|entered| entered.saturating_sub(1));
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.inner.clone_span(id)
    }

    fn try_close(&self, id: Id) -> bool {
        self.inner.try_close(id)
    }

    fn current_span(&self) -> Current {
        match self.request_span() {
            Some(span) => span,
            None => self.inner.current_span(),
        }
    }
}

impl<'a> LookupSpan<'a> for OnDemandSubscriber {
    type Data = Data<'a>;

    fn span_data(&'a self, id: &Id) -> Option<Data<'a>> {
        self.inner.span_data(id)
    }

    fn register_filter(&mut self) -> FilterId {
        self.inner.register_filter()
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::bridge::request_span::RequestSpan;
    use crate::bridge::span_layer;

    #[test]
    fn the_span_is_named_and_accepts_fields_like_a_span_that_is_opened_at_once() {
        let subscriber = tracing_subscriber::registry().with(span_layer());
        tracing::subscriber::with_default(subscriber, || {
            for (side, metadata) in [(Side::Server, &SERVER), (Side::Client, &CLIENT)] {
                let RequestSpan::Open(span) = RequestSpan::open(&Context::new(), side, "GET", None)
                else {
                    panic!("the subscriber has a bridge");
                };
                let opened = span.metadata().expect("the span is enabled");
                assert_eq!(opened.name(), metadata.name());
                assert_eq!(opened.target(), metadata.target());
                assert_eq!(opened.level(), metadata.level());
                let names = |metadata: &'static Metadata<'static>| {
                    metadata.fields().iter().map(|field| field.name())
                };
                assert!(names(opened).eq(names(metadata)));
            }
        });
    }
}
