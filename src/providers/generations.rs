//! Which providers hold in the process. They change when `init` is called, when its telemetry ends,
//! and when the application sets OpenTelemetry's first global meter provider.
//!
//! Each change begins a new generation. Whoever keeps what it has made of the providers asks for the
//! generation with each use: one atomic load.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use opentelemetry::global;
use opentelemetry::metrics::MeterProvider;

use crate::propagation::Propagators;
use crate::providers::Providers;
use crate::providers::bound;
use crate::providers::layer_variables::LayerSettings;
use crate::providers::series_budget::SDK_SERIES;
use crate::providers::tracer::global_tracers;

/// Set in a generation whose global meter provider may still be that of OpenTelemetry, which does
/// nothing.
const UNSETTLED: usize = 1;

static GENERATION: AtomicUsize = AtomicUsize::new(UNSETTLED);

static STATE: RwLock<State> = RwLock::new(State {
    providers: None,
    propagators: None,
    layers: None,
    global_meters: None,
    #[cfg(feature = "init")]
    end: None,
});

struct State {
    /// `None` where telemetry is switched off, or has ended. They live as long as the process:
    /// whoever uses them counts as no owner.
    providers: Option<&'static Providers>,
    propagators: Option<&'static Propagators>,
    layers: Option<&'static LayerSettings>,
    /// The global meter provider that was found, where it does nothing.
    global_meters: Option<Arc<dyn MeterProvider + Send + Sync>>,
    /// Given when something is recorded after the end.
    #[cfg(feature = "init")]
    end: Option<crate::logs::EndNotice>,
}

/// The part of the state that this thread has read last.
#[derive(Clone, Copy)]
struct Cached {
    generation: usize,
    providers: Option<&'static Providers>,
    propagators: Option<&'static Propagators>,
}

thread_local! {
    static CACHED: Cell<Cached> = const {
        Cell::new(Cached {
            generation: 0,
            providers: None,
            propagators: None,
        })
    };
    /// How often this thread has looked for a global meter provider.
    static LOOKS: Cell<u32> = const { Cell::new(0) };
}

/// The generation that holds now.
#[inline]
pub(crate) fn generation() -> usize {
    let generation = GENERATION.load(Ordering::Acquire);
    if generation & UNSETTLED == 0 {
        generation
    } else {
        settle(generation)
    }
}

/// The providers of the process; `None` where telemetry is switched off, or has ended.
pub(crate) fn process() -> Option<&'static Providers> {
    cached().providers
}

/// How context comes with requests.
pub(crate) fn propagators() -> &'static Propagators {
    cached().propagators.unwrap_or_else(|| Propagators::w3c())
}

/// Returns the settings of layers: of `init`, else of the process environment. Not for each request.
pub(crate) fn layer_settings() -> &'static LayerSettings {
    let state = STATE.read().unwrap_or_else(PoisonError::into_inner);
    let layers = state.layers;
    drop(state);
    layers.unwrap_or_else(LayerSettings::of_environment)
}

#[inline]
fn cached() -> Cached {
    let generation = generation();
    let cached = CACHED.get();
    if cached.generation == generation {
        cached
    } else {
        read()
    }
}

#[cold]
fn read() -> Cached {
    let state = STATE.read().unwrap_or_else(PoisonError::into_inner);
    let cached = Cached {
        // Changed under the lock alone.
        generation: GENERATION.load(Ordering::Acquire),
        providers: state.providers,
        propagators: state.propagators,
    };
    CACHED.set(cached);
    #[cfg(feature = "init")]
    let end = state.end.clone();
    drop(state);
    #[cfg(feature = "init")]
    if let Some(end) = end {
        end.give();
    }
    cached
}

