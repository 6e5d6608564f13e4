//! `error.type`, with the same values on spans and metrics.

use std::error::Error;
use std::fmt::{self, Write};
use std::io;

use ::http::StatusCode;
use opentelemetry::KeyValue;

use crate::semconv::error_chain::ErrorChain;
use crate::semconv::error_message::MAX_TEXT;
use crate::semconv::names::{ERROR_TYPE, OTHER};
use crate::semconv::text::display_prefix;
use crate::semconv::values::{Side, is_defined, is_error};

/// The client disconnected, or the result is no longer awaited.
pub(crate) const CANCELLED: &str = "cancelled";

/// A panic passed through the request or the function.
pub(crate) const PANIC: &str = "panic";

/// The response body ended before its `content-length`.
pub(crate) const BODY_INCOMPLETE: &str = "body_incomplete";

const TIMEOUT: &str = "timeout";
const OVERLOADED: &str = "overloaded";
const CONNECTION_REFUSED: &str = "connection_refused";
const CONNECTION_RESET: &str = "connection_reset";
const CONNECTION_CLOSED: &str = "connection_closed";
const DNS: &str = "dns";
const TLS: &str = "tls";

/// A value of `error.type`. The set of values is bounded, as metrics require.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ErrorType {
    /// The status code, as text.
    Status(StatusCode),
    Name(&'static str),
}

impl ErrorType {
    /// Returns the error type of a status that is an error for this side.
    pub(crate) fn from_status(side: Side, status: StatusCode) -> Option<Self> {
        if !is_error(side, status) {
            None
        } else if is_defined(status) {
            Some(Self::Status(status))
        } else {
            Some(Self::Name(OTHER))
        }
    }

    pub(crate) fn attribute(self) -> KeyValue {
        match self {
            Self::Status(status) => KeyValue::new(ERROR_TYPE, status.as_str().to_owned()),
            Self::Name(name) => KeyValue::new(ERROR_TYPE, name),
        }
    }
}

/// The phase in which a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Before the head of the response.
    Head,
    /// In the body of the response.
    Body,
}

/// Messages of errors whose types are private or belong to crates that are not dependencies.
const MESSAGES: [(&str, &str); 4] = [
    // `hyper_util::client::legacy::connect::http::ConnectError`
    ("dns error", DNS),
    // `reqwest::error::TimedOut`
    ("operation timed out", TIMEOUT),
    // `tonic::TimeoutExpired`
    ("Timeout expired", TIMEOUT),
    // `tower_http::timeout::TimeoutError`
    (
        "data was not received within the designated timeout",
        TIMEOUT,
    ),
];

/// The start of the message of a failed lookup in the standard library. These errors have no kind.
const LOOKUP: &str = "failed to lookup address information";

/// The message of the `io::Error` from `tokio_rustls` when the server ends a handshake.
const TLS_HANDSHAKE_EOF: &str = "tls handshake eof";

/// The message from `native_tls` with OpenSSL in that case, and a part of its other messages.
const OPENSSL_EOF: &str = "unexpected EOF";
const OPENSSL: &str = ":SSL routines:";

impl ErrorChain<'_> {
    /// Returns the value for the innermost recognised cause.
    pub(crate) fn error_type(&self, phase: Phase) -> Option<&'static str> {
        let connects = self.iter().any(is_connect);
        let words = self
            .iter()
            .filter_map(|error| error_type(error, phase, connects));
        words.last()
    }
}

/// Returns whether an error occurred while connecting.
fn is_connect(error: &(dyn Error + 'static)) -> bool {
    #[cfg(feature = "tonic")]
    if error.is::<tonic::ConnectError>() {
        return true;
    }
    error
        .downcast_ref::<hyper_util::client::legacy::Error>()
        .is_some_and(hyper_util::client::legacy::Error::is_connect)
}

/// Returns the value for one error, without its sources.
fn error_type(error: &(dyn Error + 'static), phase: Phase, connects: bool) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        io_error_type(error, phase, connects)
    } else if let Some(error) = error.downcast_ref::<hyper::Error>() {
        hyper_error_type(error, phase)
    } else if let Some(error) = error.downcast_ref::<h2::Error>() {
        h2_error_type(error)
    } else if error.is::<tower::timeout::error::Elapsed>()
        || error.is::<tokio::time::error::Elapsed>()
    {
        Some(TIMEOUT)
    } else if error.is::<tower::load_shed::error::Overloaded>() {
        Some(OVERLOADED)
    } else if connects && is_openssl(error) {
        Some(TLS)
    } else {
        let mut messages = MESSAGES.into_iter();
        messages.find_map(|(message, word)| has_message(error, message).then_some(word))
    }
}

fn io_error_type(error: &io::Error, phase: Phase, connects: bool) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::TimedOut => Some(TIMEOUT),
        io::ErrorKind::ConnectionRefused => Some(CONNECTION_REFUSED),
        io::ErrorKind::ConnectionReset => Some(CONNECTION_RESET),
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected => Some(CONNECTION_CLOSED),
        // TLS libraries wrap their errors in this kind.
        io::ErrorKind::InvalidData if connects && error.get_ref().is_some() => Some(TLS),
        io::ErrorKind::UnexpectedEof if connects && has_message(error, TLS_HANDSHAKE_EOF) => {
            Some(TLS)
        }
        io::ErrorKind::UnexpectedEof => Some(ended_early(phase)),
        _ if display_prefix(error, MAX_TEXT).0.starts_with(LOOKUP) => Some(DNS),
        _ => None,
    }
}

