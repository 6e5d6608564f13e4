//! The cause of a failed connection, derived from its error.

use std::error::Error;
use std::io;

use crate::otlp::dial::ProxyError;
use crate::otlp::reconnects::Postponed;
use crate::stats::Failure;

/// The kind of a connection failure, and the messages of the error and its sources.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttemptFailure {
    pub(crate) kind: Failure,
    pub(crate) message: String,
    /// Whether a proxy refused the connection, so that a retry cannot help.
    pub(crate) is_final: bool,
    /// Whether no connection was attempted, because earlier ones had failed.
    pub(crate) is_postponed: bool,
}

/// Returns the failure for the error of a connection.
pub(crate) fn failure(error: &(dyn Error + 'static)) -> AttemptFailure {
    let mut found = AttemptFailure {
        kind: Failure::Connection,
        message: String::new(),
        is_final: false,
        is_postponed: false,
    };
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(postponed) = error.downcast_ref::<Postponed>() {
            found.kind = postponed.failure;
            found.message = postponed.detail.clone();
            found.is_postponed = true;
            return found;
        }
        let text = error.to_string();
        if !found.message.contains(&text) {
            let separator = if found.message.is_empty() { "" } else { ": " };
            found.message = format!("{}{separator}{text}", found.message);
        }
        if let Some(kind) = kind_of(error, &text) {
            found.kind = kind;
        }
        if let Some(status) = error
            .downcast_ref::<ProxyError>()
            .and_then(|one| one.status)
        {
            // 5xx means that the proxy cannot reach the receiver. 408 and 429 are temporary.
            found.kind = Failure::HttpStatus(status);
            found.is_final = (400..500).contains(&status) && ![408, 429].contains(&status);
        }
        // `io::Error::source` skips the wrapped error and returns that error's source.
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(|error| error.get_ref())
            .map(|wrapped| wrapped as &(dyn Error + 'static));
        next = wrapped.or_else(|| error.source());
    }
    found
}

fn kind_of(error: &(dyn Error + 'static), text: &str) -> Option<Failure> {
    #[cfg(feature = "tls")]
    // Over HTTP/2, only the text of the cause is left.
    if error.is::<rustls::Error>() || text.starts_with("received fatal alert: ") {
        return Some(Failure::Tls);
    }
    // The type of the connector's DNS error is private.
    if text.starts_with("dns error") {
        return Some(Failure::Dns);
    }
    match error.downcast_ref::<io::Error>()?.kind() {
        // The Unix socket of a sidecar that is not running yet does not exist.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Some(Failure::Refused),
        io::ErrorKind::TimedOut => Some(Failure::Timeout),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "tls")]
    #[test]
    fn a_fatal_alert_is_a_tls_failure_with_and_without_its_type() {
        use rustls::AlertDescription::{BadCertificate, CertificateRequired, UnknownCA};

        for alert in [BadCertificate, CertificateRequired, UnknownCA] {
            let error = rustls::Error::AlertReceived(alert);
            let text = io::Error::new(io::ErrorKind::InvalidData, error.to_string());
            let typed = io::Error::new(io::ErrorKind::InvalidData, error);
            for error in [typed, text] {
                assert_eq!(failure(&error).kind, Failure::Tls, "{error:?}");
            }
        }
    }

    #[test]
    fn another_failure_of_a_connection_is_of_its_own_kind() {
        for (kind, expected) in [
            (io::ErrorKind::BrokenPipe, Failure::Connection),
            (io::ErrorKind::ConnectionReset, Failure::Connection),
            (io::ErrorKind::ConnectionRefused, Failure::Refused),
            (io::ErrorKind::TimedOut, Failure::Timeout),
        ] {
            assert_eq!(failure(&io::Error::from(kind)).kind, expected);
        }
    }
}
