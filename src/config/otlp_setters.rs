//! Setters of receivers of OTLP.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::config::builder::Config;
use crate::config::settings::batch::within_a_day;
use crate::config::settings::headers::{HeadersFrom, usable};
use crate::config::settings::otlp::{Compression, Endpoint, OtlpSettings, PemFile, Protocol};
use crate::config::settings::signal::Signal;

impl Config {
    /// Sets the OTLP endpoint for all signals, in place of `OTEL_EXPORTER_OTLP_ENDPOINT` and its
    /// like. It is a base: over HTTP, `/v1/traces` and so on is added to it.
    pub fn with_endpoint(self, endpoint: impl Into<String>) -> Self {
        let endpoint = Endpoint {
            origin: "Config::with_endpoint".to_owned(),
            text: endpoint.into(),
        };
        self.with_otlp_setting(endpoint, |otlp| &mut otlp.endpoint)
    }

    /// Sets how OTLP is spoken, in place of `OTEL_EXPORTER_OTLP_PROTOCOL` and its like.
    pub fn with_protocol(self, protocol: Protocol) -> Self {
        self.with_otlp_setting(protocol, |otlp| &mut otlp.protocol)
    }

    /// Sets how OTLP messages are compressed, in place of `OTEL_EXPORTER_OTLP_COMPRESSION` and its
    /// like. Not at all by default.
    pub fn with_compression(self, compression: Compression) -> Self {
        self.with_otlp_setting(compression, |otlp| &mut otlp.compression)
    }

    /// Names a PEM file with the certificates that `https` receivers are to be trusted by, in
    /// place of `OTEL_EXPORTER_OTLP_CERTIFICATE` and its like, and of the platform's roots.
    pub fn with_ca_certificate(self, path: impl Into<PathBuf>) -> Self {
        let file = PemFile::new("Config::with_ca_certificate", path);
        self.with_otlp_setting(file, |otlp| &mut otlp.certificate)
    }

    /// Names the PEM files with the certificate and the private key that this service shows to
    /// `https` receivers, in place of `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`,
    /// `OTEL_EXPORTER_OTLP_CLIENT_KEY` and their like.
    pub fn with_client_certificate(
        self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        const NAME: &str = "Config::with_client_certificate";
        self.with_otlp_setting(PemFile::new(NAME, certificate), |otlp| {
            &mut otlp.client_certificate
        })
        .with_otlp_setting(PemFile::new(NAME, key), |otlp| &mut otlp.client_key)
    }

    /// Sets whether an endpoint without a scheme means `http`, in place of
    /// `OTEL_EXPORTER_OTLP_INSECURE` and its like; else it means `https`.
    pub fn with_insecure(self, insecure: bool) -> Self {
        self.with_otlp_setting(insecure, |otlp| &mut otlp.insecure)
    }

    /// Sets the headers of OTLP requests, in place of `OTEL_EXPORTER_OTLP_HEADERS` and its like.
    /// They are for authentication, and never shown.
    ///
    /// Headers that belong to the message itself, such as `content-length` and `host`, are left out, as
    /// are more than 256 headers. Each is one of the [`warnings`](Self::warnings).
    pub fn with_headers(mut self, headers: HeaderMap) -> Self {
        let headers = usable("Config::with_headers", headers, &mut self.warnings);
        self.with_otlp_setting(headers, |otlp| &mut otlp.headers)
    }

    /// Takes headers of OTLP requests from `callback`, for tokens that expire.
    ///
    /// It is called for each attempt to send a message, on the thread that exports: it must not block.
    /// Refresh the token elsewhere, and hand out the last one here. Its headers replace those of
    /// [`with_headers`](Self::with_headers) and of variables that have the same names; the others are
    /// sent too. Where it panics, the others are sent alone. Headers that belong to the message itself
    /// are left out.
    ///
    /// ```
    /// use std::sync::{Arc, RwLock};
    ///
    /// use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
    /// use tower_telemetry::Config;
    ///
    /// let token = Arc::new(RwLock::new(HeaderValue::from_static("Bearer first")));
    /// let current = token.clone();
    /// let config = Config::from_env().with_headers_from(move || {
    ///     let token = current.read().map(|token| token.clone());
    ///     token.into_iter().map(|token| (AUTHORIZATION, token)).collect()
    /// });
    /// // A task of the application writes a new value into `token` from time to time.
    /// ```
    pub fn with_headers_from(
        self,
        callback: impl Fn() -> HeaderMap + Send + Sync + 'static,
    ) -> Self {
        let callback = HeadersFrom(Arc::new(callback));
        self.with_otlp_setting(callback, |otlp| &mut otlp.headers_from)
    }

