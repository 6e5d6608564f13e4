//! The endpoint of each signal.

use std::fmt;
use std::path::PathBuf;

use http::Uri;
use http::uri::PathAndQuery;

use crate::config::builder::Config;
use crate::config::error::InitError;
use crate::config::settings::otlp::{Endpoint, Protocol};
use crate::config::settings::shown;
use crate::config::settings::signal::Signal;

/// The endpoint of one signal, with its protocol.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) protocol: Protocol,
    pub(crate) uri: Uri,
    /// The Unix socket that replaces the host of the URL.
    pub(crate) socket: Option<PathBuf>,
}

impl Config {
    /// Returns the endpoint for `signal`. Over HTTP, a signal's own endpoint is used unchanged, and
    /// the general endpoint or a Unix socket is a base URL (OTLP exporter specification, "Endpoint
    /// URLs for OTLP/HTTP"). Over gRPC, the path is always that of the gRPC method.
    pub(crate) fn target(&self, signal: Signal) -> Result<Target, InitError> {
        let own = &self.otlp_by_signal[signal];
        let protocol = self.otlp(signal, |settings| settings.protocol);
        let (endpoint, mut is_base) = match (&own.endpoint, &self.otlp.endpoint) {
            (Some(endpoint), _) => (endpoint.clone(), false),
            (None, Some(endpoint)) => (endpoint.clone(), true),
            (None, None) => {
                let text = match protocol {
                    Some(Protocol::Grpc) => "http://localhost:4317",
                    _ => "http://localhost:4318",
                };
                let endpoint = Endpoint {
                    origin: "the default endpoint".to_owned(),
                    text: text.to_owned(),
                };
                (endpoint, true)
            }
        };
        let mut endpoint = match self.otlp(signal, |settings| settings.insecure) {
            Some(insecure) if has_no_scheme(&endpoint.text) => {
                let scheme = if insecure { "http" } else { "https" };
                let text = format!("{scheme}://{}", endpoint.text);
                Endpoint { text, ..endpoint }
            }
            _ => endpoint,
        };
        let socket = endpoint.text.strip_prefix("unix://").map(PathBuf::from);
        if let Some(path) = &socket {
            check_socket(&endpoint, path)?;
            // A socket has no host name, but HTTP requests need one.
            endpoint.text = "http://localhost".to_owned();
            is_base = true;
        }
        let uri = parse(&endpoint)?;
        let protocol = protocol.unwrap_or_else(|| protocol_of(&uri));
        let path = match protocol {
            Protocol::Grpc => grpc_path(signal).to_owned(),
            _ if is_base => {
                let base = base_path(uri.path());
                match uri.query() {
                    Some(query) => format!("{base}/v1/{}?{query}", signal.name()),
                    None => format!("{base}/v1/{}", signal.name()),
                }
            }
            _ => {
                return Ok(Target {
                    protocol,
                    uri,
                    socket,
                });
            }
        };
        let mut parts = uri.into_parts();
        parts.path_and_query = PathAndQuery::try_from(path).ok();
        let uri = Uri::from_parts(parts).map_err(|_| invalid(&endpoint, "is not a URL"))?;
        Ok(Target {
            protocol,
            uri,
            socket,
        })
    }
}

/// Returns whether an endpoint has no scheme.
fn has_no_scheme(endpoint: &str) -> bool {
    !endpoint.contains("://")
}

/// Writes the protocol and the URL without secrets, and without gRPC's fixed path.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.socket {
            let path = shown::file(path).display();
            return write!(f, "{},unix://{path}", self.protocol.name());
        }
        let uri = self.uri.to_string();
        let shown = shown::endpoint(match self.protocol {
            Protocol::Grpc => uri.strip_suffix(self.uri.path()).unwrap_or(&uri),
            _ => &uri,
        });
        write!(f, "{},{shown}", self.protocol.name())
    }
}

impl Target {
    /// Returns whether the endpoint is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        let host = self.uri.host().unwrap_or("");
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host.ends_with(".localhost")
            || address
                .parse()
                .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
    }
}

#[cfg(unix)]
fn check_socket(endpoint: &Endpoint, path: &std::path::Path) -> Result<(), InitError> {
    use std::os::unix::net::SocketAddr;

    if !path.is_absolute() {
        let reason =
            "is not the absolute path of a socket; write one such as unix:///run/otel.sock";
        return Err(invalid(endpoint, reason));
    }
    match SocketAddr::from_pathname(path) {
        Ok(_) => Ok(()),
        Err(_) => Err(invalid(
            endpoint,
            "is longer than the path of a socket can be",
        )),
    }
}

#[cfg(not(unix))]
fn check_socket(endpoint: &Endpoint, _: &std::path::Path) -> Result<(), InitError> {
    Err(invalid(
        endpoint,
        "is a Unix socket, which only Unix supports",
    ))
}

