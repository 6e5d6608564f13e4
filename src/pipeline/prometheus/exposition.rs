//! Encodes all metrics as text.

use http::{HeaderMap, HeaderValue, header};
use opentelemetry_prometheus::PrometheusExporter;
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Encoder, Registry, TextEncoder};

use crate::concurrent::caught::catch_panic;

/// The format of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The Prometheus text format.
    Text,
    OpenMetrics,
}

const OPEN_METRICS: &str = "application/openmetrics-text";

impl Form {
    /// Returns the format requested by an `Accept` header.
    pub(crate) fn accepted(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(header::ACCEPT).iter();
        let mut ranges = accepted
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        match ranges.any(is_open_metrics) {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        })
    }
}

/// Returns whether a media range requests a supported version of OpenMetrics.
fn is_open_metrics(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let is_name = |name: &str| name.eq_ignore_ascii_case(OPEN_METRICS);
    parts.next().is_some_and(is_name)
        && parts.all(|parameter| match parameter.split_once('=') {
            Some(("version", version)) => matches!(version, "0.0.1" | "1.0.0"),
            Some(("q", weight)) => weight.parse::<f32>().is_ok_and(|weight| weight > 0.0),
            _ => true,
        })
}

/// The metrics of one meter provider.
pub(crate) struct Exposition {
    registry: Registry,
}

impl Exposition {
    /// Creates the metrics and the reader to be added to the meter provider.
    pub(crate) fn new() -> Option<(Self, PrometheusExporter)> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter().with_registry(registry.clone());
        // Registration in a new registry does not fail.
        Some((Self { registry }, exporter.build().ok()?))
    }

    /// Collects and encodes all metrics. Returns `None` if an observable callback panicked or the
    /// provider was shut down.
    pub(crate) fn collect(&self, form: Form) -> Option<Vec<u8>> {
        let families = catch_panic(|| self.registry.gather())?;
        if families.is_empty() {
            return None;
        }
        let mut text = Vec::new();
        match form {
            Form::Text => TextEncoder::new().encode(&families, &mut text).ok()?,
            Form::OpenMetrics => {
                for family in &families {
                    open_metrics(family, &mut text)?;
                }
                text.extend(b"# EOF\n");
            }
        }
        Some(text)
    }
}

/// Writes a metric family in OpenMetrics format. The samples are the same as in the Prometheus
/// format, but some family names differ.
fn open_metrics(family: &MetricFamily, text: &mut Vec<u8>) -> Option<()> {
    let name = family.name();
    let (name, kind) = match family.get_field_type() {
        MetricType::COUNTER => (name.strip_suffix("_total").unwrap_or(name), "counter"),
        MetricType::HISTOGRAM => (name, "histogram"),
        _ if name == "target_info" => ("target", "info"),
        _ => (name, "gauge"),
    };
    let help = family.help().replace('\\', "\\\\");
    let help = help.replace('\n', "\\n").replace('"', "\\\"");
    text.extend(format!("# HELP {name} {help}\n# TYPE {name} {kind}\n").bytes());
    let mut samples = Vec::new();
    let families = std::slice::from_ref(family);
    TextEncoder::new().encode(families, &mut samples).ok()?;
    for line in samples.split_inclusive(|byte| *byte == b'\n') {
        if !line.starts_with(b"#") {
            text.extend(line);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_sent_only_to_clients_that_accept_it() {
        for (accept, expected) in [
            (None, Form::Text),
            (Some("*/*"), Form::Text),
            (Some("text/plain;version=0.0.4"), Form::Text),
            (Some("application/openmetrics-text"), Form::OpenMetrics),
            (
                Some("application/openmetrics-text;version=1.0.0,text/plain;q=0.5,*/*;q=0.1"),
                Form::OpenMetrics,
            ),
            (
                Some("text/plain , APPLICATION/openmetrics-text ; version=0.0.1;q=0.75"),
                Form::OpenMetrics,
            ),
            (
                Some("application/openmetrics-text;version=2.0.0"),
                Form::Text,
            ),
            (Some("application/openmetrics-text;q=0"), Form::Text),
            (Some("application/openmetrics-text;q=x"), Form::Text),
            (Some(";;,=;q=,"), Form::Text),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(Form::accepted(&headers), expected, "{accept:?}");
        }
    }
}
