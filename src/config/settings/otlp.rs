//! Receivers of OTLP.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderMap;

/// How OTLP is spoken.
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
    /// As in `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
            #[cfg(feature = "http-json")]
            Self::HttpJson => "http/json",
        }
    }
}

/// How OTLP messages are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// With gzip.
    Gzip,
}

/// How to reach an OTLP receiver.
#[derive(Clone, Default)]
pub(crate) struct OtlpSettings {
    pub(crate) endpoint: Option<Endpoint>,
    /// Whether an endpoint without a scheme means `http`, or `https`.
    pub(crate) insecure: Option<bool>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) compression: Option<Compression>,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) certificate: Option<PemFile>,
    pub(crate) client_certificate: Option<PemFile>,
    pub(crate) client_key: Option<PemFile>,
}

impl fmt::Debug for OtlpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers carry credentials: their names are shown, their values never.
        let headers = self.headers.as_ref();
        f.debug_struct("OtlpSettings")
            .field("endpoint", &self.endpoint)
            .field("insecure", &self.insecure)
            .field("protocol", &self.protocol)
            .field("compression", &self.compression)
            .field(
                "headers",
                &headers.map(|map| map.keys().collect::<Vec<_>>()),
            )
            .field("timeout", &self.timeout)
            .field("certificate", &self.certificate)
            .field("client_certificate", &self.client_certificate)
            .field("client_key", &self.client_key)
            .finish()
    }
}

/// A file with certificates or a key, and where it was named.
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

    /// The path, unless it is what should have been in the file.
    pub(crate) fn shown(&self) -> &Path {
        let text = self.path.to_string_lossy();
        if text.contains("-----BEGIN") || text.contains('\n') {
            return Path::new("(not a path)");
        }
        &self.path
    }
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

/// An endpoint as it was given, and where.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) origin: String,
    pub(crate) text: String,
}

impl Endpoint {
    /// The text without credentials.
    pub(crate) fn shown(&self) -> String {
        let (scheme, rest) = match self.text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, self.text.as_str()),
        };
        // A password may hold anything, also what begins a query.
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((_, rest)) => ("REDACTED@", rest),
            None => ("", rest),
        };
        let rest = rest.split(['?', '#']).next().unwrap_or(rest);
        let rest = format!("{credentials}{rest}");
        match scheme {
            Some(scheme) => format!("{scheme}://{rest}"),
            None => rest,
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}
