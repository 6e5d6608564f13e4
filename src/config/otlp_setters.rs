//! Setters of receivers of OTLP.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderMap;

use crate::config::builder::Config;
use crate::config::settings::batch::within_a_day;
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

    /// Sets the headers of OTLP requests, in place of `OTEL_EXPORTER_OTLP_HEADERS` and its like.
    /// They are for authentication, and never shown.
    pub fn with_headers(self, headers: HeaderMap) -> Self {
        self.with_otlp_setting(headers, |otlp| &mut otlp.headers)
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
