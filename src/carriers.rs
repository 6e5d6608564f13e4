//! Context in what is not a request of HTTP: the headers of messages, metadata of gRPC, the environment
//! of child processes.
//!
//! | carrier | write | read |
//! |---|---|---|
//! | a map, the headers of a message | [`inject`] | [`extract`] |
//! | headers of HTTP, metadata of tonic | [`inject_into_headers`] | [`extract`] |
//! | the environment of a child process | [`inject_into_command`] | [`extract_from_env`] |
//!
//! The formats are those of the layers: those that `init` was told of (`OTEL_PROPAGATORS`), and the W3C's
//! Trace Context and Baggage before `init` and without it.
//!
//! Context that is read is checked as the layers check the headers of a request: a `traceparent` that is not exactly
//! valid, or is there twice, is ignored, baggage that is too large is ignored whole, and names that no
//! format has are skipped. The sender of a message chooses its trace; see
//! [`Producer`](crate::messaging::Producer) for senders that are not trusted.
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

/// Returns the context that pairs of names and values carry.
///
/// Nothing of the current context is in it. Where no pair carries a valid span it has none, and a span
/// below it starts a new trace. Names may be in any case.
///
/// Pass it to [`Destination::process`](crate::messaging::Destination::process) or
/// [`SpanBuilder::with_parent`](crate::handler::SpanBuilder::with_parent), or attach it.
///
/// ```
/// use http::HeaderMap;
/// use tower_telemetry::carriers;
///
/// // What has several values for a name hands over all of them.
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

/// Hands the names and values that carry the current context to `set`, names in lower case.
///
/// Baggage is among them. Without a current span and baggage, `set` is not called: headers that were copied
/// from another message still name its trace, so that they have to be removed first.
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

/// Writes the current context into headers, in place of any other context in them.
///
/// For metadata of tonic, too, which is headers by `as_mut`. [`ClientTelemetryLayer`] does it for each
/// request by itself.
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

/// Writes the current context into the environment of a child process, and keeps any other context out of
/// it, such as that which this process was started with.
///
/// The variables are `TRACEPARENT`, `TRACESTATE`, `BAGGAGE` and their like ([environment carriers], a
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

/// Returns the context that this process was started with, as [`extract`] does.
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

/// Returns the variable that stands for a header.
fn variable(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}