fn parse(endpoint: &Endpoint) -> Result<Uri, InitError> {
    let uri: Uri = endpoint.text.parse().map_err(|_| {
        invalid(
            endpoint,
            "is not a URL; write one such as http://localhost:4317",
        )
    })?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") if cfg!(feature = "tls") => {}
        Some("https") => {
            let reason = "requires TLS; enable the feature `tls` of tower-telemetry";
            return Err(invalid(endpoint, reason));
        }
        _ => {
            let reason = "is not an http or https URL; write one such as http://localhost:4317";
            return Err(invalid(endpoint, reason));
        }
    }
    let after_scheme = endpoint.text.split_once("://").map(|(_, rest)| rest);
    let authority = after_scheme.and_then(|rest| rest.split('/').next());
    if authority.is_some_and(|authority| authority.contains('@')) {
        let reason = "contains credentials, which belong in OTEL_EXPORTER_OTLP_HEADERS";
        return Err(invalid(endpoint, reason));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(invalid(endpoint, "contains no host"));
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let after_host = authority.rsplit(']').next().unwrap_or(authority);
    if after_host.contains(':') && uri.port_u16().is_none() {
        return Err(invalid(
            endpoint,
            "has no valid port; write a number up to 65535",
        ));
    }
    Ok(uri)
}

fn invalid(endpoint: &Endpoint, reason: &'static str) -> InitError {
    InitError::Endpoint {
        origin: endpoint.origin.clone(),
        endpoint: endpoint.shown(),
        reason,
    }
}

/// Returns the default protocol of an endpoint: gRPC on port 4317, unless the path ends with the
/// path of a signal, such as `/v1/traces`; otherwise `http/protobuf`, as the specification says.
fn protocol_of(uri: &Uri) -> Protocol {
    if uri.port_u16() == Some(4317) && base_path(uri.path()) == uri.path().trim_end_matches('/') {
        Protocol::Grpc
    } else {
        Protocol::HttpProtobuf
    }
}

/// Returns a path without trailing slashes and without the path of a signal.
fn base_path(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    Signal::ALL
        .into_iter()
        .find_map(|signal| path.strip_suffix(signal.name())?.strip_suffix("/v1/"))
        .unwrap_or(path)
        .trim_end_matches('/')
}

fn grpc_path(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(variables: &[(&str, &str)], signal: Signal) -> (Protocol, String) {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name);
        let config = Config::from_vars(|name| find(name).map(|(_, value)| (*value).to_owned()));
        let target = config.target(signal).expect("the endpoint is valid");
        (target.protocol, target.uri.to_string())
    }

    #[test]
    fn a_general_endpoint_is_a_base_url_and_its_port_selects_the_protocol() {
        const GRPC: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        for (endpoint, protocol, uri) in [
            (
                "http://c:4317",
                Protocol::Grpc,
                format!("http://c:4317{GRPC}"),
            ),
            (
                "http://c:4317/",
                Protocol::Grpc,
                format!("http://c:4317{GRPC}"),
            ),
            (
                "http://c:4318",
                Protocol::HttpProtobuf,
                "http://c:4318/v1/traces".into(),
            ),
            (
                "http://c:4318/",
                Protocol::HttpProtobuf,
                "http://c:4318/v1/traces".into(),
            ),
            (
                "http://c:4318/v1/traces",
                Protocol::HttpProtobuf,
                "http://c:4318/v1/traces".into(),
            ),
            (
                "http://c:4318/v1/logs/",
                Protocol::HttpProtobuf,
                "http://c:4318/v1/traces".into(),
            ),
            (
                "http://c:4317/v1/metrics",
                Protocol::HttpProtobuf,
                "http://c:4317/v1/traces".into(),
            ),
            (
                "http://c/my/",
                Protocol::HttpProtobuf,
                "http://c/my/v1/traces".into(),
            ),
            (
                "http://c/my?a=b",
                Protocol::HttpProtobuf,
                "http://c/my/v1/traces?a=b".into(),
            ),
        ] {
            let found = target(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)], Signal::Traces);
            assert_eq!(found, (protocol, uri), "{endpoint}");
        }
    }

    #[test]
    fn settings_of_one_signal_apply_only_to_it() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318"),
            (
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
                "http://metrics:9090/write",
            ),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc"),
        ];
        let path = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
        for (signal, expected) in [
            (
                Signal::Traces,
                (
                    Protocol::HttpProtobuf,
                    "http://all:4318/v1/traces".to_owned(),
                ),
            ),
            (
                Signal::Metrics,
                (
                    Protocol::HttpProtobuf,
                    "http://metrics:9090/write".to_owned(),
                ),
            ),
            (
                Signal::Logs,
                (Protocol::Grpc, format!("http://all:4318{path}")),
            ),
        ] {
            assert_eq!(target(&variables, signal), expected);
        }
    }

    #[test]
    fn the_default_endpoint_is_the_one_in_the_specification() {
        for (variables, expected) in [
            (&[][..], "http://localhost:4318/v1/metrics"),
            (
                &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
                "http://localhost:4317/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            ),
        ] {
            assert_eq!(target(variables, Signal::Metrics).1, expected);
        }
    }
}
