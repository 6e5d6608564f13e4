//! The variables and setters for the Prometheus server.

use std::net::{IpAddr, SocketAddr};

use crate::config::builder::Config;
use crate::config::settings::prometheus_server::PrometheusServer;
use crate::providers::variables::Variables;

impl Variables<'_> {
    /// Reads the address of the server (specification, "Prometheus Exporter").
    pub(super) fn prometheus_server(&mut self) -> PrometheusServer {
        const HOST: &str = "OTEL_EXPORTER_PROMETHEUS_HOST";
        let is_host = |text: &String| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            text.parse::<IpAddr>().is_ok() || text.bytes().all(is_plain)
        };
        let mut host = self.text(HOST);
        if let Some(other) = host.take_if(|text| !is_host(text)) {
            let consequence = "is neither an address nor a host name; using localhost";
            self.warn(HOST, Some(&other), consequence);
        }
        PrometheusServer {
            host: host.unwrap_or_else(|| "localhost".to_owned()),
            port: self.number("OTEL_EXPORTER_PROMETHEUS_PORT", 0..=u16::MAX, 9464),
        }
    }
}

impl Config {
    /// Sets the address at which `/metrics` is served to Prometheus. Overrides
    /// `OTEL_EXPORTER_PROMETHEUS_HOST` and `OTEL_EXPORTER_PROMETHEUS_PORT`. Defaults to
    /// `localhost:9464`. The server runs only with the exporter
    /// [`Exporter::Prometheus`](crate::config::Exporter::Prometheus).
    ///
    /// If the port is in use, the service continues: a warning is logged once, and binding is
    /// retried every second. Port 0 selects a free port, which
    /// [`local_addr`](crate::prometheus::PrometheusService::local_addr) returns.
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

    /// Disables the Prometheus server. Mount
    /// [`TelemetryGuard::prometheus`](crate::TelemetryGuard::prometheus) in your own application
    /// instead.
    pub fn without_prometheus_server(mut self) -> Self {
        self.prometheus_server = None;
        self
    }
}
