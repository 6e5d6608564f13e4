//! Setters for the telemetry of layers.

use http::HeaderName;

use crate::config::builder::Config;
use crate::providers::excluded_paths::{self, PathPattern};
use crate::providers::layer_variables;

impl Config {
    /// Sets the known methods of all layers, instead of the methods of the conventions. Overrides
    /// `OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`. Other methods are recorded as `_OTHER`.
    ///
    /// A layer's own setter takes precedence. The setting applies only with [`init`](Self::init). A
    /// value that is not an HTTP method is ignored, and causes a [warning](Self::warnings).
    pub fn with_known_methods<N: Into<String>>(
        mut self,
        methods: impl IntoIterator<Item = N>,
    ) -> Self {
        let methods: Vec<String> = methods.into_iter().map(Into::into).collect();
        let methods = methods.iter().map(String::as_str);
        let (origin, warnings) = ("Config::with_known_methods", &mut self.warnings);
        self.layers.known_methods = layer_variables::known_methods(origin, methods, warnings);
        self
    }

    /// Sets the paths of requests that server layers do not record at all. Overrides
    /// `TELEMETRY_EXCLUDED_PATHS`. A pattern is a path such as `/healthz`, or a prefix followed by
    /// `*`. The trace context of such a request is still propagated.
    ///
    /// The setting applies only with [`init`](Self::init), in addition to the filters of a layer.
    /// An invalid pattern is ignored, and causes a [warning](Self::warnings).
    ///
    /// ```
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_env()
    ///     .with_excluded_paths(["/healthz", "/internal/*"])
    ///     .with_paths_excluded_from_traces(["/poll"])
    ///     .with_paths_excluded_from_metrics(["/debug/*"]);
    /// assert_eq!(config.warnings().len(), 0);
    /// ```
    pub fn with_excluded_paths<P: AsRef<str>>(
        mut self,
        patterns: impl IntoIterator<Item = P>,
    ) -> Self {
        const NAME: &str = "Config::with_excluded_paths";
        self.layers.excluded_paths.from_all = self.path_patterns(NAME, patterns);
        self
    }

    /// Sets the paths of requests that are recorded in metrics but not in traces. Overrides
    /// `TELEMETRY_TRACES_EXCLUDED_PATHS`. [`with_excluded_paths`](Self::with_excluded_paths) describes
    /// the patterns.
    pub fn with_paths_excluded_from_traces<P: AsRef<str>>(
        mut self,
        patterns: impl IntoIterator<Item = P>,
    ) -> Self {
        const NAME: &str = "Config::with_paths_excluded_from_traces";
        self.layers.excluded_paths.from_traces = self.path_patterns(NAME, patterns);
        self
    }

    /// Sets the paths of requests that are recorded in traces but not in metrics. Overrides
    /// `TELEMETRY_METRICS_EXCLUDED_PATHS`. [`with_excluded_paths`](Self::with_excluded_paths)
    /// describes the patterns.
    pub fn with_paths_excluded_from_metrics<P: AsRef<str>>(
        mut self,
        patterns: impl IntoIterator<Item = P>,
    ) -> Self {
        const NAME: &str = "Config::with_paths_excluded_from_metrics";
        self.layers.excluded_paths.from_metrics = self.path_patterns(NAME, patterns);
        self
    }

    fn path_patterns<P: AsRef<str>>(
        &mut self,
        origin: &str,
        patterns: impl IntoIterator<Item = P>,
    ) -> Vec<PathPattern> {
        let patterns: Vec<P> = patterns.into_iter().collect();
        let patterns = patterns.iter().map(AsRef::as_ref);
        excluded_paths::path_patterns(origin, patterns, &mut self.warnings)
    }

    /// Sets the request headers that server layers capture. Overrides
    /// `OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST`.
    ///
    /// A layer's own setter takes precedence. The setting applies only with [`init`](Self::init). A
    /// header whose name suggests credentials is not captured, and causes a
    /// [warning](Self::warnings).
    ///
    /// ```
    /// use http::header::{ACCEPT_LANGUAGE, AUTHORIZATION};
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_env()
    ///     .with_captured_server_request_headers([ACCEPT_LANGUAGE, AUTHORIZATION]);
    /// let warning = config.warnings().last().map(ToString::to_string);
    /// assert!(warning.is_some_and(|warning| warning.contains("authorization")));
    /// ```
    pub fn with_captured_server_request_headers(
        mut self,
        names: impl IntoIterator<Item = HeaderName>,
    ) -> Self {
        const NAME: &str = "Config::with_captured_server_request_headers";
        self.layers.server.request = self.header_names(NAME, names);
        self
    }

    /// Sets the response headers that server layers capture. Overrides
    /// `OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE`. The rules are those of
    /// [`with_captured_server_request_headers`](Self::with_captured_server_request_headers).
    pub fn with_captured_server_response_headers(
        mut self,
        names: impl IntoIterator<Item = HeaderName>,
    ) -> Self {
        const NAME: &str = "Config::with_captured_server_response_headers";
        self.layers.server.response = self.header_names(NAME, names);
        self
    }

    /// Sets the request headers that client layers capture. Overrides
    /// `OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST`. The rules are those of
    /// [`with_captured_server_request_headers`](Self::with_captured_server_request_headers).
    pub fn with_captured_client_request_headers(
        mut self,
        names: impl IntoIterator<Item = HeaderName>,
    ) -> Self {
        const NAME: &str = "Config::with_captured_client_request_headers";
        self.layers.client.request = self.header_names(NAME, names);
        self
    }

    /// Sets the response headers that client layers capture. Overrides
    /// `OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE`. The rules are those of
    /// [`with_captured_server_request_headers`](Self::with_captured_server_request_headers).
    pub fn with_captured_client_response_headers(
        mut self,
        names: impl IntoIterator<Item = HeaderName>,
    ) -> Self {
        const NAME: &str = "Config::with_captured_client_response_headers";
        self.layers.client.response = self.header_names(NAME, names);
        self
    }

    fn header_names(
        &mut self,
        origin: &str,
        names: impl IntoIterator<Item = HeaderName>,
    ) -> Vec<HeaderName> {
        let names: Vec<_> = names.into_iter().collect();
        let names = names.iter().map(HeaderName::as_str);
        layer_variables::header_names(origin, names, &mut self.warnings)
    }
}
