//! The series of one route or one gRPC method.

use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::concurrent::table::{Chain, Inserted, Table};
use crate::instruments::late_series::LateSeries;
use crate::instruments::recorders::{Recorders, SeriesAttributes};
use crate::instruments::series::{CallKey, Measured, SeriesKey};
use crate::providers::collections::Collections;
use crate::providers::series_budget::RouteBudget;

/// The maximum number of series per route and method, or per gRPC method.
const MAX_SERIES: usize = 512;

/// The key of a series of a route or a gRPC method.
pub(crate) trait Key: Clone + Eq + Hash {
    /// Returns whether there are attributes from hooks and the handler.
    fn has_extra(&self) -> bool;
}

impl Key for SeriesKey {
    fn has_extra(&self) -> bool {
        !self.extra.is_empty()
    }
}

impl Key for CallKey {
    fn has_extra(&self) -> bool {
        !self.extra.is_empty()
    }
}

/// The recorders of a layer, and the collections of their measurements.
pub(crate) struct Measuring {
    pub(super) recorders: Arc<Recorders>,
    pub(super) collections: Arc<Collections>,
}

/// The series of a route and a method, or of a gRPC method.
pub(crate) struct SeriesSet<K> {
    /// The series without attributes from hooks and the handler. There are few of them, mostly one
    /// per status, so a linear search is fast.
    kept: Chain<K, Arc<LateSeries>>,
    /// The series with such attributes. There may be many of them.
    with_extra: OnceLock<Table<K, Arc<LateSeries>>>,
    budget: Arc<RouteBudget>,
    /// The series for requests beyond the maximum.
    overflow: OnceLock<Arc<LateSeries>>,
}

impl<K: Key> SeriesSet<K> {
    pub(crate) fn new(budget: Arc<RouteBudget>) -> Self {
        Self {
            kept: Chain::default(),
            with_extra: OnceLock::new(),
            budget,
            overflow: OnceLock::new(),
        }
    }

    /// Records to the series of `key`, creating it if it is missing. Records to the overflow series
    /// if there is no room for it.
    #[inline]
    pub(super) fn record(
        &self,
        measuring: &Measuring,
        key: &K,
        measured: &Measured,
        describe: impl FnOnce() -> SeriesAttributes,
        describe_overflow: impl FnOnce() -> SeriesAttributes,
    ) {
        let late = |attributes| LateSeries::new(&measuring.recorders, attributes);
        let make = || late(describe());
        let series = if key.has_extra() {
            self.series_with_extra(key, make)
        } else {
            let others = || self.with_extra.get().map_or(0, Table::len);
            let has_room = |count| count + others() < MAX_SERIES && self.budget.take();
            self.kept.get_or_insert_if(key, has_room, make)
        };
        let series = series.unwrap_or_else(|| {
            warn_of_overflow();
            self.overflow.get_or_init(|| late(describe_overflow()))
        });
        series.record(measured, &measuring.collections);
    }

    fn series_with_extra(
        &self,
        key: &K,
        make: impl FnOnce() -> Arc<LateSeries>,
    ) -> Option<&Arc<LateSeries>> {
        let table = self.with_extra.get_or_init(|| Table::new(MAX_SERIES));
        if let Some(series) = table.get(key) {
            return Some(series);
        }
        if self.kept.len() + table.len() >= MAX_SERIES || !self.budget.take() {
            return None;
        }
        match table.insert(key.clone(), make()) {
            Inserted::New(series) | Inserted::Present(series) => Some(series),
            Inserted::Full(_) => None,
        }
    }
}

pub(super) fn warn_of_overflow() {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            target: "tower_telemetry",
            "the request metrics have reached their limit of series: further series of a route are \
             combined into one series with otel.metric.overflow=true"
        );
    }
}
