//! Hints for log lines about failed exports.

use crate::stats::Failure;

/// Returns the reason of a failure without its hint, and the hint. If the port speaks another
/// protocol, the reason ends with the hint.
pub(crate) fn reason_and_hint(failure: Failure, mut reason: String) -> (String, String) {
    if let Some(end) = reason.rfind("; this port ") {
        let hint = reason.split_off(end);
        return (reason, hint["; ".len()..].to_owned());
    }
    (reason, hint(failure).to_owned())
}

/// Returns a hint for telemetry that was not exported before a shutdown ended.
pub(crate) fn hint_at_shutdown(last_failure: Option<Failure>) -> &'static str {
    last_failure.map_or(
        "no attempt has failed, so check the network and the load of the receiver, or set a longer \
         timeout (Config::with_shutdown_timeout)",
        hint,
    )
}

/// Returns a hint for solving a failure.
pub(crate) fn hint(failure: Failure) -> &'static str {
    match failure {
        Failure::Dns => "check the host name of the endpoint",
        Failure::Refused => "check that the receiver is running, and the port of the endpoint",
        Failure::Timeout => "check the network and the load of the receiver",
        Failure::Tls => {
            "check the certificates (OTEL_EXPORTER_OTLP_CERTIFICATE), and whether the port speaks TLS"
        }
        Failure::Connection | Failure::NoReceiver => {
            "check that the port speaks this protocol (4317 is usually gRPC, 4318 HTTP)"
        }
        Failure::HttpStatus(401 | 403)
        | Failure::GrpcStatus("UNAUTHENTICATED" | "PERMISSION_DENIED") => {
            "check the credentials (OTEL_EXPORTER_OTLP_HEADERS)"
        }
        Failure::HttpStatus(413) | Failure::TooLarge => {
            "record less, or use smaller batches (Batch::with_max_export_batch_size)"
        }
        Failure::HttpStatus(429 | 503)
        | Failure::GrpcStatus("RESOURCE_EXHAUSTED" | "UNAVAILABLE") => {
            "the receiver is overloaded or limits the request rate"
        }
        Failure::HttpStatus(301 | 302 | 303 | 307 | 308) => {
            "use the endpoint that the receiver redirects to"
        }
        Failure::HttpStatus(_) | Failure::GrpcStatus(_) | Failure::Rejected => {
            "see the receiver's log"
        }
        Failure::Panic => "this is a bug in the exporter",
        Failure::Exporter => "see the exporter's documentation",
    }
}
