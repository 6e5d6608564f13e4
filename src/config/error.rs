//! What can go wrong in `init`.

use std::fmt;
use std::io;
use std::path::PathBuf;

#[cfg(feature = "tls")]
use crate::config::settings::otlp::PemFile;

/// Why [`init`](crate::init) failed.
///
/// Only what cannot work at all is an error. A value that cannot be used while there is another
/// to go on with is a [`ConfigWarning`].
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// Telemetry of the process runs already, and goes on as it was.
    #[error(
        "telemetry is already initialized, and goes on; shut its `TelemetryGuard` down first, or use \
         `Config::build` for telemetry beside it"
    )]
    AlreadyInitialized,
    /// An endpoint is not a URL to which telemetry can be sent.
    #[error("{origin}=\"{endpoint}\" {reason}")]
    #[non_exhaustive]
    Endpoint {
        /// The variable or function that named the endpoint.
        origin: String,
        /// The endpoint, without credentials.
        endpoint: String,
        /// What is wrong with it and what to do.
        reason: &'static str,
    },
    /// The root certificates for `https` endpoints could not be read.
    #[error("the platform's root certificates for https endpoints cannot be read: {0}")]
    RootCertificates(#[source] io::Error),
    /// A file with certificates or a key for `https` endpoints cannot be used.
    #[error("{origin}={path:?} cannot be used: {reason}")]
    #[non_exhaustive]
    Certificate {
        /// The variable or function that named the file.
        origin: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The thread that exports could not be started.
    #[error("the thread that exports telemetry cannot be started: {0}")]
    Thread(#[source] io::Error),
}

impl InitError {
    #[cfg(feature = "tls")]
    pub(crate) fn pem(file: &PemFile, reason: &str) -> Self {
        Self::Certificate {
            origin: file.origin.clone(),
            path: file.shown().into(),
            reason: reason.to_owned(),
        }
    }
}

/// The same text as `Display`: it is what a `main` that returns the error prints.
impl fmt::Debug for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
