//! The signals in which a request is recorded.

use http::request::Parts;

use crate::concurrent::caught::guarded;
use crate::layer_state::options::{Hook, Options};
use crate::providers::excluded_paths::ExcludedPaths;
use crate::semconv::Side;

/// The signals in which a request is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordedSignals {
    pub(crate) traces: bool,
    pub(crate) metrics: bool,
}

impl RecordedSignals {
    const ALL: Self = Self {
        traces: true,
        metrics: true,
    };

    pub(crate) fn is_empty(self) -> bool {
        !self.traces && !self.metrics
    }

    /// Evaluates the filters of a layer, and the excluded paths of all server layers.
    #[inline]
    pub(crate) fn of(request: &Parts, options: &Options, excluded: &ExcludedPaths) -> Self {
        let has_filters = options.filter.is_some()
            || options.trace_filter.is_some()
            || options.metric_filter.is_some();
        if !has_filters && (excluded.is_empty() || options.side == Side::Client) {
            return Self::ALL;
        }
        Self::evaluate(request, options, excluded)
    }

    #[cold]
    fn evaluate(request: &Parts, options: &Options, excluded: &ExcludedPaths) -> Self {
        let passes = |filter: &Option<Hook<Parts, bool>>| match filter {
            Some(filter) => guarded(|| filter(request)).unwrap_or(true),
            None => true,
        };
        let (in_traces, in_metrics) = match options.side {
            Side::Server => excluded.allow(request.uri.path()),
            Side::Client => (true, true),
        };
        let both = passes(&options.filter);
        Self {
            traces: both && in_traces && passes(&options.trace_filter),
            metrics: both && in_metrics && passes(&options.metric_filter),
        }
    }
}
