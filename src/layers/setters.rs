//! Setters and accessors that the server layer and the client layer share.

/// Implements the setters of both layers.
///
/// `$layer` is the layer, `$url` the attribute that contains the query, and `$variables` the prefix
/// of the variables for captured headers.
macro_rules! shared_setters {
    ($layer:ident, $url:literal, $variables:literal) => {
        impl $layer {
            /// Creates a layer with the default options.
            pub fn new() -> Self {
                Self::default()
            }

            /// Sets the provider of the layer's tracer.
            ///
            /// On a server layer, spans of this crate's handler functions also use it, as long as
            /// they run for a request of this layer.
            ///
            /// ```
            /// use opentelemetry_sdk::trace::SdkTracerProvider;
            #[doc = concat!("use tower_telemetry::", stringify!($layer), ";")]
            ///
            /// let provider = SdkTracerProvider::builder().build();
            #[doc = concat!("let layer = ", stringify!($layer), "::new().with_tracer_provider(provider.clone());")]
            /// ```
            pub fn with_tracer_provider<P>(self, provider: P) -> Self
            where
                P: opentelemetry::trace::TracerProvider + Send + Sync + 'static,
                P::Tracer: Send + Sync + 'static,
                <P::Tracer as opentelemetry::trace::Tracer>::Span: Send + Sync + 'static,
            {
                let tracers = std::sync::Arc::new($crate::providers::tracer::AnyTracerProvider::new(provider, false));
                self.with(|options| options.tracers = Some(tracers))
            }

            /// Sets the provider of the layer's meter.
            ///
            /// On a server layer, metrics of this crate's handler functions also use it, as long as
            /// they run for a request of this layer.
            ///
            /// The provider may be the SDK's or another one. The SDK keeps a limited number of
            /// series per instrument. The layer divides them among its routes, and clones of the
            /// layer share them. If several layers use the same provider, create them as clones of
            /// one layer.
            ///
            /// ```
            /// use opentelemetry_sdk::metrics::SdkMeterProvider;
            #[doc = concat!("use tower_telemetry::", stringify!($layer), ";")]
            ///
            /// let provider = SdkMeterProvider::builder().build();
            #[doc = concat!("let layer = ", stringify!($layer), "::new().with_meter_provider(provider.clone());")]
            /// ```
            pub fn with_meter_provider<P>(self, provider: P) -> Self
            where
                P: opentelemetry::metrics::MeterProvider + Send + Sync + 'static,
            {
                self.with(|options| options.set_meters($crate::providers::bound::of_type(provider)))
            }

            /// Sets the propagator that reads and writes the context of requests. Defaults to the
            /// propagators of [`init`](crate::init), or to W3C Trace Context and Baggage.
            ///
            /// ```
            /// use opentelemetry_sdk::propagation::TraceContextPropagator;
            #[doc = concat!("use tower_telemetry::", stringify!($layer), ";")]
            ///
            #[doc = concat!("let layer = ", stringify!($layer), "::new().with_propagator(TraceContextPropagator::new());")]
            /// ```
            pub fn with_propagator<P>(self, propagator: P) -> Self
            where
                P: opentelemetry::propagation::TextMapPropagator + Send + Sync + 'static,
            {
                let propagators = $crate::propagation::Propagators::from_iter([$crate::propagation::Format::Other(std::sync::Arc::new(propagator))]);
                self.with(|options| options.propagators = Some(propagators))
            }

            /// Records only requests for which `filter` returns true. The trace context of other
            /// requests is still propagated.
            ///
            /// ```
            #[doc = concat!("use tower_telemetry::", stringify!($layer), ";")]
            ///
            #[doc = concat!("let layer = ", stringify!($layer), "::new()")]
            ///     .with_filter(|request| request.uri.path() != "/healthz");
            /// ```
            pub fn with_filter(
                self,
                filter: impl Fn(&http::request::Parts) -> bool + Send + Sync + 'static,
            ) -> Self {
                self.with(|options| options.filter = Some(std::sync::Arc::new(filter)))
            }

            /// Records only requests for which `filter` returns true in traces. Other requests are
            /// still recorded in metrics, and their trace context is propagated.
            ///
            /// ```
            #[doc = concat!("use tower_telemetry::", stringify!($layer), ";")]
            ///
            #[doc = concat!("let layer = ", stringify!($layer), "::new()")]
            ///     .with_trace_filter(|request| request.uri.path() != "/poll");
            /// ```
            pub fn with_trace_filter(
                self,
                filter: impl Fn(&http::request::Parts) -> bool + Send + Sync + 'static,
            ) -> Self {
                self.with(|options| options.trace_filter = Some(std::sync::Arc::new(filter)))
            }

            /// Records only requests for which `filter` returns true in metrics. Other requests are
            /// still recorded in traces.
            ///
            /// ```
            #[doc = concat!("use tower_telemetry::", stringify!($layer), ";")]
            ///
            #[doc = concat!("let layer = ", stringify!($layer), "::new()")]
            ///     .with_metric_filter(|request| !request.headers.contains_key("x-load-test"));
            /// ```
            pub fn with_metric_filter(
                self,
                filter: impl Fn(&http::request::Parts) -> bool + Send + Sync + 'static,
            ) -> Self {
                self.with(|options| options.metric_filter = Some(std::sync::Arc::new(filter)))
            }

            /// Sets the function that names spans. If `name` returns `None`, the span is named as
            /// in the conventions.
            ///
            /// A name describes a kind of request, not a single request: never use the path.
            ///
            /// ```
            #[doc = concat!("use tower_telemetry::", stringify!($layer), ";")]
            ///
            #[doc = concat!("let layer = ", stringify!($layer), "::new().with_span_name(|request| {")]
            ///     request.headers.contains_key("x-batch").then(|| "batch".into())
            /// });
            /// ```
            pub fn with_span_name(
                self,
                name: impl Fn(&http::request::Parts) -> Option<std::borrow::Cow<'static, str>> + Send + Sync + 'static,
            ) -> Self {
                self.with(|options| options.span_name = Some(std::sync::Arc::new(name)))
            }

            /// Adds attributes from the head of each request.
            ///
            /// ```
            /// use tower_telemetry::opentelemetry::KeyValue;
            #[doc = concat!("use tower_telemetry::", stringify!($layer), ";")]
            ///
            #[doc = concat!("let layer = ", stringify!($layer), "::new().with_request_attributes(|request, attributes| {")]
            ///     if let Some(id) = request.headers.get("x-request-id").and_then(|id| id.to_str().ok()) {
            ///         attributes.add_to_span(KeyValue::new("request.id", id.to_owned()));
            ///     }
            ///     let mobile = request.headers.contains_key("x-mobile-app");
            ///     attributes.add_to_metrics(KeyValue::new("app.mobile", mobile));
            /// });
            /// ```
            pub fn with_request_attributes(
                self,
                hook: impl Fn(&http::request::Parts, &mut $crate::layer_state::metric_attributes::RequestAttributes) + Send + Sync + 'static,
            ) -> Self {
                self.with(|options| options.request_attributes = Some(std::sync::Arc::new(hook)))
            }

            /// Adds attributes from the head of each response.
            pub fn with_response_attributes(
                self,
                hook: impl Fn(&http::response::Parts, &mut $crate::layer_state::metric_attributes::RequestAttributes) + Send + Sync + 'static,
            ) -> Self {
                self.with(|options| options.response_attributes = Some(std::sync::Arc::new(hook)))
            }

            /// Sets the request headers that are captured as `http.request.header.<name>`.
            /// Overrides
            #[doc = concat!("`", $variables, "_REQUEST`.")]
            ///
            /// Headers whose names suggest credentials, such as `authorization` and `cookie`, are
            /// not captured. Neither are values that are marked as sensitive.
            ///
            /// ```
            /// use http::header::ACCEPT_LANGUAGE;
            #[doc = concat!("use tower_telemetry::", stringify!($layer), ";")]
            ///
            #[doc = concat!("let layer = ", stringify!($layer), "::new().with_captured_request_headers([ACCEPT_LANGUAGE]);")]
            /// ```
            pub fn with_captured_request_headers(
                self,
                names: impl IntoIterator<Item = http::HeaderName>,
            ) -> Self {
                self.with(|options| options.captured_request = Some(names.into_iter().collect()))
            }

            /// Sets the response headers that are captured as `http.response.header.<name>`.
            /// Overrides
            #[doc = concat!("`", $variables, "_RESPONSE`.")]
            ///
            /// The exceptions of
            /// [`with_captured_request_headers`](Self::with_captured_request_headers) apply here
            /// too.
            pub fn with_captured_response_headers(
                self,
                names: impl IntoIterator<Item = http::HeaderName>,
            ) -> Self {
                self.with(|options| options.captured_response = Some(names.into_iter().collect()))
            }

            /// Sets the recorded groups of metrics. Defaults to
            /// [`MetricSet::Basic`](crate::layers::MetricSet::Basic), which only servers have, and
            /// [`MetricSet::Conventions`](crate::layers::MetricSet::Conventions).
            ///
            /// ```
            #[doc = concat!("use tower_telemetry::", stringify!($layer), ";")]
            /// use tower_telemetry::layers::MetricSet;
            ///
            #[doc = concat!("let layer = ", stringify!($layer), "::new().with_metrics([MetricSet::Conventions]);")]
            /// ```
            pub fn with_metrics(self, sets: impl IntoIterator<Item = $crate::instruments::metric_set::MetricSet>) -> Self {
                self.with(|options| options.metrics = sets.into_iter().collect())
            }

            #[doc = concat!("Sets the query parameters whose values are redacted in `", $url, "`. Defaults to the")]
            /// parameters in the conventions. Names are case-sensitive.
            pub fn with_sensitive_query_parameters<N: Into<String>>(
                self,
                names: impl IntoIterator<Item = N>,
            ) -> Self {
                let names = names.into_iter().map(Into::into).collect();
                self.with(|options| {
                    options.sensitive_parameters = Some($crate::semconv::SensitiveParameters::new(names));
                })
            }

            #[doc = concat!("Omits the query from `", $url, "`.")]
            pub fn without_query(self) -> Self {
                self.with(|options| options.sensitive_parameters = None)
            }

            /// Sets the known methods. Overrides `OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`, and
            /// defaults to the methods of the conventions. Other methods are recorded as `_OTHER`.
            pub fn with_known_methods<N: Into<String>>(
                self,
                methods: impl IntoIterator<Item = N>,
            ) -> Self {
                let methods = methods.into_iter().map(Into::into).collect();
                self.with(|options| options.known_methods = Some(methods))
            }

            /// Declares gRPC methods, as `package.Service/Method`, so that their first call already
            /// has their name.
            ///
            /// The names of other methods are used once a call to them has been answered, for up to
            /// 256 methods. Each call of this setter adds methods. With the feature `tonic`, a
            /// client also recognises the methods of tonic's generated clients.
            pub fn with_grpc_methods<N: Into<String>>(
                self,
                methods: impl IntoIterator<Item = N>,
            ) -> Self {
                let methods = methods.into_iter().map(Into::into);
                self.with(|options| options.grpc_methods.extend(methods))
            }

            /// Declares gRPC methods from the descriptors of their services: an encoded
            /// `FileDescriptorSet`, which tonic's build writes with `file_descriptor_set_path` and
            /// which `tonic-reflection` also uses.
            ///
            /// Spans and metrics of these methods have their names from the first call on, even if
            /// calls fail ([`rpc.method`]). Bytes that are not a `FileDescriptorSet` are ignored,
            /// with a warning.
            ///
            /// ```
            #[doc = concat!("use tower_telemetry::", stringify!($layer), ";")]
            ///
            #[doc = concat!("let layer = ", stringify!($layer), "::new()")]
            ///     .with_grpc_descriptors(tonic_health::pb::FILE_DESCRIPTOR_SET);
            /// ```
            ///
            /// [`rpc.method`]: https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
            pub fn with_grpc_descriptors(self, file_descriptor_set: &[u8]) -> Self {
                self.with(|options| options.add_grpc_descriptors(file_descriptor_set))
            }

            /// Sets a function that returns the `error.type` of errors of type `E`. It takes
            /// precedence over the values that the crate finds itself.
            ///
            /// The function is called for each error of type `E` in an error and its sources,
            /// outermost first, until it returns a value. Use this setter once per type. The names
            /// are recorded on metrics, so their number must be small. The setter is also required
            /// for the crate to find the sources of an error type that it does not know, because a
            /// service's error need not implement [`Error`](std::error::Error). A panic in the
            /// function counts as `None`.
            ///
            /// ```
            #[doc = concat!("use tower_telemetry::", stringify!($layer), ";")]
            ///
            /// #[derive(Debug)]
            /// enum StoreError {
            ///     Full,
            ///     Io(std::io::Error),
            /// }
            /// # impl std::fmt::Display for StoreError {
            /// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            /// #         f.write_str("the store failed")
            /// #     }
            /// # }
            /// impl std::error::Error for StoreError {
            ///     fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            ///         match self {
            ///             Self::Full => None,
            ///             Self::Io(error) => Some(error),
            ///         }
            ///     }
            /// }
            ///
            #[doc = concat!("let layer = ", stringify!($layer), "::new().with_error_type(|error: &StoreError| match error {")]
            ///     StoreError::Full => Some("store_full"),
            ///     StoreError::Io(_) => None, // such as `connection_reset`, by its source
            /// });
            /// ```
            pub fn with_error_type<E: std::error::Error + 'static>(
                self,
                name: impl Fn(&E) -> Option<&'static str> + Send + Sync + 'static,
            ) -> Self {
                let hook = $crate::layer_state::options::error_type_hook(name);
                self.with(|options| options.error_types.push(hook))
            }

            /// Disables the span of `tracing` for requests.
            ///
            /// With the feature `tracing`, and if the subscriber contains the layer of
            /// [`init`](crate::init) or [`span_layer`](crate::span_layer), each request has a span
            /// of `tracing`. It represents the span of this layer: data that is recorded on it, and
            /// tasks that carry it with `in_current_span`, belong to the request. Without it, a
            /// request costs less, but only OpenTelemetry's own context identifies it.
            pub fn without_tracing_span(self) -> Self {
                self.with(|options| options.tracing_span = false)
            }

            fn with(self, change: impl FnOnce(&mut $crate::layer_state::options::Options)) -> Self {
                let mut options = self.shared.options.clone();
                change(&mut options);
                Self {
                    shared: std::sync::Arc::new($crate::layer_state::Shared::new(options)),
                }
            }
        }

        impl std::fmt::Debug for $layer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($layer))
                    .field("options", &self.shared.options)
                    .finish()
            }
        }
    };
}
pub(crate) use shared_setters;

/// Implements access to the inner service of a layer's service.
macro_rules! inner_service {
    ($service:ident) => {
        impl<S> $service<S> {
            /// Returns the inner service.
            pub fn get_ref(&self) -> &S {
                &self.inner
            }

            /// Returns the inner service mutably.
            pub fn get_mut(&mut self) -> &mut S {
                &mut self.inner
            }

            /// Consumes the service and returns the inner service.
            pub fn into_inner(self) -> S {
                self.inner
            }
        }
    };
}
pub(crate) use inner_service;
