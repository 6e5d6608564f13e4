//! Series that are bound without waiting for a collection.

use std::sync::{Arc, Mutex, OnceLock};

use crate::instruments::recorders::{Recorders, SeriesAttributes};
use crate::instruments::series::{Measured, Series};
use crate::providers::collections::{CollectionHook, Collections, lock};

/// A series that is bound at its first measurement, or before the next collection if one may run.
pub(crate) struct LateSeries {
    bound: OnceLock<Series>,
    /// `None` once the series is bound.
    unbound: Mutex<Option<Unbound>>,
}

struct Unbound {
    attributes: SeriesAttributes,
    recorders: Arc<Recorders>,
    measured: Vec<Measured>,
}

impl LateSeries {
    pub(crate) fn new(recorders: &Arc<Recorders>, attributes: SeriesAttributes) -> Arc<Self> {
        Arc::new(Self {
            bound: OnceLock::new(),
            unbound: Mutex::new(Some(Unbound {
                attributes,
                recorders: recorders.clone(),
                measured: Vec::new(),
            })),
        })
    }

    #[inline]
    pub(crate) fn record(self: &Arc<Self>, measured: &Measured, collections: &Collections) {
        match self.bound.get() {
            Some(series) => series.record(measured),
            None => self.record_unbound(measured, collections),
        }
    }

    #[cold]
    fn record_unbound(self: &Arc<Self>, measured: &Measured, collections: &Collections) {
        let mut unbound = lock(&self.unbound);
        match &mut *unbound {
            Some(unbound) if collections.reserve() => {
                // Added before the measurement is kept. A collection that begins in between waits
                // for the lock of `unbound`.
                if unbound.measured.is_empty() {
                    collections.add(self.clone());
                }
                unbound.measured.push(*measured);
            }
            _ => {
                if let Some(series) = self.bind(&mut unbound, collections) {
                    series.record(measured);
                }
            }
        }
    }

    /// Binds the series if it is unbound, and records the measurements that were kept.
    fn bind(&self, unbound: &mut Option<Unbound>, collections: &Collections) -> Option<&Series> {
        if let Some(kept) = unbound.take() {
            let series = kept.recorders.bind(&kept.attributes);
            kept.measured.iter().for_each(|one| series.record(one));
            collections.release(kept.measured.len());
            // No other thread has set it, because the lock of `unbound` is held.
            let _ = self.bound.set(series);
        }
        self.bound.get()
    }
}

impl CollectionHook for LateSeries {
    fn before_collection(&self, collections: &Collections) {
        self.bind(&mut lock(&self.unbound), collections);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::instruments::recorders::Names;
    use crate::semconv::Side;

    const MEASURED: Measured = Measured {
        duration: Duration::from_millis(1),
        received: None,
        sent: 0,
        origin: None,
    };

    fn late() -> Arc<LateSeries> {
        let recorders = Recorders {
            names: Names::of(Side::Server),
            basic: None,
            conventions: None,
            sizes: None,
            exemplars: None,
        };
        LateSeries::new(
            &Arc::new(recorders),
            SeriesAttributes::of_others(false, false),
        )
    }

    fn kept(series: &LateSeries) -> Option<usize> {
        let unbound = lock(&series.unbound);
        unbound.as_ref().map(|unbound| unbound.measured.len())
    }

    #[test]
    fn a_series_is_bound_at_once_while_no_collection_runs() {
        let collections = Collections::new();
        let series = late();
        series.record(&MEASURED, &collections);
        assert_eq!(kept(&series), None);
    }

    #[test]
    fn a_series_is_bound_by_the_next_collection_while_one_may_run() {
        let collections = Collections::new();
        collections.begin();
        let series = late();
        series.record(&MEASURED, &collections);
        series.record(&MEASURED, &collections);
        assert_eq!(kept(&series), Some(2));
        collections.begin();
        assert_eq!(kept(&series), None);
        assert_eq!(
            Arc::strong_count(&series),
            1,
            "no measurement waits any more"
        );
        series.record(&MEASURED, &collections);
        assert_eq!(kept(&series), None);
    }

    #[test]
    fn a_series_with_more_measurements_than_are_kept_is_bound_by_a_request() {
        let collections = Collections::new();
        collections.begin();
        let series = late();
        series.record(&MEASURED, &collections);
        while collections.reserve() {}
        assert_eq!(kept(&series), Some(1));
        series.record(&MEASURED, &collections);
        assert_eq!(kept(&series), None);
        assert!(collections.reserve(), "the measurement's room is released");
        collections.begin();
    }
}
