//! The text of settings without secrets, for errors, `Debug` and the startup log line.
//!
//! Only text that is known to be harmless is shown. Secrets have too many forms to be recognised.

#[cfg(any(feature = "logs", feature = "tracing"))]
use std::fmt::Debug;
use std::path::Path;

const REDACTED: &str = "REDACTED";

/// Path segments that are shown. Other segments may be tokens.
const OPEN_PARTS: [&str; 16] = [
    "",
    "api",
    "collector",
    "export",
    "ingest",
    "logs",
    "metrics",
    "opentelemetry",
    "otel",
    "otlp",
    "telemetry",
    "traces",
    "v1",
    "v2",
    "v3",
    "v4",
];

const SCHEMES: [&str; 9] = [
    "http", "https", "ftp", "grpc", "grpcs", "socks5", "socks5h", "tcp", "unix",
];

/// Header names that are shown. Other names may be a misplaced value.
const OPEN_HEADERS: [&str; 10] = [
    "api-key",
    "authorization",
    "dd-api-key",
    "proxy-authorization",
    "tenant",
    "x-api-key",
    "x-honeycomb-dataset",
    "x-honeycomb-team",
    "x-scope-orgid",
    "x-tenant",
];

/// Returns the text of a filter. A URL set by mistake is a valid filter, and may contain a password:
/// it is replaced by `REDACTED`.
#[cfg(any(feature = "logs", feature = "tracing"))]
pub(crate) fn shown_filter(filter: &impl Debug) -> String {
    let filter = format!("{filter:?}");
    match filter.contains("//") || filter.contains('@') {
        true => REDACTED.to_owned(),
        false => filter,
    }
}

/// Returns an endpoint without its user, password, query and fragment, and without tokens in its
/// path.
pub(crate) fn endpoint(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if SCHEMES.contains(&scheme.to_ascii_lowercase().as_str()) => {
            (format!("{scheme}://"), rest)
        }
        Some((_, rest)) => (format!("{REDACTED}://"), rest),
        None => (String::new(), text),
    };
    // The path of a socket is a file name.
    if scheme.eq_ignore_ascii_case("unix://") {
        return format!("{scheme}{}", file(Path::new(rest)).display());
    }
    let end = rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    // The delimiter may be a part of a password, so no part of the text is known to be the host.
    if after.contains('@') || after.to_ascii_lowercase().contains("%40") {
        return format!("{scheme}{REDACTED}");
    }
    let (user, host) = match authority.rsplit_once('@') {
        Some((_, host)) => ("REDACTED@", host),
        None => ("", authority),
    };
    let path = after.split(['?', '#']).next().unwrap_or("");
    format!(
        "{scheme}{user}{}{}",
        host_and_port(host, !scheme.is_empty()),
        url_path(path)
    )
}

/// Returns a host and a port, as far as they look like that. Without a scheme, the text may be a
/// token.
fn host_and_port(text: &str, has_scheme: bool) -> String {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_address = host.starts_with('[')
        && host.ends_with(']')
        && host[1..host.len() - 1]
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
    // Host names are written in lower case. Tokens usually are not.
    let is_plain = |byte: u8| {
        byte.is_ascii_lowercase()
            || byte.is_ascii_digit()
            || byte == b'-'
            || (byte == b'_' && has_scheme)
    };
    let longest = if has_scheme { 63 } else { 24 };
    let is_name = host
        .split('.')
        .all(|label| label.len() <= longest && label.bytes().all(is_plain));
    let host = if is_address || is_name {
        host
    } else {
        REDACTED
    };
    match port {
        Some(port) if port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{host}:{port}")
        }
        Some(_) => format!("{host}:{REDACTED}"),
        None => host.to_owned(),
    }
}

/// Returns the path of a URL with tokens redacted.
pub(crate) fn url_path(path: &str) -> String {
    let parts = path
        .split('/')
        .map(|part| match OPEN_PARTS.contains(&part) {
            true => part,
            false => REDACTED,
        });
    parts.collect::<Vec<_>>().join("/")
}

/// Returns the name of a file, unless it may be the content of such a file.
pub(crate) fn file(path: &Path) -> &Path {
    const EXTENSIONS: [&str; 9] = [
        "cer", "cert", "crt", "der", "key", "p12", "p8", "pem", "pfx",
    ];
    let is_name = path.to_str().is_some_and(|text| {
        let parts = || text.split(['/', '\\']);
        let is_bounded = text.len() <= 512 && parts().all(|part| part.len() <= 64);
        let is_plain = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"/._-".contains(&byte)
        };
        let has_extension = text
            .rsplit_once('.')
            .is_some_and(|(_, end)| EXTENSIONS.contains(&end));
        let is_open = has_extension && !text.contains(['\n', '\r', '=', '+', ' ']);
        is_bounded && (is_open || text.starts_with('/') && text.bytes().all(is_plain))
    });
    if is_name || path.is_file() {
        path
    } else {
        Path::new("(not shown)")
    }
}

/// Returns the name of a header, unless it may be a misplaced value.
pub(crate) fn header_name(name: &str) -> &str {
    if OPEN_HEADERS.contains(&name) {
        name
    } else {
        REDACTED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_recognised_parts_of_an_endpoint_are_shown() {
        for (text, shown) in [
            ("http://collector:4317", "http://collector:4317"),
            (
                "HTTPS://otel_1.example/v1/traces",
                "HTTPS://otel_1.example/v1/traces",
            ),
            ("http://[::1]:4318/otlp/", "http://[::1]:4318/otlp/"),
            ("localhost:4317", "localhost:4317"),
            ("nonsense", "nonsense"),
            (
                "http://h/S3CRET/v1/logs?S3CRET#S3CRET",
                "http://h/REDACTED/v1/logs",
            ),
            ("http://u:S3CRET@h:1/x", "http://REDACTED@h:1/REDACTED"),
            ("http://u:S3/CRET@h", "http://REDACTED"),
            ("http://u:S3@CRET/x@h", "http://REDACTED"),
            ("http://u:S3?CRET@h/", "http://REDACTED"),
            ("http://u:S3#CRET%40h/", "http://REDACTED"),
            ("http://u:S3CRET%40h/", "http://u:REDACTED/"),
            ("http://S3CRET%40h/", "http://REDACTED/"),
            ("http://h/?a=b@S3CRET", "http://REDACTED"),
            ("http://h\\S3CRET", "http://hREDACTED"),
            ("http://S3CRET/", "http://REDACTED/"),
            ("u:S3CRET@http://h", "REDACTED://h"),
            ("S3CRET_token", "REDACTED"),
            ("", ""),
        ] {
            assert_eq!(endpoint(text), shown, "{text}");
        }
    }

    #[test]
    fn a_file_name_is_shown_but_never_the_content_of_a_file() {
        for name in [
            "/etc/ssl/ca.crt",
            "certs/client.pem",
            "/no/such/file",
            "C:\\certs\\Client.key",
        ] {
            assert_eq!(file(Path::new(name)), Path::new(name));
        }
        for content in [
            "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----MIIE.key",
            "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
            "/9j/4AAQSkZJRgABAQ==",
            "c2VjcmV0",
            "%2D%2D%2DBEGIN%20KEY",
        ] {
            assert_eq!(
                file(Path::new(content)),
                Path::new("(not shown)"),
                "{content}"
            );
        }
    }
}