    /// Has the crate `opentelemetry-otlp` send all telemetry, in place of this crate's own exporter and of
    /// `OTLP_EXPORTER` and its like. For one signal, see
    /// [`OtlpSettings::with_reference_exporter`].
    ///
    /// All settings hold for it, and queues, attempts, counts, flush and shutdown stay those of this crate:
    /// its own retries are off. It does not split metrics, and it passes on what it is given (a key twice,
    /// and in JSON `NaN` as `null`). Over gRPC it hides how much a receiver rejected:
    /// [`SignalStats::rejected`](crate::stats::SignalStats::rejected) is `None` then. `docs/exporters.md` in
    /// the repository compares both.
    ///
    /// ```
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_env().with_reference_exporter();
    /// ```
    #[cfg(feature = "opentelemetry-otlp")]
    pub fn with_reference_exporter(self) -> Self {
        self.with_otlp_setting(true, |otlp| &mut otlp.reference)
    }

    /// Sets how traces reach their receiver, in place of `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` and its
    /// like. What `settings` does not set stays as it is.
    pub fn with_traces_otlp(self, settings: OtlpSettings) -> Self {
        self.with_otlp_of(Signal::Traces, "Config::with_traces_otlp", settings)
    }

    /// Sets how metrics reach their receiver, in place of `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT` and its
    /// like. What `settings` does not set stays as it is.
    pub fn with_metrics_otlp(self, settings: OtlpSettings) -> Self {
        self.with_otlp_of(Signal::Metrics, "Config::with_metrics_otlp", settings)
    }

    /// Sets how log records reach their receiver, in place of `OTEL_EXPORTER_OTLP_LOGS_ENDPOINT` and its
    /// like. What `settings` does not set stays as it is.
    pub fn with_logs_otlp(self, settings: OtlpSettings) -> Self {
        self.with_otlp_of(Signal::Logs, "Config::with_logs_otlp", settings)
    }

    fn with_otlp_of(mut self, signal: Signal, origin: &str, mut settings: OtlpSettings) -> Self {
        let headers = settings.headers.take();
        settings.headers = headers.map(|headers| usable(origin, headers, &mut self.warnings));
        let files = [
            &mut settings.certificate,
            &mut settings.client_certificate,
            &mut settings.client_key,
        ];
        for file in files.into_iter().flatten() {
            file.origin = origin.to_owned();
        }
        if let Some(endpoint) = &mut settings.endpoint {
            endpoint.origin = origin.to_owned();
        }
        self.otlp_by_signal[signal].update(settings);
        self
    }

    /// Sets the bound of one attempt to send a message, in place of `OTEL_EXPORTER_OTLP_TIMEOUT` and
    /// its like. Default 10 seconds, from 1 ms to a day.
    ///
    /// The specification bounds an export with all its attempts. Here an attempt that fails is
    /// followed by others for as long as there is room for what waits, so that an outage loses
    /// nothing; see [`with_max_retry_age`](Self::with_max_retry_age).
    pub fn with_export_timeout(self, timeout: Duration) -> Self {
        self.with_otlp_setting(within_a_day(timeout), |otlp| &mut otlp.timeout)
    }

    /// Sets for how long a message that its receiver does not take is kept and sent again. Default 5
    /// minutes, from 1 ms to a day.
    ///
    /// Spans, log records and, of delta temporality, metric points are kept after connection errors
    /// and answers that OTLP calls retryable; spans and log records after timeouts too, so that a
    /// receiver may get them twice. The pauses between attempts are random and grow from 100 ms to 5
    /// seconds, or are as long as the receiver asks (`Retry-After`, `RetryInfo`). What is kept has
    /// its place in the queue. When newer items need that, the oldest message goes, and is counted as
    /// [`dropped`](crate::stats::SignalStats::dropped). A shutdown tries until its timeout.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_env().with_max_retry_age(Duration::from_secs(60));
    /// ```
    pub fn with_max_retry_age(mut self, age: Duration) -> Self {
        self.max_retry_age = within_a_day(age);
        self
    }

    /// Sets one setting of OTLP for all signals, in place of what was set for one of them.
    fn with_otlp_setting<T>(
        mut self,
        value: T,
        setting: fn(&mut OtlpSettings) -> &mut Option<T>,
    ) -> Self {
        for signal in Signal::ALL {
            *setting(&mut self.otlp_by_signal[signal]) = None;
        }
        *setting(&mut self.otlp) = Some(value);
        self
    }
}
