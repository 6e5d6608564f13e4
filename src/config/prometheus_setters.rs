//! Variables and setters of the server for Prometheus.

use std::net::{IpAddr, SocketAddr};

use crate::config::builder::Config;
use crate::config::settings::prometheus_server::PrometheusServer;
use crate::providers::variables::Variables;

impl Variables<'_> {
    /// The place that the specification has ("Prometheus Exporter").
    pub(super) fn prometheus_server(&mut self) -> PrometheusServer {
        const HOST: &str = "OTEL_EXPORTER_PROMETHEUS_HOST";
        let is_host = |text: &String| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            text.parse::<IpAddr>().is_ok() || text.bytes().all(is_plain)
        };
        let mut host = self.text(HOST);
        if let Some(other) = host.take_if(|text| !is_host(text)) {
            let consequence = "is neither an address nor the name of a host; using localhost";
            self.warn(HOST, Some(&other), consequence);
        }
        PrometheusServer {
            host: host.unwrap_or_else(|| "localhost".to_owned()),
            port: self.number("OTEL_EXPORTER_PROMETHEUS_PORT", 0..=u16::MAX, 9464),
        }
    }
}

impl Config {
    /// Sets where `/metrics` is served to Prometheus, in place of `OTEL_EXPORTER_PROMETHEUS_HOST` and
    /// `OTEL_EXPORTER_PROMETHEUS_PORT`. `localhost:9464` by default. It is served where
    /// [`Exporter::Prometheus`](crate::config::Exporter::Prometheus) is chosen.
    ///
    /// A port that is taken does not end the service: one warning says so, and it is tried again each
    /// second. Port 0 is any free port;
    /// [`local_addr`](crate::prometheus::PrometheusService::local_addr) tells which.
    ///
    /// ```
    /// use tower_telemetry::{Config, config::Exporter};
    ///
    /// let config = Config::from_env()
    ///     .with_metrics_exporters([Exporter::Otlp, Exporter::Prometheus])
    ///     .with_prometheus_server(([0, 0, 0, 0], 9464).into());
    /// ```
    pub fn with_prometheus_server(mut self, address: SocketAddr) -> Self {
        self.prometheus_server = Some(PrometheusServer {
            host: address.ip().to_string(),
            port: address.port(),
        });
        self
    }

    /// Has no port opened for Prometheus: mount
    /// [`TelemetryGuard::prometheus`](crate::TelemetryGuard::prometheus) in your own application.
    pub fn without_prometheus_server(mut self) -> Self {
        self.prometheus_server = None;
        self
    }
}
