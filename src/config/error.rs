//! The errors of `init`.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

#[cfg(feature = "tls")]
use crate::config::settings::otlp::PemFile;

/// The reason why [`init`](crate::init) failed.
///
/// Only settings without a usable replacement are errors. An invalid value that a default can replace
/// is a [`ConfigWarning`](crate::config::ConfigWarning).
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// Telemetry is already running in this process, and continues unchanged.
    #[error(
        "telemetry is already initialized and continues; shut its `TelemetryGuard` down first, or use \
          `Config::build` for separate telemetry"
    )]
    AlreadyInitialized,
    /// An endpoint is not a URL to which telemetry can be sent.
    #[error("{origin}=\"{endpoint}\" {reason}")]
    #[non_exhaustive]
    Endpoint {
        /// The variable or function that set the endpoint.
        origin: String,
        /// The endpoint, without credentials.
        endpoint: String,
        /// The reason, with a remedy.
        reason: &'static str,
    },
    /// The root certificates for `https` endpoints could not be read.
    #[error("the platform's root certificates for https endpoints cannot be read")]
    RootCertificates(#[source] io::Error),
    /// A file with certificates or a key for `https` endpoints cannot be used.
    #[error("{origin}={path:?} cannot be used: {reason}")]
    #[non_exhaustive]
    Certificate {
        /// The variable or function that set the file.
        origin: String,
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The export thread could not be started.
    #[error("the thread that exports telemetry cannot be started")]
    Thread(#[source] io::Error),
}

impl InitError {
    #[cfg(feature = "tls")]
    pub(crate) fn pem(file: &PemFile, reason: &str) -> Self {
        // The parser's message contains the line that it cannot read, which may be a key.
        let quoted = "illegal section start";
        let reason = if reason.contains(quoted) {
            quoted
        } else {
            reason
        };
        Self::Certificate {
            origin: file.origin.clone(),
            path: file.shown().into(),
            reason: reason.to_owned(),
        }
    }
}

/// Writes the `Display` text and the source's, because a `main` that returns the error prints this.
impl fmt::Debug for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        match self.source() {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_an_error_does_not_repeat_its_source() {
        let error = InitError::Thread(io::Error::other("no more threads"));
        let text = "the thread that exports telemetry cannot be started";
        assert_eq!(error.to_string(), text);
        let source = error.source().expect("the error has a source");
        assert_eq!(source.to_string(), "no more threads");
        assert_eq!(format!("{error:?}"), format!("{text}: no more threads"));
    }
}
