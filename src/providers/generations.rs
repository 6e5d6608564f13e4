//! The providers that are installed for the process. They change when `init` is called, when its
//! telemetry ends, and when the application sets the global meter provider of OpenTelemetry for the
//! first time.
//!
//! Each change starts a new generation. Code that caches something made from the providers checks
//! the generation at each use, which is one atomic load.

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

/// Set in a generation in which OpenTelemetry's global meter provider may still be its default,
/// which does nothing.
const MAY_LACK_METERS: usize = 1;

static GENERATION: AtomicUsize = AtomicUsize::new(MAY_LACK_METERS);

static STATE: RwLock<State> = RwLock::new(State {
    providers: None,
    propagators: None,
    layers: None,
    global_meters: None,
    #[cfg(feature = "init")]
    end: None,
});

struct State {
    /// `None` if telemetry is switched off or has ended. Providers are never freed, so that using
    /// them needs no reference count.
    providers: Option<&'static Providers>,
    propagators: Option<&'static Propagators>,
    layers: Option<&'static LayerSettings>,
    /// The global meter provider that was found, if it does nothing.
    global_meters: Option<Arc<dyn MeterProvider + Send + Sync>>,
    /// The warning to log when something is recorded after the end.
    #[cfg(feature = "init")]
    end: Option<crate::logs::EndWarning>,
}

/// The part of the state that the current thread has cached.
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
    /// The number of times that this thread has checked the global meter provider.
    static CHECKS: Cell<u32> = const { Cell::new(0) };
}

/// Returns the current generation.
#[inline]
pub(crate) fn generation() -> usize {
    let generation = GENERATION.load(Ordering::Acquire);
    if generation & MAY_LACK_METERS == 0 {
        generation
    } else {
        install_globals(generation)
    }
}

/// Returns the providers of the process; `None` if telemetry is switched off or has ended.
pub(crate) fn process() -> Option<&'static Providers> {
    cached().providers
}

/// Returns the propagators of the process.
pub(crate) fn propagators() -> &'static Propagators {
    cached().propagators.unwrap_or_else(|| Propagators::w3c())
}

/// Returns the layer settings of `init`, or else of the process environment. It takes a lock, so do
/// not call it per request.
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
        // The generation changes only while the lock is held.
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
        end.log_once();
    }
    cached
}

/// Installs the global providers of OpenTelemetry, and again once a meter provider has been set.
#[cold]
fn install_globals(generation: usize) -> usize {
    /// A thread checks at its first uses, and later only at every `CHECK_INTERVAL`th use, because a
    /// program may never set a provider.
    const FIRST_CHECKS: u32 = 4096;
    const CHECK_INTERVAL: u32 = 64;

    let checks = CHECKS.get().wrapping_add(1);
    CHECKS.set(checks);
    if checks > FIRST_CHECKS && !checks.is_multiple_of(CHECK_INTERVAL) {
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
    // Created without the lock: this may log, and a subscriber may call this module.
    let tracers = global_tracers();
    let created = Providers::new(tracers, bound::of_unknown_type(meters.clone()), SDK_SERIES);
    // OpenTelemetry's default provider is zero-sized. For another zero-sized provider, the check is
    // only repeated.
    let does_nothing = size_of_val(&*meters) == 0;
    let mut state = STATE.write().unwrap_or_else(PoisonError::into_inner);
    let generation = GENERATION.load(Ordering::Acquire);
    if generation & MAY_LACK_METERS == 0 || is_known(&state) {
        return generation;
    }
    state.providers = Some(Box::leak(Box::new(created)));
    state.global_meters = does_nothing.then_some(meters);
    let next = (generation & !MAY_LACK_METERS) + 2;
    let next = if does_nothing {
        next | MAY_LACK_METERS
    } else {
        next
    };
    GENERATION.store(next, Ordering::Release);
    next
}

/// Installs the arguments for the process. Telemetry is switched off if `providers` is `None`.
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

/// Ends the telemetry of the process until the next [`install`]. Context is still propagated.
#[cfg(feature = "init")]
pub(crate) fn end(notice: Option<crate::logs::EndWarning>) {
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
    GENERATION.store((generation & !MAY_LACK_METERS) + 2, Ordering::Release);
}

/// A value that is created once per generation in which it is used. Old values are kept, because
/// there are few generations.
pub(crate) struct ByGeneration<T> {
    first: Slot<T>,
}

type Slot<T> = OnceLock<Box<Created<T>>>;

struct Created<T> {
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
    /// Returns the value for the current generation, and creates it at the first use.
    #[inline]
    pub(crate) fn get(&self, make: impl FnOnce() -> Option<T>) -> Option<&T> {
        let generation = generation();
        match self.first.get() {
            Some(created) if created.generation == generation => created.value.as_ref(),
            _ => self.find(generation, make),
        }
    }

    fn find(&self, generation: usize, make: impl FnOnce() -> Option<T>) -> Option<&T> {
        let mut slot = &self.first;
        while let Some(created) = slot.get() {
            if created.generation == generation {
                return created.value.as_ref();
            }
            slot = &created.next;
        }
        // Created outside the slot: this may log, and a subscriber may call this function.
        let mut value = make();
        loop {
            let created = slot.get_or_init(|| {
                Box::new(Created {
                    generation,
                    value: value.take(),
                    next: Slot::new(),
                })
            });
            if created.generation == generation {
                return created.value.as_ref();
            }
            slot = &created.next;
        }
    }
}