fn hyper_error_type(error: &hyper::Error, phase: Phase) -> Option<&'static str> {
    if error.is_timeout() {
        Some(TIMEOUT)
    } else if error.is_incomplete_message() {
        Some(ended_early(phase))
    } else if error.is_canceled() || error.is_closed() {
        // The connection closed before the request was sent.
        Some(CONNECTION_CLOSED)
    } else {
        None
    }
}

fn h2_error_type(error: &h2::Error) -> Option<&'static str> {
    if !error.is_remote() {
        None
    } else if error.is_go_away() {
        Some(CONNECTION_CLOSED)
    } else {
        Some(CONNECTION_RESET)
    }
}

fn is_openssl(error: &dyn Error) -> bool {
    has_message(error, OPENSSL_EOF) || display_prefix(&error, MAX_TEXT).0.contains(OPENSSL)
}

fn ended_early(phase: Phase) -> &'static str {
    match phase {
        Phase::Head => CONNECTION_CLOSED,
        Phase::Body => BODY_INCOMPLETE,
    }
}

/// Returns whether an error's message is exactly `text`. Formatting stops at the first difference.
fn has_message(error: &dyn Error, text: &'static str) -> bool {
    struct Expected(&'static str);
    impl Write for Expected {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(text).ok_or(fmt::Error)?;
            Ok(())
        }
    }
    let mut expected = Expected(text);
    write!(expected, "{error}").is_ok() && expected.0.is_empty()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::semconv::test_errors::{Erased, Wrapped};

    fn error_type(error: impl Into<Erased>, phase: Phase) -> Option<&'static str> {
        ErrorChain::new(&error.into(), &[]).error_type(phase)
    }

    fn wrapped(error: impl Into<Erased>, times: usize) -> Erased {
        (0..times).fold(error.into(), |error, _| Wrapped(error).into())
    }

    #[test]
    fn kinds_of_io_errors_have_short_error_types() {
        use io::ErrorKind as Kind;
        for (kind, in_head, in_body) in [
            (Kind::TimedOut, Some("timeout"), Some("timeout")),
            (
                Kind::ConnectionRefused,
                Some("connection_refused"),
                Some("connection_refused"),
            ),
            (
                Kind::ConnectionReset,
                Some("connection_reset"),
                Some("connection_reset"),
            ),
            (
                Kind::ConnectionAborted,
                Some("connection_closed"),
                Some("connection_closed"),
            ),
            (
                Kind::BrokenPipe,
                Some("connection_closed"),
                Some("connection_closed"),
            ),
            (
                Kind::UnexpectedEof,
                Some("connection_closed"),
                Some("body_incomplete"),
            ),
            (Kind::NotFound, None, None),
            (Kind::PermissionDenied, None, None),
            (Kind::InvalidData, None, None),
            (Kind::Other, None, None),
        ] {
            let error = || io::Error::new(kind, "a reason");
            assert_eq!(error_type(error(), Phase::Head), in_head, "{kind}");
            assert_eq!(error_type(error(), Phase::Body), in_body, "{kind}");
            assert_eq!(
                error_type(io::Error::from(kind), Phase::Head),
                in_head,
                "{kind}"
            );
        }
    }

    #[test]
    fn an_error_is_found_behind_every_kind_of_wrapper() {
        let elapsed = || tower::timeout::error::Elapsed::new();
        let shared: Arc<dyn Error + Send + Sync> = Arc::new(elapsed());
        let errors: [Erased; 8] = [
            elapsed().into(),
            wrapped(elapsed(), 5),
            io::Error::other(elapsed()).into(),
            io::Error::other(io::Error::other(wrapped(elapsed(), 1))).into(),
            Box::new(shared.clone()),
            wrapped(shared, 1),
            wrapped(Box::new(elapsed()) as Erased, 2),
            wrapped(io::Error::other(elapsed()), 2),
        ];
        for error in errors {
            assert_eq!(error_type(error, Phase::Head), Some("timeout"));
        }
    }

    #[test]
    fn the_innermost_recognised_cause_wins() {
        let inner = io::Error::other(tower::load_shed::error::Overloaded::new());
        let outer = io::Error::new(io::ErrorKind::TimedOut, wrapped(inner, 1));
        assert_eq!(error_type(outer, Phase::Head), Some("overloaded"));
        let unknown = io::Error::other("no reason");
        let outer = io::Error::new(io::ErrorKind::TimedOut, wrapped(unknown, 1));
        assert_eq!(error_type(outer, Phase::Head), Some("timeout"));
    }

    #[test]
    fn a_chain_is_read_up_to_the_limit() {
        let error = || tower::timeout::error::Elapsed::new();
        assert_eq!(
            error_type(wrapped(error(), 15), Phase::Head),
            Some("timeout")
        );
        assert_eq!(error_type(wrapped(error(), 16), Phase::Head), None);
    }

    #[test]
    fn a_message_is_recognised_only_as_a_whole() {
        for (message, expected) in [
            ("dns error", Some("dns")),
            ("operation timed out", Some("timeout")),
            ("dns error!", None),
            ("a dns error", None),
            ("dns", None),
            ("", None),
        ] {
            assert_eq!(error_type(message, Phase::Head), expected, "{message:?}");
        }
    }

    #[test]
    fn http_2_resets_from_this_side_are_ignored() {
        let error = h2::Error::from(h2::Reason::CANCEL);
        assert_eq!(error_type(error, Phase::Body), None);
    }
}
