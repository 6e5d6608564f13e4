//! Variables of OTLP receivers.

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::config::settings::headers::{self, MAX_HEADERS, is_framing};
use crate::config::settings::otlp::{Compression, Endpoint, OtlpSettings, Protocol};
use crate::config::settings::signal::Signal;
use crate::providers::variables::Variables;

impl Variables<'_> {
    /// Reads `OTEL_EXPORTER_OTLP_..`, for all signals or for one.
    pub(crate) fn otlp(&mut self, signal: Option<Signal>) -> OtlpSettings {
        let prefix = match signal {
            Some(signal) => {
                format!("OTEL_EXPORTER_OTLP_{}", signal.name().to_ascii_uppercase())
            }
            None => "OTEL_EXPORTER_OTLP".to_owned(),
        };
        let name = |setting: &str| format!("{prefix}_{setting}");
        let compressions = [("gzip", Compression::Gzip), ("none", Compression::None)];
        let endpoint = name("ENDPOINT");
        let insecure = name("INSECURE");
        let timeout = name("TIMEOUT");
        let exporter = prefix.replacen("OTEL_EXPORTER_OTLP", "OTLP", 1) + "_EXPORTER";
        OtlpSettings {
            endpoint: self.text(&endpoint).map(|text| Endpoint {
                origin: endpoint,
                text,
            }),
            insecure: self.flag_or(&insecure, "it is ignored"),
            protocol: self.protocol(&name("PROTOCOL")),
            compression: self.one_of(&name("COMPRESSION"), &compressions, "it is ignored"),
            headers: self.headers(&name("HEADERS")),
            headers_from: None,
            timeout: self.milliseconds_or(&timeout, "it is ignored"),
            certificate: self.file(&name("CERTIFICATE")),
            client_certificate: self.file(&name("CLIENT_CERTIFICATE")),
            client_key: self.file(&name("CLIENT_KEY")),
            reference: self.reference(&exporter),
        }
    }

    fn protocol(&mut self, name: &str) -> Option<Protocol> {
        let protocols = [
            ("grpc", Protocol::Grpc),
            ("http/protobuf", Protocol::HttpProtobuf),
            #[cfg(feature = "http-json")]
            ("http/json", Protocol::HttpJson),
        ];
        if cfg!(not(feature = "http-json"))
            && let Some(value) = self.text(name)
            && value.eq_ignore_ascii_case("http/json")
        {
            let consequence = "requires the feature `http-json`; using http/protobuf";
            self.warn(name, Some(&value), consequence);
            return Some(Protocol::HttpProtobuf);
        }
        self.one_of(name, &protocols, "it is ignored")
    }

    /// Reads `OTLP_EXPORTER`, `OTLP_TRACES_EXPORTER` and so on, which choose the OTLP exporter.
    /// Returns whether the exporter is the crate `opentelemetry-otlp`; `None` if the variable is
    /// unset or invalid.
    fn reference(&mut self, name: &str) -> Option<bool> {
        const REFERENCE: &str = "opentelemetry-otlp";
        if cfg!(not(feature = "opentelemetry-otlp"))
            && let Some(value) = self.text(name)
            && value.eq_ignore_ascii_case(REFERENCE)
        {
            let consequence = format!(
                "requires the feature `{REFERENCE}`; using the exporter of tower-telemetry"
            );
            self.warn(name, Some(&value), consequence);
            return Some(false);
        }
        let known = [(REFERENCE, true), ("tower-telemetry", false)];
        self.one_of(name, &known, "it is ignored")
    }

    /// Reads pairs of `name=value` with percent-encoded values. Warnings contain no value, because
    /// it may be a secret, and of the names only those of framing headers.
    fn headers(&mut self, variable: &str) -> Option<HeaderMap> {
        let text = self.text(variable)?;
        let mut usable = HeaderMap::new();
        let pairs = text.split(',').enumerate();
        let pairs = pairs.filter(|(_, pair)| !pair.trim().is_empty());
        for (previous, (place, pair)) in pairs.enumerate() {
            if previous == MAX_HEADERS {
                self.warn(variable, None, headers::too_many());
                break;
            }
            match header(pair) {
                Some((name, _)) if is_framing(&name) => {
                    self.warn(variable, None, headers::framing(name.as_str()));
                }
                Some((name, value)) => {
                    usable.insert(name, value);
                }
                None => {
                    let consequence = format!(
                        "is not a list of name=value: entry {} is ignored",
                        place + 1
                    );
                    self.warn(variable, None, consequence);
                }
            }
        }
        Some(usable)
    }
}

fn header(pair: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = pair.split_once('=')?;
    let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
    let mut value = HeaderValue::from_str(&value).ok()?;
    value.set_sensitive(true);
    Some((name.trim().parse().ok()?, value))
}
