//! Context propagation outside of HTTP requests: in message headers, gRPC metadata and the
//! environment of child processes.
//!
//! | carrier | write | read |
//! |---|---|---|
//! | a map, the headers of a message | [`inject`] | [`extract`] |
//! | headers of HTTP, metadata of tonic | [`inject_into_headers`] | [`extract`] |
//! | the environment of a child process | [`inject_into_command`] | [`extract_from_env`] |
//!
//! The formats are the same as for the layers: the formats that are configured for `init`
//! (`OTEL_PROPAGATORS`), or W3C Trace Context and Baggage without `init`.
//!
//! Context that is read is validated as in requests: an invalid or repeated `traceparent` is
//! ignored, baggage that is too large is ignored entirely, and unknown names are skipped. The
//! sender of a message chooses its trace; see [`Producer`](crate::messaging::Producer) for senders
//! that are not trusted.
//!
//! ```
//! use std::collections::HashMap;
//! use tower_telemetry::opentelemetry::trace::TraceContextExt;
//! use tower_telemetry::{carriers, get_trace_id};
//!
//! let received = HashMap::from([(
//!     "traceparent",
//!     "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
//! )]);
//! let cx = carriers::extract(received);
//! assert!(cx.span().span_context().is_remote());
//!
//! let _attached = cx.attach();
//! let mut sent = HashMap::new();
//! carriers::inject(|name, value| {
//!     sent.insert(name.to_owned(), value.to_owned());
//! });
//! assert!(sent["traceparent"].contains(&get_trace_id().unwrap().to_string()));
//! ```

use std::process::Command;

use http::header::HeaderMap;
use opentelemetry::Context;

use crate::current_context;
use crate::propagation::{self, Allowed};
use crate::providers::generations;

/// Returns the context in pairs of names and values.
///
/// The result is independent of the current context. Without a valid span in the pairs, the context
/// has no span, and a span below it starts a new trace. Names are case-insensitive.
///
/// Pass it to [`Destination::process`](crate::messaging::Destination::process) or
/// [`SpanBuilder::with_parent`](crate::handler::SpanBuilder::with_parent), or attach it.
///
/// ```
/// use http::HeaderMap;
/// use tower_telemetry::carriers;
///
/// // `HeaderMap` passes all values of a name.
/// let headers: HeaderMap = HeaderMap::new();
/// let cx = carriers::extract(&headers);
///
/// // A value that may be missing.
/// let kafka: [(&str, Option<&[u8]>); 1] = [("traceparent", None)];
/// let cx = carriers::extract(kafka.into_iter().filter_map(|(name, value)| Some((name, value?))));
/// # let _ = cx;
/// ```
pub fn extract<N: AsRef<str>, V: AsRef<[u8]>>(pairs: impl IntoIterator<Item = (N, V)>) -> Context {
    let extracted = generations::propagators().extract_pairs(pairs);
    extracted.into_context(&Context::new())
}

/// Calls `set` with the names and values of the current context. Names are in lower case.
///
/// The pairs include baggage. Without a current span and baggage, `set` is not called. So headers
/// that are copied from another message still contain its trace: remove them first.
///
/// ```
/// let mut headers = Vec::new();
/// tower_telemetry::carriers::inject(|name, value| {
///     headers.push((name.to_owned(), value.as_bytes().to_vec()));
/// });
/// ```
pub fn inject(set: impl FnMut(&str, &str)) {
    generations::propagators().inject_pairs(&current_context::get(), set);
}

/// Writes the current context into headers, replacing any other context in them.
///
/// This also works with tonic's metadata, which `as_mut` converts to headers.
/// [`ClientTelemetryLayer`] does the same for each request.
///
/// ```
/// let mut headers = http::HeaderMap::new();
/// tower_telemetry::carriers::inject_into_headers(&mut headers);
/// ```
///
/// [`ClientTelemetryLayer`]: crate::ClientTelemetryLayer
pub fn inject_into_headers(headers: &mut HeaderMap) {
    let cx = current_context::get();
    generations::propagators().inject(&cx, Allowed::EVERYTHING, headers);
}

/// Writes the current context into the environment of a child process. Any other context, such as
/// the one that this process inherited, is removed.
///
/// The variables are `TRACEPARENT`, `TRACESTATE`, `BAGGAGE` and so on ([environment carriers], a
/// release candidate). The child reads them with [`extract_from_env`].
///
/// ```
/// use std::process::Command;
///
/// let mut command = Command::new("resize");
/// tower_telemetry::carriers::inject_into_command(&mut command);
///
/// let mut command = tokio::process::Command::new("resize");
/// tower_telemetry::carriers::inject_into_command(command.as_std_mut());
/// ```
///
/// [environment carriers]: https://opentelemetry.io/docs/specs/otel/context/env-carriers/
pub fn inject_into_command(command: &mut Command) {
    for name in propagation::all_names() {
        command.env_remove(variable(name));
    }
    let cx = current_context::get();
    generations::propagators().inject_pairs(&cx, |name, value| {
        command.env(variable(name), value);
    });
}

/// Returns the context in the environment of this process, as [`extract`] does.
///
/// ```
/// use tower_telemetry::{carriers, get_tracer};
///
/// let cx = carriers::extract_from_env();
/// get_tracer("resize").span("resize").with_parent(cx).run(|| { /* the work */ });
/// ```
pub fn extract_from_env() -> Context {
    extract(propagation::all_names().filter_map(|name| {
        let value = std::env::var_os(variable(name))?;
        Some((name, value.into_encoded_bytes()))
    }))
}

/// Returns the name of the variable for a header.
fn variable(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}
