//! The state that all requests of a layer share.

pub(crate) mod access_log;
pub(crate) mod host_pattern;
pub(crate) mod metric_attributes;
pub(crate) mod options;
pub(crate) mod rate_limit;
pub(crate) mod recorded_signals;

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderName};
use opentelemetry::{Context, Key, KeyValue, global};

use crate::concurrent::per_thread::{PerThread, PerThreadArc};
use crate::instruments::{Instruments, intern};
use crate::layer_state::options::Options;
use crate::layer_state::recorded_signals::RecordedSignals;
use crate::propagation::Propagators;
use crate::providers::Providers;
use crate::providers::baggage_spans::with_baggage;
use crate::providers::bound;
use crate::providers::exceptions::Exceptions;
use crate::providers::excluded_paths::ExcludedPaths;
use crate::providers::generations::{self, ByGeneration};
use crate::providers::in_context;
use crate::providers::series_budget::SDK_SERIES;
use crate::providers::start_span::StartSpan;
use crate::providers::tracer;
use crate::semconv;
use crate::semconv::http::{KNOWN_METHODS, header_values};

/// Headers to capture, with their attribute keys.
pub(crate) struct CapturedHeaders(Vec<(HeaderName, Key)>);

impl CapturedHeaders {
    fn new(prefix: &str, names: &[HeaderName]) -> Self {
        let mut captured: Vec<(HeaderName, Key)> = Vec::new();
        for name in names {
            if captured.iter().any(|(before, _)| before == name) {
                continue;
            }
            if semconv::is_sensitive_header(name) {
                tracing::warn!(
                    target: "tower_telemetry",
                    header = name.as_str(),
                        "the header contains credentials; it is not captured"
                );
            } else {
                let key: Arc<str> = format!("{prefix}.{name}").into();
                captured.push((name.clone(), Key::from(key)));
            }
        }
        Self(captured)
    }

    #[inline]
    pub(crate) fn read(&self, headers: &HeaderMap, mut add: impl FnMut(KeyValue)) {
        for (name, key) in &self.0 {
            if let Some(values) = header_values(headers, name) {
                add(KeyValue::new(key.clone(), values));
            }
        }
    }
}

/// The options and the state that all services of a layer share.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    /// Created at the first request, so that a layer may be created before `init`.
    states: ByGeneration<PerThread<PerThreadArc<LayerState>>>,
}

impl Shared {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Returns the state for this thread; `None` if telemetry is disabled.
    #[inline]
    pub(crate) fn state(&self) -> Option<&PerThreadArc<LayerState>> {
        self.states
            .get(|| LayerState::of(&self.options).map(PerThread::sharing))
            .map(PerThread::for_this_thread)
    }
}

/// The state for recording requests. It is created when a request arrives, once per generation.
pub(crate) struct LayerState {
    pub(crate) tracer: Arc<dyn StartSpan>,
    pub(crate) instruments: Instruments,
    /// The context of a request without a parent.
    pub(crate) root: Context,
    pub(crate) propagators: Propagators,
    pub(crate) request_headers: CapturedHeaders,
    pub(crate) response_headers: CapturedHeaders,
    pub(crate) options: Options,
    excluded: ExcludedPaths,
    pub(crate) exceptions: Exceptions,
}

impl LayerState {
    /// Creates the state; `None` if telemetry is disabled.
    fn of(options: &Options) -> Option<Self> {
        if options.tracers.is_none() && options.meters.is_none() {
            let providers = generations::process()?;
            return Some(Self::new(providers, Context::new(), options));
        }
        if options.tracers.is_some() {
            tracer::record_layer_tracers();
        }
        // Without its own provider, the layer uses OpenTelemetry's current global provider.
        let tracers = options
            .tracers
            .clone()
            .unwrap_or_else(tracer::global_tracers);
        let meters = options.meters.clone();
        let providers = Arc::new(Providers::new(
            with_baggage(tracers, &generations::layer_settings().baggage),
            meters.unwrap_or_else(|| bound::of_unknown_type(global::meter_provider())),
            SDK_SERIES,
        ));
        let root = in_context::scoped(providers.clone());
        Some(Self::new(&providers, root, options))
    }

    /// Returns the signals in which a request is recorded.
    #[inline]
    pub(crate) fn recorded_signals(&self, request: &Parts) -> RecordedSignals {
        RecordedSignals::of(request, &self.options, &self.excluded)
    }

    /// Returns a context in which handler functions use the providers of this layer, if it has its
    /// own.
    pub(crate) fn with_providers(&self, cx: Context) -> Context {
        in_context::in_scope_of(cx, &self.root)
    }

    fn new(providers: &Providers, root: Context, options: &Options) -> Self {
        let settings = generations::layer_settings();
        let known = options.known_methods.as_ref();
        let known = known.unwrap_or(&settings.known_methods);
        let captured = settings.headers(options.side);
        let captured_request = options.captured_request.as_ref();
        let captured_response = options.captured_response.as_ref();
        let known: Vec<&'static str> = if known.is_empty() {
            KNOWN_METHODS.to_vec()
        } else {
            known.iter().filter_map(|method| intern(method)).collect()
        };
        let budget = match (&options.budget, generations::process()) {
            (Some(budget), _) => budget.clone(),
            // The meters are OpenTelemetry's global meters or those of `init`.
            (None, Some(process)) => process.budget(options.side),
            (None, None) => providers.budget(options.side),
        };
        let instruments = Instruments::new(
            options.side,
            &providers.meter(),
            &options.metrics,
            known.into_iter(),
            &options.grpc_methods,
            budget,
            providers.collections(),
        );
        Self {
            tracer: providers.tracer(),
            instruments,
            root,
            propagators: options.propagators().clone(),
            request_headers: CapturedHeaders::new(
                semconv::HTTP_REQUEST_HEADER,
                captured_request.unwrap_or(&captured.request),
            ),
            response_headers: CapturedHeaders::new(
                semconv::HTTP_RESPONSE_HEADER,
                captured_response.unwrap_or(&captured.response),
            ),
            options: options.clone(),
            excluded: settings.excluded_paths.clone(),
            exceptions: providers.exceptions.clone(),
        }
    }
}
