//! Setters for OTLP receivers.

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
    /// Sets the OTLP endpoint of all signals. Overrides `OTEL_EXPORTER_OTLP_ENDPOINT` and the
    /// signals' variables. The endpoint is a base URL: over HTTP, paths such as `/v1/traces` are
    /// appended.
    pub fn with_endpoint(self, endpoint: impl Into<String>) -> Self {
        let endpoint = Endpoint {
            origin: "Config::with_endpoint".to_owned(),
            text: endpoint.into(),
        };
        self.with_otlp_setting(endpoint, |otlp| &mut otlp.endpoint)
    }

    /// Sets the OTLP protocol of all signals. Overrides `OTEL_EXPORTER_OTLP_PROTOCOL` and the
    /// signals' variables.
    pub fn with_protocol(self, protocol: Protocol) -> Self {
        self.with_otlp_setting(protocol, |otlp| &mut otlp.protocol)
    }

    /// Sets the compression of OTLP messages. Overrides `OTEL_EXPORTER_OTLP_COMPRESSION` and the
    /// signals' variables. Defaults to no compression.
    pub fn with_compression(self, compression: Compression) -> Self {
        self.with_otlp_setting(compression, |otlp| &mut otlp.compression)
    }

    /// Sets a PEM file with the certificates that `https` receivers are verified against, instead
    /// of the platform's root certificates. Overrides `OTEL_EXPORTER_OTLP_CERTIFICATE` and the
    /// signals' variables.
    pub fn with_ca_certificate(self, path: impl Into<PathBuf>) -> Self {
        let file = PemFile::new("Config::with_ca_certificate", path);
        self.with_otlp_setting(file, |otlp| &mut otlp.certificate)
    }

    /// Sets the PEM files with the client certificate and its private key for `https` receivers.
    /// Overrides `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`, `OTEL_EXPORTER_OTLP_CLIENT_KEY` and the
    /// signals' variables.
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

    /// Sets whether an endpoint without a scheme uses `http` instead of `https`. Overrides
    /// `OTEL_EXPORTER_OTLP_INSECURE` and the signals' variables.
    pub fn with_insecure(self, insecure: bool) -> Self {
        self.with_otlp_setting(insecure, |otlp| &mut otlp.insecure)
    }

    /// Sets the headers of OTLP requests, usually for authentication. Overrides
    /// `OTEL_EXPORTER_OTLP_HEADERS` and the signals' variables. Values are never logged or shown.
    ///
    /// Headers that describe the message itself, such as `content-length` and `host`, are ignored,
    /// and so are headers beyond 256. Both are reported by [`warnings`](Self::warnings).
    pub fn with_headers(mut self, headers: HeaderMap) -> Self {
        let headers = usable("Config::with_headers", headers, &mut self.warnings);
        self.with_otlp_setting(headers, |otlp| &mut otlp.headers)
    }

    /// Sets a callback that returns headers of OTLP requests, for tokens that expire.
    ///
    /// The callback runs for each attempt to send a message, on the export thread, and must not
    /// block. Refresh the token elsewhere, and return the current one here. The callback's headers
    /// replace headers of the same names from [`with_headers`](Self::with_headers) and from
    /// variables; the other headers are still sent. If the callback panics, only the others are
    /// sent. Headers that describe the message itself are ignored.
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

    /// Sends all telemetry with the crate `opentelemetry-otlp` instead of this crate's own
    /// exporter. Overrides `OTLP_EXPORTER` and the signals' variables. For one signal, see
    /// [`OtlpSettings::with_reference_exporter`].
    ///
    /// All settings apply to it, and queues, retries, counts, flush and shutdown remain those of
    /// this crate: its own retries are disabled. It does not split metrics, and it sends data
    /// unchanged (duplicate keys, and `NaN` as `null` in JSON). Over gRPC it hides how many items a
    /// receiver rejected, so [`SignalStats::rejected`](crate::stats::SignalStats::rejected) is
    /// `None`. `docs/exporters.md` in the repository compares both exporters.
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

    /// Sets the OTLP receiver of traces. Overrides `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` and the
    /// variables like it. Fields that `settings` leaves unset are unchanged.
    pub fn with_traces_otlp(self, settings: OtlpSettings) -> Self {
        self.with_otlp_of(Signal::Traces, "Config::with_traces_otlp", settings)
    }

    /// Sets the OTLP receiver of metrics. Overrides `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT` and the
    /// variables like it. Fields that `settings` leaves unset are unchanged.
    pub fn with_metrics_otlp(self, settings: OtlpSettings) -> Self {
        self.with_otlp_of(Signal::Metrics, "Config::with_metrics_otlp", settings)
    }

    /// Sets the OTLP receiver of log records. Overrides `OTEL_EXPORTER_OTLP_LOGS_ENDPOINT` and the
    /// variables like it. Fields that `settings` leaves unset are unchanged.
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

    /// Sets the timeout of one attempt to send a message. Overrides `OTEL_EXPORTER_OTLP_TIMEOUT`
    /// and the signals' variables. Defaults to 10 seconds, and is limited to the range from 1 ms to
    /// one day.
    ///
    /// In the specification, the timeout covers an export with all its retries. Here, a failed
    /// attempt is retried for as long as the queue has room for newer items, so that an outage
    /// loses nothing; see [`with_max_retry_age`](Self::with_max_retry_age).
    pub fn with_export_timeout(self, timeout: Duration) -> Self {
        self.with_otlp_setting(within_a_day(timeout), |otlp| &mut otlp.timeout)
    }

    /// Sets how long a message is kept and retried if its receiver does not accept it. Defaults to
    /// 5 minutes, and is limited to the range from 1 ms to one day.
    ///
    /// Spans, log records and metric points with delta temporality are retried after connection
    /// errors and responses that OTLP calls retryable. Spans and log records are also retried after
    /// timeouts, so a receiver may get them twice. The pauses between attempts are random and grow
    /// from 100 ms to 5 seconds, or are as long as the receiver requests (`Retry-After`,
    /// `RetryInfo`). A kept message occupies its place in the queue. If newer items need the place,
    /// the oldest message is dropped and counted in
    /// [`dropped`](crate::stats::SignalStats::dropped). Shutdown retries until its timeout.
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

    /// Sets one OTLP setting for all signals, and clears it for each signal.
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