/// Takes the providers of OpenTelemetry's global module, again when there is a meter provider.
#[cold]
fn settle(generation: usize) -> usize {
    /// A program without any provider need not look with each use for ever.
    const OFTEN: u32 = 4096;
    const SELDOM: u32 = 64;

    let looks = LOOKS.get().wrapping_add(1);
    LOOKS.set(looks);
    if looks > OFTEN && !looks.is_multiple_of(SELDOM) {
        return generation;
    }
    let meters = global::meter_provider();
    let is_known = |state: &State| {
        let known = state.global_meters.as_ref();
        known.is_some_and(|known| Arc::ptr_eq(known, &meters))
    };
    if is_known(&STATE.read().unwrap_or_else(PoisonError::into_inner)) {
        return generation;
    }
    // Made without the lock: it may log, and a subscriber may come back here.
    let tracers = global_tracers();
    let made = Providers::new(tracers, bound::of_unknown_type(meters.clone()), SDK_SERIES);
    // OpenTelemetry's has no state. Another without any is looked at again, which does no harm.
    let does_nothing = size_of_val(&*meters) == 0;
    let mut state = STATE.write().unwrap_or_else(PoisonError::into_inner);
    let generation = GENERATION.load(Ordering::Acquire);
    if generation & UNSETTLED == 0 || is_known(&state) {
        return generation;
    }
    state.providers = Some(Box::leak(Box::new(made)));
    state.global_meters = does_nothing.then_some(meters);
    let next = (generation & !UNSETTLED) + 2;
    let next = if does_nothing { next | UNSETTLED } else { next };
    GENERATION.store(next, Ordering::Release);
    next
}

/// Makes the arguments those of the process; no providers switch telemetry off.
#[cfg(feature = "init")]
pub(crate) fn install(
    providers: Option<Providers>,
    propagators: Propagators,
    layers: LayerSettings,
) {
    let providers = providers.map(|providers| &*Box::leak(Box::new(providers)));
    let propagators = &*Box::leak(Box::new(propagators));
    let layers = &*Box::leak(Box::new(layers));
    change(|state| {
        state.providers = providers;
        state.propagators = Some(propagators);
        state.layers = Some(layers);
        state.end = None;
    });
}

/// Ends the telemetry of the process until the next [`install`]. Context still passes.
#[cfg(feature = "init")]
pub(crate) fn end(notice: Option<crate::logs::EndNotice>) {
    change(|state| {
        state.providers = None;
        state.end = notice;
    });
}

#[cfg(feature = "init")]
fn change(change: impl FnOnce(&mut State)) {
    let mut state = STATE.write().unwrap_or_else(PoisonError::into_inner);
    change(&mut state);
    state.global_meters = None;
    let generation = GENERATION.load(Ordering::Acquire);
    GENERATION.store((generation & !UNSETTLED) + 2, Ordering::Release);
}

/// Something that is made anew in each generation in which it is used. There are few generations.
pub(crate) struct ByGeneration<T> {
    first: Slot<T>,
}

type Slot<T> = OnceLock<Box<Made<T>>>;

struct Made<T> {
    generation: usize,
    value: Option<T>,
    next: Slot<T>,
}

impl<T> Default for ByGeneration<T> {
    fn default() -> Self {
        Self { first: Slot::new() }
    }
}

impl<T> ByGeneration<T> {
    /// Returns what was made in this generation, made first where it was not.
    #[inline]
    pub(crate) fn get(&self, make: impl FnOnce() -> Option<T>) -> Option<&T> {
        let generation = generation();
        match self.first.get() {
            Some(made) if made.generation == generation => made.value.as_ref(),
            _ => self.find(generation, make),
        }
    }

    fn find(&self, generation: usize, make: impl FnOnce() -> Option<T>) -> Option<&T> {
        let mut slot = &self.first;
        while let Some(made) = slot.get() {
            if made.generation == generation {
                return made.value.as_ref();
            }
            slot = &made.next;
        }
        // Made outside of the slot: to make it may log, and a log may come back here.
        let mut value = make();
        loop {
            let made = slot.get_or_init(|| {
                Box::new(Made {
                    generation,
                    value: value.take(),
                    next: Slot::new(),
                })
            });
            if made.generation == generation {
                return made.value.as_ref();
            }
            slot = &made.next;
        }
    }
}
