//! Settings of OTLP receivers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::config::settings::batch::within_a_day;
use crate::config::settings::headers::HeadersFrom;
use crate::config::settings::shown;

/// The OTLP protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// OTLP over gRPC, usually on port 4317.
    Grpc,
    /// OTLP over HTTP with binary protobuf, usually on port 4318.
    HttpProtobuf,
    /// OTLP over HTTP with JSON, usually on port 4318.
    #[cfg(feature = "http-json")]
    HttpJson,
}

impl Protocol {
    /// Returns the name in `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
            #[cfg(feature = "http-json")]
            Self::HttpJson => "http/json",
        }
    }
}

/// The compression of OTLP messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// No compression.
    #[default]
    None,
    /// Compression with gzip.
    Gzip,
}

/// The OTLP settings of one signal. Unset fields use the setting for all signals.
///
/// ```
/// use tower_telemetry::{Config, config::{OtlpSettings, Protocol}};
///
/// let metrics = OtlpSettings::new()
///     .with_endpoint("http://prometheus:9090/api/v1/otlp/v1/metrics")
///     .with_protocol(Protocol::HttpProtobuf);
/// let config = Config::from_env().with_metrics_otlp(metrics);
/// ```
#[derive(Clone, Default)]
#[must_use = "settings do nothing until they are passed to a `Config`"]
pub struct OtlpSettings {
    pub(crate) endpoint: Option<Endpoint>,
    /// Whether an endpoint without a scheme uses `http` instead of `https`.
    pub(crate) insecure: Option<bool>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) compression: Option<Compression>,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) headers_from: Option<HeadersFrom>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) certificate: Option<PemFile>,
    pub(crate) client_certificate: Option<PemFile>,
    pub(crate) client_key: Option<PemFile>,
    /// Whether the crate `opentelemetry-otlp` replaces this crate's own exporter.
    pub(crate) reference: Option<bool>,
}

impl OtlpSettings {
    /// Creates settings with all fields unset.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the endpoint. Over HTTP, it is used unchanged, with its path. Over gRPC, its path is
    /// ignored.
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(Endpoint {
            origin: "OtlpSettings::with_endpoint".to_owned(),
            text: endpoint.into(),
        });
        self
    }

    /// Sets whether an endpoint without a scheme uses `http` instead of `https`.
    pub fn with_insecure(mut self, insecure: bool) -> Self {
        self.insecure = Some(insecure);
        self
    }

    /// Sets the OTLP protocol.
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// Sets the compression of messages.
    pub fn with_compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// Sets the headers of requests, as [`Config::with_headers`](crate::Config::with_headers) does.
    pub fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers = Some(headers);
        self
    }

    /// Sets a callback that returns headers for each attempt, as
    /// [`Config::with_headers_from`](crate::Config::with_headers_from) does.
    pub fn with_headers_from(
        mut self,
        callback: impl Fn() -> HeaderMap + Send + Sync + 'static,
    ) -> Self {
        self.headers_from = Some(HeadersFrom(Arc::new(callback)));
        self
    }

    /// Sets the timeout of one attempt to send a message, as
    /// [`Config::with_export_timeout`](crate::Config::with_export_timeout) does. It is limited to
    /// the range from 1 ms to one day.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(within_a_day(timeout));
        self
    }

    /// Sets a PEM file with the certificates that an `https` receiver is verified against.
    pub fn with_ca_certificate(mut self, path: impl Into<PathBuf>) -> Self {
        self.certificate = Some(PemFile::new("OtlpSettings::with_ca_certificate", path));
        self
    }

    /// Sets the PEM files with the client certificate and its private key for an `https` receiver.
    pub fn with_client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        const NAME: &str = "OtlpSettings::with_client_certificate";
        self.client_certificate = Some(PemFile::new(NAME, certificate));
        self.client_key = Some(PemFile::new(NAME, key));
        self
    }

    /// Sets whether this signal is sent with the crate `opentelemetry-otlp` instead of this crate's
    /// own exporter. [`Config::with_reference_exporter`](crate::Config::with_reference_exporter) is
    /// the setter for all signals.
    ///
    /// ```
    /// use tower_telemetry::{Config, config::OtlpSettings};
    ///
    /// let config = Config::from_env()
    ///     .with_traces_otlp(OtlpSettings::new().with_reference_exporter(true));
    /// ```
    #[cfg(feature = "opentelemetry-otlp")]
    pub fn with_reference_exporter(mut self, wanted: bool) -> Self {
        self.reference = Some(wanted);
        self
    }

    /// Replaces the settings that are set in `other`.
    pub(crate) fn update(&mut self, other: Self) {
        fn update<T>(setting: &mut Option<T>, other: Option<T>) {
            if other.is_some() {
                *setting = other;
            }
        }
        update(&mut self.endpoint, other.endpoint);
        update(&mut self.insecure, other.insecure);
        update(&mut self.protocol, other.protocol);
        update(&mut self.compression, other.compression);
        update(&mut self.headers, other.headers);
        update(&mut self.headers_from, other.headers_from);
        update(&mut self.timeout, other.timeout);
        update(&mut self.certificate, other.certificate);
        update(&mut self.client_certificate, other.client_certificate);
        update(&mut self.client_key, other.client_key);
        update(&mut self.reference, other.reference);
    }
}

impl fmt::Debug for OtlpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name: &'_ http::HeaderName| shown::header_name(name.as_str()).to_owned();
        let headers = self.headers.as_ref();
        let headers = headers.map(|map| map.keys().map(name).collect::<Vec<_>>());
        f.debug_struct("OtlpSettings")
            .field("endpoint", &self.endpoint)
            .field("insecure", &self.insecure)
            .field("protocol", &self.protocol)
            .field("compression", &self.compression)
            .field("headers", &headers)
            .field("headers_from", &self.headers_from)
            .field("timeout", &self.timeout)
            .field("certificate", &self.certificate)
            .field("client_certificate", &self.client_certificate)
            .field("client_key", &self.client_key)
            .field("reference", &self.reference)
            .finish()
    }
}

/// A file with certificates or a key, and the variable or setter that named it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PemFile {
    pub(crate) origin: String,
    pub(crate) path: PathBuf,
}

impl PemFile {
    pub(crate) fn new(origin: &str, path: impl Into<PathBuf>) -> Self {
        Self {
            origin: origin.to_owned(),
            path: path.into(),
        }
    }

    /// Returns the path, unless it may be the content of such a file.
    pub(crate) fn shown(&self) -> &Path {
        shown::file(&self.path)
    }
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

/// A configured endpoint, and the variable or setter that named it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) origin: String,
    pub(crate) text: String,
}

impl Endpoint {
    /// Returns the endpoint without secrets.
    pub(crate) fn shown(&self) -> String {
        shown::endpoint(&self.text)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}
