//! Selects the providers to use: those of the layer that serves the current request, or else
//! those of the process.

use std::ops::Deref;
use std::sync::Arc;

use crate::current_context;
use crate::providers::Providers;
use crate::providers::generations;
use crate::providers::in_context::scoped_in;

/// Returns the providers to use; `None` if telemetry is switched off.
pub(crate) fn current() -> Option<Current> {
    match current_context::map(scoped_in) {
        Some(providers) => Some(Current::Scoped(providers)),
        None => generations::process().map(Current::Process),
    }
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
