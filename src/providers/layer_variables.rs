//! Environment variables that configure layers. `Config` reads them together with all others.
//! Without `init`, a layer reads them itself.

use std::sync::OnceLock;

use http::{HeaderName, Method};

use crate::propagation::BaggageAttributes;
use crate::providers::excluded_paths::{ExcludedPaths, path_patterns};
use crate::providers::variables::{ConfigWarning, Variables};
use crate::semconv::{self, Side};

/// Settings of layers. The setters of a layer take precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LayerSettings {
    /// If empty, the methods defined by the conventions are known.
    pub(crate) known_methods: Vec<String>,
    pub(crate) server: HeaderNames,
    pub(crate) client: HeaderNames,
    pub(crate) excluded_paths: ExcludedPaths,
    pub(crate) baggage: BaggageAttributes,
}

/// The names of the headers to capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeaderNames {
    pub(crate) request: Vec<HeaderName>,
    pub(crate) response: Vec<HeaderName>,
}

impl LayerSettings {
    /// Reads the variables.
    pub(crate) fn read(variables: &mut Variables<'_>) -> Self {
        let mut headers = |name: &str| {
            let name = format!("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_{name}");
            let text = variables.text(&name).unwrap_or_default();
            header_names(&name, elements(&text), &mut variables.warnings)
        };
        let server = HeaderNames {
            request: headers("SERVER_REQUEST"),
            response: headers("SERVER_RESPONSE"),
        };
        let client = HeaderNames {
            request: headers("CLIENT_REQUEST"),
            response: headers("CLIENT_RESPONSE"),
        };
        let mut paths = |name: &str| {
            let text = variables.text(name).unwrap_or_default();
            path_patterns(name, elements(&text), &mut variables.warnings)
        };
        let excluded_paths = ExcludedPaths {
            from_all: paths("TELEMETRY_EXCLUDED_PATHS"),
            from_traces: paths("TELEMETRY_TRACES_EXCLUDED_PATHS"),
            from_metrics: paths("TELEMETRY_METRICS_EXCLUDED_PATHS"),
        };
        let name = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS";
        let text = variables.text(name).unwrap_or_default();
        Self {
            known_methods: known_methods(name, elements(&text), &mut variables.warnings),
            server,
            client,
            excluded_paths,
            baggage: BaggageAttributes::default(),
        }
    }

    /// Returns the settings from the process environment. It is read once, and invalid values are
    /// logged at that time.
    pub(crate) fn of_environment() -> &'static Self {
        static READ: OnceLock<LayerSettings> = OnceLock::new();
        if let Some(read) = READ.get() {
            return read;
        }
        let mut variables = Variables::new(&|name| std::env::var_os(name));
        let settings = Self::read(&mut variables);
        let mut is_first = false;
        let read = READ.get_or_init(|| {
            is_first = true;
            settings
        });
        // Logged without the lock, because a subscriber may send a request through a layer.
        if is_first {
            for warning in variables.warnings {
                tracing::warn!(target: "tower_telemetry", "{warning}");
            }
        }
        read
    }

    pub(crate) fn headers(&self, side: Side) -> &HeaderNames {
        match side {
            Side::Server => &self.server,
            Side::Client => &self.client,
        }
    }
}

fn elements(text: &str) -> impl Iterator<Item = &str> {
    let elements = text.split(',').map(str::trim);
    elements.filter(|element| !element.is_empty())
}

/// Returns the valid methods without duplicates. Adds a warning that names `origin` for each of the
/// others.
pub(crate) fn known_methods<'a>(
    origin: &str,
    methods: impl IntoIterator<Item = &'a str>,
    warnings: &mut Vec<ConfigWarning>,
) -> Vec<String> {
    let mut known: Vec<String> = Vec::new();
    for method in methods {
        if Method::from_bytes(method.as_bytes()).is_err() {
            let consequence = "is not an HTTP method; it is ignored";
            warnings.push(ConfigWarning::new(origin, Some(method), consequence));
        } else if !known.iter().any(|before| before == method) {
            known.push(method.to_owned());
        }
    }
    known
}

/// Returns the header names that can be captured, without duplicates. Adds a warning that names
/// `origin` for each of the others.
pub(crate) fn header_names<'a>(
    origin: &str,
    names: impl IntoIterator<Item = &'a str>,
    warnings: &mut Vec<ConfigWarning>,
) -> Vec<HeaderName> {
    let mut captured: Vec<HeaderName> = Vec::new();
    for text in names {
        let consequence = match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) if semconv::is_sensitive_header(&name) => {
                "is a header that carries credentials; it is not captured"
            }
            Ok(name) => {
                if !captured.contains(&name) {
                    captured.push(name);
                }
                continue;
            }
            Err(_) => "is not a valid header name; it is ignored",
        };
        // The name may be followed by a value by mistake, which may be a secret.
        let mut inner = text.char_indices().skip(1);
        let end = inner.find(|(_, found)| matches!(found, '=' | ':'));
        let name = &text[..end.map_or(text.len(), |(end, _)| end)];
        warnings.push(ConfigWarning::new(origin, Some(name), consequence));
    }
    captured
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unusable_element_causes_one_warning_and_the_others_are_used() {
        let mut warnings = Vec::new();
        let methods = known_methods(
            "METHODS",
            ["GET", "PUR GE", "get", "GET", "é"],
            &mut warnings,
        );
        assert_eq!(methods, ["GET", "get"]);
        let names = [
            "X-Tenant",
            "x-tenant",
            "cookie",
            "a b",
            "token: canary",
            ":path",
            "",
        ];
        let names = header_names("NAMES", names, &mut warnings);
        assert_eq!(names, ["x-tenant"]);
        let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings,
            [
                "METHODS=\"PUR GE\" is not an HTTP method; it is ignored",
                "METHODS=\"é\" is not an HTTP method; it is ignored",
                "NAMES=\"cookie\" is a header that carries credentials; it is not captured",
                "NAMES=\"a b\" is not a valid header name; it is ignored",
                "NAMES=\"token\" is not a valid header name; it is ignored",
                "NAMES=\":path\" is not a valid header name; it is ignored",
                "NAMES=\"\" is not a valid header name; it is ignored",
            ]
        );
    }
}
