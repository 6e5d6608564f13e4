//! Setters and accessors that the layers for servers and clients share.

/// Implements the setters of both layers.
///
/// `$layer` is the layer, `$url` the attribute that holds the query, `$variables` the beginning of the
/// variables that name headers to capture.
macro_rules! shared_setters {
    ($layer:ident, $url:literal, $variables:literal) => {
        impl $layer {
            /// Creates a layer with the default options.
            pub fn new() -> Self {
                Self::default()
            }

            /// Sends the spans to `provider`.
            ///
            /// In a layer for servers, the spans of this crate's handler functions go there too, as long
            /// as they run for a request of this layer.
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
                let tracers = std::sync::Arc::new($crate::providers::tracer::TracersOf(provider));
                self.with(|options| options.tracers = Some(tracers))
            }

            /// Sends the metrics to `provider`.
            ///
            /// In a layer for servers, the metrics of this crate's handler functions go there too, as long
            /// as they run for a request of this layer.
            ///
            /// With the feature `init` it must be a provider of `opentelemetry_sdk`, because the layer then
            /// uses bound instruments, which other providers need not have.
            ///
            /// An SDK keeps a bounded number of series per instrument. The layer divides them among its
            /// routes; clones of the layer share them. Make the layers of one provider as clones of one
            /// layer.
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

            /// Reads and writes the context of requests with `propagator`, in place of W3C Trace Context
            /// and Baggage, or of the propagators that [`init`](crate::init) has set.
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

            /// Records only the requests for which `filter` returns true. Other requests still pass
            /// their trace context on.
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

            /// Puts only the requests for which `filter` returns true into traces. Others are in metrics
            /// all the same, and pass their trace context on.
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

            /// Puts only the requests for which `filter` returns true into metrics. Others are in traces
            /// all the same.
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

            /// Names spans with `name` instead of the conventions. Where `name` returns `None`, the
            /// conventions name the span.
            ///
            /// A name stands for a kind of request, not for one request: never use the path.
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

            /// Captures request headers as `http.request.header.<name>`, in place of the headers that
            #[doc = concat!("`", $variables, "_REQUEST` names.")]
            ///
            /// Headers that carry credentials by their name, such as `authorization` and `cookie`, are not
            /// captured, nor are values that are marked sensitive.
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

            /// Captures response headers as `http.response.header.<name>`, in place of the headers that
            #[doc = concat!("`", $variables, "_RESPONSE` names.")]
            ///
            /// The exceptions of
            /// [`with_captured_request_headers`](Self::with_captured_request_headers) hold here too.
            pub fn with_captured_response_headers(
                self,
                names: impl IntoIterator<Item = http::HeaderName>,
            ) -> Self {
                self.with(|options| options.captured_response = Some(names.into_iter().collect()))
            }

            /// Records these sets of metrics. Defaults to [`MetricSet::Basic`](crate::layers::MetricSet::Basic), which only servers have,
            /// and [`MetricSet::Conventions`](crate::layers::MetricSet::Conventions).
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

            #[doc = concat!("Redacts the values of these query parameters in `", $url, "`, in place of the")]
            /// parameters that the conventions list. Names are case-sensitive.
            pub fn with_sensitive_query_parameters<N: Into<String>>(
                self,
                names: impl IntoIterator<Item = N>,
            ) -> Self {
                let names = names.into_iter().map(Into::into).collect();
                self.with(|options| {
                    options.sensitive_parameters = Some($crate::semconv::SensitiveParameters::new(names));
                })
            }

            #[doc = concat!("Records no query in `", $url, "`.")]
            pub fn without_query(self) -> Self {
                self.with(|options| options.sensitive_parameters = None)
            }

            /// Sets the known methods, in place of `OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS` and of the
            /// methods of the conventions. Other methods are recorded as `_OTHER`.
            pub fn with_known_methods<N: Into<String>>(
                self,
                methods: impl IntoIterator<Item = N>,
            ) -> Self {
                let methods = methods.into_iter().map(Into::into).collect();
                self.with(|options| options.known_methods = Some(methods))
            }

            /// Declares gRPC methods, as `package.Service/Method`, so that they are named from their first
            /// call on.
            ///
            /// Other methods get their name when a call of them was answered, up to 256 methods. Declared
            /// methods add to the ones declared before. With the feature `tonic`, a client also knows the
            /// methods of tonic's generated clients.
            pub fn with_grpc_methods<N: Into<String>>(
                self,
                methods: impl IntoIterator<Item = N>,
            ) -> Self {
                let methods = methods.into_iter().map(Into::into);
                self.with(|options| options.grpc_methods.extend(methods))
            }

            /// Declares gRPC methods from the descriptors of their services: the encoded
            /// `FileDescriptorSet` that tonic's build writes with `file_descriptor_set_path`, and that
            /// `tonic-reflection` takes too.
            ///
            /// Spans and metrics of these methods have their names from the first call on, also when the
            /// calls fail ([`rpc.method`]). Bytes that are no `FileDescriptorSet` are ignored, with a
            /// warning.
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

            /// Names errors of type `E` for `error.type`, before the words that the crate finds itself.
            ///
            /// The hook is called for each error of type `E` among an error and its sources, the outermost
            /// first. With `None` the search goes on. Call the setter once per type. The names must be few,
            /// because they are on metrics. The crate looks into an error type that it does not know only
            /// with a hook for it, since a service's error need not be an [`Error`](std::error::Error):
            /// then it finds the causes below it, too. A hook that panics counts as `None`.
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

            /// Gives requests no span of `tracing`.
            ///
            /// With the feature `tracing`, and where the subscriber has the layer of
            /// [`init`](crate::init) or [`span_layer`](crate::span_layer), each request has one. It stands
            /// for the span that this layer makes: what is recorded on it, and tasks that carry it with
            /// `in_current_span`, belong to the request. Without it, a request costs less, and only
            /// OpenTelemetry's own context knows it.
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

/// Implements access to the service that a layer has wrapped.
macro_rules! inner_service {
    ($service:ident) => {
        impl<S> $service<S> {
            /// Returns the inner service.
            pub fn get_ref(&self) -> &S {
                &self.inner
            }

            /// Returns the inner service, to change it.
            pub fn get_mut(&mut self) -> &mut S {
                &mut self.inner
            }

            /// Takes the inner service out.
            pub fn into_inner(self) -> S {
                self.inner
            }
        }
    };
}
pub(crate) use inner_service;
