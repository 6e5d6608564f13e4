//! The failure of a connection, read from its error.

use std::error::Error;
use std::io;

use crate::otlp::dial::ProxyError;
use crate::otlp::reconnects::Postponed;
use crate::stats::Failure;

/// The kind of a failed connection, and the words of its error and the sources.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttemptFailure {
    pub(crate) kind: Failure,
    pub(crate) words: String,
    /// Whether a proxy has refused for good.
    pub(crate) is_final: bool,
    /// Whether no connection was tried, because the ones before had failed.
    pub(crate) is_postponed: bool,
}

/// Reads the error of a connection.
pub(crate) fn failure(error: &(dyn Error + 'static)) -> AttemptFailure {
    let mut found = AttemptFailure {
        kind: Failure::Connection,
        words: String::new(),
        is_final: false,
        is_postponed: false,
    };
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(postponed) = error.downcast_ref::<Postponed>() {
            found.kind = postponed.failure;
            found.words = postponed.detail.clone();
            found.is_postponed = true;
            return found;
        }
        let text = error.to_string();
        if !found.words.contains(&text) {
            let separator = if found.words.is_empty() { "" } else { ": " };
            found.words = format!("{}{separator}{text}", found.words);
        }
        if let Some(kind) = kind_of(error, &text) {
            found.kind = kind;
        }
        if let Some(status) = error
            .downcast_ref::<ProxyError>()
            .and_then(|one| one.status)
        {
            // 5xx means that the proxy does not reach the receiver; 408 and 429 pass.
            found.kind = Failure::HttpStatus(status);
            found.is_final = (400..500).contains(&status) && ![408, 429].contains(&status);
        }
        // An `io::Error` returns the source of the error that it wraps, and not the error itself.
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
    if error.is::<rustls::Error>() {
        return Some(Failure::Tls);
    }
    // The connector's error for it is private.
    if text.starts_with("dns error") {
        return Some(Failure::Dns);
    }
    match error.downcast_ref::<io::Error>()?.kind() {
        // The socket of a sidecar that does not run yet is not there.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Some(Failure::Refused),
        io::ErrorKind::TimedOut => Some(Failure::Timeout),
        _ => None,
    }
}
